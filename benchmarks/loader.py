"""Loading rows: speed by workers, a resume at step 100,000, memory, and DALI beside torch.

Everything on token files made here: two sources, rows of 2,048 tokens, micro-batches of 4 rows, the
diffusion objective with CART weights. One run prints

(a) samples per second, and CPU time a sample, of the torch loader with 0, 1 and 2 workers;
(b) seconds from opening the data to the first batch, at step 0 and at step 100,000;
(c) resident memory of every process at the start and after many batches. Of it, file pages
    (libraries, and the token files as they are touched) are shared by all processes, and a forked
    worker shares what its parent had;
(d) DALI against torch on the same samples, compared byte for byte, if DALI is installed.

Loaders that are compared run in turns; a figure is the median over rounds, a ratio that of
neighbouring runs.

    python benchmarks/loader.py            about three minutes on 2 cores
"""

from __future__ import annotations

import argparse
import resource
import statistics
import struct
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from megatron_dream.config.schema import RunConfig, SourceConfig  # noqa: E402
from megatron_dream.data.build import build_streams  # noqa: E402
from megatron_dream.data.loader import MicroBatchIterator  # noqa: E402
from megatron_dream.data.stream import NoisedStream  # noqa: E402
from megatron_dream.errors import MissingDependencyError  # noqa: E402

LENGTH, ROWS, MICRO_BATCHES, RANKS = 2048, 4, 4, 4
GLOBAL_BATCH = ROWS * MICRO_BATCHES * RANKS
RESUMED_STEP = 100_000
WARM_UP = 20  # batches; more than any loader here prepares ahead
DOCUMENTS, MEAN_TOKENS = 8_000, 800
VOCAB, EOD, BOS, MASK = 60_000, 59_999, 59_998, 59_997
TOKENIZER: Any = SimpleNamespace(
    vocab_size=VOCAB, mask_id=MASK, bos_id=BOS, eod_id=EOD, fingerprint="ab" * 32
)


def write_tokens(prefix: Path, seed: int) -> Path:
    """P.bin and P.idx (Megatron's format) of documents of random ids that end with EOD."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 2 * MEAN_TOKENS, DOCUMENTS).astype(np.int32)
    tokens = rng.integers(0, MASK, int(lengths.sum())).astype(np.uint16)
    ends = np.cumsum(lengths, dtype=np.int64)
    tokens[ends - 1] = EOD
    tokens.tofile(f"{prefix}.bin")
    header = struct.pack("<9sQBQQ", b"MMIDIDX\x00\x00", 1, 8, DOCUMENTS, DOCUMENTS + 1)
    offsets = (ends - lengths) * tokens.itemsize
    sequences = np.arange(DOCUMENTS + 1, dtype=np.int64)
    Path(f"{prefix}.idx").write_bytes(
        header + lengths.tobytes() + offsets.tobytes() + sequences.tobytes()
    )
    return prefix


def open_stream(folder: Path) -> NoisedStream:
    """The training stream, long enough for the resumed step; its index is built by the first call."""
    config = RunConfig()
    config.data.sequence_length = LENGTH
    config.data.cache_folder = str(folder / "cache")
    config.data.train = [
        SourceConfig(prefix=str(folder / name), weight=weight)
        for name, weight in (("large", 0.7), ("small", 0.3))
    ]
    samples = (RESUMED_STEP + 2_000) * GLOBAL_BATCH
    return build_streams(config, TOKENIZER, train_samples=samples)[0]


def iterate(stream: NoisedStream, step: int = 0, **options: Any) -> MicroBatchIterator:
    """Micro-batches of data-parallel rank 0 from ``step`` on."""
    return MicroBatchIterator(
        stream,
        consumed=step * GLOBAL_BATCH,
        micro_batch_size=ROWS,
        num_microbatches=MICRO_BATCHES,
        dp_size=RANKS,
        **options,
    )


def cpu_seconds() -> float:
    """Of this process and of the children that ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def rate(stream: NoisedStream, batches: int, **options: Any) -> tuple[float, float]:
    """Samples per second, without those prepared before the clock started, and CPU ms a sample."""
    before = cpu_seconds()
    iterator = iterate(stream, **options)
    try:
        for _ in range(WARM_UP):
            next(iterator)
        started = time.perf_counter()
        for _ in range(batches):
            next(iterator)
        seconds = time.perf_counter() - started
    finally:
        iterator.close()
    cpu = cpu_seconds() - before
    return batches * ROWS / seconds, 1e3 * cpu / ((batches + WARM_UP) * ROWS)


def rates(
    stream: NoisedStream, rounds: int, batches: int, variants: dict[str, dict[str, Any]]
) -> dict[str, tuple[list[float], float]]:
    """Of each variant samples per second by round, and the median CPU ms; they take turns."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, options in variants.items():
            found[name].append(rate(stream, batches, **options))
    return {
        name: ([speed for speed, _ in pairs], statistics.median(cpu for _, cpu in pairs))
        for name, pairs in found.items()
    }


def spread(values: list[float]) -> str:
    """Least and most of a few rounds."""
    digits = 0 if max(values) > 10 else 2
    return f"{min(values):.{digits}f} to {max(values):.{digits}f} in {len(values)} rounds"


def show_workers(stream: NoisedStream, rounds: int, batches: int) -> None:
    """(a)."""
    variants = {str(count): {"num_workers": count} for count in (0, 1, 2)}
    for name, (speeds, cpu) in rates(stream, rounds, batches, variants).items():
        speed = statistics.median(speeds)
        print(
            f"torch loader, {name} workers: {speed:8.0f} samples/s, "
            f"{speed * LENGTH / 1e6:6.2f} million tokens/s, {cpu:.2f} CPU ms a sample "
            f"({spread(speeds)})",
            flush=True,
        )


def show_resume(folder: Path, rounds: int) -> None:
    """(b)."""
    seconds: dict[int, list[float]] = {0: [], RESUMED_STEP: []}
    for _ in range(rounds):
        for step, values in seconds.items():
            started = time.perf_counter()
            iterator = iterate(open_stream(folder), step)
            next(iterator)
            values.append(time.perf_counter() - started)
            iterator.close()
    start, resumed = (statistics.median(values) for values in seconds.values())
    print(
        f"first batch: {start:.3f} s at step 0, {resumed:.3f} s after a resume at step "
        f"{RESUMED_STEP:,} ({RESUMED_STEP * GLOBAL_BATCH:,} samples into the stream; data opened "
        f"anew each time, median of {rounds})",
        flush=True,
    )


def memory(pid: int | str) -> tuple[float, float]:
    """MB resident of a process, and how much of that are pages of files."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    resident, files = (int(fields[name].split()[0]) / 1e3 for name in ("VmRSS", "RssFile"))
    return resident, files


def show_memory(stream: NoisedStream, batches: int, loader: str) -> None:
    """(c)."""
    iterator = iterate(stream, num_workers=2, loader=loader)
    for _ in range(WARM_UP):
        next(iterator)
    buffers: Any = iterator._buffers
    workers = buffers.workers if loader == "dali" else buffers._workers
    pids = {"reader": "self"} | {f"worker {n}": str(w.pid) for n, w in enumerate(workers)}
    before = {name: memory(pid) for name, pid in pids.items()}
    for _ in range(batches):
        next(iterator)
    for name, pid in pids.items():
        (first, first_files), (last, last_files) = before[name], memory(pid)
        print(
            f"{loader} loader, {name:8}: {first:.1f} MB resident after {WARM_UP} batches "
            f"({first_files:.1f} of files), {last:.1f} ({last_files:.1f}) after {batches + WARM_UP:,}: "
            f"{(last - last_files) / (first - first_files):.3f} times without the files",
            flush=True,
        )
    iterator.close()


def are_equal(stream: NoisedStream, batches: int, num_workers: int) -> bool:
    """Whether both loaders give the same tensors."""
    pair = [iterate(stream, num_workers=num_workers, loader=name) for name in ("torch", "dali")]
    try:
        for _ in range(batches):
            one, other = (next(iterator) for iterator in pair)
            if list(one) != list(other) or any(not torch.equal(one[k], other[k]) for k in one):
                return False
        return True
    finally:
        for iterator in pair:
            iterator.close()


def show_dali(stream: NoisedStream, rounds: int, batches: int, memory_batches: int) -> bool:
    """(d); whether the loaders agree."""
    try:
        from megatron_dream.data.dali_feed import import_dali

        version = import_dali().__version__
    except MissingDependencyError:
        print("DALI is not installed (pip install 'megatron-dream[dali]'): not compared")
        return True
    agree = True
    for count in (0, 2):
        is_equal = are_equal(stream, batches, count)
        agree = agree and is_equal
        variants = {name: {"num_workers": count, "loader": name} for name in ("torch", "dali")}
        found = rates(stream, rounds, batches, variants)
        (theirs, cpu), (ours, dali_cpu) = found["torch"], found["dali"]
        ratios = [b / a for a, b in zip(theirs, ours, strict=True)]
        print(
            f"DALI {version} on the CPU, {count} workers: {statistics.median(ours):.0f} samples/s, "
            f"torch {statistics.median(theirs):.0f}; ratio {statistics.median(ratios):.2f} "
            f"({spread(ratios)}); {dali_cpu:.2f} and {cpu:.2f} CPU ms a sample; {batches} batches "
            f"{'equal' if is_equal else 'DIFFER'}",
            flush=True,
        )
    show_memory(stream, memory_batches, "dali")
    return agree


def main() -> int:
    """Print all figures; 1 if DALI's batches are not torch's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=400, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-batches", type=int, default=5_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed, source in enumerate(("large", "small")):
            write_tokens(folder / source, seed)
        stream = open_stream(folder)
        show_workers(stream, options.rounds, options.batches)
        show_resume(folder, options.rounds)
        show_memory(stream, options.memory_batches, "torch")
        agree = show_dali(stream, options.rounds, options.batches, options.memory_batches)
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
