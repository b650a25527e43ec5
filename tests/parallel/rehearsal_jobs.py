"""Jobs of test_rehearsal.py: what the ranks of a real job hold and write."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from layout_jobs import Case, Run, _steps, metadata_of

from megatron_dream.checkpoint.host_memory import available_bytes, save_memory
from megatron_dream.checkpoint.save import CheckpointWriter
from megatron_dream.checkpoint.state import choose_optimizer_format, unwrap
from megatron_dream.model.initialize import global_parameters


def held_and_saved(case: Case, folder: str, optimizer_format: str) -> dict[str, Any]:
    """Shapes, bytes and groups of this rank, after one step; its save goes to ``folder``."""
    run = Run(case)
    ranks = run.ranks
    _steps(run, 0, 1)
    chosen = choose_optimizer_format(optimizer_format, run.model, ranks)
    CheckpointWriter(folder, ranks).save(
        "saved",
        run.model,
        metadata_of(run, 1, chosen),
        optimizer=run.optimizer,
        scheduler=run.scheduler,
    )
    buffers = [buffer for chunk in run.model for buffer in chunk.buffers]
    inner = [o.optimizer for o in getattr(run.optimizer, "chained_optimizers", [run.optimizer])]
    moments = [t for o in inner for s in o.state.values() for n, t in s.items() if n != "step"]
    if run.config.training.precision == "bf16":
        moments += [p for o in inner for group in o.param_groups for p in group["params"]]
    return {
        "place": (ranks.pp_rank, ranks.tp_rank),
        "shapes": {
            name: list(p.shape)
            for chunk in run.model
            for name, p in global_parameters(unwrap(chunk))
        },
        "gradients": sum(b.grad_data.numel() * b.grad_data.element_size() for b in buffers),
        "optimizer": sum(t.numel() * t.element_size() for t in moments),
        "groups": {
            "TP": dist.get_process_group_ranks(ranks.tp_group),
            "PP": dist.get_process_group_ranks(ranks.pp_group),
            "DP": dist.get_process_group_ranks(ranks.dp_cp_group),
        },
        "format": chosen,
        "memory": save_memory(run.model, run.optimizer, ranks, chosen, pins=True),
    }


def refusal_of_megatron(case: Case) -> str:
    """What megatron-core's own state dict of optimizer shards says on this rank; empty: nothing."""
    from megatron_dream.checkpoint.state import model_state, optimizer_state, sharding_options

    run = Run(case)
    _steps(run, 0, 1)
    options = sharding_options("dp_reshardable", run.ranks)
    try:
        optimizer_state(run.optimizer, model_state(run.model, options), options)
    except AssertionError as error:
        return str(error)
    return ""


def peak_of_a_save(case: Case, folder: str, optimizer_format: str) -> dict[str, int]:
    """Bytes by which resident memory rises in a save at most, sampled, and what was foreseen."""
    import threading
    import time

    from megatron_dream.memory import resident_bytes, trim_heap

    run = Run(case)
    _steps(run, 0, 1)
    writer = CheckpointWriter(folder, run.ranks)

    def save(name: str) -> None:
        metadata = metadata_of(run, 1, optimizer_format)
        writer.save(name, run.model, metadata, optimizer=run.optimizer, scheduler=run.scheduler)

    foreseen = save_memory(run.model, run.optimizer, run.ranks, optimizer_format, pins=False).peak
    trim_heap()
    before, highest, is_done = resident_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal highest
        while not is_done.is_set():
            highest = max(highest, resident_bytes())
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    save("measured")
    is_done.set()
    thread.join()
    return {"measured": highest - before, "foreseen": foreseen, "available": available_bytes()}
