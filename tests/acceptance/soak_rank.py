"""One rank of a run under test: ``megatron-dream pretrain`` with bad numbers put in from outside.

    python tests/acceptance/soak_rank.py PLAN.json RANK WORLD_SIZE PORT -- WORDS OF PRETRAIN

The product knows nothing of this: the methods of its loop are wrapped here. PLAN.json:

    nan          [[ordinal, rank], ...]           NaN into that rank's gradients, in the step from there
    times        [[ordinal, rank, factor], ...]   those gradients times a factor
    loss         [[ordinal, value], ...]          the loss of that step, as the loop is told it
    stop         [ordinal, ...]                   SIGTERM comes in that step
    cut          [[ordinal, step], ...]           in that step a file of the checkpoint of ``step`` is cut off
    without      [ordinal, ...]                   the update of that step is left out, by hand
    left_out     [[first, end], ...]              ordinals that a new run leaves out from its start

The last two make the run that a faulty one is compared with.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def ordinal_of_step(loop: Any) -> int:
    """The first ordinal of the step that the loop is in."""
    from megatron_dream.data.loader import merge_ranges, ordinal_of

    return ordinal_of(
        loop.consumed, merge_ranges([(a, b) for a, b in loop.metadata.skipped_ranges])
    )


def put_in(plan: dict[str, Any], rank: int) -> None:
    """Wrap the loop."""
    from megatron_dream.training import loop as module
    from megatron_dream.training import run

    factors = {ordinal: math.nan for ordinal, on_rank in plan.get("nan", []) if on_rank == rank}
    factors |= {ordinal: by for ordinal, on_rank, by in plan.get("times", []) if on_rank == rank}
    losses = dict(plan.get("loss", []))
    without, stops = set(plan.get("without", [])), set(plan.get("stop", []))
    cuts = dict(plan.get("cut", []))
    apply = module.Loop._apply

    def faulty(self: Any, loss: float) -> float:
        ordinal = ordinal_of_step(self)
        if ordinal in cuts and rank == 0:
            folder = Path(self.config.checkpoint.run_folder) / "checkpoints"
            shard = next((folder / f"step_{cuts[ordinal]:08d}").glob("*.distcp"))
            os.truncate(shard, shard.stat().st_size - 1)
        if ordinal in stops:
            os.kill(os.getpid(), signal.SIGTERM)
        if ordinal in without:
            return 0.0
        for chunk in self.model if ordinal in factors else []:
            for buffer in chunk.buffers:
                buffer.grad_data.mul_(factors[ordinal])
        return apply(self, losses.get(ordinal, loss))

    module.Loop._apply = faulty  # type: ignore[method-assign]
    build = run.build_engine

    def leaving_out(*arguments: Any, **named: Any) -> Any:
        engine = build(*arguments, **named)
        if engine.metadata.step == 0 and plan.get("left_out"):
            engine.metadata.skipped_ranges = plan["left_out"]
        return engine

    run.build_engine = leaving_out
    planned, num_left_out = run.planned_ordinals, sum(b - a for a, b in plan.get("left_out", []))
    run.planned_ordinals = lambda *given: planned(*given) + num_left_out


def main() -> int:
    plan, rank, world_size, port = sys.argv[1:5]
    os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=world_size)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    put_in(json.loads(Path(plan).read_text()), int(rank))
    from megatron_dream.cli import main as command

    return command(["pretrain", *sys.argv[6:]])


if __name__ == "__main__":
    sys.exit(main())
