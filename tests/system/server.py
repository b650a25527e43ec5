"""``megatron-dream serve`` in a process of its own, for tests."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from typing import Any

import httpx
import openai

from tests.system.conftest import command_line
from tests.warm import environment


class Server:
    """A running server."""

    def __init__(self, model: Path, log: Path, *flags: str) -> None:
        words = command_line("serve", str(model), "--port", "0", *flags)
        self.log = log
        with open(log, "w") as errors:
            self.process = subprocess.Popen(
                words, env=environment(), stdout=subprocess.PIPE, stderr=errors, text=True
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("listening at http://"), log.read_text()
        self.url = line.split()[-1].rstrip("/")
        self.port = int(self.url.rsplit(":", 1)[1])
        limits = httpx.Limits(max_connections=100, max_keepalive_connections=0)
        self.http = httpx.Client(base_url=self.url, timeout=120, limits=limits, verify=False)

    def post(self, path: str = "/v1/completions", **body: Any) -> httpx.Response:
        return self.http.post(path, json=body)

    def metric(self, name: str) -> float:
        text = self.http.get("/metrics").text
        lines = [line for line in text.splitlines() if line.startswith(f"megatron_dream_{name} ")]
        return float(lines[0].split()[-1])

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url + "/v1", api_key="none", max_retries=0, **options)

    def send(self, raw: bytes) -> socket.socket:
        """A connection of our own, after its first bytes."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        connection.sendall(raw)
        return connection
