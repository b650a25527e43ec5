"""What the approximate modes of the sampler cost and gain, on a trained model and items it has not seen.

    python benchmarks/sampling_quality.py MODEL --programs work/programs/items.jsonl [--new 64] [--block 32]
    python benchmarks/sampling_quality.py MODEL --tokens PREFIX [--prompt 24] [--new 32] [--block 8]

``--programs``: prompts of benchmarks/programs.py; an item is right where the text is the answer.
``--tokens``: stretches of held-out tokens; the share of tokens that are those of the text. All at
temperature 0. Each mode against ``exact`` (blocks, no cache) on the same items: the difference with its
standard error (paired), how many tokens agree with exact's, tokens a forward pass and for 1,000 columns
run, seconds. A mode may cost one point; where the error of the difference is larger than that, the line
says that it cannot be told apart. With ``--speed N`` full recomputation with all logits (the public
definition, sampling.py) runs first on N items, one at a time as everything then is: how many times as fast.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sampling import recompute

from megatron_dream.device import current_device
from megatron_dream.evaluation.generate import sampling_config
from megatron_dream.evaluation.sampler import Sampler, load_model
from megatron_dream.sampling import cut_at_eos, diffusion_generate
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
}


@dataclass
class Items:
    """What is asked, and how an answer is judged.

    Attributes:
        prompts: ids, BOS included.
        score: of generated tokens, int64 [items, new]: a share of right ones for each, float64 [items].
    """

    prompts: list[list[int]]
    score: Callable[[torch.Tensor], torch.Tensor]

    def first(self, count: int) -> Items:
        """Without the others; they cannot be judged."""
        return Items(self.prompts[:count], self.score)


@dataclass
class Result:
    """Of one mode: tokens int64 [items, new], and what they took."""

    tokens: torch.Tensor
    seconds: float
    row_passes: int  # forward passes times the rows of their batch
    columns: int


def held_out_tokens(prefix: Path, sampler: Sampler, options: argparse.Namespace) -> Items:
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
    items = np.stack([tokens[start : start + length] for start in starts]).astype(np.int64)
    truth = torch.from_numpy(items[:, options.prompt :].copy())
    bos = sampler.tokenizer.bos_id
    prompts = [[bos, *item] for item in items[:, : options.prompt].tolist()]
    return Items(prompts, lambda made: (made == truth).double().mean(-1))


def programs(file: Path, sampler: Sampler, options: argparse.Namespace) -> Items:
    """Prompts with one right answer each."""
    lines = file.read_text(encoding="utf-8").splitlines()[: options.items]
    asked = [json.loads(line) for line in lines]
    tokenizer = sampler.tokenizer

    def score(made: torch.Tensor) -> torch.Tensor:
        texts = [tokenizer.decode(cut_at_eos(row, [tokenizer.eod_id])) for row in made.tolist()]
        right = [t == item["answer"] for t, item in zip(texts, asked, strict=False)]
        return torch.tensor(right, dtype=torch.float64)

    prompts = [[tokenizer.bos_id, *tokenizer.encode(item["prompt"])] for item in asked]
    return Items(prompts, score)


def generate(
    sampler: Sampler, items: Items, options: argparse.Namespace, mode: dict[str, Any]
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
    for begin in range(0, len(items.prompts), options.batch):
        rows = items.prompts[begin : begin + options.batch]
        ids_RP, real_RP = pad_left(rows, sampler.tokenizer.pad_id, current_device())
        output = diffusion_generate(
            sampler.model, ids_RP, None if len(rows) == 1 else real_RP, config=config
        )
        made.append(output.sequences[:, ids_RP.shape[1] :].cpu())
        passes += output.num_forward * len(rows)
        columns += output.num_columns
    return Result(torch.cat(made), time.perf_counter() - started, passes, columns)


def full_recomputation(sampler: Sampler, items: Items, options: argparse.Namespace) -> Result:
    """The public definition, one item at a time."""
    made, columns, started = [], 0, time.perf_counter()
    for prompt in items.prompts:
        x = recompute(sampler.model, torch.tensor([prompt]), options.new, options.block)
        made.append(x[:, len(prompt) :])
        columns += x.shape[1] * options.new
    seconds = time.perf_counter() - started
    return Result(torch.cat(made), seconds, options.new * len(items.prompts), columns)


def line(name: str, result: Result, exact: Result, items: Items) -> tuple[str, bool]:
    """What is printed of a mode, and whether it costs at most a point."""
    right = items.score(result.tokens)
    difference = right - items.score(exact.tokens)
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


def compare_speed(sampler: Sampler, items: Items, options: argparse.Namespace) -> None:
    """Every mode against full recomputation, one item at a time."""
    generate(sampler, items.first(1), options, {})
    base = full_recomputation(sampler, items, options)
    sizes = [len(prompt) for prompt in items.prompts]
    print(
        f"full recomputation: {base.seconds:.1f} s for {len(sizes)} items one at a time, prompts of "
        f"{min(sizes)} to {max(sizes)} tokens, {options.new} new, blocks of {options.block}",
        flush=True,
    )
    for name, mode in MODES.items():
        result = generate(sampler, items, options, mode)
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
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--tokens", type=Path, help="prefix of held-out tokens")
    source.add_argument("--programs", type=Path, help="items.jsonl of programs.py")
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--prompt", type=int, default=24, help="tokens given, of --tokens")
    parser.add_argument("--new", type=int, help="default: 64 of programs, 32 of tokens")
    parser.add_argument("--block", type=int, help="default: 32 of programs, 8 of tokens")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--speed", type=int, metavar="N", help="compare speeds on N items instead")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.new = options.new or (64 if options.programs else 32)
    options.block = options.block or (32 if options.programs else 8)
    sampler = load_model(options.model)
    if options.programs:
        items = programs(options.programs, sampler, options)
    else:
        items = held_out_tokens(options.tokens, sampler, options)
    if options.speed:
        options.batch = 1
        compare_speed(sampler, items.first(options.speed), options)
        return 0
    exact, are_met = None, True
    for name, mode in MODES.items():
        result = generate(sampler, items, options, mode)
        exact = exact or result
        words, is_met = line(name, result, exact, items)
        are_met &= is_met
        print(words, flush=True)
    return 0 if are_met else 1


if __name__ == "__main__":
    sys.exit(main())
