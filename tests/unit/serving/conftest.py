"""A service on a model whose logits are the same in any batch, and that can be held at a step."""

from __future__ import annotations

import asyncio
import json
import sysconfig
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from megatron_dream.evaluation.sampler import Sampler
from megatron_dream.serving.app import Service, make_app, make_service
from megatron_dream.serving.guard import Access
from megatron_dream.serving.limits import Limits
from megatron_dream.tokenizer.base import Tokenizer
from megatron_dream.tokenizer.train import train_sentencepiece
from tests.unit.sampling.plain_definition import TinyModel

MAX_POSITION = 128
URL = "http://127.0.0.1:8000"


class HeldModel(TinyModel):
    """TinyModel whose passes wait while ``gate`` is closed; ``sizes``: rows of each pass."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__(vocabulary=vocabulary)
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Semaphore(0)
        self.sizes: list[int] = []
        self.error: Exception | None = None

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        self.sizes.append(len(input_ids))
        self.begun.release()
        assert self.gate.wait(30)
        if self.error is not None:
            raise self.error
        return super().forward(input_ids, attention_mask, position_ids)


@dataclass
class Served:
    """A service, its application and its model."""

    service: Service
    app: Any
    model: HeldModel
    sampler: Sampler

    def client(self, **options: Any) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app=self.app)
        return httpx.AsyncClient(transport=transport, base_url=URL, **options)

    def post(self, path: str, **body: Any) -> httpx.Response:
        """One request, alone."""

        async def ask() -> httpx.Response:
            async with self.client() as client:
                return await client.post(path, json=body)

        return asyncio.run(ask())


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("serving_tokenizer")
    return train_sentencepiece(
        [Path(sysconfig.get_path("stdlib")) / "json"], 400, folder / "t.model"
    )


@pytest.fixture
def serve(tokenizer: Tokenizer) -> Iterator[Callable[..., Served]]:
    """Start a service; keyword arguments are fields of Limits, ``access`` who may ask."""
    started: list[Served] = []

    def start(access: Access | None = None, **limits: Any) -> Served:
        model = HeldModel(tokenizer.vocab_size)
        sampler = Sampler(model, tokenizer, MAX_POSITION)
        service = make_service(sampler, "tiny", replace(Limits(), **limits))
        service.engine.start()
        started.append(Served(service, make_app(service, access or Access()), model, sampler))
        return started[-1]

    yield start
    for served in started:
        served.model.gate.set()
        served.service.engine.close()


class Connection:
    """One request at the level of ASGI: may leave, may not read, may pause at what ``pauses_at`` says."""

    def __init__(self, app: Any, path: str, headers: dict[str, str] | None = None, **body: Any):
        self.sent: list[Any] = []
        self.pauses_at: Callable[[bytes], bool] = lambda piece: False
        self.left = asyncio.Event()
        self.reads = asyncio.Event()
        self.reads.set()
        given = {"host": "127.0.0.1:8000", "content-type": "application/json", **(headers or {})}
        raw = [(name.encode(), value.encode()) for name, value in given.items()]
        scope = {
            "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "headers": raw,
            "query_string": b"", "scheme": "http", "server": ("127.0.0.1", 8000), "root_path": "",
            "client": ("127.0.0.1", 1), "http_version": "1.1",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
        }  # fmt: skip
        self._messages = [{"type": "http.request", "body": json.dumps(body).encode()}]
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> Any:
        if self._messages:
            return self._messages.pop()
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if self.pauses_at(message.get("body", b"")):
            self.pauses_at = lambda piece: False
            self.reads.clear()
        await self.reads.wait()
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait for a condition without holding the loop."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


@contextmanager
def held(model: HeldModel) -> Iterator[None]:
    model.gate.clear()
    try:
        yield
    finally:
        model.gate.set()
