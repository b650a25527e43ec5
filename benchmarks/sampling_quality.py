"""What the approximate modes of the sampler cost and gain, on a trained model and text it has not seen.

    python benchmarks/sampling_quality.py MODEL --tokens PREFIX [--items 2000] [--new 32] [--block 8]
    python benchmarks/sampling_quality.py MODEL --problems FILE.jsonl [--items 2000] [--new 128] [--block 32]

With ``--tokens`` an item is a stretch of held-out tokens: the first ``--prompt`` of them are given, the
next ``--new`` are generated at temperature 0, and the share of right ones counts. With ``--problems`` it is
a line with ``prompt`` and ``answer``; tokens count up to the answer's end and with it, of the longer of
both answers, and whole answers are counted too. Each mode against ``exact`` (blocks, no cache) on the same
items: the difference with its standard error (paired), how much agrees with exact's, tokens a forward pass
and for 1,000 columns run, seconds. A mode may cost one point; where the error of the difference is larger
than that, the line says that it cannot be told apart. With ``--speed N`` full recomputation with all logits
(the public definition, sampling.py) runs on N items, one at a time as everything then is: how many times as
fast each mode is.
"""

from __future__ import annotations

import argparse
import json
import operator
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
from megatron_dream.sampling.canvas import pad_left

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
    "dual, threshold, early end": {"cache": "dual", "alg": "threshold", "early_end": True},
}


@dataclass
class Items:
    """Prompts and what should follow.

    Attributes:
        prompts: ids of each.
        truth: ids of each; of an answer with its end.
        end: the id that ends an answer; None: all tokens count, one by one.
    """

    prompts: list[list[int]]
    truth: list[list[int]]
    end: int | None

    def found(self, tokens: torch.Tensor) -> list[list[int]]:
        """What counts of generated tokens, int64 [items, new]: answers up to their end."""
        rows: list[list[int]] = tokens.tolist()
        if self.end is None:
            return rows
        return [row[: row.index(self.end) + 1] if self.end in row else row for row in rows]

    def share_equal(self, tokens: torch.Tensor, wanted: list[list[int]]) -> torch.Tensor:
        """Of each item's tokens, or of the longer one's where the lengths differ, double [items]."""
        pairs = zip(self.found(tokens), wanted, strict=True)
        shares = [sum(map(operator.eq, a, b)) / max(len(a), len(b)) for a, b in pairs]
        return torch.tensor(shares, dtype=torch.float64)

    def num_whole(self, tokens: torch.Tensor) -> int:
        """Items that are right to the last token."""
        return sum(map(operator.eq, self.found(tokens), self.truth))

    def first(self, count: int) -> Items:
        """The first ``count``."""
        return Items(self.prompts[:count], self.truth[:count], self.end)


@dataclass
class Result:
    """Of one mode: tokens int64 [items, new], and what they took."""

    tokens: torch.Tensor
    seconds: float
    row_passes: int  # forward passes times the rows of their batch
    columns: int


def read_stretches(sampler: Sampler, prefix: Path, options: argparse.Namespace) -> Items:
    """Stretches of tokens spread evenly over a prefix.

    Raises:
        SystemExit: there are too few tokens.
    """
    count, length = options.items, options.prompt + options.new
    facts = json.loads(Path(f"{prefix}.json").read_text(encoding="utf-8"))
    tokens = np.memmap(f"{prefix}.bin", dtype=facts["dtype"], mode="r")
    if tokens.size < count * length:
        raise SystemExit(
            f"{prefix} has {tokens.size:,} tokens, too few for {count:,} items of {length}: lower --items."
        )
    starts = np.linspace(0, tokens.size - length, count).astype(np.int64)
    rows = [tokens[s : s + length].tolist() for s in starts]
    bos = sampler.tokenizer.bos_id
    prompts = [[bos, *row[: options.prompt]] for row in rows]
    return Items(prompts, [row[options.prompt :] for row in rows], None)


def read_problems(sampler: Sampler, path: Path, options: argparse.Namespace) -> Items:
    """The first lines of a file, as the sft stage renders them without a template.

    Raises:
        SystemExit: there are too few.
    """
    lines = path.read_text(encoding="utf-8").splitlines()[: options.items]
    if len(lines) < options.items:
        raise SystemExit(f"{path} has {len(lines):,} lines: lower --items.")
    tokenizer = sampler.tokenizer
    problems = [json.loads(line) for line in lines]
    return Items(
        [[tokenizer.bos_id, *tokenizer.encode(problem["prompt"])] for problem in problems],
        [[*tokenizer.encode(problem["answer"]), tokenizer.eos_id] for problem in problems],
        tokenizer.eos_id,
    )


def generate(
    sampler: Sampler, prompts: list[list[int]], options: argparse.Namespace, mode: dict[str, Any]
) -> Result:
    """All prompts in batches."""
    config = sampling_config(
        sampler,
        max_new_tokens=options.new,
        steps=options.new,
        block_length=options.block,
        seed=0,
        **mode,
    )
    made, passes, columns, started = [], 0, 0, time.perf_counter()
    for first in range(0, len(prompts), options.batch):
        rows = prompts[first : first + options.batch]
        ids, real = pad_left(rows, sampler.tokenizer.pad_id)
        where = current_device()
        output = diffusion_generate(
            sampler.model,
            ids.to(where),
            None if bool(real.all()) else real.to(where),
            config=config,
        )
        made.append(output.sequences[:, ids.shape[1] :].cpu())
        passes += output.num_forward * len(rows)
        columns += output.num_columns
    return Result(torch.cat(made), time.perf_counter() - started, passes, columns)


def full_recomputation(
    sampler: Sampler, prompts: list[list[int]], options: argparse.Namespace
) -> Result:
    """The public definition, one item at a time."""
    started, made, columns = time.perf_counter(), [], 0
    for prompt in prompts:
        rows = recompute(sampler.model, torch.tensor([prompt]), options.new, options.block)
        made.append(rows[:, len(prompt) :])
        columns += options.new * rows.shape[1]
    seconds, steps = time.perf_counter() - started, options.new * len(made)
    return Result(torch.cat(made), seconds, steps, columns)


def line(name: str, result: Result, exact: Result, items: Items) -> tuple[str, bool]:
    """What is printed of a mode, and whether it costs at most a point."""
    right = items.share_equal(result.tokens, items.truth)
    difference = right - items.share_equal(exact.tokens, items.truth)
    mean, error = float(difference.mean()), float(difference.std() / len(difference) ** 0.5)
    agree = float(items.share_equal(result.tokens, items.found(exact.tokens)).mean())
    count = sum(map(len, items.found(result.tokens)))
    words = (
        f"{name:<26} {float(right.mean()):6.2%} right, {100 * mean:+.2f} +- {100 * error:.2f} points, "
        f"{items.num_whole(result.tokens)} of {len(right)} wholly right; "
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


def compare_quality(sampler: Sampler, items: Items, options: argparse.Namespace) -> bool:
    """A line a mode; whether none costs more than a point."""
    exact, are_met = None, True
    for name, mode in MODES.items():
        result = generate(sampler, items.prompts, options, mode)
        exact = exact or result
        words, is_met = line(name, result, exact, items)
        are_met &= is_met
        print(words, flush=True)
    return are_met


def compare_speed(sampler: Sampler, items: Items, options: argparse.Namespace) -> None:
    """Every mode against full recomputation, one item at a time."""
    options.batch = 1
    generate(sampler, items.prompts[:1], options, {})
    base = full_recomputation(sampler, items.prompts, options)
    right = items.share_equal(base.tokens, items.truth).mean()
    print(
        f"full recomputation: {base.seconds:.1f} s for {len(items.prompts)} items one at a time, "
        f"{options.new} new tokens, blocks of {options.block}; {right:.1%} right",
        flush=True,
    )
    for name, mode in MODES.items():
        result = generate(sampler, items.prompts, options, mode)
        agree = items.share_equal(result.tokens, items.found(base.tokens)).mean()
        right = items.share_equal(result.tokens, items.truth).mean()
        passes = result.row_passes
        count = sum(map(len, items.found(result.tokens)))
        print(
            f"{name:<26} {base.seconds / result.seconds:6.2f} times as fast as full recomputation; "
            f"{count / passes:5.2f} tokens a pass ({result.tokens.numel() / passes:.2f} "
            f"with what follows an end); {right:6.1%} right, {agree:6.1%} equal",
            flush=True,
        )


def main() -> int:
    """Print a line a mode; 1 where one costs more than a point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="exported folder")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--tokens", type=Path, help="prefix of held-out tokens")
    source.add_argument("--problems", type=Path, help="JSON lines with prompt and answer")
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--prompt", type=int, default=24, help="tokens given of a stretch")
    parser.add_argument("--new", type=int, default=32)
    parser.add_argument("--block", type=int, default=8)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--speed", type=int, metavar="N", help="compare speeds on N items instead")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sampler = load_model(options.model)
    if options.problems:
        items = read_problems(sampler, options.problems, options)
    else:
        items = read_stretches(sampler, options.tokens, options)
    if options.speed:
        compare_speed(sampler, items.first(options.speed), options)
        return 0
    return 0 if compare_quality(sampler, items, options) else 1


if __name__ == "__main__":
    sys.exit(main())
