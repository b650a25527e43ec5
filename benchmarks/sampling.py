"""Sampling: ours against full recomputation with the logits of every position, as public code does it.

    python benchmarks/sampling.py [--vocabulary 32000] [--batch 1] [--new 256] [--sides dual] [--rounds 3]

A random model of about 100M parameters, one prompt of 128 tokens, 256 new ones in blocks of 32, one
step a token, temperature 0. The baseline is written here: every step runs the whole canvas through the
model and the head, then takes the masked positions of the block, with the matrix products that
``torch.nn.Linear`` calls; the second side is the same with ours (sampling/kernels.py), so that what the
products save and what the sampler saves can be told apart, and ``exact`` must give its tokens. Wall time,
sides in turns, medians, and where the time goes. With a batch, ``dual, row by row`` runs its rows one
after the other.
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
BASELINE = "full recomputation (baseline)"
SAME_PRODUCTS = "full recomputation, our products"
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
def recompute(model: Any, x: torch.Tensor, new: int, block: int) -> torch.Tensor:
    """Full recomputation, a step a token: everything through the head at every step.

    Args:
        model: gives unshifted logits.
        x: prompts without padding, int64 [B, P].
        new: tokens to append, a multiple of ``block``.
        block: tokens of a block.
    """
    mask, prompt = model.config.mask_token_id, x.shape[1]
    times = torch.linspace(1, 1e-3, block + 1)
    x = torch.nn.functional.pad(x, (0, new), value=mask)
    for first in range(prompt, prompt + new, block):
        for step in range(block):
            logits = model(x).logits
            logits = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)[:, first : first + block]
            masked = x[:, first : first + block] == mask
            share = 1.0 if step == block - 1 else float(1 - times[step + 1] / times[step])
            count = int(masked[0].sum() * torch.tensor(share, dtype=torch.float32))
            probs_NV = torch.softmax(
                logits[masked].float().index_fill(-1, torch.tensor(mask), -torch.inf), -1
            )
            tokens_N = probs_NV.argmax(-1)
            score_N = (probs_NV * torch.log(probs_NV + 1e-10)).sum(-1)
            score = torch.full(masked.shape, -torch.inf).masked_scatter(masked, score_N)
            tokens = torch.zeros_like(x[:, :block]).masked_scatter(masked, tokens_N)
            chosen = score.sort(dim=-1, descending=True, stable=True).indices[:, :count]
            place = torch.zeros_like(masked).scatter(-1, chosen, True)
            x[:, first : first + block] = torch.where(place, tokens, x[:, first : first + block])
    return x


def with_torch_products(side: Callable[[], torch.Tensor]) -> torch.Tensor:
    """A side with the matrix products of ``torch.nn.Linear``."""
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        return side()
    finally:
        torch.backends.mkldnn.enabled = True  # type: ignore[assignment]


def ours(model: Any, x: torch.Tensor, new: int, **options: Any) -> torch.Tensor:
    """The exported folder's own ``diffusion_generate``."""
    return model.diffusion_generate(
        x, max_new_tokens=new, steps=new, block_length=BLOCK, alg="entropy", **options
    )


class Clock:
    """Seconds in the layers and in the head; the rest is choosing, caches and schedule."""

    def __init__(self, model: Any) -> None:
        self.seconds = {"layers": 0.0, "head": 0.0}
        for name, module in (("layers", model.model), ("head", model.lm_head)):
            module.forward = self._timed(name, module.forward)

    def _timed(self, name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*inputs: Any, **named: Any) -> Any:
            started = time.perf_counter()
            output = forward(*inputs, **named)
            self.seconds[name] += time.perf_counter() - started
            return output

        return run

    def take(self, total: float) -> dict[str, float]:
        """Since the last call, of ``total`` seconds."""
        parts = {**self.seconds, "rest": total - sum(self.seconds.values())}
        self.seconds = dict.fromkeys(self.seconds, 0.0)
        return parts


def compare(model: Any, options: argparse.Namespace) -> bool:
    """Measure all sides in turns; whether every aim is met."""
    generator = torch.Generator().manual_seed(1)
    vocabulary, new = model.config.vocab_size, options.new
    x = torch.randint(0, vocabulary - 2, (options.batch, PROMPT), generator=generator)
    sides: dict[str, Callable[[], torch.Tensor]] = {
        BASELINE: lambda: with_torch_products(lambda: recompute(model, x, new, BLOCK)),
        SAME_PRODUCTS: lambda: recompute(model, x, new, BLOCK),
        "exact": lambda: ours(model, x, new),
        "prefix": lambda: ours(model, x, new, cache="prefix"),
        "dual": lambda: ours(model, x, new, cache="dual"),
    }
    if options.batch > 1:
        sides["dual, row by row"] = lambda: torch.cat(
            [ours(model, row, new, cache="dual") for row in x.split(1)]
        )
    unknown = sorted(set(options.sides or ()) - set(sides))
    if unknown:
        raise SystemExit(f"--sides {unknown[0]!r} is none of: {', '.join(map(repr, sides))}.")
    sides = {name: side for name, side in sides.items() if name in (options.sides or sides)}
    clock = Clock(model)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    parts: dict[str, dict[str, float]] = {}
    made: dict[str, torch.Tensor] = {}
    for number in range(options.rounds):
        for name, side in sides.items():
            started = time.perf_counter()
            made[name] = side()
            seconds[name].append(time.perf_counter() - started)
            parts[name] = clock.take(seconds[name][-1])
            print(f"[{number + 1}/{options.rounds}] {name}: {seconds[name][-1]:.1f} s", flush=True)
    return report(seconds, parts, made, options.batch * new)


def report(
    seconds: dict[str, list[float]],
    parts: dict[str, dict[str, float]],
    made: dict[str, torch.Tensor],
    tokens: int,
) -> bool:
    """Print a line a side, against the first; whether every aim is met."""
    first, *_ = seconds
    base, is_met = statistics.median(seconds[first]), True
    for name, spent in seconds.items():
        middle = statistics.median(spent)
        ratio = base / middle
        equal = (made[name] == made[first])[:, PROMPT:].float().mean().item()
        aim = AIMS.get(name) if first == BASELINE else None
        verdict = "" if aim is None else f" (aim {aim}: {'met' if ratio >= aim else 'MISSED'})"
        is_met &= aim is None or ratio >= aim
        shares = ", ".join(f"{part} {value:.1f} s" for part, value in parts[name].items())
        print(
            f"{name:<32} {middle:7.1f} s {tokens / middle:8.1f} tokens/s  {ratio:5.2f} times{verdict}; "
            f"{equal:.1%} of tokens are those of {first}; last round: {shares}"
        )
    whole = made.get(SAME_PRODUCTS)
    if "exact" in made and whole is not None and not torch.equal(made["exact"], whole):
        print(f"exact: OTHER TOKENS than {SAME_PRODUCTS}")
        return False
    return is_met


def main() -> int:
    """Print the ratios; 1 where an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--new", type=int, default=NEW, help="tokens, a multiple of 32")
    parser.add_argument("--sides", nargs="+", help="only these; the first is what is compared with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with exported_code() as code:
        model = make_model(code, options.vocabulary)
        count = sum(weights.numel() for weights in model.parameters())
        print(
            f"{count / 1e6:.0f}M parameters, vocabulary {options.vocabulary}, prompt {PROMPT}, "
            f"{options.new} new, block {BLOCK}, batch {options.batch}, {options.threads} threads, load "
            f"{os.getloadavg()[0]:.1f}"
        )
        return 0 if compare(model, options) else 1


if __name__ == "__main__":
    sys.exit(main())
