"""A webhook on this machine, for tests of alerts."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "T0/B0/s3cr3t"  # part of its address


class Receiver:
    """A webhook on this machine."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.code, self.may_answer = 200, threading.Event()
        self.may_answer.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers["Content-Length"]))
                assert (
                    self.path == f"/{SECRET}" and self.headers["Content-Type"] == "application/json"
                )
                receiver.bodies.append(json.loads(text))
                receiver.may_answer.wait(60)
                self.send_response(receiver.code)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/{SECRET}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Let everybody go."""
        self.may_answer.set()
        self.server.shutdown()
