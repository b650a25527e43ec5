"""The likelihood's estimators where everything can be counted out: what is true, what they find, how noisily.

A tiny transformer is trained for some seconds on texts of a known chain (a letter depends on the one
before it), so that the true probability of every text is known and the model's conditionals nearly agree;
beside it the same model untrained, whose conditionals do not. All sets of masks of a text are run, and

    theory      bound <= exact for every text; exact and chain sum to 1 over all texts, the bound to less
    variance    root mean square error of every kind of draws against mc_num, rows that it takes
    choices     how much noise two choices' difference loses by common random numbers, and how often the
                estimate prefers the choice that the bound itself prefers

    python tests/acceptance/likelihood.py [--seeds 400] [--steps 1500]     about 4 minutes on one core
    writes docs/results/likelihood.{json,md,png}
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MEGATRON_DREAM_DEVICE", "cpu")

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from megatron_dream.evaluation.likelihood import MaskedModel, enumerate_orders  # noqa: E402
from megatron_dream.evaluation.likelihood.draws import KINDS, plan_masks  # noqa: E402
from megatron_dream.evaluation.plots import import_pyplot, save_figure  # noqa: E402
from megatron_dream.files import atomic_write, write_json  # noqa: E402
from megatron_dream.training.provenance import source_commit  # noqa: E402
from tests.unit.sampling.plain_definition import BOS, MASK, PAD  # noqa: E402
from tests.unit.sampling.tiny_transformer import TinyTransformer  # noqa: E402

RESULTS = ROOT / "docs" / "results"
LETTERS, LENGTHS, NUMS = 8, (1, 4, 8, 12), (2, 4, 8, 16, 32, 64, 128)
DRAWN = [kind for kind in KINDS if kind != "all"]
TEXTS = 12  # of each length
QUESTIONS, CHOICES, ANSWER = 40, 4, 6


class Letters(TinyTransformer):
    """Only letters have a probability, so that probabilities of texts can be summed."""

    def sampler_logits(self, states_NH: torch.Tensor) -> torch.Tensor:
        """Logits [N, V]."""
        logits = (states_NH @ self.head).float()
        logits[:, LETTERS:] = -math.inf
        return logits


@dataclass(frozen=True)
class Chain:
    """Where texts come from: the chance of a letter behind another, [LETTERS, LETTERS]."""

    after: np.ndarray

    @classmethod
    def drawn(cls, seed: int) -> Chain:
        """Few letters are likely behind each."""
        return cls(np.random.default_rng(seed).dirichlet(np.full(LETTERS, 0.3), LETTERS))

    def texts(self, count: int, length: int, seed: int) -> np.ndarray:
        """int64 [count, length]; the first letter is drawn evenly."""
        generator = np.random.default_rng(seed)
        columns = [generator.integers(0, LETTERS, count)]
        ends = self.after.cumsum(axis=1)
        for _ in range(length - 1):
            draw = generator.random(count)[:, None]
            columns.append((ends[columns[-1]] < draw).sum(axis=1).clip(max=LETTERS - 1))
        return np.stack(columns, axis=1)

    def log_p(self, text: Sequence[int]) -> float:
        """True log p of a text behind its first letter."""
        return math.fsum(math.log(self.after[a, b]) for a, b in itertools.pairwise(text))


def trained(chain: Chain, steps: int) -> Letters:
    """Masked diffusion with weight 1/t on texts of 4 to 14 letters."""
    model = Letters(seed=0)
    weights = [model.table, model.head, *(w for layer in model.layers for w in layer.values())]
    for weight in weights:
        weight.requires_grad_(True)
    optimizer = torch.optim.Adam(weights, lr=3e-3)
    generator = np.random.default_rng(1)
    for step in range(steps):
        length = int(generator.integers(4, 15))
        texts = chain.texts(64, length, seed=1000 + step)
        rows = np.concatenate([np.full((64, 1), BOS), texts, np.full((64, 1), PAD)], axis=1)
        t = 0.02 + 0.98 * (np.arange(64) + generator.random(64))[:, None] / 64
        is_masked = generator.random(texts.shape) < t
        noisy = rows.copy()
        noisy[:, 1:-1][is_masked] = MASK
        states = model.sampler_states(torch.from_numpy(noisy), None, None)[:, :-2]
        logits = (states @ model.head)[..., :LETTERS]
        losses = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), torch.from_numpy(texts), reduction="none"
        )
        weight = torch.from_numpy(is_masked / t)
        loss = (losses * weight).sum() / weight.sum().clamp(min=1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for weight in weights:
        weight.requires_grad_(False)
    model.passes.clear()
    return model


def wrapped(model: Letters) -> MaskedModel:
    """With the ids that scoring needs."""
    return MaskedModel(model, MASK, PAD)


def theory(model: Letters, chain: Chain) -> dict[str, Any]:
    """Bound, exact, chain and truth over all texts of four letters behind a given one."""
    masked, sums = wrapped(model), dict.fromkeys(("bound", "exact", "chain"), 0.0)
    gaps, above, below, errors = [], 0, 0, []
    drawn = chain.texts(200, 5, seed=7).tolist()
    for text in itertools.product(range(LETTERS), repeat=4):
        found = enumerate_orders(masked, [BOS, 3], text, batch_size=4096)
        for name in sums:
            sums[name] += math.exp(getattr(found, name))
        gaps.append(found.exact - found.bound)
        above += found.chain > found.exact + 1e-9
        below += found.chain < found.bound - 1e-9
    for first, *rest in drawn:
        found = enumerate_orders(masked, [BOS, first], rest)
        truth = chain.log_p([first, *rest])
        errors.append([getattr(found, name) - truth for name in sums])
    return {
        "sums": sums,
        "texts": LETTERS**4,
        "smallest_gap": min(gaps),
        "mean_gap": float(np.mean(gaps)),
        "chain_above_exact": above,
        "chain_below_bound": below,
        "less_truth": dict(zip(sums, np.mean(errors, axis=0).tolist(), strict=True)),
    }


def estimates(
    tables: Sequence[np.ndarray], draws: str, mc_num: int, seed: int
) -> tuple[list[float], int]:
    """Of texts of one length, from the cross-entropies under every set; and the rows it takes."""
    length = tables[0].shape[1]
    plan = plan_masks(draws, length, mc_num, seed)
    row_M = (plan.masks_ML * (1 << np.arange(length))).sum(axis=1) - 1
    return [float(plan.weights_M @ table[row_M].sum(axis=1)) for table in tables], len(row_M)


def variance(model: Letters, chain: Chain, seeds: int) -> Iterator[dict[str, Any]]:
    """Root mean square error by length, kind and mc_num, over texts and seeds; and the bias."""
    for length in LENGTHS:
        found = [
            enumerate_orders(wrapped(model), [BOS, *text[:2]], text[2:], batch_size=4096)
            for text in chain.texts(TEXTS, length + 2, seed=length).tolist()
        ]
        tables = [one.cross_entropy_ML for one in found]
        truth = -np.array([one.bound for one in found])
        for draws, mc_num in itertools.product(DRAWN, NUMS):
            made = [estimates(tables, draws, mc_num, seed) for seed in range(seeds)]
            errors = np.array([values for values, _ in made]) - truth
            of_seeds = errors.mean(axis=1)
            yield {
                "length": length,
                "draws": draws,
                "mc_num": mc_num,
                "error": float(np.sqrt((errors**2).mean())),
                "bias": float(errors.mean()),
                "bias_error": float(of_seeds.std(ddof=1) / math.sqrt(seeds)),
                "rows": float(np.mean([rows for _, rows in made])),
                "mean": float(truth.mean()),
            }


def questions(chain: Chain, near: bool) -> Iterator[tuple[list[int], list[list[int]]]]:
    """A context and its choices: near ones differ in one letter, others are texts of their own."""
    generator = np.random.default_rng(5)
    for number, text in enumerate(chain.texts(QUESTIONS, ANSWER + 3, seed=11).tolist()):
        answer = text[3:]
        choices = [answer]
        while len(choices) < CHOICES:
            other = chain.texts(1, ANSWER, seed=10_000 + CHOICES * number + len(choices))[
                0
            ].tolist()
            if near:
                other = list(answer)
                other[int(generator.integers(ANSWER))] = int(generator.integers(LETTERS))
            if other not in choices:
                choices.append(other)
            elif not near:
                choices.append(other[::-1])
        yield [BOS, *text[:3]], choices


def choices(model: Letters, chain: Chain, seeds: int, near: bool) -> Iterator[dict[str, Any]]:
    """Noise of the difference of two choices, and agreement with the bound's choice, by kind."""
    found = [
        [enumerate_orders(wrapped(model), context, choice) for choice in of_question]
        for context, of_question in questions(chain, near)
    ]
    tables = [one.cross_entropy_ML for of_question in found for one in of_question]
    best_Q = np.array([[one.bound for one in of_question] for of_question in found]).argmax(axis=1)
    for draws, mc_num in itertools.product(DRAWN, (4, 16, 64)):
        # as many streams of numbers as choices: [streams, seeds, questions, choices]
        made = np.array(
            [
                [estimates(tables, draws, mc_num, seed + 1_000_003 * n)[0] for seed in range(seeds)]
                for n in range(CHOICES)
            ]
        ).reshape(CHOICES, seeds, QUESTIONS, CHOICES)
        common = made[0]
        independent = np.stack([made[n, :, :, n] for n in range(CHOICES)], axis=-1)
        noise, agreement = zip(
            *(compared(part, best_Q) for part in (common, independent)), strict=True
        )
        yield {
            "near": near,
            "draws": draws,
            "mc_num": mc_num,
            "variance_ratio": noise[1] / noise[0] if noise[0] else math.inf,
            "agreement_common": agreement[0],
            "agreement_independent": agreement[1],
        }


def compared(costs: np.ndarray, best_Q: np.ndarray) -> tuple[float, float]:
    """Variance of differences to the first choice, and how often the best one is preferred.

    Args:
        costs: [seeds, questions, choices].
        best_Q: what the bound itself prefers.
    """
    differences = costs[:, :, 1:] - costs[:, :, :1]
    noise = differences.var(axis=0, ddof=1).mean()
    return float(noise), float((costs.argmin(axis=2) == best_Q).mean())


def is_right(report: dict[str, Any]) -> list[str]:
    """What is not where theory says; empty where all is."""
    wrong = []
    for name, one in report["theory"].items():
        if one["smallest_gap"] < -1e-6:
            wrong.append(
                f"{name}: a bound above the exact likelihood by {-one['smallest_gap']:.1e}"
            )
        for kind in ("exact", "chain"):
            if abs(one["sums"][kind] - 1) > 1e-3:
                wrong.append(f"{name}: {kind} sums to {one['sums'][kind]:.4f}")
        if one["sums"]["bound"] > 1 + 1e-6:
            wrong.append(f"{name}: the bound sums to {one['sums']['bound']:.4f}")
    for one in report["variance"]:
        allowed = (
            4 * one["bias_error"]
            + (0 if one["draws"] == "count" else 2e-3 * 3 * one["mean"])
            + 1e-6
        )
        if abs(one["bias"]) > allowed:
            wrong.append(
                f"{one['draws']} at {one['length']} tokens, mc_num {one['mc_num']}: biased"
            )
    return wrong


def plot(report: dict[str, Any], path: Path) -> None:
    """Error against mc_num, a panel a length."""
    pyplot = import_pyplot()
    lengths = [length for length in LENGTHS if length > 1]
    figure, axes = pyplot.subplots(1, len(lengths), figsize=(4.5 * len(lengths), 3.6), sharey=True)
    for panel, length in zip(axes, lengths, strict=True):
        for draws in DRAWN:
            line = [o for o in report["variance"] if (o["length"], o["draws"]) == (length, draws)]
            panel.loglog(
                [o["mc_num"] for o in line], [o["error"] for o in line], marker="o", label=draws
            )
        panel.set_title(f"{length} tokens")
        panel.set_xlabel("mc_num")
    axes[0].set_ylabel("root mean square error, nats")
    axes[0].legend(frameon=False)
    save_figure(figure, path)


def markdown(report: dict[str, Any]) -> str:
    """All that was found."""
    wrong = report["wrong"]
    lines = [
        "# Likelihood on a model that can be counted out",
        "",
        f"Written by `tests/acceptance/likelihood.py` ({report['seeds']} seeds, {report['steps']} steps of "
        f"training, {report['seconds']:.0f} s), whose first lines tell what it does. "
        + ("Everything is where theory says." if not wrong else f"**Wrong: {'; '.join(wrong)}.**"),
        "",
        f"## Bound, exact, chain over all {LETTERS**4:,} texts of four letters",
        "",
        "Gap: exact less bound, nats. Less the truth: mean over 200 texts drawn from the chain.",
        "",
        "| model | sum of exp(exact) | of chain | of bound | smallest gap | mean gap | chain above exact "
        "| chain below bound | bound less truth | exact less truth | chain less truth |",
        "|---" * 11 + "|",
    ]
    for name, one in report["theory"].items():
        cells = [name, *(f"{one['sums'][k]:.4f}" for k in ("exact", "chain", "bound"))]
        cells += [f"{one['smallest_gap']:.1e}", f"{one['mean_gap']:.3f}"]
        cells += [str(one["chain_above_exact"]), str(one["chain_below_bound"])]
        cells += [f"{one['less_truth'][k]:+.3f}" for k in ("bound", "exact", "chain")]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "## Error of the bound's estimate (trained model), nats", ""]
    lines += [
        f"Root mean square over {TEXTS} texts and all seeds; in brackets rows run, repeated sets once.",
        "",
    ]
    lines += [
        f"| tokens | mean | draws | {' | '.join(map(str, NUMS))} |",
        "|---" * (3 + len(NUMS)) + "|",
    ]
    for length, draws in itertools.product(LENGTHS, DRAWN):
        line = [o for o in report["variance"] if (o["length"], o["draws"]) == (length, draws)]
        cells = [f"{o['error']:.3f} ({o['rows']:.0f})" for o in line]
        lines.append(f"| {length} | {line[0]['mean']:.2f} | {draws} | {' | '.join(cells)} |")
    lines += ["", "![error](likelihood.png)", "", "## Choices: common random numbers", ""]
    lines += [
        f"{QUESTIONS} questions of {CHOICES} choices of {ANSWER} tokens. Variance of the difference of two "
        "choices with independent draws over that with common ones, and how often the estimate prefers "
        "what the bound itself prefers.",
        "",
        "| choices | draws | mc_num | variance ratio | agreement, common | agreement, independent |",
        "|---" * 6 + "|",
    ]
    for one in report["choices"]:
        kind = "differ in one token" if one["near"] else "texts of their own"
        lines.append(
            f"| {kind} | {one['draws']} | {one['mc_num']} | {one['variance_ratio']:.2f} "
            f"| {one['agreement_common']:.1%} | {one['agreement_independent']:.1%} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """0 where everything is where theory says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=400)
    parser.add_argument("--steps", type=int, default=1500, help="of training")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    started = time.monotonic()
    chain = Chain.drawn(seed=0)
    model = trained(chain, options.steps)
    print(f"trained: {time.monotonic() - started:.0f} s", flush=True)
    report: dict[str, Any] = {
        "commit": source_commit(),
        "date": time.strftime("%Y-%m-%d"),
        "seeds": options.seeds,
        "steps": options.steps,
    }
    models = {"trained": model, "untrained": Letters(seed=0)}
    report["theory"] = {name: theory(one, chain) for name, one in models.items()}
    print(f"theory: {time.monotonic() - started:.0f} s", flush=True)
    report["variance"] = list(variance(model, chain, options.seeds))
    print(f"variance: {time.monotonic() - started:.0f} s", flush=True)
    seeds = max(20, options.seeds // 4)
    report["choices"] = [
        one for near in (True, False) for one in choices(model, chain, seeds, near)
    ]
    report["wrong"] = is_right(report)
    report["seconds"] = time.monotonic() - started
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(options.output / "likelihood.json", report)
    plot(report, options.output / "likelihood.png")
    text = markdown(report)
    with atomic_write(options.output / "likelihood.md") as stream:
        stream.write(text)
    print(text)
    return 1 if report["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
