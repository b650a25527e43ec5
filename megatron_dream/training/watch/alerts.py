"""Telling people: a webhook or a command, rarely, and never in the way of the run.

A message is put into a queue; a thread takes it to its end. What fails there is said once on the standard
error, without the address, which is a secret: it comes from the environment variable that
``alerts.webhook_variable`` names, and stands in no file of the run.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from typing import Any

from ...config.schema import AlertsConfig
from ...errors import ConfigError

_QUEUE = 100  # messages; more are dropped
_URGENT = ("hang", "end", "failure", "stop")  # the last words of a start; they are not rate-limited


class Alerts:
    """Sends messages on a run.

    Args:
        config: where to, what, how often.
        run: name of the run.

    Raises:
        ConfigError: the variable that should hold the address is not set.
    """

    def __init__(self, config: AlertsConfig, run: str) -> None:
        self.config, self.run = config, run
        self._address = _address(config)
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue(_QUEUE)
        self._last: dict[str, float] = {}
        self._thread: threading.Thread | None = None
        self._has_complained = False

    @property
    def is_on(self) -> bool:
        """Whether there is anybody to tell."""
        return bool(self._address or self.config.command)

    def send(self, kind: str, message: str, step: int = 0, **facts: Any) -> bool:
        """Tell of something; returns at once. False where it is not wanted, too soon, or nobody listens."""
        if not self.is_on or (self.config.kinds and kind not in self.config.kinds):
            return False
        now = time.monotonic()
        is_soon = now - self._last.get(kind, -1e9) < 60.0 * self.config.min_interval_minutes
        if is_soon and kind not in _URGENT:
            return False
        self._last[kind] = now
        try:
            self._queue.put_nowait(self._body(kind, message, step, facts))
        except queue.Full:
            return False
        if self._thread is None:
            self._thread = threading.Thread(target=self._deliver, daemon=True, name="alerts")
            self._thread.start()
        return True

    def close(self, seconds: float | None = None) -> None:
        """Wait for what was sent, ``seconds`` at most (twice the time-out of one message)."""
        if self._thread is None:
            return
        with_room = 2 * self.config.timeout_seconds if seconds is None else seconds
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(with_room)

    def _body(self, kind: str, message: str, step: int, facts: dict[str, Any]) -> dict[str, Any]:
        return {
            "text": f"[{self.run}] {kind.replace('_', ' ')} at step {step}: {message}",
            "run": self.run,
            "kind": kind,
            "step": step,
            "message": message,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "host": socket.gethostname(),
            "job": os.environ.get("SLURM_JOB_ID"),
            "facts": facts,
        }

    def _deliver(self) -> None:
        while (body := self._queue.get()) is not None:
            text = json.dumps(body, default=str)
            if self._address:
                self._try("webhook", lambda text=text: self._post(text))
            if self.config.command:
                self._try("command", lambda text=text: self._run(text))

    def _try(self, what: str, action: Any) -> None:
        try:
            action()
        except urllib.error.HTTPError as error:
            self._complain(f"{what} answered {error.code}")
        except subprocess.CalledProcessError as error:
            self._complain(f"{what} ended with {error.returncode}")
        except Exception as error:  # no fault of a messenger may end a run
            self._complain(f"{what} failed ({type(error).__name__})")

    def _complain(self, text: str) -> None:
        if not self._has_complained:
            self._has_complained = True
            print(f"alerts: {text}; further failures are not told", file=sys.stderr, flush=True)

    def _post(self, text: str) -> None:
        request = urllib.request.Request(
            str(self._address), data=text.encode(), headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=self.config.timeout_seconds):
            pass

    def _run(self, text: str) -> None:
        subprocess.run(
            self.config.command,
            input=text.encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=self.config.timeout_seconds,
            start_new_session=True,  # signals to the job are not its business
            check=True,
        )


def _address(config: AlertsConfig) -> str | None:
    if config.webhook_variable is None:
        return None
    address = os.environ.get(config.webhook_variable)
    if not address:
        raise ConfigError(
            f"alerts.webhook_variable names {config.webhook_variable}, which is not set; export it with "
            "the webhook's address, or leave the field out"
        )
    if not address.startswith(("https://", "http://")):
        raise ConfigError(
            f"the environment variable {config.webhook_variable} holds no address that begins with "
            "https:// or http://; export the webhook's address"
        )
    return address
