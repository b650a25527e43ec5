"""What a rehearsal tells, that it leaves the process as it was, and the rules it goes by."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream import device, parallel
from megatron_dream.checkpoint.shards import deal_out
from megatron_dream.config.layout import Layout
from megatron_dream.config.schema import ParallelConfig, RunConfig
from megatron_dream.errors import ConfigError
from megatron_dream.rehearsal.command import rehearse
from megatron_dream.rehearsal.communicators import communicators, node_warnings
from megatron_dream.rehearsal.data import split

LAYOUT = {"tensor_model_parallel_size": 4, "pipeline_model_parallel_size": 2}


def test_a_rehearsal_tells_every_class_and_rank(make_config: Callable[..., RunConfig]) -> None:
    config = make_config(parallel__tensor_model_parallel_size=4)
    config.parallel.pipeline_model_parallel_size = 2
    report = rehearse(config, "pretrain", 256)
    assert [(c.stage, c.tp_rank) for c in report.classes] == [
        (s, t) for s in (0, 1) for t in range(4)
    ]
    members = sorted(rank for held in report.classes for rank in held.members)
    assert members == list(range(256)) and sorted(report.save.by_rank) == members
    assert report.classes[0].layers == [0, 1, 2, 3] and report.classes[-1].has_head
    assert report.data is not None and report.data.index_hash
    assert [name for name, _, _ in report.data.sources] == ["a", "b"]
    text = "\n".join(report.lines())
    assert "256 GPUs, 32 nodes of 8" in text and "TP ranks 0 to 3" in text
    assert f"{report.parameters:,} in all" in text
    whole = json.loads(json.dumps(report.as_dict()))
    assert whole["save"]["total_bytes"] == report.save.total == sum(whole["save"]["files"].values())
    assert config.model.vocab_size == 0, "the caller's configuration is not changed"


def test_it_leaves_the_process_as_it_was(make_config: Callable[..., RunConfig]) -> None:
    before = (
        torch.get_rng_state(),
        dict(os.environ),
        dist.all_gather_object,
        torch.nn.Module._apply,
    )
    rehearse(make_config(), "pretrain", 64)
    after = (
        torch.get_rng_state(),
        dict(os.environ),
        dist.all_gather_object,
        torch.nn.Module._apply,
    )
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
    assert not dist.is_initialized()
    assert torch.ones(2).sum().item() == 2.0


def test_it_wants_a_process_without_groups(make_config: Callable[..., RunConfig]) -> None:
    parallel.start(ParallelConfig())
    try:
        with pytest.raises(ConfigError, match="a process of its own"):
            rehearse(make_config(), "pretrain", 8)
    finally:
        parallel.stop()


def test_transformer_engine_where_it_is_absent(make_config: Callable[..., RunConfig]) -> None:
    report = rehearse(make_config(model__layer_spec="transformer_engine"), "pretrain", 8)
    assert any("built with local layers" in note for note in report.notes)
    fields = {
        "model__layer_spec": "auto",
        "data__random_length": 0.5,
        "parallel__context_parallel_size": 2,
    }
    found = rehearse(make_config(**fields), "pretrain", 8).warnings
    assert any(
        "auto means transformer_engine" in line and "set it to p2p" in line for line in found
    )


@pytest.mark.parametrize(
    ("fields", "share"),
    [
        ({"use_precision_aware_optimizer": True}, 10 / 12),
        (
            {
                "use_precision_aware_optimizer": True,
                "exp_avg_dtype": "bf16",
                "exp_avg_sq_dtype": "fp8",
            },
            5 / 12,
        ),
        ({"optimizer_cpu_offload": True}, 0.0),
        ({"optimizer_cpu_offload": True, "optimizer_offload_fraction": 0.25}, 0.75),
    ],
)
def test_optimizers_that_need_a_gpu_are_rehearsed_without(
    make_config: Callable[..., RunConfig], fields: dict[str, object], share: float
) -> None:
    plain = rehearse(make_config(), "pretrain", 64)
    asked = make_config(**{f"optimizer__{name}": value for name, value in fields.items()})
    report = rehearse(asked, "pretrain", 64)
    assert report.classes[0].optimizer_bytes == round(plain.classes[0].optimizer_bytes * share)
    assert report.save == plain.save
    assert any(f"optimizer.{next(iter(fields))}" in note for note in report.notes)


@pytest.mark.parametrize("processes", [0, -4])
def test_no_processes(make_config: Callable[..., RunConfig], processes: int) -> None:
    with pytest.raises(ConfigError, match=f"--dry-run must be at least 1, it is {processes}"):
        rehearse(make_config(), "pretrain", processes)


def test_without_files_nothing_is_opened(make_config: Callable[..., RunConfig]) -> None:
    config = make_config(tokenizer__path="/nowhere", model__vocab_size=1001)
    config.data.train[0].prefix = "/nowhere/either"
    report = rehearse(config, "pretrain", 8, with_files=False)
    assert report.data is None and any("--without-files" in note for note in report.notes)
    config.model.vocab_size = 0
    with pytest.raises(ConfigError, match="model.vocab_size is the tokenizer's"):
        rehearse(config, "pretrain", 8, with_files=False)


def test_repeated_data_is_a_warning(make_config: Callable[..., RunConfig]) -> None:
    report = rehearse(make_config(), "pretrain", 64)
    assert report.data is not None
    epochs = {name: times for name, _, times in report.data.sources}
    rows = 200 * 50 // 63
    assert epochs["a"] == pytest.approx(640 / 2 / rows)
    assert any(line.startswith("source b is read 4.1 times") for line in report.warnings)


@pytest.mark.parametrize(
    ("gpus", "tp", "cp", "said"),
    [
        (8, 8, 1, None),
        (4, 8, 1, "16 of 16 TP groups leave their node (ranks 0 to 7 are on 2 nodes of 4)"),
        (6, 4, 1, "TP groups leave their node (ranks 4 to 7 are on 2 nodes of 6)"),
        (8, 4, 4, None),  # 16 GPUs for a row cannot be inside a node of 8
        (12, 2, 4, "CP groups leave their node"),
        (100, 8, 1, "no whole number of nodes of 100: 72 are left idle"),
    ],
)
def test_groups_that_leave_their_node(gpus: int, tp: int, cp: int, said: str | None) -> None:
    layout = Layout(128, tp, 1, 1, cp, 128 // tp // cp, 1, 128, 1)
    device.import_megatron()
    found = node_warnings(layout, communicators(layout, gpus), gpus)
    assert (not found) if said is None else any(said in line for line in found), found


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 10**6), max_size=40),
    st.lists(st.integers(0, 10**6), min_size=1, max_size=9),
)
def test_tensors_are_dealt_out_as_megatron_core_does(sizes: list[int], own: list[int]) -> None:
    """Its function is asked with the ranks' own tensors, which go first, and those that all hold."""
    device.import_megatron()
    from megatron.core.dist_checkpointing.exchange_utils import distribute_shards_to_ranks

    ranks = list(range(len(own)))
    holders = {(0, rank): [rank] for rank in ranks} if len(own) > 1 else {(0, 0): [0]}
    holders |= {(1, number): ranks for number in range(len(sizes))}
    bytes_of = {(0, rank): size for rank, size in enumerate(own)}
    bytes_of |= {(1, number): size for number, size in enumerate(sizes)}
    theirs = distribute_shards_to_ranks(holders, bytes_of, len(own), set())
    writers, loads = deal_out(sizes, own)
    if len(own) > 1:  # alone there is nothing to deal out
        assert writers == [theirs[(1, number)] for number in range(len(sizes))]
    assert sum(loads) == sum(sizes) + sum(own)


@given(
    st.integers(1, 12), st.integers(1, 4), st.integers(1, 5), st.integers(0, 10**9),
)  # fmt: skip
def test_the_split_is_whole_on_every_layout(
    dp: int, micro: int, accumulation: int, first: int
) -> None:
    batch = dp * micro * accumulation
    layout = Layout(dp, 1, 1, 1, 1, dp, micro, batch, accumulation)
    shown = split(layout, first)
    assert shown[0][0] == [first, first + micro] and shown[dp - 1][1][1] == first + batch
