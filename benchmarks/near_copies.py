"""Near copies among vectors as curation looks for them: time, memory, and what a million would take.

    python benchmarks/near_copies.py [--vectors 20000] [--size 384] [--copies 0.2]

Random directions in a mapped float16 file, as curation keeps them, and a share of slightly changed copies
behind them. Twice: as blocks, and as one product of everything with everything, whose memory is that of N^2
similarities. Time grows with N times what is kept, so a million is told from the largest run.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from megatron_dream.rl.curation.nearest import near_copies  # noqa: E402

THRESHOLD = 0.85
MILLION = 1_000_000


def make(path: Path, count: int, size: int, copies: float) -> int:
    """Write vectors, [count, size] float16; how many are copies."""
    random = np.random.default_rng(0)
    num_copies = int(count * copies)
    vectors = np.memmap(path, np.float16, "w+", shape=(count, size))
    first = random.normal(size=(count - num_copies, size)).astype(np.float32)
    vectors[: len(first)] = first
    noise = random.normal(size=(num_copies, size))
    vectors[len(first) :] = first[:num_copies] + 0.2 * noise
    vectors.flush()
    return num_copies


def run(path: Path, count: int, size: int, whole: bool) -> tuple[int, float, float]:
    """In a process of its own: copies found, seconds, GiB that the search added at its peak."""
    vectors = np.memmap(path, np.float16, "r", shape=(count, size))
    list(near_copies(vectors[:64], THRESHOLD))  # threads and libraries
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    if whole:
        rows = np.array(vectors, np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        near = np.tril(rows @ rows.T >= THRESHOLD, -1)
        found = int(near.any(1).sum())
    else:
        found = sum(1 for _ in near_copies(vectors, THRESHOLD))
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found, seconds, (after - before) / (1 << 20)


def main() -> int:
    """Print the table; 1 where a search missed a copy or named another."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=384)
    parser.add_argument("--copies", type=float, default=0.2)
    options = parser.parse_args()
    is_wrong = False
    with (
        tempfile.TemporaryDirectory() as folder,
        get_context("spawn").Pool(1, maxtasksperchild=1) as pool,
    ):
        path = Path(folder) / "vectors.f16"
        for count in (options.vectors // 2, options.vectors):
            num_copies = make(path, count, options.size, options.copies)
            for whole in (False, True):
                found, seconds, grown = pool.apply(run, (path, count, options.size, whole))
                is_wrong = is_wrong or found != num_copies
                name = "one product" if whole else "blocks"
                print(
                    f"{count:,} vectors of {options.size}, {name}: {found:,} of {num_copies:,} copies, "
                    f"{seconds:.2f} s, {grown:.2f} GiB added"
                )
                if not whole:
                    last = seconds
    scale = (MILLION / options.vectors) ** 2
    print(
        f"{MILLION:,} at this speed: {last * scale / 3600:.1f} h; file "
        f"{MILLION * options.size * 2 / 1e9:.2f} GB, the same blocks in memory"
    )
    return int(is_wrong)


if __name__ == "__main__":
    sys.exit(main())
