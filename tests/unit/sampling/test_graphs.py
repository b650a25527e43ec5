"""Static caches give the tokens of those that grow; what is recorded, and what happens where it cannot be."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
import weakref
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.sampling import SamplingConfig, diffusion_generate, graphs
from megatron_dream.sampling.graphs import BlockGraphs, Graphed, StaticCache, rounded_rows
from megatron_dream.sampling.infill import GapConfig, check_growing
from tests.unit.sampling.plain_definition import BOS, MASK, PAD, TinyModel
from tests.unit.sampling.test_against_plain_definition import left_pad, prompt
from tests.unit.sampling.test_caches import BASE, PROMPTS, generate
from tests.unit.sampling.tiny_transformer import TinyTransformer


@given(
    prompts=st.lists(prompt, min_size=1, max_size=3),
    cache=st.sampled_from(["prefix", "dual"]),
    alg=st.sampled_from(["entropy", "maskgit_plus", "topk_margin", "threshold", "factor"]),
    refresh=st.sampled_from([None, None, 2, 3]),
    border=st.sampled_from(["rewritten", "kept"]),
    window=st.sampled_from([None, 0, 2, 5]),
    new=st.integers(1, 10),
    steps=st.integers(5, 14),
    length=st.sampled_from([2, 3, 5, 80, None]),
    penalty=st.sampled_from([0.0, 3.0]),
    temperature=st.sampled_from([0.0, 0.8]),
    unit=st.sampled_from([1, 4, 64]),
)
@settings(max_examples=80, deadline=None)
def test_a_static_cache_gives_the_same_tokens(
    prompts: list[list[int]], unit: int, **changes: Any
) -> None:
    """Masked columns have weight 0, columns beyond the canvas and rows beyond the batch are read by none."""
    changes["block_length"] = changes.pop("length")
    changes["max_new_tokens"] = changes.pop("new")
    changes["pad_penalty"] = changes.pop("penalty")
    changes["cache_refresh"] = changes.pop("refresh")
    changes["suffix_window"] = changes.pop("window")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "COLUMN_UNIT", unit)
        static = generate(prompts, cuda_graphs="on", **changes)
    plain = generate(prompts, cuda_graphs="off", **changes)
    assert static.sequences.tolist() == plain.sequences.tolist()
    assert (static.num_forward, static.num_columns) == (plain.num_forward, plain.num_columns)


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_rows_that_leave_or_are_masked_again_change_nothing(cache: str) -> None:
    """Finished and stopped rows leave a static cache too; PAD after an end token; remasking; samples."""
    end = int(generate().sequences[0, 6])

    def stopped_at(call: int) -> Any:
        asked: list[None] = []
        return lambda: [0] if asked.append(None) or len(asked) > call else []

    for changes in (
        dict(alg="threshold", threshold=0.2),
        dict(eos_token_id=end, early_end=True),
        dict(remask="remdm", steps=30, temperature=0.8),
        dict(num_return_sequences=4, temperature=1.0),
    ):
        on, off = (
            generate(cache=cache, cuda_graphs=choice, **changes).sequences
            for choice in ("on", "off")
        )
        assert on.tolist() == off.tolist()
    on, off = (
        generate(cache=cache, cuda_graphs=choice, stopped_rows=stopped_at(4)).sequences
        for choice in ("on", "off")
    )
    assert on.tolist() == off.tolist() and bool((on[0] == MASK).any())


def test_a_block_is_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all blocks, the shorter last one too; another of fewer rows, and of more columns that are read."""
    made = []
    real = graphs._BlockPass
    monkeypatch.setattr(graphs, "COLUMN_UNIT", 8)
    monkeypatch.setattr(
        graphs, "_BlockPass", lambda owner, *key: made.append(key) or real(owner, *key)
    )
    model = TinyTransformer()
    generate([[BOS, 3]], model, cache="dual", cuda_graphs="on")
    assert made == [(1, 5, 16)]
    assert {length for _, start, length in model.passes if length != 13} == {5}
    made.clear()
    generate([[BOS, 3]], cache="dual", cuda_graphs="on", suffix_window=0)
    assert made == [(1, 5, 8), (1, 5, 16)]
    made.clear()
    prompts = [[BOS, 3], [BOS, 9], [BOS, 4]]
    generate(prompts, TinyTransformer(1), cache="dual", cuda_graphs="on", alg="threshold")
    assert made[0] == (4, 5, 16) and {rows for rows, _, _ in made} <= {1, 2, 4}
    made.clear()
    generate([[BOS, 3]], cache="prefix", cuda_graphs="on")
    assert made == [(1, 16, 16), (1, 8, 16)]


def test_memory_is_given_back_without_a_garbage_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of a large model is gigabytes, and training collects garbage when it suits all ranks."""
    made: list[Any] = []
    real = graphs.StaticCache
    monkeypatch.setattr(
        graphs,
        "StaticCache",
        lambda *sizes: (cache := real(*sizes), made.append(weakref.ref(cache)))[0],
    )
    gc.disable()
    try:
        generate(cache="dual", cuda_graphs="on")
    finally:
        gc.enable()
    assert len(made) == 1 and made[0]() is None


def test_auto_on_a_cpu_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BlockGraphs, "run", lambda *_: pytest.fail("no graph was asked for"))
    assert not bool((generate(cache="dual").sequences[:, 5:] == MASK).any())


def test_rows_are_rounded_up() -> None:
    found = [rounded_rows(n) for n in (1, 2, 3, 4, 5, 8, 9, 16, 17)]
    assert found == [1, 2, 4, 4, 8, 8, 16, 16, 24]


def test_what_cannot_be_recorded_is_refused() -> None:
    with pytest.raises(ValueError, match="cuda_graphs is 'on' without a cache"):
        dataclasses.replace(BASE, cuda_graphs="on")
    with pytest.raises(ValueError, match="cuda_graphs is 'yes': choose auto, on or off"):
        dataclasses.replace(BASE, cuda_graphs="yes")
    model = TinyTransformer()
    model.takes_static_cache = False  # type: ignore[misc]
    with pytest.raises(ValueError, match="passes of TinyTransformer cannot be recorded"):
        generate(model=model, cache="dual", cuda_graphs="on")
    with pytest.raises(ValueError, match="TinyModel has not: leave cache out"):
        generate(model=TinyModel(), cache="dual", cuda_graphs="on")
    sampling = SamplingConfig(mask_token_id=MASK, eos_token_id=PAD, cache="dual", cuda_graphs="on")
    with pytest.raises(ValueError, match="cache belongs to a canvas of fixed length"):
        check_growing(sampling, GapConfig(23))


def test_a_static_cache_is_written_at_the_columns_of_a_tensor() -> None:
    cache = StaticCache(4, 8)
    keys = torch.arange(2 * 8.0).view(2, 1, 8, 1)
    cache.begin(2, 6)
    cache.write(0, 0, keys[:, :, :6], keys[:, :, :6])
    with cache.recorded(torch.tensor([2, 3]), 4, 8):
        new = -torch.ones(4, 1, 2, 1)
        read, _ = cache.write(0, 99, new, new)
    assert read.shape == (4, 1, 8, 1)
    assert read[0, 0, :, 0].tolist() == [0, 1, -1, -1, 4, 5, 0, 0]
    assert read[3, 0, :, 0].tolist() == [0, 0, -1, -1, 0, 0, 0, 0]
    assert (cache.rows, cache.limit, cache.columns_Q) == (2, 6, None)


class _FakeCuda:
    """What Graphed asks of torch.cuda, with a graph that notes what is done."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.done: list[str] = []
        self._fault = fault

    def CUDAGraph(self) -> Any:  # noqa: N802
        return type("Graph", (), {"replay": lambda _: self.done.append("replay")})()

    @contextlib.contextmanager
    def graph(self, graph: Any, pool: Any, capture_error_mode: str) -> Any:
        self.done.append("begin")
        yield
        if self._fault is not None:
            raise self._fault
        self.done.append("end")

    def __getattr__(self, name: str) -> Any:
        if name in ("device", "stream"):
            return lambda _: contextlib.nullcontext()
        return lambda *_: type("Stream", (), {"wait_stream": lambda *_: None})()


def _graphed(cuda: _FakeCuda, monkeypatch: pytest.MonkeyPatch, **named: Any) -> Graphed:
    monkeypatch.setattr(torch, "cuda", cuda)
    output = torch.ones(1)
    return Graphed(lambda: cuda.done.append("run") or output, torch.device("cuda"), "pool", **named)


def test_a_graph_is_recorded_once_and_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = _FakeCuda()
    graphed = _graphed(cuda, monkeypatch)
    assert graphed() is graphed()
    assert cuda.done == ["run", "begin", "run", "end", "replay", "replay"]


def test_a_fault_of_recording_is_told_or_raised(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fault = RuntimeError("operation not permitted when stream is capturing\nmore")
    with pytest.raises(RuntimeError, match="not permitted"):
        _graphed(_FakeCuda(fault), monkeypatch)()
    cuda = _FakeCuda(fault)
    graphed = _graphed(cuda, monkeypatch, is_required=False)
    with caplog.at_level(logging.WARNING):
        assert graphed().item() == graphed().item() == 1
    assert cuda.done == ["run", "begin", "run", "run", "run"]
    assert len(caplog.records) == 1 and "is called plainly" in caplog.text


def test_a_plain_call_on_a_cpu_is_made_each_time() -> None:
    outputs = iter([torch.zeros(1), torch.ones(1)])
    graphed = Graphed(lambda: next(outputs), torch.device("cpu"))
    assert [graphed().item(), graphed().item()] == [0, 1]


def test_left_padding_is_never_attended_to() -> None:
    """The same row alone and padded: its static mask must hide the padding of others."""
    ids, real, width = left_pad(PROMPTS)
    config = dataclasses.replace(BASE, cache="dual", cuda_graphs="on")
    together = diffusion_generate(TinyTransformer(), ids, real, config=config).sequences
    alone = diffusion_generate(TinyTransformer(), torch.tensor([PROMPTS[1]]), config=config)
    assert together[1, width - 2 :].tolist() == alone.sequences[0].tolist()
