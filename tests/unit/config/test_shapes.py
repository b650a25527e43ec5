"""Shapes of FP8 products: the unit of widths is the smallest that meets all that is asked of rows."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.config.schema import ModelConfig, RunConfig
from megatron_dream.config.shapes import multiples_of, row_unit, shape_requirements

RECIPES = ["none", "delayed", "current", "blockwise", "mxfp8"]
MODEL = ModelConfig(
    num_layers=2, hidden_size=256, num_attention_heads=8, num_query_groups=8, ffn_hidden_size=512
)


def run_of(recipe: str, tp: int, cp: int, sharded: bool, rounded: int) -> RunConfig:
    config = RunConfig(model=MODEL)
    config.fp8.recipe = recipe  # type: ignore[assignment]
    config.parallel.tensor_model_parallel_size = tp
    config.parallel.context_parallel_size = cp
    config.parallel.sequence_parallel = sharded and tp > 1
    config.training.round_widths_to = rounded
    return config


def is_cut_evenly(width: int, config: RunConfig) -> bool:
    parallel = config.parallel
    shards = parallel.tensor_model_parallel_size if parallel.sequence_parallel else 1
    cp = parallel.context_parallel_size
    return width % (shards * (2 * cp if cp > 1 else 1)) == 0


def meets(width: int, rows: int, config: RunConfig) -> bool:
    """By definition: every shard and every product has the multiple, and nothing is left over."""
    parallel = config.parallel
    tp, cp = parallel.tensor_model_parallel_size, parallel.context_parallel_size
    asked = multiples_of(config.fp8.recipe)
    if not is_cut_evenly(width, config) or (width * rows) % (cp * asked.rows):
        return False
    if parallel.sequence_parallel and (width * rows) % (cp * tp * asked.shard_rows):
        return False
    return width % max(1, config.training.round_widths_to) == 0


layouts = st.builds(
    run_of,
    st.sampled_from(RECIPES),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 2, 4]),
    st.booleans(),
    st.sampled_from([0, 1, 3, 64]),
)


@settings(max_examples=150, deadline=None)
@given(config=layouts, rows=st.integers(1, 6))
def test_a_width_serves_exactly_if_the_unit_divides_it(config: RunConfig, rows: int) -> None:
    unit = row_unit(config, rows)
    widths = [*range(1, 200), unit, 3 * unit, unit - 1, unit + 1, unit // 2]
    for width in filter(lambda w: w > 0, widths):
        assert meets(width, rows, config) == (width % unit == 0), (width, unit)


@settings(max_examples=150, deadline=None)
@given(config=layouts, rows=st.integers(1, 6), times=st.integers(1, 9))
def test_widths_of_the_unit_meet_every_requirement_of_rows(
    config: RunConfig, rows: int, times: int
) -> None:
    parallel = config.parallel
    found = list(
        shape_requirements(
            config.fp8.recipe,
            MODEL,
            width=times * row_unit(config, rows),
            micro_batch_size=rows,
            tp=parallel.tensor_model_parallel_size,
            cp=parallel.context_parallel_size,
            sequence_parallel=parallel.sequence_parallel,
        )
    )
    assert all(one.is_met for one in found if "rows" in one.words)
    assert len(found) == (7 if parallel.sequence_parallel else 5)


def test_an_equation_has_every_operand() -> None:
    asked = dict(micro_batch_size=3, tp=2, cp=2, sequence_parallel=True)
    found = list(shape_requirements("current", MODEL, width=100, **asked))  # type: ignore[arg-type]
    assert found[0].equation() == "rows s 100 x b 3 / CP 2 = 150 is 9.375 x 16"
    assert not found[0].is_met
    shard = next(one for one in found if "TP 2" in one.words and "rows" in one.words)
    assert shard.equation() == "rows s 100 x b 3 / CP 2 / TP 2 = 75 is 9.375 x 8"


@pytest.mark.parametrize(("recipe", "expected"), [("mxfp8", 128), ("current", 8)])
def test_buffers_of_overlap_ask_for_more(recipe: str, expected: int) -> None:
    assert multiples_of(recipe, overlaps=True).shard_rows == expected
