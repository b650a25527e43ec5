"""Infilling of held-out standard library functions: the length given, given wrongly, and found.

A tiny model is pretrained on functions of the standard library, adapted to diffusion and fine-tuned
twice by ``megatron-dream sft``, equal but for one thing: A with the corruption that teaches to grow and
to shrink, B without. Gaps in held-out functions are then filled at temperature 0: with the right number
of masks, which is the bound; with a wrong number (A with growing and shrinking forbidden, and B); and by
A from 4, 16 and 64 masks, growing and shrinking. Exact match is by text, over the same gaps each way.

    python tests/acceptance/infill_functions.py                         about 25 minutes on one core
    python tests/acceptance/infill_functions.py --ar-steps 5 --diffusion-steps 5 --steps 5 --gaps 12 \
        --output FOLDER                                                 a minute or two

Resumable: a model that is trained and a way that is measured stay. Writes docs/results/infill_functions.*
"""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import math
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MEGATRON_DREAM_DEVICE", "cpu")

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import infill_function_models as models  # noqa: E402
from infill_toy import Way, fill_all  # noqa: E402
from run import commit  # noqa: E402

from megatron_dream.data.infilling.splitting import Split  # noqa: E402
from megatron_dream.evaluation.plots import import_pyplot, save_figure  # noqa: E402
from megatron_dream.evaluation.sampler import Sampler, load_model  # noqa: E402
from megatron_dream.files import atomic_write, write_json  # noqa: E402
from megatron_dream.tokenizer.load import load_tokenizer  # noqa: E402

STARTS = (4, 16, 64)
ORACLE = "the right number"
AROUND = 10  # characters on each side that make a place known
SURE = 2.0  # standard errors


@dataclass(frozen=True)
class Arm:
    """A row of the table: a model and how it fills gaps."""

    model: str
    way: Way

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.model}, {self.way.name}".replace(", ", "-").replace(" ", "_")


def constant(masks: int) -> Callable[[int], int]:
    """The same for every gap."""
    return lambda _: masks


GROWING = tuple(Way(f"found, from {k} masks", constant(k), True) for k in STARTS)
FIXED = (
    Way(ORACLE, lambda length: length, False),
    Way("half of it", lambda length: max(1, length // 2), False),
    Way("twice it", lambda length: 2 * length, False),
    *(Way(f"always {k}", constant(k), False) for k in STARTS),
)
ARMS = (
    *(Arm("A", way) for way in (*FIXED, *GROWING)),
    *(Arm("B", way) for way in FIXED),
)


def measure(
    folder: Path,
    arm: Arm,
    trained: dict[str, Any],
    gaps: Sequence[Split],
    options: argparse.Namespace,
    load: Callable[[Path], Sampler],
) -> dict[str, Any]:
    """Fill all gaps one way, unless that is there; the results in the order of the gaps.

    Raises:
        SystemExit: a gap whose length was fixed has another.
    """
    path = folder / "ways" / f"{arm.name}.json"
    about = {"model": trained, "gaps": [asdict(gap) for gap in gaps], "alg": options.alg}
    if path.exists():
        known: dict[str, Any] = json.loads(path.read_text())
        if known["about"] == about:
            return known
    began, cpu = time.monotonic(), time.process_time()
    sampler = load(folder / arm.model)
    results = fill_all(sampler, gaps, arm.way, options.rows, alg=options.alg)
    place = {gap: number for number, gap in enumerate(gaps)}
    results.sort(key=lambda one: place[Split(one["prefix"], one["middle"], one["suffix"])])
    for one in results:
        one["start"] = arm.way.start(one["length"])
        if not arm.way.changes and one["found_length"] != one["start"]:
            raise SystemExit(f"{arm.name}: this gap was to keep its length: {one}")
    found = {
        "about": about,
        "commit": commit(),
        "seconds": round(time.monotonic() - began, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "results": results,
    }
    path.parent.mkdir(exist_ok=True)
    write_json(path, found)
    return found


def measure_all(
    folder: Path,
    trained: dict[str, dict[str, Any]],
    gaps: Sequence[Split],
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    """A row a way; a model is loaded where one of its ways is missing."""
    load = cache(load_model)
    training = "\n".join(models.read_functions(folder / "train.jsonl"))
    is_new = [g.prefix[-AROUND:] + g.middle + g.suffix[:AROUND] not in training for g in gaps]
    rows, oracles = [], dict[str, list[dict[str, Any]]]()
    for arm in ARMS:
        found = measure(folder, arm, trained[arm.model], gaps, options, load)
        if arm.way.name == ORACLE:
            oracles[arm.model] = found["results"]
        row = {"model": arm.model, "way": arm.way.name, "commit": found["commit"]}
        row |= figures_of(found["results"], oracles[arm.model], is_new, arm.way.changes)
        rows.append({**row, **{name: found[name] for name in ("seconds", "cpu_seconds")}})
        print(table_of(rows[-1:]).splitlines()[-1], f"{found['seconds']} s", flush=True)
    return rows


def exact_of(results: Sequence[dict[str, Any]]) -> list[bool]:
    """Of each gap, whether the text is right."""
    return [one["found"] == one["middle"] for one in results]


def parses(one: dict[str, Any]) -> bool:
    """Whether the filled function is Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(one["prefix"] + one["found"] + one["suffix"])
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def paired(first: Sequence[bool], second: Sequence[bool]) -> tuple[float, float]:
    """Mean of the differences by gap, and its standard error."""
    differences = [float(a) - float(b) for a, b in zip(first, second, strict=True)]
    return statistics.fmean(differences), statistics.stdev(differences) / math.sqrt(
        len(differences)
    )


def figures_of(
    results: Sequence[dict[str, Any]],
    oracle: Sequence[dict[str, Any]],
    is_new: Sequence[bool],
    changes: bool,
) -> dict[str, Any]:
    """What the table says of a way, and what stands behind it.

    Args:
        results: of every gap.
        oracle: of the same gaps with the right number of masks.
        is_new: of each gap, whether no training function has it with what is around it.
        changes: whether gaps grew and shrank.
    """
    exact, share = exact_of(results), statistics.fmean(exact_of(results))
    off = [one["found_length"] - one["length"] for one in results]
    bands: dict[str, list[bool]] = {f"{low}-{high}": [] for low, high in models.BANDS}
    for one, is_right in zip(results, exact, strict=True):
        band = next(b for b in models.BANDS if b[0] <= one["length"] <= b[1])
        bands[f"{band[0]}-{band[1]}"].append(is_right)
    new = list(itertools.compress(exact, is_new))
    difference, error = paired(exact, exact_of(oracle))
    hit = off.count(0) / len(off)
    return {
        "gaps": len(results),
        "exact": share,
        "exact_error": math.sqrt(share * (1.0 - share) / len(exact)),
        "to_oracle": difference,
        "to_oracle_error": error,
        "exact_new_places": statistics.fmean(new) if new else None,
        "new_places": len(new),
        "exact_by_length": {
            name: sum(found) / len(found) for name, found in bands.items() if found
        },
        "right_length": hit,
        # A right text may be spelled in other tokens than the tokenizer's.
        "exact_at_other_length": sum(map(bool, itertools.compress(off, exact))),
        "possible": None if changes else hit,
        "off": statistics.fmean(map(abs, off)),
        "parses": statistics.fmean(map(parses, results)),
        "passes": statistics.fmean(one["passes"] for one in results),
        "expansions": statistics.fmean(one["expansions"] for one in results),
        "is_exact": exact,
        "wrong": [one for one in results if one["found"] != one["middle"]][:10],
    }


def contrasts(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Found lengths against fixed ones from as many masks, by gap; met: surely more."""
    exact = {(row["model"], row["way"]): row["is_exact"] for row in rows}
    found = []
    for number, masks in enumerate(STARTS):
        for model in ("A", "B"):
            more, error = paired(exact["A", GROWING[number].name], exact[model, f"always {masks}"])
            found.append(
                {
                    "masks": masks,
                    "against": model,
                    "difference": more,
                    "error": error,
                    "met": more > SURE * error,
                }
            )
    return found


def table_of(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, a line a way."""
    lines = [
        "| model | masks | exact | less the right number's | most possible | right length | tokens off "
        "| parses | passes a gap | new places, exact |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        possible, new = row["possible"], row["exact_new_places"]
        cells = [
            row["model"],
            row["way"],
            f"{row['exact']:.1%} ± {row['exact_error']:.1%}",
            ""
            if row["way"] == ORACLE
            else f"{row['to_oracle']:+.1%} ± {row['to_oracle_error']:.1%}",
            "" if possible is None else f"{possible:.1%}",
            f"{row['right_length']:.1%}",
            f"{row['off']:.1f}",
            f"{row['parses']:.1%}",
            f"{row['passes']:.1f}",
            "" if new is None else f"{new:.1%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def lengths_table(rows: Sequence[dict[str, Any]]) -> str:
    """Exact match by the tokens of the middle."""
    names = list(rows[0]["exact_by_length"])
    lines = [f"| model | masks | {' | '.join(names)} |", f"|---|---|{'---|' * len(names)}"]
    for row in rows:
        cells = [f"{share:.0%}" for share in row["exact_by_length"].values()]
        lines.append(f"| {row['model']} | {row['way']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def contrasts_table(found: Sequence[dict[str, Any]]) -> str:
    """A line a comparison."""
    lines = ["| masks | found by A, less always as many by | more exact | |", "|---|---|---|---|"]
    for one in found:
        verdict = "met" if one["met"] else "MISSED"
        more = f"{one['difference']:+.1%} ± {one['error']:.1%}"
        lines.append(f"| {one['masks']} | {one['against']} | {more} | {verdict} |")
    return "\n".join(lines)


def page_of(facts: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """docs/results/infill_functions.md."""
    counts, trained = facts["functions"], facts["models"]
    stages = [*trained.values(), *rows]
    minutes = sum(one["cpu_seconds"] for one in stages) / 60
    commits = ", ".join(sorted({one["commit"][:8] + one["commit"][40:] for one in stages}))
    losses = ", ".join(f"{name} {one['last_loss']:.3f}" for name, one in trained.items())
    cost = facts["corruption_at_right_number"]
    met = sum(one["met"] for one in facts["contrasts"])
    return (
        "# Infilling of held-out standard library functions\n\n"
        f"Written by `tests/acceptance/infill_functions.py` at {commits} (seed {facts['seed']}, Python "
        f"{facts['python']}; {minutes:.0f} CPU minutes, one thread), whose first lines tell what it does; "
        "ten failures of each way are in `infill_functions.json`.\n\n"
        f"**Aim: a found length is surely (by {SURE:g} standard errors) better than a fixed one from as many "
        f"masks: met in {met} of {len(facts['contrasts'])} comparisons.**\n\n"
        f"{contrasts_table(facts['contrasts'])}\n\n"
        f"With the right number of masks A is {cost[0]:+.1%} ± {cost[1]:.1%} more exact than B: what the "
        "corruption costs or gains where nothing is to be found.\n\n"
        f"{counts['train']:,} functions of {models.SHORTEST} to {models.LONGEST} characters to learn from "
        f"({counts['train_characters']:,} characters), {counts['held_out']:,} held out; no text is in both. "
        f"Preset `tiny`, vocabulary {facts['vocabulary']}; {facts['ar_steps']} autoregressive steps, "
        f"{facts['diffusion_steps']} of diffusion, then {facts['steps']} of `megatron-dream sft` for each "
        f"model: A with `sft.expand_probability` {facts['expand_probability']:g} and `sft.max_appended` "
        f"{facts['max_appended']}, B with 0 and 0, all else equal. Last losses, which do not compare: "
        f"{losses}. {facts['gaps']} gaps, one a function, split as the stage does but inside no word, as "
        f"many for each column of the last table; temperature 0, `alg: {facts['alg']}`.\n\n"
        "Exact: of the text, with its standard error. Less the right number's: by gap, against the same "
        "model with the right number of masks, which is the bound. Most possible: gaps whose length happens "
        "to be that number; a right text spelled in other tokens comes on top. Tokens off: mean of found "
        "less right. Parses: the whole function. New places: gaps that no training function has between the "
        f"same {AROUND} characters on either side ({rows[0]['new_places']} of {facts['gaps']}).\n\n"
        f"{table_of(rows)}\n\n![exact match](infill_functions.png)\n\n"
        f"Exact by the middle's length in tokens:\n\n{lengths_table(rows)}\n"
    )


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """A bar a way with two standard errors; a stroke where a fixed length ends at most."""
    pyplot = import_pyplot()
    figure, axes = pyplot.subplots(figsize=(8, 0.36 * len(rows) + 1))
    for place, row in enumerate(rows):
        color = (
            "#c44e52"
            if row["possible"] is None
            else "#4c72b0"
            if row["model"] == "A"
            else "#8c8c8c"
        )
        error = SURE * row["exact_error"]
        axes.barh(place, row["exact"], xerr=error, color=color, capsize=2, height=0.7)
        if row["possible"] is not None and row["way"] != ORACLE:
            axes.plot([row["possible"]] * 2, [place - 0.4, place + 0.4], color="black")
    axes.set_yticks(range(len(rows)), [f"{row['model']}: {row['way']}" for row in rows])
    axes.invert_yaxis()
    axes.axvline(rows[0]["exact"], color="#4c72b0", linestyle=":")
    axes.set_xlabel("exact match, two standard errors; black: gaps of that length")
    figure.tight_layout()
    save_figure(figure, path)


def arguments() -> argparse.Namespace:
    """What the command was given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ar-steps", type=int, default=600)
    parser.add_argument("--diffusion-steps", type=int, default=300)
    parser.add_argument("--steps", type=int, default=800, help="of A and of B")
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--expand-probability", type=float, default=0.25)
    parser.add_argument("--max-appended", type=int, default=63)
    parser.add_argument("--seed", type=int, default=1, help="of the data's order, noise and gaps")
    parser.add_argument("--gaps", type=int, default=300)
    parser.add_argument("--rows", type=int, default=50, help="gaps that are filled together")
    parser.add_argument("--alg", default="entropy", help="which masks open first")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "infill_functions")
    return parser.parse_args()


def main() -> int:
    """Run what is missing, write the report; 0 where found lengths beat fixed ones from every start."""
    options = arguments()
    torch.set_num_threads(1)
    plan = models.Plan(**{name: getattr(options, name) for name in models.Plan.__annotations__})
    folder = plan.folder(options.work)
    counts = models.prepare(folder, plan)
    tokenizer = load_tokenizer(folder / "tokenizer.model")
    held_out = models.read_functions(folder / "held_out.jsonl")
    gaps = models.draw_gaps(held_out, tokenizer, options.gaps, plan.seed)
    trained = {
        name: models.train(folder, name, model, plan.seed)
        for name, model in models.models_of(plan).items()
    }
    rows = measure_all(folder, trained, gaps, options)
    facts = {**asdict(plan), "alg": options.alg, "gaps": len(gaps), "functions": counts}
    facts |= {"python": sys.version.split()[0], "models": trained, "contrasts": contrasts(rows)}
    bounds = {row["model"]: row["is_exact"] for row in rows if row["way"] == ORACLE}
    facts["corruption_at_right_number"] = paired(bounds["A"], bounds["B"])
    path = options.output / "infill_functions"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path.with_suffix(".json"), {**facts, "ways": rows})
    plot(rows, path.with_suffix(".png"))
    page = page_of(facts, rows)
    with atomic_write(path.with_suffix(".md")) as stream:
        stream.write(page)
    print("\n" + page)
    return 0 if all(one["met"] for one in facts["contrasts"]) else 1


if __name__ == "__main__":
    sys.exit(main())
