"""What the approximate modes of the sampler cost and gain, on a trained model and text it has not seen.

    python benchmarks/sampling_quality.py MODEL --tokens PREFIX [--items 2000] [--new 32] [--block 8]

An item is a stretch of held-out tokens: the first ``--prompt`` of them are given, the next ``--new`` are
generated at temperature 0 and compared. Each mode against ``exact`` (blocks, no cache) on the same items:
the difference of the share of right tokens with its standard error (paired), how many tokens agree with
exact's, tokens a forward pass and for 1,000 columns run, seconds. A mode may cost one point; where the
error of the difference is larger than that, the line says that it cannot be told apart. With ``--speed N``
full recomputation with all logits (the public definition, sampling.py) runs on N items, one at a time as
everything then is: how many times as fast each mode is.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sampling import recompute

from megatron_dream.device import current_device
from megatron_dream.evaluation.generate import sampling_config
from megatron_dream.evaluation.sampler import Sampler, load_model
from megatron_dream.sampling import diffusion_generate

POINT = 0.01
MODES: dict[str, dict[str, Any]] = {
    "exact": {},
    "prefix": {"cache": "prefix"},
    "dual": {"cache": "dual"},
    "dual, border kept": {"cache": "dual", "border": "kept"},
    "exact, threshold 0.9": {"alg": "threshold"},
    "dual, threshold 0.9": {"cache": "dual", "alg": "threshold"},
    "dual, entropy_bound 0.1": {"cache": "dual", "alg": "entropy_bound"},
    "dual, suffix window 16": {"cache": "dual", "suffix_window": 16},
    "dual, early end": {"cache": "dual", "early_end": True},
}


@dataclass
class Result:
    """Of one mode: tokens int64 [items, new], and what they took."""

    tokens: torch.Tensor
    seconds: float
    row_passes: int  # forward passes times the rows of their batch
    columns: int


def read_items(prefix: Path, count: int, length: int) -> torch.Tensor:
    """Stretches of tokens spread evenly over a prefix, int64 [count, length].

    Raises:
        SystemExit: there are too few tokens.
    """
    facts = json.loads(Path(f"{prefix}.json").read_text(encoding="utf-8"))
    tokens = np.memmap(f"{prefix}.bin", dtype=facts["dtype"], mode="r")
    if tokens.size < count * length:
        raise SystemExit(
            f"{prefix} has {tokens.size:,} tokens, too few for {count:,} items of {length}: lower --items."
        )
    starts = np.linspace(0, tokens.size - length, count).astype(np.int64)
    return torch.from_numpy(np.stack([tokens[s : s + length] for s in starts]).astype(np.int64))


def generate(
    sampler: Sampler, prompts: torch.Tensor, options: argparse.Namespace, mode: dict[str, Any]
) -> Result:
    """All items in batches."""
    config = sampling_config(
        sampler,
        max_new_tokens=options.new,
        steps=options.new,
        block_length=options.block,
        seed=0,
        **mode,
    )
    made, passes, columns, started = [], 0, 0, time.perf_counter()
    for rows in prompts.split(options.batch):
        output = diffusion_generate(sampler.model, rows.to(current_device()), config=config)
        made.append(output.sequences[:, prompts.shape[1] :].cpu())
        passes += output.num_forward * len(rows)
        columns += output.num_columns
    return Result(torch.cat(made), time.perf_counter() - started, passes, columns)


def full_recomputation(
    sampler: Sampler, prompts: torch.Tensor, options: argparse.Namespace
) -> Result:
    """The public definition, one item at a time."""
    started = time.perf_counter()
    rows = [recompute(sampler.model, row, options.new, options.block) for row in prompts.split(1)]
    seconds, made = time.perf_counter() - started, torch.cat(rows)
    steps = options.new * len(made)
    return Result(made[:, prompts.shape[1] :], seconds, steps, steps * made.shape[1])


def line(name: str, result: Result, exact: Result, truth: torch.Tensor) -> tuple[str, bool]:
    """What is printed of a mode, and whether it costs at most a point."""
    right = (result.tokens == truth).double().mean(-1)
    difference = right - (exact.tokens == truth).double().mean(-1)
    mean, error = float(difference.mean()), float(difference.std() / len(difference) ** 0.5)
    agree = float((result.tokens == exact.tokens).double().mean())
    count = result.tokens.numel()
    words = (
        f"{name:<26} {float(right.mean()):6.2%} right, {100 * mean:+.2f} +- {100 * error:.2f} points; "
        f"{agree:6.1%} agree with exact; {count / result.row_passes:5.2f} "
        f"tokens a pass of a row, {count / result.columns * 1000:6.2f} per 1,000 columns, "
        f"{result.seconds:6.1f} s, {exact.seconds / result.seconds:5.2f} times as fast"
    )
    if name == "exact":
        return words, True
    if error > POINT and mean + 2 * error >= -POINT:
        return f"{words}; cannot be told apart", True
    is_met = mean >= -POINT
    return f"{words}; {'within a point' if is_met else 'COSTS MORE THAN A POINT'}", is_met


def compare_speed(sampler: Sampler, prompts: torch.Tensor, options: argparse.Namespace) -> None:
    """Every mode against full recomputation, one item at a time."""
    generate(sampler, prompts[:1], options, {})
    base = full_recomputation(sampler, prompts, options)
    print(
        f"full recomputation: {base.seconds:.1f} s for {len(prompts)} items one at a time, "
        f"{prompts.shape[1]} tokens given, {options.new} new, blocks of {options.block}",
        flush=True,
    )
    for name, mode in MODES.items():
        result = generate(sampler, prompts, options, mode)
        agree = float((result.tokens == base.tokens).double().mean())
        print(
            f"{name:<26} {base.seconds / result.seconds:6.2f} times as fast as full recomputation; "
            f"{result.tokens.numel() / result.row_passes:5.2f} tokens a pass; {agree:6.1%} of its tokens",
            flush=True,
        )


def main() -> int:
    """Print a line a mode; 1 where one costs more than a point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="exported folder")
    parser.add_argument("--tokens", type=Path, required=True, help="prefix of held-out tokens")
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--prompt", type=int, default=24)
    parser.add_argument("--new", type=int, default=32)
    parser.add_argument("--block", type=int, default=8)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--speed", type=int, metavar="N", help="compare speeds on N items instead")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sampler = load_model(options.model)
    items = read_items(options.tokens, options.items, options.prompt + options.new)
    bos = torch.full((len(items), 1), sampler.tokenizer.bos_id)
    prompts = torch.cat([bos, items[:, : options.prompt]], dim=1)
    if options.speed:
        options.batch = 1
        compare_speed(sampler, prompts[: options.speed], options)
        return 0
    truth, exact, are_met = items[:, options.prompt :], None, True
    for name, mode in MODES.items():
        result = generate(sampler, prompts, options, mode)
        exact = exact or result
        words, is_met = line(name, result, exact, truth)
        are_met &= is_met
        print(words, flush=True)
    return 0 if are_met else 1


if __name__ == "__main__":
    sys.exit(main())
