"""Sampling: ours against full recomputation with the logits of every position, as public code does it.

    python benchmarks/sampling.py [--vocabulary 32000] [--batch 1] [--rounds 3] [--threads 2]

A random model of about 100M parameters, one prompt of 128 tokens, 256 new ones in blocks of 32, one
step a token, temperature 0. The baseline is written here: every step runs the whole canvas through the
model and the head, then takes the masked positions of the block. Wall time, sides in turns, medians.
``exact`` must give the baseline's tokens.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from megatron_dream.hf.export import code_files

PROMPT, NEW, BLOCK = 128, 256, 32
AIMS = {"exact": 1.5, "prefix": 2.5, "dual": 6.0}


@contextlib.contextmanager
def exported_code() -> Iterator[Any]:
    """The code of an exported folder, as a module."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "sampled_code"
        folder.mkdir()
        for name, file in code_files().items():
            shutil.copyfile(file, folder / name)
        (folder / "__init__.py").touch()
        sys.path.insert(0, parent)
        try:
            yield importlib.import_module("sampled_code.modeling_dream")
        finally:
            sys.path.remove(parent)


def make_model(code: Any, vocabulary: int) -> Any:
    """Random weights: 75M parameters in the layers, and the table."""
    torch.manual_seed(0)
    config = code.DreamConfig(
        vocab_size=vocabulary,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        mask_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 2,
        tie_word_embeddings=True,
    )
    model = code.DreamModel(config).eval()
    for weights in model.parameters():
        if weights.dim() > 1:
            torch.nn.init.normal_(weights, std=0.05)
    model.tie_weights()
    return model


@torch.no_grad()
def recompute(model: Any, x: torch.Tensor, steps: int) -> torch.Tensor:
    """Full recomputation: everything through the head at every step, whether it opens something or not."""
    mask = model.config.mask_token_id
    times = torch.linspace(1, 1e-3, steps // (NEW // BLOCK) + 1)
    x = torch.nn.functional.pad(x, (0, NEW), value=mask)
    for first in range(PROMPT, PROMPT + NEW, BLOCK):
        for step in range(len(times) - 1):
            logits = model(x).logits
            logits = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)[:, first : first + BLOCK]
            masked = x[:, first : first + BLOCK] == mask
            share = 1.0 if step == len(times) - 2 else float(1 - times[step + 1] / times[step])
            count = int(masked[0].sum() * torch.tensor(share, dtype=torch.float32))
            probs_NV = torch.softmax(
                logits[masked].float().index_fill(-1, torch.tensor(mask), -torch.inf), -1
            )
            tokens_N = probs_NV.argmax(-1)
            score_N = (probs_NV * torch.log(probs_NV + 1e-10)).sum(-1)
            score = torch.full(masked.shape, -torch.inf).masked_scatter(masked, score_N)
            tokens = torch.zeros_like(x[:, :BLOCK]).masked_scatter(masked, tokens_N)
            chosen = score.sort(dim=-1, descending=True, stable=True).indices[:, :count]
            place = torch.zeros_like(masked).scatter(-1, chosen, True)
            x[:, first : first + BLOCK] = torch.where(place, tokens, x[:, first : first + BLOCK])
    return x


def ours(model: Any, x: torch.Tensor, steps: int, **options: Any) -> torch.Tensor:
    """The exported folder's own ``diffusion_generate``."""
    return model.diffusion_generate(
        x, max_new_tokens=NEW, steps=steps, block_length=BLOCK, alg="entropy", **options
    )


def compare(model: Any, batch: int, rounds: int) -> bool:
    """Measure all sides in turns; whether every aim is met."""
    generator = torch.Generator().manual_seed(1)
    vocabulary = model.config.vocab_size
    x = torch.randint(0, vocabulary - 2, (batch, PROMPT), generator=generator)
    sides: dict[str, Callable[[], torch.Tensor]] = {
        "full recomputation (baseline)": lambda: recompute(model, x, NEW),
        "exact": lambda: ours(model, x, NEW),
        "prefix": lambda: ours(model, x, NEW, cache="prefix"),
        "dual": lambda: ours(model, x, NEW, cache="dual"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    made: dict[str, torch.Tensor] = {}
    for number in range(rounds):
        for name, side in sides.items():
            started = time.perf_counter()
            made[name] = side()
            seconds[name].append(time.perf_counter() - started)
            print(f"[{number + 1}/{rounds}] {name}: {seconds[name][-1]:.1f} s", flush=True)
    base = statistics.median(seconds["full recomputation (baseline)"])
    reference, is_met = made["full recomputation (baseline)"], True
    for name, spent in seconds.items():
        ratio = base / statistics.median(spent)
        equal = (made[name] == reference)[:, PROMPT:].float().mean().item()
        aim = AIMS.get(name)
        verdict = "" if aim is None else f" (aim {aim}: {'met' if ratio >= aim else 'MISSED'})"
        is_met &= aim is None or ratio >= aim
        print(
            f"{name:<30} {statistics.median(spent):7.1f} s {batch * NEW / statistics.median(spent):8.1f} "
            f"tokens/s  {ratio:5.2f} times{verdict}; {equal:.1%} of tokens are the baseline's"
        )
    if not torch.equal(made["exact"], reference):
        print("exact: OTHER TOKENS than the baseline's")
        return False
    return is_met


def main() -> int:
    """Print the ratios; 1 where an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with exported_code() as code:
        model = make_model(code, options.vocabulary)
        count = sum(weights.numel() for weights in model.parameters())
        print(
            f"{count / 1e6:.0f}M parameters, vocabulary {options.vocabulary}, prompt {PROMPT}, {NEW} new, "
            f"block {BLOCK}, batch {options.batch}, {options.threads} threads, load {os.getloadavg()[0]:.1f}"
        )
        return 0 if compare(model, options.batch, options.rounds) else 1


if __name__ == "__main__":
    sys.exit(main())
