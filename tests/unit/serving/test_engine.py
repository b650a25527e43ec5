"""Batches of many requests: the same tokens as alone, rows that leave, faults that stay where they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import torch

from megatron_dream.sampling import SamplingConfig, diffusion_generate
from megatron_dream.serving.refusal import Refusal
from megatron_dream.serving.row import Row
from tests.unit.serving.conftest import Served, held, until

Serve = Callable[..., Served]
TEXTS = ["a", "def f(x):", "json.loads(", "x = [1, 2", "    return", "# comment"]


def make_rows(served: Served, texts: list[str], seed: int = 0, **options: Any) -> list[Row]:
    tokenizer = served.sampler.tokenizer
    config = SamplingConfig(
        mask_token_id=tokenizer.mask_id,
        pad_token_id=tokenizer.pad_id,
        eos_token_id=(),
        num_tokens=tokenizer.vocab_size,
        seed=0,
        # Blocks of one: as many passes as tokens.
        **{"max_new_tokens": 10, "block_length": 1, **options},
    ).resolved()
    loop = asyncio.get_running_loop()
    return [
        Row([tokenizer.bos_id, *tokenizer.encode(text)], config, seed + n, loop, ())
        for n, text in enumerate(texts)
    ]


async def over(rows: list[Row]) -> None:
    await until(lambda: all(row.news.is_over for row in rows))


def alone(served: Served, row: Row) -> str:
    """The text of one row by the sampler itself."""
    output = diffusion_generate(
        served.model,
        torch.tensor([row.prompt]),
        config=row.config,
        row_seeds=[row.seed],
        max_position=served.sampler.max_position,
    )
    ids = output.sequences[0, len(row.prompt) :].tolist()
    return served.sampler.tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"block_length": None},
        {"block_length": None, "temperature": 1.0},
        {"block_length": None, "alg": "origin", "temperature": 0.7, "steps": 4},
        {"alg": "threshold", "threshold": 0.2, "block_length": 5},
        {"block_length": None, "temperature": 1.0, "remask": "remdm", "steps": 8},
    ],
)
def test_a_batch_gives_what_each_gives_alone(serve: Serve, options: dict[str, Any]) -> None:
    served = serve()

    async def ask() -> list[Row]:
        with held(served.model):
            first = make_rows(served, ["a"], max_new_tokens=1)
            served.service.engine.submit(first)
            await until(lambda: served.model.sizes)
            rows = make_rows(served, TEXTS, **options)
            for row in rows:
                served.service.engine.submit([row])
        await over(rows)
        return rows

    rows = asyncio.run(ask())
    assert max(served.model.sizes) == len(TEXTS)
    texts = [row.news.text for row in rows]
    assert texts == [alone(served, row) for row in rows]
    assert len(set(texts)) > 1


def test_only_equal_configurations_share_a_batch(serve: Serve) -> None:
    served = serve(max_batch=3)

    async def ask() -> list[Row]:
        with held(served.model):
            first = make_rows(served, ["a"])
            served.service.engine.submit(first)
            await until(lambda: served.model.sizes)
            short = make_rows(served, ["b", "c", "d", "e"], max_new_tokens=4)
            long = make_rows(served, ["b", "c"], max_new_tokens=6)
            for row in (short[0], long[0], *short[1:], long[1]):
                served.service.engine.submit([row])
        await over([*first, *short, *long])
        return [*short, *long]

    rows = asyncio.run(ask())
    # 10 passes alone; then 3 of the short ones, both long ones, the last short one.
    assert served.model.sizes == [1] * 10 + [3] * 4 + [2] * 6 + [1] * 4
    assert [row.news.text for row in rows] == [alone(served, row) for row in rows]


def test_a_batch_is_bounded_by_its_columns(serve: Serve) -> None:
    served = serve(max_batch_tokens=60)

    async def ask() -> None:
        with held(served.model):
            first = make_rows(served, ["a"], max_new_tokens=1)
            served.service.engine.submit(first)
            await until(lambda: served.model.sizes)
            rows = make_rows(served, ["b" * 15, "c", "d", "e"], max_new_tokens=4)
            served.service.engine.submit(rows)
        await over([*first, *rows])

    asyncio.run(ask())
    assert served.model.sizes == [1] + [3] * 4 + [1] * 4  # 3 rows of 15 + 1 + 4 columns


def test_an_abandoned_row_leaves_at_the_next_step(serve: Serve) -> None:
    served = serve()

    async def ask() -> list[Row]:
        with held(served.model):
            rows = make_rows(served, TEXTS[:3])
            served.service.engine.submit(rows)
            await until(lambda: served.model.sizes)
            served.service.engine.abandon(rows[1:2])
        await over([rows[0], rows[2]])
        return rows

    rows = asyncio.run(ask())
    assert served.model.sizes == [3] + [2] * 9
    assert not rows[1].news.is_over
    for row in (rows[0], rows[2]):
        assert row.news.text == alone(served, row)


def test_a_row_whose_text_has_ended_leaves_the_batch(serve: Serve) -> None:
    served = serve()

    async def ask(*stops: str) -> list[Row]:
        rows = make_rows(served, TEXTS[:2])
        rows[0].stops = stops
        served.service.engine.submit(rows)
        await over(rows)
        return rows

    text = asyncio.run(ask())[0].news.text
    served.model.sizes.clear()
    stopped, other = asyncio.run(ask(text[0]))
    assert (stopped.news.text, stopped.news.finish_reason) == ("", "stop")
    assert served.model.sizes[0] == 2 and served.model.sizes[-1] == 1
    assert other.news.text == alone(served, other)


def test_a_queued_row_that_is_abandoned_never_runs(serve: Serve) -> None:
    served = serve()

    async def ask() -> None:
        with held(served.model):
            first = make_rows(served, ["a"])
            served.service.engine.submit(first)
            await until(lambda: served.model.sizes)
            gone = make_rows(served, ["b"], max_new_tokens=3)
            served.service.engine.submit(gone)
            waiting = served.service.metrics.queued_rows._value
            assert waiting.get() == 1
            served.service.engine.abandon(gone)
            assert waiting.get() == 0  # its place is free at once
        await over(first)
        after = make_rows(served, ["c"], max_new_tokens=5)
        served.service.engine.submit(after)
        await over(after)

    asyncio.run(ask())
    assert len(served.model.sizes) == 15


@pytest.mark.parametrize("kind", [RuntimeError, ValueError])
def test_a_failure_is_told_and_the_next_batch_runs(
    serve: Serve, caplog: pytest.LogCaptureFixture, kind: type[Exception]
) -> None:
    served = serve()

    async def ask() -> list[Row]:
        served.model.error = kind("out of memory at 'secret prompt'")
        first = make_rows(served, ["a"])
        served.service.engine.submit(first)
        await over(first)
        served.model.error = None
        second = make_rows(served, ["a"])
        served.service.engine.submit(second)
        await over(second)
        return [*first, *second]

    failed, good = asyncio.run(ask())
    assert failed.news.refusal is not None and failed.news.refusal.status == 500
    assert good.news.finish_reason == "length"
    assert kind.__name__ in caplog.text and "secret" not in caplog.text


def test_closing_refuses_what_is_left(serve: Serve) -> None:
    served = serve()

    async def ask() -> list[Row]:
        with held(served.model):
            rows = make_rows(served, ["a", "b"])
            queued = make_rows(served, ["c"], max_new_tokens=3)
            served.service.engine.submit(rows)
            await until(lambda: served.model.sizes)
            served.service.engine.submit(queued)
            served.service.engine.stop()
            with pytest.raises(Refusal, match="stopping"):
                served.service.engine.submit(make_rows(served, ["d"]))
            served.service.engine.close(0.0)
            await over([*rows, *queued])
        return [*rows, *queued]

    rows = asyncio.run(ask())
    assert [row.news.refusal and row.news.refusal.status for row in rows] == [503] * 3
    assert len(served.model.sizes) == 1
