"""Requests to answers: OpenAI's form, events, clients that leave, do not read, or ask too much."""

from __future__ import annotations

import asyncio
import functools
import json
import re
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.unit.serving.conftest import Connection, Served, held, until

Serve = Callable[..., Served]
Json = dict[str, Any]


def events(text: str) -> list[Json]:
    """Server-sent events, the last one apart."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_completion(serve: Serve) -> None:
    answer = serve().post("/v1/completions", prompt=["def f", "x ="], n=2, max_tokens=6, seed=4)
    content = answer.json()
    assert content["object"] == "text_completion" and content["seed"] == 4
    assert [choice["index"] for choice in content["choices"]] == [0, 1, 2, 3]
    texts = [choice["text"] for choice in content["choices"]]
    assert texts[0] == texts[1] != texts[2] == texts[3]  # temperature 0
    usage = content["usage"]
    assert usage["completion_tokens"] <= 24
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_a_choice_is_repeated_by_its_seed(serve: Serve) -> None:
    served = serve()
    options = {"prompt": "x =", "max_tokens": 8, "temperature": 1.0}
    several = served.post("/v1/completions", **options, n=3, seed=10).json()["choices"]
    assert len({choice["text"] for choice in several}) == 3
    for number, choice in enumerate(several):
        single = served.post("/v1/completions", **options, seed=10 + number).json()["choices"]
        assert single[0]["text"] == choice["text"]


@pytest.mark.parametrize("options", [{}, {"alg": "origin"}, {"remask": "remdm"}])
def test_a_stream_tells_the_text_once(serve: Serve, options: Json) -> None:
    served = serve()
    options = {"prompt": "a", "max_tokens": 12, "n": 2, "temperature": 1.0, "seed": 1, **options}
    whole = served.post("/v1/completions", **options).json()
    usage = {"include_usage": True}
    answer = served.post("/v1/completions", **options, stream=True, stream_options=usage)
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = events(answer.text)
    assert {event["seed"] for event in told} == {1}
    assert told[-1]["usage"] == whole["usage"] and told[-1]["choices"] == []
    for number, choice in enumerate(whole["choices"]):
        pieces = [c for event in told for c in event["choices"] if c["index"] == number]
        assert "".join(piece["text"] for piece in pieces) == choice["text"]
        assert [piece["finish_reason"] for piece in pieces if piece["finish_reason"]] == ["length"]


def test_chat(serve: Serve) -> None:
    served = serve()
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 6}
    whole = served.post("/v1/chat/completions", **body).json()
    assert whole["object"] == "chat.completion"
    message = whole["choices"][0]["message"]
    assert message["role"] == "assistant"
    deltas = [
        event["choices"][0]["delta"]
        for event in events(served.post("/v1/chat/completions", **body, stream=True).text)
    ]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == message["content"]


def test_stop(serve: Serve) -> None:
    served = serve()
    body = {"prompt": "a", "max_tokens": 10}
    text = served.post("/v1/completions", **body).json()["choices"][0]["text"]
    choice = served.post("/v1/completions", **body, stop=text[3:5]).json()["choices"][0]
    assert choice["text"] == text[: text.index(text[3:5])]
    assert choice["finish_reason"] == "stop"


def test_states_lead_to_the_text(serve: Serve) -> None:
    served = serve()
    body = {"prompt": "a", "max_tokens": 10, "temperature": 1.0, "seed": 2}
    text = served.post("/v1/completions", **body).json()["choices"][0]["text"]
    answer = served.post("/v1/states", **body)
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert lines[0] == {"index": 0, "masks": 10, "steps": 10, "seed": 2}
    opened = [place for line in lines for place, _ in line.get("opened", [])]
    assert sorted(opened) == list(range(10))
    steps = [line["step"] for line in lines if "step" in line]
    assert steps == sorted(set(steps))
    assert lines[-2]["text"] == text and lines[-1]["done"]


def test_states_of_remasking_say_what_closed(serve: Serve) -> None:
    options = {"steps": 16, "remask": "remdm", "temperature": 1.0, "seed": 3}
    answer = serve().post("/v1/states", prompt="a", max_tokens=10, **options)
    lines = [json.loads(line) for line in answer.text.splitlines()]
    is_open, was_closed = set(), False
    for line in lines:
        is_open |= {place for place, _ in line.get("opened", [])}
        was_closed |= bool(line.get("closed"))
        is_open -= set(line.get("closed", []))
    assert was_closed and is_open == set(range(10))


@pytest.mark.parametrize("extra", [{}, {"stream": True}])
def test_a_client_that_leaves_frees_its_row(serve: Serve, extra: Json) -> None:
    served = serve(batch_wait=0.5)

    async def ask() -> None:
        body = {"max_tokens": 10, "block_length": 1, **extra}
        with held(served.model):
            gone = Connection(served.app, "/v1/completions", prompt="a", **body)
            stays = Connection(served.app, "/v1/completions", prompt="b", **body)
            await until(lambda: served.model.sizes)
            gone.left.set()
            await gone.task  # at once, though the model is held
        await stays.task
        assert stays.status == 200

    asyncio.run(ask())
    assert served.model.sizes == [2] + [1] * 9
    assert served.service.metrics.abandoned._value.get() == 1


def test_a_client_that_does_not_read_holds_nobody(serve: Serve) -> None:
    served = serve(batch_wait=0.5)

    async def ask() -> None:
        body = {"max_tokens": 10, "block_length": 1, "stream": True}
        slow = Connection(served.app, "/v1/completions", prompt="a", **body)
        slow.reads.clear()
        quick = Connection(served.app, "/v1/completions", prompt="b", **body)
        await quick.task
        assert quick.body.endswith(b"data: [DONE]\n\n") and not slow.sent
        other = Connection(served.app, "/v1/completions", prompt="c", max_tokens=4)
        await other.task
        assert other.status == 200
        slow.reads.set()
        await slow.task
        assert slow.body.endswith(b"data: [DONE]\n\n")
        assert len(events(slow.body.decode())) <= 2  # all text in one piece, and the end

    asyncio.run(ask())
    assert served.model.sizes[0] == 2


async def paused_between_pieces(
    served: Served, path: str, error: Exception | None = None, **body: Any
) -> Connection:
    """A client that stops at the model's first piece until the engine is done, or fails with ``error``."""
    paused = threading.Event()
    forward = served.model.forward

    def is_piece(sent: bytes) -> bool:
        is_here = re.search(rb'"(text|content)":"[^"]|"opened"', sent) is not None
        if is_here:
            paused.set()
        return is_here

    @functools.wraps(forward)
    def wait_for_the_pause(*inputs: Any, **options: Any) -> Any:
        if len(served.model.sizes) == 6:
            assert paused.wait(20)
            served.model.error = error
        return forward(*inputs, **options)

    served.model.sizes.clear()
    served.model.forward = wait_for_the_pause  # type: ignore[method-assign]
    with held(served.model):
        slow = Connection(served.app, path, **body)
        slow.pauses_at = is_piece
        await until(lambda: served.model.sizes)
        rows = list(served.service.engine._running)
    await until(lambda: all(row.news.is_over for row in rows))
    assert not slow.task.done()
    slow.reads.set()
    await slow.task
    return slow


TWO_BY_BLOCKS = {
    "max_tokens": 12,
    "n": 2,
    "block_length": 1,
    "temperature": 1.0,
    "seed": 1,
}


@pytest.mark.parametrize("is_chat", [False, True])
def test_a_pause_between_pieces_loses_no_text(serve: Serve, is_chat: bool) -> None:
    served = serve()
    path = "/v1/chat/completions" if is_chat else "/v1/completions"
    asked = {"messages": [{"role": "user", "content": "a"}]} if is_chat else {"prompt": "a"}
    whole = served.post(path, **TWO_BY_BLOCKS, **asked).json()["choices"]
    slow = asyncio.run(paused_between_pieces(served, path, **TWO_BY_BLOCKS, **asked, stream=True))
    told = [choice for event in events(slow.body.decode()) for choice in event["choices"]]
    for number, choice in enumerate(whole):
        pieces = [piece for piece in told if piece["index"] == number]
        if is_chat:
            text = "".join(piece["delta"].get("content", "") for piece in pieces)
            assert text == choice["message"]["content"]
        else:
            assert "".join(piece["text"] for piece in pieces) == choice["text"]
        # The end comes once, after all text.
        ends = [piece["finish_reason"] for piece in pieces if piece["finish_reason"]]
        assert ends == [choice["finish_reason"]] == [pieces[-1]["finish_reason"]]


def test_a_pause_between_lines_loses_no_states(serve: Serve) -> None:
    served = serve()
    slow = asyncio.run(paused_between_pieces(served, "/v1/states", prompt="a", **TWO_BY_BLOCKS))
    lines = [json.loads(line) for line in slow.body.splitlines()]
    for number in range(2):
        own = [line for line in lines if line.get("index") == number]
        opened = [place for line in own for place, _ in line.get("opened", [])]
        assert sorted(opened) == list(range(12)) and "text" in own[-1]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/states"])
def test_a_refusal_during_a_pause_is_told(serve: Serve, path: str) -> None:
    served = serve()

    body = {"prompt": "a", "max_tokens": 12, "block_length": 1}
    stream = {} if path == "/v1/states" else {"stream": True}
    slow = asyncio.run(
        paused_between_pieces(served, path, RuntimeError("broken"), **body, **stream)
    )
    told = slow.body.decode()
    assert '"server_error"' in told and '"done"' not in told
    assert told.count('"finish_reason":null') == (0 if path == "/v1/states" else 1)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/states"])
def test_a_client_that_never_reads_is_let_go(serve: Serve, path: str) -> None:
    served = serve(max_seconds=0.3, slack_seconds=0.1, body_seconds=0.2)

    async def ask() -> None:
        slow = Connection(served.app, path, prompt="a", max_tokens=4)
        slow.reads.clear()
        await asyncio.wait_for(slow.task, 10)

    asyncio.run(ask())


def test_states_that_nobody_reads_stay_few(serve: Serve) -> None:
    served = serve(max_seconds=60)

    async def ask() -> None:
        slow = Connection(
            served.app, "/v1/states", prompt="a", max_tokens=100, steps=1000, remask="remdm",
            remask_limit=16, temperature=1.0, seed=1,
        )  # fmt: skip
        slow.reads.clear()
        await until(lambda: served.service.engine._running)
        (row,) = served.service.engine._running
        await until(lambda: row.news.is_over, 60)
        places = sum(len(o.opened) + len(o.closed) for o in row.openings)
        assert 100 < places <= 100 * 2 * 17
        slow.left.set()
        await slow.task

    asyncio.run(ask())


def test_time_is_limited(serve: Serve) -> None:
    served = serve(max_seconds=0.2)

    async def ask() -> tuple[Connection, Connection]:
        with held(served.model):
            body = {"prompt": "a", "max_tokens": 4}
            whole = Connection(served.app, "/v1/completions", **body)
            stream = Connection(served.app, "/v1/completions", **body, stream=True)
            await asyncio.gather(whole.task, stream.task)
        return whole, stream

    whole, stream = asyncio.run(ask())
    assert whole.status == 503 and b'"timeout"' in whole.body
    headers = dict(whole.sent[0]["headers"])
    assert headers[b"x-should-retry"] == b"false" and b"retry-after" not in headers
    assert stream.status == 200 and b'"timeout"' in stream.body
    assert stream.body.endswith(b"data: [DONE]\n\n")


def test_bodies_are_limited(serve: Serve) -> None:
    served = serve(max_body_bytes=1000, body_seconds=0.3)

    async def ask() -> None:
        async with served.client() as client:
            answer = await client.post("/v1/completions", json={"prompt": "a" * 1000})
            assert answer.status_code == 413 and "1000 bytes" in answer.text
            assert answer.headers["connection"] == "close"

            async def endless() -> Any:
                while True:
                    yield b" " * 100

            headers = {"Content-Type": "application/json"}
            answer = await client.post("/v1/completions", content=endless(), headers=headers)
            assert answer.status_code == 413

            async def slow() -> Any:
                yield b"{"
                await asyncio.sleep(5)

            answer = await client.post("/v1/completions", content=slow(), headers=headers)
            assert answer.status_code == 408

    asyncio.run(ask())


def test_a_client_that_leaves_within_its_body(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    served = serve()

    async def ask() -> Connection:
        gone = Connection(served.app, "/v1/states", prompt="a")
        gone._messages = [{"type": "http.request", "body": b"{", "more_body": True}]
        gone.left.set()
        await gone.task
        return gone

    assert asyncio.run(ask()).status == 499 and not caplog.records


def test_what_the_sampler_refuses_is_told(serve: Serve) -> None:
    """The tiny model has no states to cache, which only the sampler knows."""
    answer = serve().post("/v1/completions", prompt="a", max_tokens=4, cache="dual")
    assert answer.status_code == 400 and "cache" in answer.json()["error"]["message"]
    streamed = serve().post("/v1/completions", prompt="a", max_tokens=4, cache="dual", stream=True)
    assert "cache" in events(streamed.text)[-1]["error"]["message"]


def test_what_only_tells(serve: Serve) -> None:
    served = serve()

    async def ask() -> dict[str, httpx.Response]:
        async with served.client() as client:
            paths = ("/", "/v1/models", "/healthz", "/readyz", "/metrics")
            return {path: await client.get(path) for path in paths}

    served.post("/v1/completions", prompt="secret prompt", max_tokens=5)
    answers = asyncio.run(ask())
    assert answers["/v1/models"].json()["data"][0]["id"] == "tiny"
    metrics = answers["/metrics"].text
    assert 'megatron_dream_requests_total{path="/v1/completions",status="200"} 1.0' in metrics
    assert "megatron_dream_tokens_total 5.0" in metrics and "secret" not in metrics
    page = answers["/"].text
    assert not re.search(r"(?:src|href)=\"(?!data:,)|https?:|innerHTML", page)
    served.service.engine.stop()
    answers = asyncio.run(ask())
    assert (answers["/readyz"].status_code, answers["/healthz"].status_code) == (503, 200)
    served.service.engine.close()
    assert asyncio.run(ask())["/healthz"].status_code == 503
