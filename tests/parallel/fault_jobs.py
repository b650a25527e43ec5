"""Jobs of test_faults.py: saves that fail on one rank, checkpoints with damage, decisions that must agree."""

from __future__ import annotations

import contextlib
import math
import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layout_jobs import GLOBAL_BATCH, Case, Run, metadata_of

from megatron_dream import parallel


@contextlib.contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """A stand-in for a full disk in this process alone: writes beyond ``size`` bytes of a file fail."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@contextlib.contextmanager
def broken(how: str, run: Run) -> Iterator[None]:
    """One rank's disk fails in a way; the other rank's does not."""
    from megatron.core.dist_checkpointing import serialization
    from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync

    from megatron_dream.checkpoint import core_save, save

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    owners: dict[str, tuple[Any, str, int]] = {
        "metadata": (FileSystemWriterAsync, "finish", 0),
        "config": (serialization, "save_config", 0),
        "publish": (save, "_publish_folder", 0),
        "folder": (save.CheckpointWriter, "_begin", 0),
        "hang": (core_save.LocalWrite, "__call__", 1),
    }
    if how in ("shard", "common"):
        on_rank, size = (1, 1 << 14) if how == "shard" else (0, 16)
        with files_end_at(size) if run.ranks.rank == on_rank else contextlib.nullcontext():
            yield
        return
    owner, name, on_rank = owners[how]
    original = getattr(owner, name)
    if run.ranks.rank == on_rank:
        setattr(owner, name, (lambda *_: time.sleep(20)) if how == "hang" else full)
    try:
        yield
    finally:
        setattr(owner, name, original)


def failing_saves(folder: str, hows: list[str], asynchronous: bool) -> dict[str, Any]:
    """Step 1 is saved; then one save fails in each way; then the last save is made.

    Returns:
        The sentence of each failure, what lay in the folder after each, and the seconds it took.
    """
    from megatron_dream.checkpoint.save import CheckpointWriter, SaveError, step_folder

    run = Run(Case(parallel={"tensor_model_parallel_size": 1}, steps=10))
    writer = CheckpointWriter(folder, run.ranks, asynchronous=asynchronous, timeout_seconds=60)

    def save(step: int) -> None:
        metadata = metadata_of(run, step, "fully_reshardable")
        parts = {"optimizer": run.optimizer, "scheduler": run.scheduler}
        writer.save(step_folder(step), run.model, metadata, **parts)
        writer.finish(wait=True)

    save(1)
    found: dict[str, Any] = {}
    for step, how in enumerate(hows, 2):
        started, sentence = time.monotonic(), ""
        writer.timeout_seconds = 1.0 if how == "hang" else 60.0
        with broken(how, run):
            try:
                save(step)
            except SaveError as error:
                sentence = str(error)
        parallel.barrier()
        listed = sorted(os.listdir(folder))
        found[how] = (sentence, listed, time.monotonic() - started)
        parallel.barrier()
    save(99)
    return found


def killed_writer(folder: str) -> str:
    """An asynchronous save whose forked process is killed on rank 1: the sentence."""
    from megatron_dream.checkpoint import core_save
    from megatron_dream.checkpoint.save import CheckpointWriter, SaveError, step_folder

    run = Run(Case(steps=10))
    writer = CheckpointWriter(folder, run.ranks, asynchronous=True)
    original = core_save.LocalWrite.__call__
    if run.ranks.rank == 1:
        core_save.LocalWrite.__call__ = lambda self: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore
    try:
        writer.save(step_folder(1), run.model, metadata_of(run, 1, "fully_reshardable"))
        writer.finish(wait=True)
    except SaveError as error:
        return str(error)
    finally:
        core_save.LocalWrite.__call__ = original  # type: ignore[method-assign]
    return ""


def chosen(folder: str, tidies: bool = False) -> Any:
    """What a start goes on from: (name, what was passed over), or the sentence of the error."""
    from megatron_dream.checkpoint.choose import choose_checkpoint, tidy
    from megatron_dream.config.schema import ParallelConfig
    from megatron_dream.errors import CheckpointError

    ranks = parallel.start(ParallelConfig())
    try:
        choice = choose_checkpoint(Path(folder), ranks)
    except CheckpointError as error:
        return str(error)
    if choice is None:
        return None
    if tidies:
        assert tidy(choice, ranks) is None
        parallel.barrier()
    return choice.folder.name, [name for name, _ in choice.passed_over], choice.sentence()


def three_checkpoints(folder: str) -> None:
    """Steps 1, 2 and 3."""
    from megatron_dream.checkpoint.save import CheckpointWriter, step_folder

    run = Run(Case(steps=10))
    writer = CheckpointWriter(folder, run.ranks, keep_last=3)
    for step in (1, 2, 3):
        writer.save(
            step_folder(step),
            run.model,
            metadata_of(run, step, "fully_reshardable"),
            optimizer=run.optimizer,
            scheduler=run.scheduler,
        )


def judged(values: list[tuple[float, float]]) -> tuple[Any, Any]:
    """One decision, where rank n was told ``values[n]``; and what was agreed on."""
    from megatron_dream.config.schema import FaultsConfig, LoggingConfig, ParallelConfig
    from megatron_dream.training.faults.guard import UpdateGuard, agreed
    from megatron_dream.training.log import RunLog

    ranks = parallel.start(ParallelConfig())
    log = RunLog(None, LoggingConfig(), 1, enabled=False)
    guard = UpdateGuard(FaultsConfig(), log, {}, looks_at_loss=True)
    mine = values[ranks.rank]
    numbers = [None if math.isnan(value) else value for value in agreed(*mine)]
    return guard.judge(0, 0, *mine), numbers


def stale_weights(case: Case, folder: str) -> list[str]:
    """Names of weights that a save after two updates wrote otherwise than the next pass uses them."""
    import torch
    from layout_jobs import _steps

    from megatron_dream.checkpoint.save import CheckpointWriter, step_folder
    from megatron_dream.checkpoint.state import unwrap
    from megatron_dream.checkpoint.tensors import TensorReader

    run = Run(case)
    _steps(run, 0, 2)
    writer = CheckpointWriter(folder, run.ranks)
    writer.save(step_folder(2), run.model, metadata_of(run, 2, "fully_reshardable"))
    run.forward_backward(run.iterators(2 * GLOBAL_BATCH), 2)
    reader = TensorReader(Path(folder) / step_folder(2))
    state = unwrap(run.model[0]).state_dict()
    names = [name for name in reader.names() if name in state]
    assert len(names) >= 2, reader.names()
    return [name for name in names if not torch.equal(reader.read(name), state[name])]


def unnoticed(case: Case) -> list[str]:
    """Gradients of one rank in which a NaN is not noticed, each tried by itself."""
    from megatron_dream.checkpoint.state import unwrap
    from megatron_dream.training.faults.guard import agreed
    from megatron_dream.training.optimizer import gradient_norm

    run = Run(case)
    loss = run.forward_backward(run.iterators()).loss
    expected = agreed(loss, gradient_norm(run.optimizer))
    assert all(map(math.isfinite, expected))
    mine = [(name, p) for chunk in run.model for name, p in unwrap(chunk).named_parameters()]
    found = []
    for rank in range(run.ranks.world_size):
        there = parallel.broadcast_object(len(mine), rank)
        for number in range(there):
            place = mine[number][1].main_grad.view(-1)[:1] if rank == run.ranks.rank else None
            kept = None if place is None else place.clone()
            if place is not None:
                place.fill_(math.nan)
            if math.isfinite(agreed(loss, gradient_norm(run.optimizer))[1]):
                found.append(f"rank {rank}: {number}")
            if place is not None:
                place.copy_(kept)
    assert agreed(loss, gradient_norm(run.optimizer)) == expected
    return found


def decoupled() -> dict[str, Any]:
    """Gradients of a precision-aware optimizer, which stand beside ``grad``: clipped, copies seen."""
    from types import SimpleNamespace

    import torch

    from megatron_dream.config.schema import ParallelConfig
    from megatron_dream.training.optimizer import apply_gradients, gradient_norm

    parallel.start(ParallelConfig())
    parameters = [torch.nn.Parameter(torch.ones(4)) for _ in range(2)]
    parameters[1].shared = True  # type: ignore[attr-defined]
    for parameter in parameters:
        parameter.grad = torch.full((4,), 7.0)
        parameter.decoupled_grad = torch.full((4,), 3.0)  # type: ignore[attr-defined]
    inner = SimpleNamespace(
        config=SimpleNamespace(clip_grad=1.0, use_precision_aware_optimizer_no_fp8_or_ds_fp8=True),
        get_parameters=lambda: parameters,
        prepare_grads=lambda: False,
        get_grad_norm=lambda: 6.0,
        step_with_ready_grads=lambda: True,
    )
    norm = gradient_norm(inner)
    is_applied = apply_gradients(inner, norm)
    found: dict[str, Any] = {"norm": norm, "is_applied": is_applied}
    found["clipped"] = [p.decoupled_grad.tolist() for p in parameters]  # type: ignore[attr-defined]
    found["beside"] = [p.grad.tolist() for p in parameters if p.grad is not None]
    parameters[1].decoupled_grad[2] = math.inf  # type: ignore[attr-defined]
    found["bad"] = gradient_norm(inner)
    return found
