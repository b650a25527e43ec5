"""Sums, directions and hand-made numbers of the plan."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.config.load import load_config
from megatron_dream.errors import ConfigError, LayoutError
from megatron_dream.planning.efficiency import DEFAULT
from megatron_dream.planning.hardware import GPUS
from megatron_dream.planning.job import Job
from megatron_dream.planning.layer_time import backward_seconds, forward_seconds
from megatron_dream.planning.limits import scaling_limit
from megatron_dream.planning.memory import MemoryParts, stage_memory, update_bytes, worst_stage
from megatron_dream.planning.parameters import stage_parameters
from megatron_dream.planning.plan import plan
from megatron_dream.planning.saving import save_cost
from megatron_dream.planning.schedule import bubble_share, pipeline_seconds
from megatron_dream.planning.step_time import StepParts
from megatron_dream.planning.text import plan_lines

H100 = GPUS["H100"]
BILLION = 10**9


def sizes(tp=1, pp=1, cp=1, sp=False):
    return {
        "parallel__tensor_model_parallel_size": tp,
        "parallel__pipeline_model_parallel_size": pp,
        "parallel__context_parallel_size": cp,
        "parallel__sequence_parallel": str(sp).lower(),
    }


LAYOUTS = st.fixed_dictionaries(
    {
        "tp": st.sampled_from([1, 2, 4]),
        "pp": st.sampled_from([1, 2, 4, 7]),
        "cp": st.sampled_from([1, 2, 4]),
        "dp": st.sampled_from([1, 2, 4, 8]),
        "micro": st.sampled_from([1, 2, 4]),
        "recompute": st.sampled_from(["none", "full", "selective"]),
        "precision": st.sampled_from(["bf16", "fp8"]),
    }
)


@settings(max_examples=60, deadline=None)
@given(LAYOUTS)
def test_parts_add_up_and_nothing_is_negative(make_run, drawn):
    run = make_run(
        **sizes(drawn["tp"], drawn["pp"], drawn["cp"], drawn["tp"] > 1),
        training__micro_batch_size=drawn["micro"],
        training__recompute=drawn["recompute"],
        training__global_batch_size=drawn["dp"] * drawn["micro"] * 8,
    )
    gpus = drawn["tp"] * drawn["pp"] * drawn["cp"] * drawn["dp"]
    found = plan(run, gpus, H100, precision=drawn["precision"])
    for parts in found.stages:
        assert parts.total == pytest.approx(sum(dataclasses.astuple(parts)))
        assert min(dataclasses.astuple(parts)) >= 0
        assert parts.allocated == pytest.approx(parts.total - parts.outside)
    assert found.step.total == pytest.approx(sum(dataclasses.astuple(found.step)))
    assert min(dataclasses.astuple(found.step)) >= 0
    assert 0 <= found.bubble < 1
    assert 0 < found.mfu < 1
    assert found.gpu_hours == pytest.approx(found.days * 24 * gpus)


@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_memory_falls_with_tp(make_run, sequence_parallel):
    totals = []
    for tp in (1, 2, 4):
        run = make_run(**sizes(tp, sp=sequence_parallel and tp > 1))
        totals.append(worst_stage(Job.of(run, tp * 8))[1].total)
    assert totals == sorted(totals, reverse=True) and len(set(totals)) == 3


def test_memory_falls_with_dp_under_the_distributed_optimizer_only(make_run):
    def optimizer(dp, sharded):
        run = make_run(parallel__use_distributed_optimizer=str(sharded).lower())
        return stage_memory(Job.of(run, dp), 0).optimizer

    assert optimizer(8, True) == pytest.approx(optimizer(2, True) / 4, rel=1e-3)
    assert optimizer(8, False) == optimizer(2, False)
    run = make_run(parallel__num_distributed_optimizer_instances=4)
    assert stage_memory(Job.of(run, 8), 0).optimizer == pytest.approx(optimizer(2, True), rel=1e-3)


def test_recomputation_trades_activations_for_time(make_run):
    none = plan(make_run(), 8, H100)
    mlp = make_run(training__recompute="selective", training__recompute_modules="[mlp]")
    full = plan(make_run(training__recompute="full"), 8, H100)
    some = plan(mlp, 8, H100)
    assert none.memory.activations > some.memory.activations > full.memory.activations
    assert none.step.total < some.step.total < full.step.total
    block = make_run(
        training__recompute="full",
        training__recompute_method="block",
        training__recompute_num_layers=14,
    )
    half = plan(block, 8, H100)
    assert full.memory.activations < half.memory.activations < none.memory.activations
    assert none.step.total < half.step.total < full.step.total


def test_the_published_sizes_of_the_7b(make_run):
    """7,615,616,512 parameters: 15,231,233,024 bytes in bf16, as published (SPEC 10)."""
    job = Job.of(make_run(), 1)
    assert stage_parameters(job, 0).total == 15_231_233_024 // 2
    unsharded = make_run(parallel__use_distributed_optimizer="false")
    parts = stage_memory(Job.of(unsharded, 1), 0)
    assert parts.weights == 15_231_233_024
    assert parts.gradients == 2 * 15_231_233_024
    assert parts.optimizer == 6 * 15_231_233_024


def test_host_memory_of_a_save(make_run):
    """7B at TP 1 PP 1, eight ranks, by docs/checkpoints.md: N parameters in one bucket, on a GPU.

    What is gathered is 12 N and, of the bucket on its way, 12 N and an eighth more; what is written in shards
    is 12 N / 8 and the fullest rank's share of the weights, and pinned memory doubles it.
    """
    job, number = Job.of(make_run(), 8), 15_231_233_024 // 2
    gathered = save_cost(job, H100, DEFAULT, "fully_reshardable")
    assert gathered.host_bytes_per_rank == pytest.approx((24 + 12 / 8) * number, rel=1e-3)
    sharded = save_cost(job, H100, DEFAULT, "auto")
    assert sharded.optimizer_format == "dp_reshardable"
    assert sharded.host_bytes_per_rank == pytest.approx(2 * (12 + 2) * number / 8, rel=0.02)
    assert sharded.stall_seconds < gathered.stall_seconds
    assert sharded.async_stall_seconds < sharded.stall_seconds
    assert [save.optimizer_format for save in plan(make_run(), 8, H100).saves] == [
        "dp_reshardable",
        "fully_reshardable",
    ]
    small = dataclasses.replace(H100, host_memory_gib=1024)
    assert save_cost(job, small, DEFAULT, "auto").fits_host
    assert not save_cost(job, small, DEFAULT, "fully_reshardable").fits_host


def test_without_shards_there_is_one_format(make_run):
    run = make_run(parallel__use_distributed_optimizer="false")
    saves = plan(run, 8, H100).saves
    assert [save.optimizer_format for save in saves] == ["fully_reshardable"]


def test_a_pipeline_stage_has_its_layers_and_the_head_weighs(make_run):
    """The head: 152,064 x 3,584 of 233M a layer is 2.3 layers in full, 1.2 at half masked."""
    run = make_run(
        **sizes(pp=4), parallel__num_layers_in_last_pipeline_stage=4, model__head_chunk_rows=4096
    )
    job = Job.of(run, 8)
    assert [sum(chunks) for chunks in job.chunks] == [8, 8, 8, 4]
    even = plan(make_run(**sizes(pp=4), model__head_chunk_rows=4096), 8, H100)
    layer = (even.stage_seconds[1]) / 7
    assert 0.8 < (even.stage_seconds[3] - even.stage_seconds[1]) / layer < 2.3
    with pytest.raises(LayoutError, match="num_layers_in_last_pipeline_stage"):
        Job.of(make_run(**sizes(pp=4), parallel__num_layers_in_last_pipeline_stage=5), 8)


def test_overlap_hides_data_parallelism(make_run):
    shown = plan(make_run(), 16, H100)
    overlap = {"parallel__overlap_grad_reduce": "true", "parallel__overlap_param_gather": "true"}
    hidden = plan(make_run(**overlap), 16, H100)
    assert hidden.step.data_parallel < 0.5 * shown.step.data_parallel
    assert hidden.step.products == shown.step.products


def test_interleaving_shortens_the_bubble_and_keeps_more(make_run):
    plain = plan(make_run(**sizes(pp=7), training__global_batch_size=112), 56, H100)
    chunked = make_run(
        **sizes(pp=7),
        training__global_batch_size=112,
        parallel__virtual_pipeline_model_parallel_size=4,
    )
    interleaved = plan(chunked, 56, H100)
    assert interleaved.bubble < plain.bubble
    assert interleaved.memory.activations > plain.memory.activations


def test_equal_stages_have_the_textbook_bubble():
    """m = 14, P = 7: 6 of 20 micro-batches' time; with 3 chunks a stage 2 of 16; unequal stages more."""
    assert pipeline_seconds([1.0] * 7, 14, 1) == 20
    assert bubble_share([1.0] * 7, 14, 1) == pytest.approx(6 / 20)
    assert pipeline_seconds([1.0] * 7, 14, 3) == 16
    assert bubble_share([1.0] * 7, 14, 3) == pytest.approx(2 / 16)
    assert bubble_share([1.0] * 6 + [1.5], 14, 1) > 6 / 20


def test_the_budget_makes_days(make_run):
    run = make_run()
    assert plan(run, 8, H100).token_budget == 1000 * 768 * 2048
    a, b = (plan(run, 8, H100, token_budget=tokens) for tokens in (BILLION, 2 * BILLION))
    assert b.days == pytest.approx(2 * a.days)
    assert a.days == pytest.approx(BILLION / a.tokens_per_second / 86_400)


def test_more_gpus_than_the_batch_has_rows(make_run):
    run = make_run(**sizes(tp=2, sp=True), training__micro_batch_size=4)
    limit = scaling_limit(Job.of(run, 16).layout)
    assert limit.gpus == 768 // 4 * 2 == 384
    assert "Beyond 384 GPUs (with micro batch 1: 1,536) only TP and CP help" in limit.sentence()
    plan(run, limit.gpus, H100)
    with pytest.raises(LayoutError, match="not whole"):
        plan(run, 2 * limit.gpus, H100)
    small = make_run(**sizes(tp=2, sp=True))
    plan(small, limit.gpus_at_micro_1, H100)
    assert "with micro batch 1" not in scaling_limit(Job.of(small, 16).layout).sentence()


def test_an_interleaved_pipeline_ends_earlier(make_run):
    """Each data-parallel rank needs PP micro-batches."""
    fields = {**sizes(pp=4), "parallel__virtual_pipeline_model_parallel_size": 7}
    run = make_run(**fields)
    limit = scaling_limit(Job.of(run, 16).layout)
    assert limit.gpus == 768 // 4 * 4
    plan(run, limit.gpus, H100)
    with pytest.raises(LayoutError, match="accumulation divisible by PP 4"):
        plan(run, 2 * limit.gpus, H100)


def test_what_hardly_fits_is_told(make_run):
    found = plan(make_run(), 8, H100)
    need = found.memory.total / 2**30
    for have, fits, is_tight in ((0.99, False, False), (1.05, True, True), (1.2, True, False)):
        gpu = dataclasses.replace(H100, memory_gib=have * need)
        again = plan(make_run(), 8, gpu)
        assert (again.fits, again.is_tight) == (fits, is_tight)
        assert any("less to spare" in line for line in plan_lines(again)) == is_tight


def test_another_precision_is_a_run_in_that_precision(make_run):
    for theirs, asked in (("fp32", "bf16"), ("bf16", "fp32")):
        run = make_run(training__precision=theirs)
        job, own = Job.of(run, 8, precision=asked), Job.of(make_run(training__precision=asked), 8)
        assert job == own
    low, wide = (
        Job.of(make_run(training__precision=p), 8, precision="fp8") for p in ("bf16", "fp32")
    )
    assert low == wide and low.states.main == 4


def test_tied_tables_of_two_stages_are_added(make_run):
    """1.5B: the table's fp32 gradient, all-reduced between first and last stage over one adapter."""
    tied, split = (
        plan(
            make_run("qwen2.5-coder-1.5b", **sizes(pp=4), model__tie_word_embeddings=tie), 64, H100
        )
        for tie in ("true", "false")
    )
    seconds = 2 * 0.5 * 151_936 * 1536 * 4 / (50e9 * DEFAULT.network)
    gained = tied.step.data_parallel - split.step.data_parallel
    assert gained == pytest.approx(seconds, rel=0.05)


def test_weights_in_fp8_alone_pass_through_bf16(make_run):
    """Main weights of the shard are cast to bf16 all together, beside the gradients' fp32 copies."""
    run = make_run(parallel__grad_reduce_in_fp32="false")
    job = dataclasses.replace(Job.of(run, 8, precision="fp8"), fp8_weights=True)
    layers, buffer = stage_parameters(job, 0).layers, stage_parameters(job, 0).buffer
    assert update_bytes(job, layers, buffer) == pytest.approx((4 * buffer + 2 * layers) / 8)
    both = dataclasses.replace(job, fp8_weights=False)
    assert update_bytes(both, layers, buffer) == pytest.approx(4 * buffer / 8)


def test_products_beside_collectives_come_in_pieces(make_run):
    """Four of a forward pass and two of a backward one are cut into TP pieces, each with its launch."""
    job = Job.of(make_run(**sizes(tp=4, sp=True)), 8)
    cut = dataclasses.replace(job, overlap_tp=True)
    for seconds, more in ((forward_seconds, 4 * 3), (backward_seconds, 2 * 3)):
        whole, pieces = (seconds(each, H100, DEFAULT).products for each in (job, cut))
        assert pieces - whole == pytest.approx(more * DEFAULT.fixed_seconds)


def test_precision_and_offload_make_the_optimizer_smaller(make_run):
    base = stage_memory(Job.of(make_run(), 8), 0)
    low = make_run(
        optimizer__use_precision_aware_optimizer="true",
        optimizer__exp_avg_dtype="bf16",
        optimizer__exp_avg_sq_dtype="bf16",
    )
    # 2 bytes complete the fp32 weight, 2 + 2 are the moments: 6 for 12.
    assert stage_memory(Job.of(low, 8), 0).optimizer == pytest.approx(base.optimizer / 2)
    away = make_run(optimizer__optimizer_cpu_offload="true")
    assert stage_memory(Job.of(away, 8), 0).optimizer == 0
    assert plan(away, 8, H100).step.update > plan(make_run(), 8, H100).step.update


def test_bf16_gradients_are_copied_for_the_update(make_run):
    """At DP 1 the fp32 copy of all gradients is more than a tiny batch's activations."""
    fields = {"data__sequence_length": 64, "training__global_batch_size": 1}
    low = stage_memory(Job.of(make_run(parallel__grad_reduce_in_fp32="false", **fields), 1), 0)
    assert low.gradients + low.activations + low.head + low.buffers > 6 * 7.6e9
    assert low.gradients == pytest.approx(2 * 7.6e9, rel=0.01)


def test_fp8_where_there_is_none(make_run):
    with pytest.raises(ConfigError, match="has no FP8"):
        plan(make_run(), 8, GPUS["A100-80"], precision="fp8")
    with pytest.raises(ConfigError, match="layer_spec"):
        plan(make_run(model__layer_spec="local"), 8, H100, precision="fp8")
    with pytest.raises(ConfigError, match="vocab_size is 0"):
        plan(load_config(None, [("model.preset", "tiny")]), 1, H100)


def test_every_part_has_a_name():
    assert set(MemoryParts.__dataclass_fields__) >= {"weights", "gradients", "optimizer", "head"}
    assert set(StepParts.__dataclass_fields__) >= {"products", "pipeline", "data_parallel"}


def test_the_recipe_of_the_configuration_is_planned(make_run):
    run = make_run(fp8__recipe="current")
    assert plan(run, 8, H100).job.precision == "fp8"
    assert plan(run, 8, H100, precision="bf16").job.precision == "bf16"
    assert plan(make_run(), 8, H100).job.precision == "bf16"
