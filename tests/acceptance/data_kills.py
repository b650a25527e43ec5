"""Kill -9 at random moments: each killed command, called again, ends with an uninterrupted run's bytes.

    python tests/acceptance/data_kills.py [--megabytes 100] [--kills 20] [--seed N]

An uninterrupted run gives the expected files and the time over which the moments are drawn. A quarter
of the kills waits for the last part and comes at a random moment after it. Every other run writes several
files. What has its name at the moment of the kill must be complete already.
"""

from __future__ import annotations

import argparse
import contextlib
import json
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
        shards: parts that it makes.
        end_seconds: from the last part to the end.
    """

    job: runs.Job
    digests: dict[str, str]
    seconds: float
    shards: int
    end_seconds: float


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
    """Run once to the end, watching for the last part."""
    prefix = _fresh(folder)
    began, ending, shards = time.perf_counter(), None, 0
    with runs.started(job.command(prefix, 2)) as (process, output):
        while process.poll() is None:
            shards = shards or _num_shards(prefix)
            if ending is None and shards and _is_ending(prefix, shards):
                ending = time.perf_counter()
            time.sleep(0.002)
        ended = time.perf_counter()
        runs.check_code(process, output)
    return Plan(job, runs.digests(prefix), ended - began, shards, ended - (ending or ended))


def _num_shards(prefix: Path) -> int:
    manifest = prefix.with_name(f"{prefix.name}.parts") / "manifest.json"
    with contextlib.suppress(FileNotFoundError):
        return int(json.loads(manifest.read_text(encoding="utf-8"))["shards"])
    return 0


def _is_ending(prefix: Path, shards: int) -> bool:
    return runs.num_parts(prefix) >= shards or any(prefix.parent.glob("*.bin"))


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder / "out", ignore_errors=True)
    (folder / "out").mkdir()
    return folder / "out" / "o"


def kill_once(plan: Plan, folder: Path, draw: random.Random, *, at_end: bool) -> tuple[str, bool]:
    """One kill and the call after it; what happened, and whether the bytes are right."""
    span = plan.end_seconds if at_end else plan.seconds
    while True:  # a run may be over before its moment comes; then there was no kill
        prefix, delay = _fresh(folder), draw.uniform(0, span)
        if where := _run_until_killed(plan, prefix, delay, at_end):
            break
        span = max(delay, 0.001)
    early = _published_wrongly(plan, prefix)
    runs.run(plan.job.command(prefix, draw.choice((1, 2, 3))))
    found = runs.digests(prefix)
    wrong = sorted(
        name for name in {*found, *plan.digests} if found.get(name) != plan.digests.get(name)
    )
    words = f"killed {delay:.3f} s after {'the last part' if at_end else 'start'}, {where}"
    if early or wrong:
        return f"{words}: DIFFERENT {wrong}, incomplete at the kill {early}", False
    return f"{words}: ok", True


def _run_until_killed(plan: Plan, prefix: Path, delay: float, at_end: bool) -> str | None:
    """Kill a run after a delay; says what there was then, or None where it had ended before."""
    with runs.started(plan.job.command(prefix, 2)) as (process, _):
        while at_end and process.poll() is None and not _is_ending(prefix, plan.shards):
            time.sleep(0.001)
        try:
            process.wait(delay)
            return None
        except subprocess.TimeoutExpired:
            is_begun = any(prefix.parent.glob(".*.bin.tmp"))
            is_named = any(prefix.parent.glob("*.bin"))
            num_parts = runs.num_parts(prefix)
    state = "published" if is_named else "merge begun" if is_begun else "no merge"
    return f"{num_parts} parts, {state}"


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
            f"{name}: {files} .bin, {plan.seconds:.1f} s, {plan.end_seconds:.2f} s of it after the last of "
            f"{plan.shards} parts",
            flush=True,
        )
    draw, failed = random.Random(options.seed), 0
    for number in range(options.kills):
        plan = (single, several)[number % 2]
        words, is_right = kill_once(plan, folder, draw, at_end=number % 8 in (3, 6))
        failed += not is_right
        kind = "several files" if plan is several else "one file"
        print(f"[{number + 1}/{options.kills}] {kind}, {words}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
