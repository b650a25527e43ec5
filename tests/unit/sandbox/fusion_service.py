"""A service that answers as SandboxFusion does, for tests."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

Answer = Callable[[str, dict[str, Any]], "tuple[int, Any]"]


def really(path: str, question: dict[str, Any]) -> tuple[int, Any]:
    """Run the program, as the service does."""
    if path == "/submit":
        return 200, {
            "id": question["id"],
            "accepted": "right" in question["completion"],
            "tests": [],
        }
    command = [sys.executable, "-c", question["code"]]
    try:
        run = subprocess.run(
            command,
            input=question["stdin"],
            capture_output=True,
            text=True,
            timeout=question["run_timeout"],
        )
    except subprocess.TimeoutExpired:
        return 200, {"status": "Failed", "run_result": {"status": "TimeLimitExceeded"}}
    result = {
        "status": "Finished",
        "return_code": run.returncode,
        "stdout": run.stdout,
        "stderr": run.stderr,
    }
    return 200, {
        "status": "Failed" if run.returncode else "Success",
        "message": "",
        "run_result": result,
    }


class Service:
    """An endpoint."""

    def __init__(self, answer: Answer) -> None:
        self.asked: list[str] = []
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                service.asked.append(self.path)
                code, body = answer(self.path, question)
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
