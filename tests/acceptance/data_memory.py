"""Peak memory of preprocessing: flat, whatever the length of the input.

    python tests/acceptance/data_memory.py [--megabytes 80 800] [--workers 2]

All processes of the command are looked at every 50 ms: their proportional set sizes together (shared
pages counted once), and the highest resident size that each ever had. Shards are small, so that all
workers are busy from the smaller size on.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import data_corpora as corpora  # noqa: E402
import data_runs as runs  # noqa: E402

_AIM = 1.10
_INTERVAL = 0.05


@dataclass
class Peaks:
    """Of one command, in bytes.

    Attributes:
        pss: highest sum over all processes at one moment.
        rss: highest resident size of each process, by id.
        seconds: from start to end.
        samples: how often was looked.
    """

    pss: int = 0
    rss: dict[int, int] = field(default_factory=dict)
    seconds: float = 0.0
    samples: int = 0


def measure(words: list[str]) -> Peaks:
    """Run a command and watch it.

    Raises:
        SystemExit: it failed.
    """
    peaks, started = Peaks(), time.perf_counter()
    with runs.started(words) as (process, output):
        while process.poll() is None:
            _look(process.pid, peaks)
            time.sleep(_INTERVAL)
        peaks.seconds = time.perf_counter() - started
        runs.check_code(process, output)
    return peaks


def _look(session: int, peaks: Peaks) -> None:
    total = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, ValueError, IndexError):  # it may end at any moment
            if os.getsid(int(name)) != session:
                continue
            total += _field(f"/proc/{name}/smaps_rollup", "Pss:")
            peaks.rss[int(name)] = _field(f"/proc/{name}/status", "VmHWM:")
    peaks.pss = max(peaks.pss, total)
    peaks.samples += 1


def _field(path: str, name: str) -> int:
    with open(path, encoding="ascii", errors="replace") as stream:
        return next((int(line.split()[1]) << 10 for line in stream if line.startswith(name)), 0)


def main() -> int:
    """Measure the sizes one after the other; 1 where the last needs more than a tenth over the first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, nargs=2, default=(80, 800), metavar="MB")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--shard-mb", type=float, default=4)
    parser.add_argument("--tokenizer", type=Path, help="instead of Qwen2's")
    parser.add_argument("--folder", type=Path, help="for the files (a temporary one)")
    options = parser.parse_args()
    tokenizer = options.tokenizer or corpora.shared_file("qwen2_tokenizer")
    found = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for megabytes in options.megabytes:
            corpus = Path(folder) / f"{megabytes:g}.jsonl"
            text, distinct = corpora.write_source_lines(corpus, int(megabytes * 1e6))
            flags = ("--append-eod", "--shard-mb", f"{options.shard_mb:g}")
            job = runs.Job([str(corpus)], tokenizer, flags)
            peaks = measure(job.command(Path(folder) / f"o{megabytes:g}", options.workers))
            found.append(peaks)
            each = ", ".join(f"{size / 1e6:.0f}" for size in peaks.rss.values())
            print(
                f"{text / 1e6:.0f} MB of source ({distinct / text:.0%} distinct), {peaks.seconds:.1f} s: "
                f"peak {peaks.pss / 1e6:.0f} MB together (PSS, {peaks.samples} samples); by process "
                f"{each} MB (RSS)",
                flush=True,
            )
    ratio = found[1].pss / found[0].pss
    print(
        f"peak memory: {ratio:.3f} times at ten times the input (aim {_AIM:.2f}): "
        f"{'met' if ratio <= _AIM else 'MISSED'}; sum of each process's peak "
        f"{sum(found[1].rss.values()) / sum(found[0].rss.values()):.3f} times"
    )
    return 0 if ratio <= _AIM else 1


if __name__ == "__main__":
    sys.exit(main())
