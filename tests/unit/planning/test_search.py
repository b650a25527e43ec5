"""All legal layouts, the best of them, and why the others are none."""

import dataclasses

import pytest

from megatron_dream.config.layout import resolve_layout
from megatron_dream.config.load import load_config
from megatron_dream.planning.advice import advice, batches_that_divide
from megatron_dream.planning.hardware import GPUS
from megatron_dream.planning.job import Recompute
from megatron_dream.planning.plan import plan
from megatron_dream.planning.search import describe, search
from megatron_dream.planning.text import search_lines

H100 = GPUS["H100"]


@pytest.fixture(scope="module")
def found(make_run):
    return search(make_run(preset="qwen2.5-coder-1.5b"), 16, H100)


def test_the_first_is_the_fastest(found):
    speeds = [each.tokens_per_second for each in found.ranked]
    assert speeds == sorted(speeds, reverse=True)
    assert all(each.fits for each in found.ranked)
    assert len({describe(each.job) for each in found.ranked}) == len(found.ranked)


def test_layouts_of_every_kind_were_tried(found):
    layouts = [each.job.layout for each in found.ranked]
    for name in ("tp", "pp", "vp", "cp", "micro_batch_size"):
        assert len({getattr(layout, name) for layout in layouts}) > 1, name
    assert {each.job.sequence_parallel for each in found.ranked} == {False, True}
    assert {each.job.states.instances for each in found.ranked} == {1, 2}
    assert any(len({sum(c) for c in each.job.chunks}) > 1 for each in found.ranked)
    assert all(layout.world_size == 16 for layout in layouts)


def test_sizes_that_are_no_powers_of_two_are_tried(make_run):
    """Twelve heads in three parts, rows in three; on nodes of eight the groups of three cost more."""
    fields = {
        "model__num_query_groups": 3,
        "model__num_attention_heads": 12,
        "model__ffn_hidden_size": 9216,
        "data__sequence_length": 1536,
        "training__global_batch_size": 24,
    }
    run = make_run("qwen2.5-coder-1.5b", **fields)
    layouts = [each.job.layout for each in search(run, 24, H100).ranked]
    assert {layout.tp for layout in layouts} == {1, 3}
    assert {1, 2, 3, 4, 6, 8, 12} <= {layout.cp for layout in layouts}
    six = dataclasses.replace(H100, gpus_per_node=6)
    three = {"parallel__tensor_model_parallel_size": 3}
    straddling, inside = (
        plan(make_run("qwen2.5-coder-1.5b", **fields, **three), 24, gpu).step.tensor_parallel
        for gpu in (H100, six)
    )
    assert straddling > 4 * inside


def test_a_given_layout_is_no_better_than_the_first(found, make_run):
    own = plan(make_run(preset="qwen2.5-coder-1.5b"), 16, H100)
    assert own.tokens_per_second <= found.ranked[0].tokens_per_second
    assert describe(own.job) in {describe(each.job) for each in found.ranked}


def test_the_fastest_with_room_to_spare_is_named_where_the_first_has_none(found, make_run):
    fastest = found.ranked[0]
    small = dataclasses.replace(H100, memory_gib=1.02 * fastest.memory.total / 2**30)
    result = search(make_run(preset="qwen2.5-coder-1.5b"), 16, small)
    assert result.ranked[0].is_tight
    safe = next(each for each in result.ranked if not each.is_tight)
    lines = list(search_lines(result, 3))
    assert lines[2].endswith("(tight)")
    assert any(describe(safe.job) in line and "to spare" in line for line in lines)
    roomy = search(
        make_run(preset="qwen2.5-coder-1.5b"), 16, dataclasses.replace(H100, memory_gib=999)
    )
    assert not any("to spare" in line for line in search_lines(roomy, 3))


def test_illegal_layouts_say_why(found):
    reasons = " ".join(text for text, _ in found.illegal)
    assert "is not divisible by TP 8" in reasons  # 12 heads
    assert all(count > 0 for _, count in found.illegal)


def test_recomputation_comes_where_nothing_fits_without(make_run):
    small = dataclasses.replace(H100, memory_gib=24.0)
    run = make_run(data__sequence_length=8192, training__global_batch_size=16)
    result = search(run, 16, small)
    assert result.ranked and result.rejected
    assert any(each.job.recompute.granularity == "full" for each in result.ranked)
    for each in result.rejected:
        assert "has 24.0" in each.reason and each.memory_bytes > small.memory_bytes
    without = {each.layout for each in result.rejected}
    for each in result.ranked:
        if each.job.recompute.granularity != "none":
            plain = dataclasses.replace(each.job, recompute=Recompute())
            assert describe(plain) in without


def test_nothing_fits(make_run):
    tiny = dataclasses.replace(H100, memory_gib=1.0)
    result = search(make_run(preset="qwen2.5-coder-32b"), 2, tiny)
    assert not result.ranked and result.rejected


def test_advice_is_what_its_plan_says(make_run):
    run = make_run(model__head_chunk_rows=256)
    present = plan(run, 16, H100)
    changes = advice(run, present)
    assert any("overlap_param_gather" in change.change for change in changes)
    larger = next(change for change in changes if "head_chunk_rows 4096" in change.change)
    again = plan(make_run(model__head_chunk_rows=4096), 16, H100)
    assert present.step.total - again.step.total == pytest.approx(larger.seconds)
    assert [c.share for c in changes] == sorted((c.share for c in changes), reverse=True)


@pytest.mark.parametrize("gpus", [8, 96])
def test_the_recipe_runs_on_the_nodes_that_its_page_names(repository_root, gpus):
    """docs/cluster.md: one node to try, twelve to train."""
    recipe = load_config(repository_root / "examples" / "dream_coder_7b" / "pretrain.yaml")
    assert resolve_layout(recipe, gpus).num_microbatches >= 1
    assert not batches_that_divide(recipe, gpus)
    assert plan(recipe, gpus, H100).fits


def test_batches_near_one_that_does_not_divide(make_run):
    run = make_run(training__global_batch_size=1024)
    assert batches_that_divide(run, 96) == (960, 1056)
    assert batches_that_divide(run, 128) == ()
    assert batches_that_divide(make_run(training__global_batch_size=10), 96) == ()
