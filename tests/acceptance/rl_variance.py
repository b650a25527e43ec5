"""How noisy the policy gradient is by the kind of its masks, at equal cost: coupled, independent, trace.

One set of judged rollouts of a trained start (the RL demonstration's), 200 draws of masks for each kind,
two passes over each response in every draw. Of each draw the gradient of all parameters, in one update from
the weights that made the rollouts. Reported: total variance over the squared norm of the mean gradient of
200 coupled draws, and each kind's mean's cosine to it; trace masks estimate another mean.

    python tests/acceptance/rl_variance.py [--draws 200]      about 15 minutes; needs make rl-demo's start
    writes docs/results/rl_variance.{json,md}
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MEGATRON_DREAM_DEVICE", "cpu")

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from megatron_dream.checkpoint.state import unwrap  # noqa: E402
from megatron_dream.config.load import load_config  # noqa: E402
from megatron_dream.files import atomic_write, write_json  # noqa: E402
from megatron_dream.rl.batch import Group, build_update, micro_batches  # noqa: E402
from megatron_dream.rl.clock import Clock  # noqa: E402
from megatron_dream.rl.loop import RlLoop  # noqa: E402
from megatron_dream.rl.policy import PolicyRunner  # noqa: E402
from megatron_dream.rl.rollout import step_seed  # noqa: E402
from megatron_dream.rl.run import open_loop  # noqa: E402

KINDS: dict[str, dict[str, Any]] = {
    "coupled": {"masks": "coupled"},
    "independent": {"masks": "independent"},
    "trace, 1 step": {"masks": "trace", "trace_steps": 1},
    "trace, 8 steps": {"masks": "trace", "trace_steps": 8},
}


def gradient(loop: RlLoop, groups: list[Group], rl: Any, ordinal: int) -> torch.Tensor:
    """Of all parameters, flat, for one draw of masks."""
    update = build_update(groups, rl, loop.noise, ordinal)
    batches = list(
        micro_batches(
            update,
            micro_batch_size=loop.layout.micro_batch_size,
            dp_rank=0,
            dp_size=1,
            mask_id=loop.tokenizer.mask_id,
            pad_id=loop.tokenizer.pad_id,
            device=torch.device("cpu"),
        )
    )
    for chunk in loop.model:
        chunk.zero_grad_buffer()
    loop.optimizer.zero_grad()
    PolicyRunner(loop.model, rl, loop.ranks).run(batches, None, update.num_rows)
    return torch.cat([p.main_grad.flatten() for p in unwrap(loop.model[0]).parameters()]).clone()


def measured(loop: RlLoop, groups: list[Group], draws: int) -> list[dict[str, Any]]:
    """A row of the table for each kind."""
    rows, reference = [], None
    for name, changes in KINDS.items():
        rl = dataclasses.replace(loop.rl, **changes)
        started, total, squares = time.monotonic(), 0.0, 0.0
        for draw in range(draws):
            found = gradient(loop, groups, rl, draw * len(groups)).double()
            total, squares = total + found, squares + float(found.square().sum())
            if draw % 20 == 19:
                print(
                    f"{name}: {draw + 1} of {draws}, {time.monotonic() - started:.0f} s", flush=True
                )
        mean = total / draws
        reference = mean if reference is None else reference
        variance = (squares - draws * float(mean.square().sum())) / (draws - 1)
        # the squared norm of a mean of draws is too large by its own variance
        norm = float(mean.square().sum()) - variance / draws
        cosine = float(torch.nn.functional.cosine_similarity(mean, reference, dim=0))
        rows.append(
            {"masks": name, "variance": variance, "mean_squared": norm, "ratio": variance / norm,
             "cosine_to_coupled": cosine, "seconds": time.monotonic() - started}
        )  # fmt: skip
    return rows


def page_of(facts: dict[str, Any]) -> str:
    """docs/results/rl_variance.md."""
    lines = [
        "| masks | variance / coupled's | variance / squared mean | cosine of means |",
        "|---|---|---|---|",
    ]
    for row in facts["rows"]:
        ratio = row["variance"] / facts["rows"][0]["variance"]
        lines.append(
            f"| {row['masks']} | {ratio:.3f} | {row['ratio']:.2f} | {row['cosine_to_coupled']:.4f} |"
        )
    table = "\n".join(lines)
    return (
        "# Variance of the policy gradient by masks\n\n"
        "Written by `tests/acceptance/rl_variance.py`, whose first lines tell what it does.\n\n"
        f"{facts['groups']} groups of {facts['group_size']} responses, {facts['draws']} draws of each kind, "
        f"two passes over each response in a draw.\n\n{table}\n"
    )


def main() -> int:
    """Rollouts once, then all kinds over them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results")
    options = parser.parse_args()
    os.chdir(ROOT)
    config = load_config(ROOT / "examples" / "tiny" / "rl.yaml")
    config.rl.prompts_per_step = options.prompts
    config.training.micro_batch_size = 2 * config.rl.group_size
    config.checkpoint.run_folder = "work/rl_demo/runs/variance"
    loop = open_loop(config, is_trial=True)
    asked = [loop.problems[number] for number in loop._numbers()]
    samples = loop.asking.ask(asked, range(len(asked)), step_seed(0, 0), Clock())
    groups, facts = loop._groups(samples)
    if groups is None:
        raise SystemExit("no group is informative: is this the start of make rl-demo?")
    rows = measured(loop, groups, options.draws)
    loop.close()
    result = {
        "groups": len(groups), "group_size": config.rl.group_size, "draws": options.draws,
        "informative_share": facts["informative_share"], "rows": rows,
    }  # fmt: skip
    write_json(options.output / "rl_variance.json", result)
    with atomic_write(options.output / "rl_variance.md") as stream:
        stream.write(page_of(result))
    print(page_of(result))
    return 0 if np.isfinite([row["ratio"] for row in rows]).all() else 1


if __name__ == "__main__":
    sys.exit(main())
