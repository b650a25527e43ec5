"""Gaps with one right answer: does the length that infilling finds come out right, also one never trained on?

An alphabet in a fixed order, a token each. Prefix and suffix are runs of it; the middle is all that stands
between, 1 to 64 characters: the prefix's last and the suffix's first character say what and how many. A
model is trained from nothing by the product's own stream, corruption, step and optimizer, first without
closing up and deleting, then with both, in strengths that take turns: one alone hardly ever shows
few masks for many characters. Some lengths are never a middle's there, and of every length some
pairs (last, first) are kept for the measurement. Gaps of an unseen length do occur as parts of longer
ones, between tokens that stand open. Then the function behind ``infill --grow`` fills held-out gaps from
4, 16 and 64 masks at temperature 0. Two controls with growing and shrinking forbidden: a wrong number of
masks, where only 0 can come out, and the right one. ``infill_toy_bound.py`` tells what a perfect model
would reach.

    python tests/acceptance/infill_toy.py       about 50 minutes on one core; writes docs/results/infill_toy.*
"""

from __future__ import annotations

import argparse
import copy
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MEGATRON_DREAM_DEVICE", "cpu")

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from infill_toy_gaps import (  # noqa: E402
    LONGEST,
    UNSEEN,
    WIDTH,
    ToyGaps,
    ToyStream,
    alphabet_tokenizer,
    held_out_gaps,
)

from megatron_dream import parallel  # noqa: E402
from megatron_dream.checkpoint.inference import CheckpointModel  # noqa: E402
from megatron_dream.config.schema import ModelConfig, RunConfig, SftConfig  # noqa: E402
from megatron_dream.data.infilling.splitting import Split  # noqa: E402
from megatron_dream.data.loader import MicroBatchIterator  # noqa: E402
from megatron_dream.evaluation.generate import sampling_config  # noqa: E402
from megatron_dream.evaluation.growing import fill  # noqa: E402
from megatron_dream.evaluation.plots import import_pyplot, save_figure  # noqa: E402
from megatron_dream.evaluation.prompts import Gap  # noqa: E402
from megatron_dream.evaluation.sampler import Sampler  # noqa: E402
from megatron_dream.files import atomic_write, write_json  # noqa: E402
from megatron_dream.model.build import build_model  # noqa: E402
from megatron_dream.sampling.infill import GapConfig  # noqa: E402
from megatron_dream.tokenizer.base import Tokenizer  # noqa: E402
from megatron_dream.training.metrics import StepReport  # noqa: E402
from megatron_dream.training.optimizer import (  # noqa: E402
    build_optimizer,
    build_scheduler,
    update,
    wrap_data_parallel,
)
from megatron_dream.training.step import StepRunner  # noqa: E402

RESULTS = ROOT / "docs" / "results"
AIM = 0.95
Mixture = tuple[tuple[float, int], ...]  # expand_probability and max_appended


@dataclass(frozen=True)
class Way:
    """How gaps are filled.

    Attributes:
        name: in tables.
        start: masks to begin with, by the tokens of the middle.
        changes: whether the gap may grow and shrink.
    """

    name: str
    start: Callable[[int], int]
    changes: bool


WAYS = (
    Way("from 4 masks", lambda _: 4, True),
    Way("from 16 masks", lambda _: 16, True),
    Way("from 64 masks", lambda _: 64, True),
    Way("control: one mask too many (of 64: 1), fixed", lambda length: length % LONGEST + 1, False),
    Way("control: the right number of masks, fixed", lambda length: length, False),
)


def mixture_of(text: str) -> Mixture:
    """Of ``Q:N,Q:N``."""
    pairs = [part.split(":") for part in text.split(",")]
    return tuple((float(probability), int(appended)) for probability, appended in pairs)


def configuration(options: argparse.Namespace, tokenizer: Tokenizer) -> RunConfig:
    """The run's; what is not named is the product's default."""
    config = RunConfig()
    config.model = ModelConfig(
        num_layers=options.layers,
        hidden_size=options.hidden,
        num_attention_heads=options.hidden // 32,
        num_query_groups=options.hidden // 32,
        ffn_hidden_size=3 * options.hidden,
        vocab_size=tokenizer.vocab_size,
        max_position_embeddings=4 * LONGEST,
        rotary_base=10_000.0,
        tie_word_embeddings=True,
        layer_spec="local",
    )
    config.data.sequence_length, config.data.seed = WIDTH, options.seed
    config.diffusion.weight, config.diffusion.t_min = "linear", options.t_min
    config.sft = SftConfig(task="infill")
    config.optimizer.lr, config.optimizer.min_lr_ratio = options.lr, 0.02
    config.optimizer.lr_warmup_fraction = 0.05
    config.optimizer.adam_beta2, config.optimizer.weight_decay = 0.98, 0.01
    config.training.train_steps, config.training.seed = options.steps, options.seed
    config.training.micro_batch_size = config.training.global_batch_size = options.batch
    config.training.precision = "fp32"
    return config


def batches_of(config: RunConfig, tokenizer: Tokenizer, first: int, end: int) -> MicroBatchIterator:
    """Micro-batches of steps [first, end); those from step 0 on are of gaps that keep their length."""
    size, sft = config.training.micro_batch_size, config.sft
    if not first:
        sft = replace(sft, expand_probability=0.0, max_appended=0)
    gaps = ToyGaps(config.data.seed, size * end, has_open_ends=not first)
    stream = ToyStream(gaps, tokenizer, config.data, config.diffusion, sft)
    return MicroBatchIterator(stream, consumed=size * first, micro_batch_size=size)


def in_turn(
    config: RunConfig, tokenizer: Tokenizer, first: int, end: int, mixture: Mixture
) -> Iterator[Any]:
    """Micro-batches of each of the mixture's corruptions in turn, each with noise and gaps of its own."""
    streams = []
    for number, (probability, appended) in enumerate(mixture):
        mine = copy.deepcopy(config)
        mine.sft.expand_probability, mine.sft.max_appended = probability, appended
        mine.data.seed += number
        streams.append(batches_of(mine, tokenizer, first, end))
    while True:
        for stream in streams:
            yield next(stream)


def train(
    config: RunConfig, tokenizer: Tokenizer, fixed_steps: int, mixture: Mixture
) -> Iterator[tuple[int, float, Any]]:
    """Train from nothing, first on gaps of fixed length; gives (step, loss, model) after every step."""
    ranks = parallel.start(config.parallel)
    chunks = build_model(config.model, config.parallel, config.training, ranks)
    model = wrap_data_parallel(chunks, config)
    optimizer = build_optimizer(model, config)
    scheduler = build_scheduler(optimizer, config)
    size, steps = config.training.micro_batch_size, config.training.train_steps
    batches = itertools.chain(
        batches_of(config, tokenizer, 0, fixed_steps),
        in_turn(config, tokenizer, fixed_steps, steps, mixture),
    )
    runner = StepRunner(
        model,
        config.diffusion,
        ranks,
        micro_batch_size=size,
        sequence_length=WIDTH,
        num_sources=1,
    )
    for step in range(steps):
        model[0].zero_grad_buffer()
        optimizer.zero_grad()
        report = StepReport.of(runner.run([batches], 1, step=step), ["toy"])
        scheduler.step(1)
        update(optimizer)
        yield step + 1, report.loss, chunks[0]


def fill_all(
    sampler: Sampler, gaps: Sequence[Split], way: Way, batch: int, **options: Any
) -> list[dict[str, Any]]:
    """Fill gaps of any lengths; of each its texts, what was found, its lengths in tokens and its passes."""
    tokenizer = sampler.tokenizer
    assert tokenizer.expand_id is not None
    forbidden = () if way.changes else (tokenizer.expand_id, tokenizer.eos_id)
    config = sampling_config(
        sampler, temperature=0.0, seed=0, forbidden_token_ids=forbidden, **options
    )
    results = []
    lengths = {gap: len(tokenizer.encode(gap.middle)) for gap in gaps}
    by_start: dict[int, list[Split]] = {}
    for gap in sorted(gaps, key=lengths.__getitem__):  # those of a batch end together
        by_start.setdefault(way.start(lengths[gap]), []).append(gap)
    for masks, group in by_start.items():
        prompts = [Gap({}, "a gap", gap.prefix, gap.suffix, 0) for gap in group]
        growth = GapConfig(masks=masks, max_masks=max(masks, GapConfig().max_masks))
        made = fill(sampler, prompts, config, growth, batch)
        for gap, samples in zip(group, made, strict=True):
            facts = samples[0].line
            results.append(
                {
                    "prefix": gap.prefix,
                    "suffix": gap.suffix,
                    "middle": gap.middle,
                    "found": facts["middle"],
                    "length": lengths[gap],
                    "found_length": facts["num_tokens"],
                    "passes": facts["num_forward"],
                    "expansions": facts["num_expansions"],
                }
            )
    return results


def share_right(results: Sequence[dict[str, Any]], is_unseen: bool | None = None) -> float:
    """Of exact answers, among lengths that were trained or were not; None: all."""
    kept = [
        one["found"] == one["middle"]
        for one in results
        if is_unseen is None or (len(one["middle"]) in UNSEEN) == is_unseen
    ]
    return sum(kept) / len(kept)


def row_of(way: Way, results: Sequence[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """What the table says of a way, and the shares by length and the failures that stand behind it."""
    wrong = [one for one in results if one["found"] != one["middle"]]
    by_length: dict[int, list[bool]] = {}
    for one in results:
        by_length.setdefault(len(one["middle"]), []).append(one["found"] == one["middle"])
    return {
        "way": way.name,
        "gaps": len(results),
        "exact": share_right(results),
        "exact_seen": share_right(results, False),
        "exact_unseen": share_right(results, True),
        "right_length": statistics.mean(len(one["found"]) == len(one["middle"]) for one in results),
        "passes": statistics.mean(one["passes"] for one in results),
        "expansions": statistics.mean(one["expansions"] for one in results),
        "seconds": round(seconds, 1),
        "by_length": {length: sum(found) / len(found) for length, found in by_length.items()},
        "wrong": wrong[:20],
    }


def table_of(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, a line a way."""
    lines = [
        "| gap filled | exact | trained lengths | unseen lengths | right length | passes a gap |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['way']} | {row['exact']:.1%} | {row['exact_seen']:.1%} | {row['exact_unseen']:.1%} "
            f"| {row['right_length']:.1%} | {row['passes']:.1f} |"
        )
    return "\n".join(lines)


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Exact match by length, a line a way; grey: lengths that were never trained."""
    pyplot = import_pyplot()
    figure, panels = pyplot.subplots(len(rows), 1, figsize=(9, 1.3 * len(rows)), sharex=True)
    for axes, row in zip(panels, rows, strict=True):
        for length in UNSEEN:
            axes.axvspan(length - 0.5, length + 0.5, color="#e0e0e0")
        found = row["by_length"]
        axes.bar(list(found), list(found.values()), width=0.6, color="#4c72b0")
        axes.set_ylim(0, 1.05)
        axes.set_title(f"{row['way']}: {row['exact']:.1%}", fontsize=9, loc="left")
    panels[-1].set_xlim(0.5, LONGEST + 0.5)
    panels[-1].set_xlabel("length of the gap; grey: never a middle's length in training")
    figure.supylabel("exact match", fontsize=9)
    figure.tight_layout()
    save_figure(figure, path)


def page_of(facts: dict[str, Any]) -> str:
    """docs/results/infill_toy.md."""
    lengths = ", ".join(map(str, UNSEEN))
    verdict = "met" if facts["met"] else "MISSED"
    mixture = ", ".join(f"{q:g} and {appended}" for q, appended in facts["mixture"])
    return (
        "# Infilling of unknown length where one answer is right\n\n"
        f"Written by `tests/acceptance/infill_toy.py` (seed {facts['seed']}), whose first lines tell what it "
        "does; twenty failures of each way are in `infill_toy.json`.\n\n"
        f"**Aim {AIM:.0%} from 4, 16 and 64 masks, on trained and on unseen lengths: {verdict}.**\n\n"
        f"{facts['parameters']:,} parameters ({facts['layers']} layers of {facts['hidden']}, fp32), "
        f"{facts['steps']:,} steps of {facts['batch']} samples, the first {facts['fixed_steps']:,} on gaps "
        f"of fixed length; rate {facts['lr']:g}; `diffusion.t_min` {facts['t_min']:g}; the weight 1 - t "
        f"taken off; `sft.expand_probability` and `sft.max_appended` in turn, batch by batch: {mixture}. "
        f"Training took {facts['train_seconds']:.0f} s "
        f"({facts['train_cpu_seconds']:.0f} CPU s, one thread, other programs on the machine); last loss "
        f"{facts['last_loss']:.4f}. Never a middle's length in training: {lengths}. "
        f"{facts['per_length']} held-out gaps of each length from 1 to {LONGEST}; temperature 0, "
        f"`alg: {facts['alg']}`, all else as the product has it.\n\n"
        f"{table_of(facts['ways'])}\n\n![exact match by length](infill_toy.png)\n"
    )


def measure(sampler: Sampler, options: argparse.Namespace) -> list[dict[str, Any]]:
    """All ways over the same held-out gaps, a line of the table each."""
    gaps, rows = held_out_gaps(options.seed, options.per_length), []
    for way in WAYS:
        started = time.monotonic()
        results = fill_all(sampler, gaps, way, options.rows, alg=options.alg)
        rows.append(row_of(way, results, time.monotonic() - started))
        print(table_of(rows[-1:]).splitlines()[-1], f"{rows[-1]['seconds']} s", flush=True)
    return rows


def trained(
    config: RunConfig, tokenizer: Tokenizer, options: argparse.Namespace
) -> tuple[Sampler, dict[str, Any]]:
    """The model as the sampler takes it, and what training it took."""
    started, cpu, losses, model = time.monotonic(), time.process_time(), list[float](), None
    for step, loss, chunk in train(config, tokenizer, options.fixed_steps, options.mixture):
        model = chunk
        losses.append(loss)
        if step % 100 == 0:
            mean, seconds = statistics.mean(losses[-100:]), time.monotonic() - started
            print(f"step {step}: loss {mean:.4f}, {seconds:.0f} s", flush=True)
    assert model is not None
    facts = {
        "train_seconds": time.monotonic() - started,
        "train_cpu_seconds": time.process_time() - cpu,
        "last_loss": statistics.mean(losses[-100:]),
        "parameters": sum(values.numel() for values in model.parameters()),
    }
    engine = CheckpointModel(model.eval(), cast(Any, None), tokenizer)  # there is no file
    return Sampler(engine, tokenizer, config.model.max_position_embeddings), facts


def main() -> int:
    """Train, measure, write; 0 where all that grow and shrink are over the aim, on unseen lengths too."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12000)
    parser.add_argument(
        "--fixed-steps", type=int, default=1000, help="of them on gaps of fixed length"
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--t-min", type=float, default=0.5)
    parser.add_argument(
        "--mixture",
        type=mixture_of,
        default="0.25:63,0.5:0,0.25:63,0.85:0",
        metavar="Q:N,...",
        help="corruptions in turn: expand_probability and max_appended of each",
    )
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--per-length", type=int, default=4, help="held-out gaps of each length")
    parser.add_argument("--rows", type=int, default=128, help="gaps that are filled together")
    parser.add_argument("--alg", default="entropy", help="which masks open first")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = alphabet_tokenizer(Path(folder))
    sampler, facts = trained(configuration(options, tokenizer), tokenizer, options)
    rows = measure(sampler, options)
    growing = [row for row, way in zip(rows, WAYS, strict=True) if way.changes]
    met = all(min(row["exact_seen"], row["exact_unseen"]) > AIM for row in growing)
    facts = {**vars(options), "output": None, **facts, "unseen": UNSEEN, "met": met, "ways": rows}
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(options.output / "infill_toy.json", facts)
    plot(rows, options.output / "infill_toy.png")
    with atomic_write(options.output / "infill_toy.md") as stream:
        stream.write(page_of(facts))
    print("\n" + page_of(facts))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
