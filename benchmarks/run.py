"""``make bench``: every speed claim, one after another; each prints its ratio and its baseline."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARKS = (
    "cart.py",
    "training.py",
    "preprocess.py",
    "blend_index.py",
    "loader.py",
    "sampling.py",
    "near_copies.py",
    "checkpoints.py",
)


def main() -> int:
    """Run all benchmarks; the number that failed is the exit code."""
    folder = Path(__file__).parent
    failed = 0
    for name in BENCHMARKS:
        print(f"== {name}", flush=True)
        failed += subprocess.run([sys.executable, str(folder / name)], check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
