"""Preprocessing with one worker and with two, in turns: how much sooner, and what the time goes to.

    python tests/acceptance/data_scaling.py [--megabytes 600] [--rounds 5]

Whole commands, start-up included, on a machine that must be quiet. A run of next to nothing gives the
start-up, so that the ratio of the work itself is printed beside that of the commands: with a start-up
of s seconds and w seconds of work, 1.8 times needs w of at least 8 s, whatever the workers do. Two
commands at once that have nothing in common show what two busy cores of this machine give at all.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import sys
import tempfile
import time
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
    parser.add_argument("--megabytes", type=float, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shard-mb", type=float, default=4, help="many, so that both end together")
    parser.add_argument("--tokenizer", type=Path, help="instead of Qwen2's")
    parser.add_argument("--folder", type=Path, help="for the files (a temporary one)")
    options = parser.parse_args()
    tokenizer = options.tokenizer or corpora.shared_file("qwen2_tokenizer")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        return compare(Path(folder), options, tokenizer)


def compare(folder: Path, options: argparse.Namespace, tokenizer: Path) -> int:
    """Start-up, one worker, two workers, two commands, again and again; medians."""
    corpus, tiny, prefix = folder / "c.jsonl", folder / "tiny.jsonl", folder / "o"
    text, distinct = corpora.write_source_lines(corpus, int(options.megabytes * 1e6))
    tiny.write_text('{"text": "x = 1"}\n' * 2, encoding="utf-8")
    load = os.getloadavg()[0]
    print(
        f"{text / 1e6:.0f} MB of source ({distinct / text:.0%} distinct), load {load:.1f}",
        flush=True,
    )
    flags = ("--append-eod", "--overwrite", "--shard-mb", f"{options.shard_mb:g}")
    whole = runs.Job([str(corpus)], tokenizer, flags)
    halves = [runs.Job([str(half)], tokenizer, flags) for half in split(corpus)]
    start_up = runs.Job([str(tiny)], tokenizer, flags).command(prefix, 2)
    kinds = {
        "start-up": [start_up],
        "1 worker": [whole.command(prefix, 1)],
        "2 workers": [whole.command(prefix, 2)],
        "2 commands": [half.command(folder / f"o{n}", 1) for n, half in enumerate(halves)],
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(options.rounds):
        for kind, commands in kinds.items():
            spent, output = together(commands)
            seconds[kind].append(spent)
            own = re.search(r"Work of all workers: .*", output)
            line = f"[{number + 1}/{options.rounds}] {kind}: {spent:.2f} s"
            if kind != "start-up":
                line += f", {text / spent / 1e6:.1f} MB/s; {own[0] if own else 'no report'}"
            print(line, flush=True)
    print(f"shares of the last run: {shares(prefix)}")
    return judge({kind: statistics.median(values) for kind, values in seconds.items()})


def split(corpus: Path) -> list[Path]:
    """Its lines in two files of about the same size."""
    halves, passed, half = (
        [corpus.with_name(f"half{n}.jsonl") for n in (0, 1)],
        0,
        corpus.stat().st_size / 2,
    )
    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(open(corpus, "rb"))
        outputs = [stack.enter_context(open(path, "wb")) for path in halves]
        for line in lines:
            outputs[passed > half].write(line)
            passed += len(line)
    return halves


def together(commands: list[list[str]]) -> tuple[float, str]:
    """Run commands at the same time; seconds until all have ended, and what the last printed."""
    began = time.perf_counter()
    with contextlib.ExitStack() as stack:
        working = [stack.enter_context(runs.started(words)) for words in commands]
        for process, _ in working:
            process.wait()
        seconds = time.perf_counter() - began
        for process, output in working:
            runs.check_code(process, output)
        return seconds, working[-1][1]()


def judge(seconds: dict[str, float]) -> int:
    """The closing lines; 1 where the aim is missed."""
    one, two, start = seconds["1 worker"], seconds["2 workers"], seconds["start-up"]
    apart = seconds["2 commands"]
    print(
        f"what the machine gives: two commands of one worker at once, half of the input each, "
        f"{one / apart:.2f} times as fast as one command, {(one - start) / (apart - start):.2f} times "
        f"without start-up"
    )
    ratio = one / two
    inside = (one - start) / max(two - start, 1e-9)
    print(
        f"scaling from 1 to 2 workers: {ratio:.2f} times, start-up of {start:.2f} s included, {inside:.2f} "
        f"times without it (medians; aim {_AIM} with it): {'met' if ratio >= _AIM else 'MISSED'}"
    )
    return 0 if ratio >= _AIM else 1


if __name__ == "__main__":
    sys.exit(main())
