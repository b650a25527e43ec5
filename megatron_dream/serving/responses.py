"""Answers in OpenAI's form, whole or as events, and the stream of states of the playground."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator
from typing import Any

import orjson

from .refusal import Refusal, too_slow
from .requests import Job
from .row import News, Row

Json = dict[str, Any]


class Reply:
    """The answer to one job while it comes about."""

    def __init__(self, job: Job, model_name: str, seconds: float) -> None:
        """Begin; in the event loop.

        Args:
            job: whose rows were given to the engine, or will be.
            model_name: to name in the answer.
            seconds: for all of it.
        """
        self.job = job
        self._seconds = seconds
        self._until = asyncio.get_running_loop().time() + seconds
        self._changed = asyncio.Event()
        for row in job.rows:
            row.wake = self._changed.set
        kind = "chatcmpl" if job.is_chat else "cmpl"
        self._head: Json = {
            "id": f"{kind}-{secrets.token_hex(12)}",
            "object": "chat.completion" if job.is_chat else "text_completion",
            "created": int(time.time()),
            "model": model_name,
            "seed": job.seed,
        }

    async def _news(self) -> None:
        """Wait until a row has news.

        Raises:
            Refusal: time is over.
        """
        try:
            async with asyncio.timeout_at(self._until):
                await self._changed.wait()
        except TimeoutError:
            raise too_slow(self._seconds) from None
        self._changed.clear()

    async def whole(self) -> Json:
        """The answer once every row is done.

        Raises:
            Refusal: time is over, or the engine refused a row.
        """
        while not all(row.news.is_over for row in self.job.rows):
            await self._news()
        for row in self.job.rows:
            _latest(row)
        choices = [self._choice(number, row) for number, row in enumerate(self.job.rows)]
        return {**self._head, "choices": choices, "usage": self._usage()}

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events: each choice's text as it becomes certain, its end, ``[DONE]``."""
        rows = self.job.rows
        sent, ended = [0] * len(rows), [False] * len(rows)
        if self.job.is_chat:
            for number in range(len(rows)):
                yield self._event([self._delta(number, {"role": "assistant", "content": ""})])
        try:
            while not all(ended):
                await self._news()
                for number, row in enumerate(rows):
                    news = _latest(row)  # once: the engine goes on while a piece is sent
                    new = news.text[sent[number] :]
                    sent[number] += len(new)
                    if new:
                        yield self._event([self._piece(number, new)])
                    if news.is_over and not ended[number]:
                        ended[number] = True
                        yield self._event([self._end(number, news.finish_reason)])
            if self.job.includes_usage:
                yield self._event([], usage=self._usage())
        except Refusal as refusal:
            yield _event(refusal.body())
        yield b"data: [DONE]\n\n"

    async def states(self) -> AsyncGenerator[bytes, None]:
        """JSON lines: each canvas, what every step opened and closed, each text, the end."""
        rows = self.job.rows
        ended = [False] * len(rows)
        for number, row in enumerate(rows):
            size, steps = row.config.max_new_tokens, row.config.steps
            yield _line({"index": number, "masks": size, "steps": steps, "seed": row.seed})
        try:
            while not all(ended):
                await self._news()
                for number, row in enumerate(rows):
                    news, openings = _latest(row), row.take_openings()
                    for opening in openings:
                        line = {"index": number, "step": opening.step, "opened": opening.opened}
                        yield _line({**line, "closed": opening.closed} if opening.closed else line)
                    if news.is_over and not ended[number]:
                        ended[number] = True
                        yield _line(
                            {
                                "index": number,
                                "text": news.text,
                                "finish_reason": news.finish_reason,
                                "num_forward": news.num_forward,
                            }
                        )
            yield _line({"done": True, "usage": self._usage()})
        except Refusal as refusal:
            yield _line(refusal.body())

    def _event(self, choices: list[Json], **more: Any) -> bytes:
        kind = "chat.completion.chunk" if self.job.is_chat else "text_completion"
        return _event({**self._head, "object": kind, "choices": choices, **more})

    def _delta(self, number: int, delta: Json, finish_reason: str | None = None) -> Json:
        return {"index": number, "delta": delta, "logprobs": None, "finish_reason": finish_reason}

    def _piece(self, number: int, text: str) -> Json:
        if self.job.is_chat:
            return self._delta(number, {"content": text})
        return {"index": number, "text": text, "logprobs": None, "finish_reason": None}

    def _end(self, number: int, reason: str | None) -> Json:
        if self.job.is_chat:
            return self._delta(number, {}, reason)
        return {"index": number, "text": "", "logprobs": None, "finish_reason": reason}

    def _choice(self, number: int, row: Row) -> Json:
        choice: Json = {"index": number, "logprobs": None, "finish_reason": row.news.finish_reason}
        if self.job.is_chat:
            return {**choice, "message": {"role": "assistant", "content": row.news.text}}
        return {**choice, "text": row.news.text}

    def _usage(self) -> Json:
        completion = sum(row.news.num_tokens for row in self.job.rows)
        return {
            "prompt_tokens": self.job.num_prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.job.num_prompt_tokens + completion,
        }


def _latest(row: Row) -> News:
    """The row's news; raises its refusal."""
    news = row.news
    if news.refusal is not None:
        raise news.refusal
    return news


def _event(content: Json) -> bytes:
    return b"data: " + orjson.dumps(content) + b"\n\n"


def _line(content: Json) -> bytes:
    return orjson.dumps(content) + b"\n"
