"""Likelihood: ours against a straightforward implementation, as public evaluation code does it.

    python benchmarks/likelihood.py [--vocabulary 32000] [--mc-num 32] [--questions 2] [--threads 1]

A random model of about 15M parameters as an exported folder runs it; questions of four choices behind a
context of 96 tokens. The baseline is written here: request by request, mc_num masked copies in batches of
32, the logits of all positions, cross-entropy at the masked ones. Both sides get the same draws
(stratified) and must give the same numbers. Tokens of a second are those of the mc_num rows that the
estimate stands for, whichever of them a side has to run. Short answers repeat their masks, long ones do
not: one line each.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from sampling import exported_code

from megatron_dream.evaluation.likelihood import BATCH_SIZE, MaskedModel, Request, loglikelihoods
from megatron_dream.evaluation.likelihood.draws import draw_masks
from megatron_dream.training.provenance import source_commit

CONTEXT, CHOICES = 96, 4
LENGTHS = {"1 token": (1, 1), "2 to 4 tokens": (2, 4), "8 to 24 tokens": (8, 24)}
TOLERANCE = 1e-3  # relative, of fp32 sums in another order


def make_model(code: Any, vocabulary: int) -> Any:
    """Random weights."""
    torch.manual_seed(0)
    config = code.DreamConfig(
        vocab_size=vocabulary,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        mask_token_id=vocabulary - 1,
        eos_token_id=vocabulary - 2,
        pad_token_id=vocabulary - 2,
        bos_token_id=vocabulary - 3,
    )
    return code.DreamModel(config).eval()


def make_requests(lengths: tuple[int, int], questions: int, vocabulary: int) -> list[Request]:
    """Four choices a question, of lengths between the two."""
    generator = np.random.default_rng(0)
    found = []
    for question in range(questions):
        context = generator.integers(0, vocabulary - 3, CONTEXT).tolist()
        for _ in range(CHOICES):
            length = int(generator.integers(lengths[0], lengths[1] + 1))
            answer = generator.integers(0, vocabulary - 3, length).tolist()
            found.append(Request(context, answer, question))
    return found


@torch.no_grad()
def straightforward(model: MaskedModel, requests: Sequence[Request], mc_num: int) -> list[float]:
    """One request after the other, all logits."""
    found = []
    for one in requests:
        ids = torch.tensor([*one.context, *one.continuation, model.eos_token_id])
        start, end = len(one.context), len(ids) - 1
        masks_NL, weights_N = draw_masks("stratified", end - start, mc_num, 0, one.question)
        masked_NS = torch.zeros((mc_num, len(ids)), dtype=torch.bool)
        masked_NS[:, start:end] = torch.from_numpy(masks_NL)
        total = 0.0
        for first in range(0, mc_num, BATCH_SIZE):
            masked = masked_NS[first : first + BATCH_SIZE]
            rows = ids.expand(len(masked), -1).masked_fill(masked, model.mask_token_id)
            logits = model.model(input_ids=rows).logits
            logits = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)
            truth = ids.expand(len(masked), -1)[masked]
            entropy = torch.nn.functional.cross_entropy(logits[masked], truth, reduction="none")
            weight = torch.from_numpy(weights_N[first : first + BATCH_SIZE])[masked.nonzero()[:, 0]]
            total += float((weight * entropy).sum())
        found.append(-total)
    return found


def timed(work: Callable[[], list[float]]) -> tuple[list[float], float]:
    """What it gives, and the seconds."""
    started = time.perf_counter()
    found = work()
    return found, time.perf_counter() - started


def main() -> int:
    """A line for each kind of answer; 1 where both sides differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--mc-num", type=int, default=32)
    parser.add_argument("--questions", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    worst = 0.0
    with exported_code() as code:
        model = MaskedModel.of(make_model(code, options.vocabulary))
        count = sum(p.numel() for p in model.model.parameters())
        print(
            f"{count / 1e6:.1f}M parameters, mc_num {options.mc_num}, {options.threads} threads, "
            f"commit {source_commit()}"
        )
        for name, lengths in LENGTHS.items():
            requests = make_requests(lengths, options.questions, options.vocabulary)
            tokens = options.mc_num * sum(
                len(one.context) + len(one.continuation) + 1 for one in requests
            )
            loglikelihoods(model, requests[:1], 2, "stratified")  # warm
            plain, before = timed(lambda r=requests: straightforward(model, r, options.mc_num))
            ours, after = timed(lambda r=requests: loglikelihoods(model, r, options.mc_num))
            difference = max(
                abs(a - b) / abs(a) if a else abs(b) for a, b in zip(plain, ours, strict=True)
            )
            worst = max(worst, difference)
            print(
                f"{name:<16} straightforward {tokens / before:10,.0f} tokens/s, ours "
                f"{tokens / after:10,.0f}: {before / after:6.2f} times; largest difference {difference:.1e}",
                flush=True,
            )
    return 0 if worst < TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
