"""The order's classifier against 30 real histories, labelled by a rule of its own that was stated before.

Generations of the product's sampler, one block, no penalty: nine functions completed by the quickstart's
model, and seven each of three kinds of toy text (order_toys.py) by a model trained here for a minute. The
toys are there because the quickstart's functions alone are all of one label, and chance then explains
everything; which label a history gets is told by its frames, not by its kind.

The rule looks at three frames, in which a quarter, a half and three quarters of the text's tokens are
open, and at lines and single tokens; it knows no correlation, no ast and none of the classifier's figures:

    left-to-right  in each frame at least 90% of what is open lies in the leftmost part of the text that is
                   as long as what is open and an eighth of the text
    sketch-first   in the first frame at least 60% of the lines have an open token, and of the open tokens
                   1.5 times as many as of all are a bracket, a keyword, or on a line of def or class
    interleaved    all others

The first that holds counts. Cohen's kappa over the histories whose label by the rule has at least 5 of
them; others are listed and not scored.

    make quickstart          makes the model of functions; without it there are ten toys of each kind
    python tests/acceptance/order_labels.py          about 3 minutes on one core
    writes docs/results/order_labels.{json,md,png}
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import keyword
import math
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import data_runs as runs  # noqa: E402
import order_toys  # noqa: E402

from megatron_dream.evaluation.order import OrderRecord, analyse, read_records  # noqa: E402
from megatron_dream.evaluation.order.analysis import Analysis  # noqa: E402
from megatron_dream.evaluation.order.classify import LABELS  # noqa: E402
from megatron_dream.evaluation.order.plot import plot_order  # noqa: E402
from megatron_dream.evaluation.order.table import table_of  # noqa: E402
from megatron_dream.files import atomic_write, write_json  # noqa: E402
from megatron_dream.training.provenance import source_commit  # noqa: E402

RESULTS = ROOT / "docs" / "results"
TOTAL, NUM_FUNCTIONS, NEW, FEWEST = 30, 9, 64, 5
FRAMES = (0.25, 0.5, 0.75)
_SIGN = re.compile(r"[()\[\]{}]")
_HEADER = re.compile(r"^\s*(?:async\s+)?(?:def|class)\b")


def functions(quickstart: Path, work: Path) -> list[OrderRecord]:
    """Completions of the shortest of the quickstart's functions; none where it has not been run."""
    model, prompts = quickstart / "runs" / "longer", quickstart / "corpus" / "functions.jsonl"
    if not (model.exists() and prompts.exists()):
        return []
    history = work / "functions.jsonl"
    if not history.exists():
        lines = prompts.read_text(encoding="utf-8").splitlines()
        texts = sorted((json.loads(line)["prefix"] for line in lines), key=len)[:NUM_FUNCTIONS]
        asked = work / "functions.prompts.jsonl"
        asked.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
        words = [
            sys.executable,
            "-m",
            "megatron_dream",
            "sample",
            str(model),
            "--jsonl",
            str(asked),
        ]
        runs.run([*words, "--max-new-tokens", str(NEW), "--history", str(history)])
    return read_records(history)


def by_rule(tokens: Sequence[str], steps: Sequence[int]) -> str:
    """The label of the docstring's rule."""
    count = len(tokens)
    frames = [open_tokens(steps, share) for share in FRAMES]
    if all(is_on_the_left(frame, count) for frame in frames):
        return "left-to-right"
    line_of, signs = lines_and_signs(tokens)
    visible = [i for i in range(count) if tokens[i].strip()]
    first = [i for i in frames[0] if tokens[i].strip()]
    if visible and first:
        reached = len({line_of[i] for i in first}) / len({line_of[i] for i in visible})
        among_all = sum(signs[i] for i in visible) / len(visible)
        among_first = sum(signs[i] for i in first) / len(first)
        if reached >= 0.6 and among_all > 0 and among_first >= 1.5 * among_all:
            return "sketch-first"
    return "interleaved"


def open_tokens(steps: Sequence[int], share: float) -> list[int]:
    """Positions open when at least this share is."""
    latest = sorted(steps)[math.ceil(share * len(steps)) - 1]
    return [i for i, step in enumerate(steps) if step <= latest]


def is_on_the_left(frame: Sequence[int], count: int) -> bool:
    """See the docstring."""
    reach = len(frame) + count / 8
    return sum(position < reach for position in frame) >= 0.9 * len(frame)


def lines_and_signs(tokens: Sequence[str]) -> tuple[list[int], list[bool]]:
    """Of each token the line on which its first visible character stands, and whether it is a sign."""
    lines = "".join(tokens).split("\n")
    number, line_of, signs = 0, [], []
    for token in tokens:
        before = token[: len(token) - len(token.lstrip())]
        line = number + before.count("\n")
        word = token.strip()
        line_of.append(line)
        is_header = line < len(lines) and bool(_HEADER.match(lines[line]))
        signs.append(bool(_SIGN.search(word)) or keyword.iskeyword(word) or is_header)
        number += token.count("\n")
    return line_of, signs


def kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Cohen's; None where chance alone agrees always."""
    first, second = (collections.Counter(column) for column in zip(*pairs, strict=True))
    chance = sum(first[label] * second[label] for label in LABELS) / len(pairs) ** 2
    agree = sum(a == b for a, b in pairs) / len(pairs)
    return None if chance == 1 else (agree - chance) / (1 - chance)


def scored(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those whose label by the rule has enough cases."""
    count = collections.Counter(label for label, _ in pairs)
    return [pair for pair in pairs if count[pair[0]] >= FEWEST]


def markdown(names: Sequence[str], pairs: Sequence[tuple[str, str]], analysis: Analysis) -> str:
    """All that was found."""
    kept = scored(pairs)
    value = kappa(kept) if kept else None
    count = collections.Counter(label for label, _ in pairs)
    few = [f"{label} ({count[label]})" for label in LABELS if count[label] < FEWEST]
    lines = [
        "# Order of generation: classifier against a rule",
        "",
        f"Written by `tests/acceptance/order_labels.py`, whose first lines state the rule. {len(pairs)} "
        f"histories of tiny models; {sum(a == b for a, b in pairs)} labels agree.",
        "",
        f"**Cohen's kappa {'not defined' if value is None else f'{value:.2f}'} over {len(kept)} histories.**"
        + (f" Too few cases to score: {', '.join(few)}." if few else ""),
        "",
        f"| by the rule | {' | '.join(f'classifier: {label}' for label in LABELS)} |",
        "|---" * (1 + len(LABELS)) + "|",
    ]
    for label in LABELS:
        cells = [str(sum(pair == (label, other) for pair in pairs)) for other in LABELS]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    lines += ["", "Where they differ:", ""]
    differ = [
        f"- sample {n} ({name}): {a} by the rule, {b} by the classifier"
        for n, (name, (a, b)) in enumerate(zip(names, pairs, strict=True), start=1)
        if a != b
    ]
    lines += differ or ["- nowhere"]
    lines += ["", "## What `megatron-dream order` says of the same histories", ""]
    return "\n".join(lines) + "\n" + table_of(analysis) + "\n![order](order_labels.png)\n"


def main() -> int:
    """0 where a kappa could be told."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quickstart", type=Path, default=ROOT / "work" / "quickstart")
    parser.add_argument("--steps", type=int, default=4000, help="of the toys' model")
    parser.add_argument("--work", type=Path, default=ROOT / "work" / "order_labels")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    options.output.mkdir(parents=True, exist_ok=True)
    found = {"functions": functions(options.quickstart, options.work)[:NUM_FUNCTIONS]}
    found |= order_toys.histories(options.steps, (TOTAL - len(found["functions"])) // 3)
    names = [name for name, of_kind in found.items() for _ in of_kind]
    records = [record for of_kind in found.values() for record in of_kind]
    rule = [by_rule(one.text_tokens, one.steps) for one in records]
    write_json(options.work / "labels_by_rule.json", rule)  # before the classifier runs
    analysis = analyse(records)
    labels = [one.evidence.label for one in analysis.samples]
    pairs = [(a, b) for a, b in zip(rule, labels, strict=True) if b is not None]
    text = markdown(names, pairs, analysis)
    plot_order(analysis, options.output / "order_labels.png")
    kept = scored(pairs)
    report = {"kappa": kappa(kept) if kept else None, "scored": len(kept), "pairs": pairs}
    report |= {"commit": source_commit(), "date": time.strftime("%Y-%m-%d")}
    samples = [dataclasses.asdict(dataclasses.replace(one, where="")) for one in records]
    whole = {**report, "sources": names, "histories": samples}
    write_json(options.output / "order_labels.json", whole)
    with atomic_write(options.output / "order_labels.md") as stream:
        stream.write(text)
    print(text)
    return 0 if report["kappa"] is not None else 1


if __name__ == "__main__":
    sys.exit(main())
