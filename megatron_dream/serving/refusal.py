"""Refusals in OpenAI's error format."""

from __future__ import annotations

from typing import Any

_BEFORE_THE_BODY = (401, 403, 408, 413, 415)  # its rest is not read: the connection ends


class Refusal(Exception):
    """An answer that is an error: one sentence, never with a prompt in it.

    Attributes:
        status: of HTTP.
        sentence: what is wrong and what to do.
        field: of the request, where one is to blame.
        code: OpenAI's word for it, for programs.
    """

    def __init__(
        self, status: int, sentence: str, field: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.field, self.code = status, sentence, field, code

    def body(self) -> dict[str, Any]:
        """The JSON that OpenAI's clients read."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {"message": self.sentence, "type": kind, "param": self.field, "code": self.code}
        return {"error": error}

    def headers(self) -> dict[str, str]:
        """What belongs to the status."""
        headers = {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        if self.status in _BEFORE_THE_BODY:
            headers["Connection"] = "close"
        if self.code in ("queue_full", "stopping"):
            headers["Retry-After"] = "1"
        elif self.status >= 500:
            # Heeded by OpenAI's clients: the same again would only add to the load.
            headers["X-Should-Retry"] = "false"
        return headers


def busy(open_requests: int) -> Refusal:
    """As many requests are open as the server takes."""
    sentence = f"{open_requests} requests are open, as many as this server takes: ask again later."
    return Refusal(503, sentence, code="queue_full")


def failed() -> Refusal:
    """A fault of the server's."""
    return Refusal(500, "The server failed; its log says where.")


def unknown_model(asked: str, ours: str) -> Refusal:
    """Another model's name."""
    sentence = f"The model {asked[:80]!r} is not here: ask for {ours!r}."
    return Refusal(404, sentence, "model", "model_not_found")


def stopping() -> Refusal:
    """The server drains."""
    return Refusal(503, "The server is stopping: ask again later.", code="stopping")


def too_slow(seconds: float) -> Refusal:
    """A request ran into its time limit."""
    sentence = (
        f"The request took longer than {seconds:g} seconds: ask for fewer tokens or steps, or again "
        "when the server is less busy."
    )
    return Refusal(503, sentence, code="timeout")
