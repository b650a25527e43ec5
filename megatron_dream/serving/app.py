"""The routes: OpenAI's, the stream of states, the page, and what a supervisor asks."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ..evaluation.sampler import Sampler
from .engine import Engine
from .guard import Access, Guard
from .limits import Limits
from .metrics import Metrics
from .playground import playground
from .prompts import Prompts
from .refusal import Refusal, failed, unknown_model
from .requests import Reader
from .responses import Reply

T = TypeVar("T")
_DRAINED_TIMES = 16  # a body over the limit is read this far, so that the client hears the answer


class ClientLeft(Exception):
    """The connection is gone."""


@dataclass(frozen=True)
class Service:
    """What the routes need.

    Attributes:
        engine: started.
        reader: of bodies.
        name: of the model.
        limits: of requests.
        metrics: counted into.
    """

    engine: Engine
    reader: Reader
    name: str
    limits: Limits
    metrics: Metrics


def make_service(sampler: Sampler, name: str, limits: Limits) -> Service:
    """A service with its engine, which still has to be started."""
    metrics = Metrics()
    prompts = Prompts(sampler.tokenizer, sampler.chat_template)
    reader = Reader(prompts, sampler.max_position, name, limits)
    return Service(Engine(sampler, limits, metrics), reader, name, limits, metrics)


def make_app(service: Service, access: Access) -> Guard:
    """The ASGI application."""
    # FastAPI's own pages of documentation load scripts from elsewhere.
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _not_found)
    app.add_exception_handler(ClientLeft, _left)
    app.add_exception_handler(Exception, _failed)
    _add_work(app, service)
    _add_looks(app, service, is_open=access.key is None)
    return Guard(app, access, service.limits, service.metrics)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return JSONResponse(error.body(), error.status, error.headers())


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = "There is no such path, or not for this method: see docs/serving.md."
    headers = {**(error.headers or {}), "Connection": "close"}  # a body was not read
    return JSONResponse(Refusal(error.status_code, sentence).body(), error.status_code, headers)


async def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it; the count of answers shows it


async def _failed(request: Request, error: Exception) -> Response:
    """What starlette answers before it hands the error on to the guard, which logs it."""
    return JSONResponse(failed().body(), 500, failed().headers())


def _add_work(app: FastAPI, service: Service) -> None:
    """What runs the model."""

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await _answer(service, request, is_chat=False)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await _answer(service, request, is_chat=True)

    @app.post("/v1/states")
    async def states(request: Request) -> Response:
        reply = await _begin(service, request, is_chat=None, wants_states=True)
        return _Stream(service, reply, reply.states(), "application/x-ndjson")


def _add_looks(app: FastAPI, service: Service, *, is_open: bool) -> None:
    """What only tells; the page, which needs no key, names the model of an open server only."""
    created = int(time.time())
    entry = {"id": service.name, "object": "model", "created": created, "owned_by": "local"}
    page, policy = playground(service.name if is_open else "a model")

    @app.get("/")
    async def page_route() -> Response:
        return Response(page, media_type="text/html", headers={"Content-Security-Policy": policy})

    @app.get("/v1/models")
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [entry]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        if name != service.name:
            raise unknown_model(name, service.name)
        return JSONResponse(entry)

    @app.api_route("/healthz", methods=["GET", "HEAD"])
    async def health() -> Response:
        return _state(service.engine.is_alive)

    @app.api_route("/readyz", methods=["GET", "HEAD"])
    async def ready() -> Response:
        return _state(service.engine.is_ready)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _state(is_good: bool) -> Response:
    return Response("ok\n" if is_good else "no\n", 200 if is_good else 503, media_type="text/plain")


async def _answer(service: Service, request: Request, *, is_chat: bool) -> Response:
    reply = await _begin(service, request, is_chat=is_chat)
    if reply.job.is_stream:
        return _Stream(service, reply, reply.events(), "text/event-stream")
    try:
        return JSONResponse(await _unless_left(request.receive, reply.whole()))
    finally:
        service.engine.abandon(reply.job.rows)


async def _begin(
    service: Service, request: Request, *, is_chat: bool | None, wants_states: bool = False
) -> Reply:
    """Read and check a request, and queue its rows."""
    body = await _body(request, service.limits)
    # Long texts take their time to encode, which the other clients should not wait for.
    loop = asyncio.get_running_loop()
    job = await asyncio.to_thread(
        service.reader.job, body, loop, is_chat=is_chat, wants_states=wants_states
    )
    reply = Reply(job, service.name, service.limits.max_seconds)
    service.engine.submit(job.rows)
    return reply


async def _body(request: Request, limits: Limits) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal(415, "The body is no JSON: send Content-Type: application/json.")
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for part in request.stream():
                size += len(part)
                if size <= limits.max_body_bytes:
                    parts.append(part)
                elif size > _DRAINED_TIMES * limits.max_body_bytes:
                    break
    except ClientDisconnect:
        raise ClientLeft from None
    except TimeoutError:
        sentence = f"The body did not arrive within {limits.body_seconds:g} seconds."
        raise Refusal(408, sentence, code="timeout") from None
    if size > limits.max_body_bytes:
        sentence = f"The body is over this server's limit of {limits.max_body_bytes} bytes."
        raise Refusal(413, sentence, code="over_limit")
    return b"".join(parts)


Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


async def _unless_left(receive: Receive, work: Awaitable[T]) -> T:
    """What ``work`` gives, which is cancelled when the client leaves.

    Raises:
        ClientLeft: it did.
    """

    async def left() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task, leaving = asyncio.ensure_future(work), asyncio.ensure_future(left())
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientLeft
        return task.result()
    finally:
        for unfinished in (task, leaving):
            unfinished.cancel()
        await asyncio.gather(task, leaving, return_exceptions=True)


class _Stream(Response):
    """Pieces as they come, to a client that may be slow or leave.

    The next piece is made when the last one was taken: a slow reader gets larger pieces, later. It
    holds neither the batch, which never waits for a reader, nor more than its own canvas of memory.
    """

    def __init__(
        self, service: Service, reply: Reply, pieces: AsyncGenerator[bytes, None], media_type: str
    ) -> None:
        super().__init__(media_type=media_type, headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._service, self._reply, self._pieces = service, reply, pieces

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send until the end, the client's leaving, or the time limit."""
        limits = self._service.limits
        try:
            with contextlib.suppress(ClientLeft, TimeoutError):
                async with asyncio.timeout(limits.max_seconds + limits.slack_seconds):
                    await _unless_left(receive, self._send_all(send))
        finally:
            self._service.engine.abandon(self._reply.job.rows)

    async def _send_all(self, send: Any) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async with contextlib.aclosing(self._pieces) as pieces:
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
