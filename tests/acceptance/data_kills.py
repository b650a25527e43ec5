"""Kill -9 at random moments: each killed command, called again, ends with an uninterrupted run's bytes.

    python tests/acceptance/data_kills.py [--megabytes 100] [--kills 20] [--seed N]

An uninterrupted run gives the expected files and the time over which the moments are drawn. A quarter
of the kills waits for the merge and comes at a random moment of it. Every other run writes several
files. What has its name at the moment of the kill must be complete already.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import data_corpora as corpora  # noqa: E402
import data_runs as runs  # noqa: E402

_FILTERS = "filters:\n  - length: {min_characters: 200}\n"
_BAD_LINE = '{"text": "\\ud800"}\n'
_BAD_EVERY = 50  # records
_FILES = 8  # about, of the runs with several


@dataclass(frozen=True)
class Plan:
    """One kind of run and what it must end with.

    Attributes:
        job: the command's words.
        digests: sha256 by file name.
        seconds: from start to end.
        merge_seconds: from the first sign of the merge to the end.
    """

    job: runs.Job
    digests: dict[str, str]
    seconds: float
    merge_seconds: float


def write_corpus(folder: Path, num_bytes: int) -> Path:
    """Python source with a bad record here and there."""
    plain, path = folder / "plain.jsonl", folder / "c.jsonl"
    corpora.write_source_lines(plain, num_bytes)
    with open(plain, encoding="utf-8") as lines, open(path, "w", encoding="utf-8") as stream:
        for number, line in enumerate(lines):
            stream.write(line)
            if number % _BAD_EVERY == 0:
                stream.write(_BAD_LINE)
    plain.unlink()
    return path


def uninterrupted(job: runs.Job, folder: Path) -> Plan:
    """Run once to the end, watching for the merge."""
    prefix = _fresh(folder)
    began, merging = time.perf_counter(), None
    with runs.started(job.command(prefix, 2)) as (process, output):
        while process.poll() is None:
            if merging is None and _is_merging(prefix):
                merging = time.perf_counter()
            time.sleep(0.002)
        ended = time.perf_counter()
        runs.check_code(process, output)
    return Plan(job, runs.digests(prefix), ended - began, ended - (merging or ended))


def _is_merging(prefix: Path) -> bool:
    return any(prefix.parent.glob(".*.bin.tmp")) or any(prefix.parent.glob("*.bin"))


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder / "out", ignore_errors=True)
    (folder / "out").mkdir()
    return folder / "out" / "o"


def kill_once(plan: Plan, folder: Path, draw: random.Random, *, in_merge: bool) -> tuple[str, bool]:
    """One kill and the call after it; what happened, and whether the bytes are right."""
    span = plan.merge_seconds if in_merge else plan.seconds
    while True:  # a run may be over before its moment comes; then there was no kill
        prefix, delay = _fresh(folder), draw.uniform(0, span)
        if where := _run_until_killed(plan, prefix, delay, in_merge):
            break
        span = max(delay, 0.001)
    early = _published_wrongly(plan, prefix)
    runs.run(plan.job.command(prefix, draw.choice((1, 2, 3))))
    found = runs.digests(prefix)
    wrong = sorted(
        name for name in {*found, *plan.digests} if found.get(name) != plan.digests.get(name)
    )
    words = f"killed {delay:.3f} s after {'merge' if in_merge else 'start'}, {where}"
    if early or wrong:
        return f"{words}: DIFFERENT {wrong}, incomplete at the kill {early}", False
    return f"{words}: ok", True


def _run_until_killed(plan: Plan, prefix: Path, delay: float, in_merge: bool) -> str | None:
    """Kill a run after a delay; says what there was then, or None where it had ended before."""
    with runs.started(plan.job.command(prefix, 2)) as (process, _):
        while in_merge and process.poll() is None and not _is_merging(prefix):
            time.sleep(0.001)
        try:
            process.wait(delay)
            return None
        except subprocess.TimeoutExpired:
            is_merging = _is_merging(prefix)
            num_parts = runs.num_parts(prefix)
    return f"{num_parts} parts{', merging' if is_merging else ''}"


def _published_wrongly(plan: Plan, prefix: Path) -> list[str]:
    """Pairs that have their ``.idx`` but not their final bytes."""
    names = [path.stem for path in prefix.parent.glob("o*.idx")]
    found = runs.digests(prefix)
    wanted = [f"{name}{ending}" for name in names for ending in (".bin", ".idx")]
    return [name for name in wanted if found.get(name) != plan.digests.get(name)]


def main() -> int:
    """Kill and resume; 1 where any bytes differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    parser.add_argument("--folder", type=Path, help="for the files (a temporary one)")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        failed = run_all(Path(folder), options)
    print(f"kill -9: {options.kills - failed} of {options.kills} resumed to identical bytes")
    return 1 if failed else 0


def run_all(folder: Path, options: argparse.Namespace) -> int:
    """Both kinds of runs in turns; how many ended otherwise."""
    corpus = write_corpus(folder, int(options.megabytes * 1e6))
    filters = folder / "f.yaml"
    filters.write_text(_FILTERS, encoding="utf-8")
    flags = ["--append-eod", "--filters", str(filters), "--max-rejects", "0.5"]
    flags += ["--shard-mb", f"{options.megabytes / 25:g}"]
    qwen2 = corpora.shared_file("qwen2_tokenizer")
    single = uninterrupted(runs.Job([str(corpus)], qwen2, flags), folder)
    cut = ["--max-file-gb", f"{options.megabytes / _FILES / 1000:.12f}"]
    several = uninterrupted(runs.Job([str(corpus)], qwen2, [*flags, *cut]), folder)
    for name, plan in (("one file", single), ("several files", several)):
        files = sum(file.endswith(".bin") for file in plan.digests)
        print(
            f"{name}: {files} .bin, {plan.seconds:.1f} s, of it merge {plan.merge_seconds:.2f} s",
            flush=True,
        )
    draw, failed = random.Random(options.seed), 0
    for number in range(options.kills):
        plan = (single, several)[number % 2]
        words, is_right = kill_once(plan, folder, draw, in_merge=number % 8 in (3, 6))
        failed += not is_right
        kind = "several files" if plan is several else "one file"
        print(f"[{number + 1}/{options.kills}] {kind}, {words}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
