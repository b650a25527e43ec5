"""Who may ask: Host, Origin, key; and how many at once. Stands before every route.

The model is reachable by a browser on the same machine, so a page from elsewhere must not reach it: a
name that resolves here after the page was loaded (DNS rebinding) is refused by its Host, a
request sent from another site by its Origin. No header of CORS is ever sent.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson

from .engine import where
from .limits import Limits
from .metrics import Metrics
from .refusal import Refusal, busy, failed, too_slow

logger = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_OPEN_PATHS = {"/", "/healthz", "/readyz"}  # no key: nothing of the model is in them
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Attributes:
        key: of the header ``Authorization: Bearer``; None: anybody who reaches the port.
        names: hosts that a request may name, besides those of the loopback interface.
        accepts_addresses: an IP address as Host is fine; no name resolves to it by trickery.
    """

    key: str | None = None
    names: frozenset[str] = frozenset()
    accepts_addresses: bool = False

    def check_host(self, value: str) -> None:
        """Raises Refusal for a name that is not ours."""
        name = _host_name(value)
        if name in _LOOPBACK or name in self.names:
            return
        if self.accepts_addresses and _is_address(name):
            return
        raise Refusal(
            403,
            "The Host of the request is not this server's: use the address it printed, or name the "
            "host with --allow-host.",
            code="host",
        )

    def check_origin(self, origin: str | None, site: str | None, host: str) -> None:
        """Raises Refusal for a request that another site's page sent."""
        is_same = origin is None or origin.lower() in (
            f"http://{host}".lower(),
            f"https://{host}".lower(),
        )
        if not is_same or site in ("cross-site", "same-site"):
            raise Refusal(403, "The request comes from another site's page.", code="origin")

    def check_key(self, header: str | None) -> None:
        """Raises Refusal for a wrong or missing key."""
        if self.key is None:
            return
        scheme, _, given = (header or "").partition(" ")
        # Of equal length whatever was given, so that the time tells nothing.
        digests = [hashlib.sha256(k.encode("utf-8", "replace")).digest() for k in (self.key, given)]
        if not hmac.compare_digest(*digests) or scheme.lower() != "bearer":
            raise Refusal(
                401, "The key is missing or wrong: send Authorization: Bearer KEY.", code="key"
            )


def _host_name(value: str) -> str:
    try:
        return (urlsplit(f"//{value}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """ASGI middleware."""

    def __init__(self, app: App, access: Access, limits: Limits, metrics: Metrics) -> None:
        self._app, self._access, self._limits, self._metrics = app, access, limits, metrics
        self._num_open = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Check, pass on, and count."""
        if scope["type"] != "http":
            return
        answer = _Answering(send)
        started = time.monotonic()
        is_work = scope["path"].startswith("/v1/") and scope["method"] == "POST"
        try:
            self._check(scope)
            if is_work and self._num_open >= self._limits.max_queue:
                raise busy(self._num_open)
            self._count(is_work)
            try:
                async with asyncio.timeout(self._seconds() if is_work else None):
                    await self._app(scope, receive, answer)
            except TimeoutError:
                raise too_slow(self._limits.max_seconds) from None
            finally:
                self._count(-is_work)
        except Refusal as refusal:
            await answer.refuse(refusal)
        except Exception as error:
            logger.error("a request failed: %s", where(error))
            await answer.refuse(failed())
        path = scope["path"] if scope["path"] in KNOWN_PATHS else "other"
        self._metrics.requests.labels(path, str(answer.status)).inc()
        if is_work:
            self._metrics.seconds.observe(time.monotonic() - started)

    def _seconds(self) -> float:
        """For all of a request: the last bound, which also lets go a reader that takes nothing."""
        limits = self._limits
        return limits.body_seconds + limits.max_seconds + limits.slack_seconds

    def _check(self, scope: MutableMapping[str, Any]) -> None:
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
        hosts = headers.get("host", [])
        if len(hosts) != 1:
            raise Refusal(400, "The request has no Host, or several.", code="host")
        self._access.check_host(hosts[0])
        origin, site = headers.get("origin", [None]), headers.get("sec-fetch-site", [None])
        is_page = scope["path"] == "/" and scope["method"] in ("GET", "HEAD")
        # A link from elsewhere may lead to the page, which does nothing by itself.
        self._access.check_origin(origin[0], None if is_page else site[0], hosts[0])
        if scope["path"] not in _OPEN_PATHS:
            self._access.check_key(headers.get("authorization", [None])[0])

    def _count(self, change: int) -> None:
        self._num_open += change
        self._metrics.open_requests.set(self._num_open)


KNOWN_PATHS = _OPEN_PATHS | {
    "/metrics",
    "/v1/models",
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/states",
}


class _Answering:
    """``send`` that adds headers and knows what has been said."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = {name.lower() for name, _ in message["headers"]}
            more = [pair for pair in _HEADERS if pair[0] not in given]
            message["headers"] = [*message["headers"], *more]
        await self._send(message)

    async def refuse(self, refusal: Refusal) -> None:
        """Answer with an error, if nothing has been answered."""
        if self.status:
            return
        # The body, if there is one, was not read.
        more = {"Connection": "close", **refusal.headers()}
        headers = {"content-type": "application/json", **more}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        body = orjson.dumps(refusal.body())
        raw.append((b"content-length", str(len(body)).encode()))
        await self({"type": "http.response.start", "status": refusal.status, "headers": raw})
        await self._send({"type": "http.response.body", "body": body})
