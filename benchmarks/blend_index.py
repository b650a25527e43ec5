"""A blend's index for 1e8 samples over 10 sources: seconds, memory and bytes on disk.

Baseline: what megatron-core's BlendedDataset does: int16 and int64 arrays for all samples in memory, filled
by its helper, saved as two .npy files and loaded again memory-mapped. Ours (data/blend_table.py) calls the
same helper. Each side in a process of its own; entries are compared at 10,000 random places.

    python benchmarks/blend_index.py [--samples 100000000]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from megatron_dream import device  # noqa: E402
from megatron_dream.data.order import BlendOrder, blend_arrays  # noqa: E402

WEIGHTS = [0.17, 0.02, 0.05, 0.025, 0.025, 0.005, 0.005, 0.15, 0.40, 0.15]
NUM_CHECKED = 10_000


def theirs(folder: Path, samples: int) -> None:
    """megatron-core's way; its helper wants weights that add up to 1."""
    source, index = blend_arrays(WEIGHTS, samples)
    np.save(folder / "dataset_index.npy", source)
    np.save(folder / "dataset_sample_index.npy", index)


def ours(folder: Path, samples: int) -> None:
    """With its checksums, fsync and rename."""
    BlendOrder(WEIGHTS, samples, folder).build()


def memory(field: str) -> int:
    """Bytes of VmRSS or VmHWM of this process, mapped files included."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def run_side(side: str, samples: int, folder: Path) -> dict[str, float]:
    """Build in this process and report."""
    device.import_megatron()
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    held = memory("VmRSS")
    started = time.perf_counter()
    {"ours": ours, "theirs": theirs}[side](folder, samples)
    seconds = time.perf_counter() - started
    peak = memory("VmHWM")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return {"seconds": seconds, "peak_over_held": peak - held, "bytes": size}


def entries(side: str, folder: Path, samples: int, places: np.ndarray) -> list[tuple[int, int]]:
    """(source, index) at ``places`` as a training process reads them."""
    if side == "theirs":
        source = np.load(folder / "dataset_index.npy", mmap_mode="r")
        index = np.load(folder / "dataset_sample_index.npy", mmap_mode="r")
        return [(int(source[n]), int(index[n])) for n in places]
    order = BlendOrder(WEIGHTS, samples, folder)
    return [order[int(n)] for n in places]


def main() -> int:
    """Print both sides and their ratios; 1 where their entries differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=100_000_000)
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(run_side(options.side, options.samples, options.folder)))
        return 0
    places = np.random.default_rng(0).integers(0, options.samples, NUM_CHECKED)
    found, read = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        for side in ("theirs", "ours"):
            folder = Path(scratch, side)
            folder.mkdir()
            command = [sys.executable, __file__, "--side", side, "--folder", str(folder)]
            output = subprocess.run(
                [*command, "--samples", str(options.samples)],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                env={**os.environ, "PYTHONWARNINGS": "ignore"},
            ).stdout
            found[side] = json.loads(output.splitlines()[-1])
            started = time.perf_counter()
            read[side] = entries(side, folder, options.samples, places)
            micros = (time.perf_counter() - started) / NUM_CHECKED * 1e6
            one = found[side]
            print(
                f"{side:6}  {one['seconds']:6.1f} s  peak {one['peak_over_held'] / 1e6:7.0f} MB over "
                f"start  {one['bytes'] / 1e6:7.0f} MB on disk  {micros:5.1f} us an entry"
            )
    is_equal = read["ours"] == read["theirs"]
    ratios = {name: found["theirs"][name] / found["ours"][name] for name in found["ours"]}
    print(
        f"{options.samples:,} samples, {len(WEIGHTS)} sources: {ratios['seconds']:.2f} times as fast as "
        f"megatron-core's path, {ratios['peak_over_held']:.1f} times less memory, {ratios['bytes']:.1f} "
        f"times fewer bytes; {NUM_CHECKED} entries {'equal' if is_equal else 'DIFFERENT'}"
    )
    return 0 if is_equal else 1


if __name__ == "__main__":
    sys.exit(main())
