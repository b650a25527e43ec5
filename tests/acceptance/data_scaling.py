"""Preprocessing with one worker and with two, in turns: how much sooner, and what the time goes to.

    python tests/acceptance/data_scaling.py [--megabytes 240] [--rounds 3]

Whole commands, start-up included, on a machine that must be quiet. A run of next to nothing gives the
start-up, so that the ratio of the work itself is printed beside that of the commands: with a start-up
of s seconds and w seconds of work, 1.8 times needs w of at least 8 s, whatever the workers do.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import data_corpora as corpora  # noqa: E402
import data_runs as runs  # noqa: E402

_AIM = 1.8


def shares(prefix: Path) -> str:
    """What the workers' time went to, as the command reports it in ``P.json``."""
    work = json.loads(prefix.with_suffix(".json").read_text(encoding="utf-8"))["work_seconds"]
    total = sum(work.values()) or 1.0
    return ", ".join(f"{kind} {spent / total:.1%}" for kind, spent in work.items())


def main() -> int:
    """Measure in turns; 1 where two workers are less than 1.8 times as fast."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=240)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shard-mb", type=float, default=4, help="many, so that both end together")
    parser.add_argument("--tokenizer", type=Path, help="instead of Qwen2's")
    parser.add_argument("--folder", type=Path, help="for the files (a temporary one)")
    options = parser.parse_args()
    tokenizer = options.tokenizer or corpora.shared_file("qwen2_tokenizer")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        return compare(Path(folder), options, tokenizer)


def compare(folder: Path, options: argparse.Namespace, tokenizer: Path) -> int:
    """Start-up, one worker, two workers, again and again; medians."""
    corpus, tiny, prefix = folder / "c.jsonl", folder / "tiny.jsonl", folder / "o"
    text, distinct = corpora.write_source_lines(corpus, int(options.megabytes * 1e6))
    tiny.write_text('{"text": "x = 1"}\n' * 2, encoding="utf-8")
    load = os.getloadavg()[0]
    print(
        f"{text / 1e6:.0f} MB of source ({distinct / text:.0%} distinct), load {load:.1f}",
        flush=True,
    )
    flags = ("--append-eod", "--overwrite", "--shard-mb", f"{options.shard_mb:g}")
    kinds = {
        "start-up": (runs.Job([str(tiny)], tokenizer, flags), 2),
        "1 worker": (runs.Job([str(corpus)], tokenizer, flags), 1),
        "2 workers": (runs.Job([str(corpus)], tokenizer, flags), 2),
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(options.rounds):
        for kind, (job, workers) in kinds.items():
            spent, output = runs.run(job.command(prefix, workers))
            seconds[kind].append(spent)
            own = re.search(r"Work of all workers: .*", output)
            line = f"[{number + 1}/{options.rounds}] {kind}: {spent:.2f} s"
            if kind != "start-up":
                line += f", {text / spent / 1e6:.1f} MB/s; {own[0] if own else 'no report'}"
            print(line, flush=True)
    print(f"shares of the last run: {shares(prefix)}")
    return judge({kind: statistics.median(values) for kind, values in seconds.items()})


def judge(seconds: dict[str, float]) -> int:
    """The closing line; 1 where the aim is missed."""
    ratio = seconds["1 worker"] / seconds["2 workers"]
    start = seconds["start-up"]
    inside = (seconds["1 worker"] - start) / max(seconds["2 workers"] - start, 1e-9)
    print(
        f"scaling from 1 to 2 workers: {ratio:.2f} times, start-up of {start:.2f} s included, {inside:.2f} "
        f"times without it (medians; aim {_AIM} with it): {'met' if ratio >= _AIM else 'MISSED'}"
    )
    return 0 if ratio >= _AIM else 1


if __name__ == "__main__":
    sys.exit(main())
