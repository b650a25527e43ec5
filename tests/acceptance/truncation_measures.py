"""What sft_truncation.py measures of a trained model: loss by position, and generations by penalty.

The loss is that of an answer's masked tokens under a mask that is the same for every model: the logits
are those that the sampler itself sees, taken by its hook. Two canvases: ``canvas``, as in sampling, PAD
behind the answer up to a fixed width; ``exact``, the answer and its end alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from truncation_problems import Problem

from megatron_dream.evaluation.generate import sampling_config
from megatron_dream.evaluation.lengths import analyze_lengths
from megatron_dream.evaluation.sampler import Sampler, load_model
from megatron_dream.sampling.canvas import pad_left
from megatron_dream.sampling.generation import diffusion_generate

TIMES = (0.5, 1.0)
PENALTIES = (0.0, 1.0, 3.0)  # nats
FACTORS = (1e-3, 1e-6, 1e-12)
BUCKETS = ((0, 0), (1, 3), (4, 7), (8, 15), (16, 31), (32, 63))  # positions in the answer
_ROWS = 32
_DRAWS = {0.5: 4, 1.0: 1}  # masks of each problem
_OF_GENERATIONS = ("mean", "ends_at_once", "fills_canvas", "excess", "correlation")


def bucket_name(low: int, high: int) -> str:
    """Such as ``4-7``."""
    return str(low) if low == high else f"{low}-{high}"


BUCKET_NAMES = (*(bucket_name(*bucket) for bucket in BUCKETS), "end")
PENALTY_NAMES = (*(f"{nats:g}" for nats in PENALTIES), *(f"factor {f:g}" for f in FACTORS))


def measure_model(
    model: Path, prompts: Path, problems: Sequence[Problem], folder: Path, canvas: int
) -> dict[str, float]:
    """All figures of an exported folder by name.

    Args:
        model: the folder.
        prompts: the problems as JSON lines.
        problems: the same.
        folder: for the tables of ``analyze-lengths``.
        canvas: tokens.
    """
    sampler = load_model(model)
    found: dict[str, float] = {}
    for view, width in (("canvas", canvas), ("exact", 0)):
        for time in TIMES:
            losses = losses_by_position(sampler, problems, time, width)
            for name, loss in losses.items():
                found[f"loss, {view}, t {time:g}, {name}"] = loss
    found.update(generation_figures(model, prompts, folder, canvas))
    return found


def generation_figures(model: Path, prompts: Path, folder: Path, canvas: int) -> dict[str, float]:
    """Lengths and pass rate at temperature 1 under every penalty."""
    made = analyze_lengths(
        model,
        prompts,
        folder,
        temperature=[1.0],
        pad_penalty=PENALTIES,
        pad_penalty_factor=FACTORS,
        max_new_tokens=[canvas],
        batch_size=2 * _ROWS,
        quiet=True,
    )
    found: dict[str, float] = {}
    for name, figures in zip(PENALTY_NAMES, made, strict=True):
        for field in _OF_GENERATIONS:
            value = getattr(figures, field)
            if value is not None:  # lengths that do not vary correlate with nothing
                found[f"{field}, {name}"] = value
        found[f"pass, {name}"] = figures.pass_at[1]
    return found


def losses_by_position(
    sampler: Sampler, problems: Sequence[Problem], time: float, width: int
) -> dict[str, float]:
    """Mean cross-entropy of masked answer tokens by bucket, and of the end token, nats.

    Args:
        sampler: the model.
        problems: held out.
        time: chance of each token to be masked; 1: all are.
        width: tokens of the canvas, filled with PAD; 0: the answer and its end.
    """
    sums = dict.fromkeys(BUCKET_NAMES, 0.0)
    counts = dict.fromkeys(BUCKET_NAMES, 0)
    for draw in range(_DRAWS[time]):
        for first in range(0, len(problems), _ROWS):
            generator = torch.Generator().manual_seed(draw * len(problems) + first)
            for position, is_end, loss in _losses(
                sampler, problems[first : first + _ROWS], time, width, generator
            ):
                name = "end" if is_end else _bucket_of(position)
                sums[name] += loss
                counts[name] += 1
    return {name: sums[name] / counts[name] for name in BUCKET_NAMES if counts[name]}


def _bucket_of(position: int) -> str:
    return next(bucket_name(*b) for b in BUCKETS if b[0] <= position <= b[1])


def _losses(
    sampler: Sampler,
    problems: Sequence[Problem],
    time: float,
    width: int,
    generator: torch.Generator,
) -> list[tuple[int, bool, float]]:
    """(position in the answer, whether it is the end, loss) of all masked tokens of a batch."""
    tokenizer = sampler.tokenizer
    rows: list[list[int]] = []
    wanted: list[list[tuple[int, int, bool, int]]] = []  # from the row's right end: place, token
    for problem in problems:
        answer = [*tokenizer.encode(problem.answer), tokenizer.eos_id]
        filled = answer + [tokenizer.pad_id] * (width - len(answer))
        is_masked = (torch.rand(len(filled), generator=generator) < time).tolist()
        noised = [
            tokenizer.mask_id if m else token for token, m in zip(filled, is_masked, strict=True)
        ]
        rows.append([tokenizer.bos_id, *tokenizer.encode(problem.prompt), *noised])
        wanted.append(
            [
                (n, token, n == len(answer) - 1, n - len(filled))
                for n, token in enumerate(answer)
                if is_masked[n]
            ]
        )
    log_p_BSV = _log_probabilities(sampler, rows)
    return [
        (n, is_end, -float(log_p_BSV[row, place, token]))
        for row, entries in enumerate(wanted)
        for n, token, is_end, place in entries
    ]


def _log_probabilities(sampler: Sampler, rows: list[list[int]]) -> torch.Tensor:
    """Of each position's own token, [B, S, V]: one step of the sampler, looked at by its hook."""
    seen: list[torch.Tensor] = []

    def hook(step: int, x_BS: torch.Tensor, logits_BSV: torch.Tensor) -> torch.Tensor:
        seen.append(logits_BSV)
        return logits_BSV

    ids_BS, real_BS = pad_left(rows, sampler.tokenizer.pad_id)
    config = sampling_config(sampler, max_new_tokens=0, steps=1, seed=0)
    diffusion_generate(sampler.model, ids_BS, real_BS, config=config, logits_hook=hook)
    assert len(seen) == 1
    logits: Any = seen[0][..., : sampler.tokenizer.vocab_size]
    log_p_BSV: torch.Tensor = torch.log_softmax(logits.float(), -1)
    return log_p_BSV
