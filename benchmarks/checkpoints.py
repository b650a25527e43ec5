"""Saving, the stall of a background save, loading and resharding in MB/s, against dd on the same disk.

Two tensor-parallel ranks, fp32, Adam: 16 bytes a parameter. Each round takes its turns: dd writes as many
bytes (conv=fsync) from a file of random bytes in the page cache, a save, a background save, dd reads (files
dropped from the page cache before), a load; then come the reshards of optimizer shards. A save hashes and
fsyncs every file; a load compares the hashes; a reshard starts processes of its own, which cost seconds
however small the model is.

    python benchmarks/checkpoints.py [--parameters 60e6] [--rounds 3] [--folder DISK]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

RANKS = 2


def files_of(folder: Path) -> list[Path]:
    """Every file of a folder."""
    return [path for path in folder.rglob("*") if path.is_file()]


def size_of(folder: Path) -> int:
    """Bytes of a folder."""
    return sum(path.stat().st_size for path in files_of(folder))


def forget(*paths: Path) -> None:
    """Write files out and drop them from the page cache."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def dd(*words: str) -> float:
    """Seconds of a copy by dd in pieces of 4 MiB."""
    started = time.perf_counter()
    subprocess.run(["dd", "bs=4M", *words], check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def model_fields(parameters: float) -> dict[str, int]:
    """A shape of about so many parameters, whole layers for two stages: one has 12.5 x 512 x 512."""
    layers = 2 * max(1, round((parameters - 2 * 4096 * 512) / (2 * 12.5 * 512 * 512)))
    return {
        "num_layers": layers,
        "hidden_size": 512,
        "num_attention_heads": 8,
        "num_query_groups": 8,
        "ffn_hidden_size": 1450,
        "vocab_size": 4096,
    }


class Rank:
    """One of the two ranks: a model with its optimizer, saved and loaded in one folder."""

    def __init__(self, folder: Path, parameters: float) -> None:
        from megatron_dream import parallel
        from megatron_dream.checkpoint.state import _begin_state
        from megatron_dream.config.schema import ModelConfig, ParallelConfig, RunConfig
        from megatron_dream.model.build import build_model
        from megatron_dream.training.optimizer import (
            build_optimizer,
            build_scheduler,
            wrap_data_parallel,
        )

        self.folder = folder
        self.config = RunConfig(model=ModelConfig(**model_fields(parameters)))
        self.config.model.layer_spec = "local"
        self.config.parallel = ParallelConfig(tensor_model_parallel_size=RANKS)
        self.config.training.precision = "fp32"
        self.ranks = parallel.start(self.config.parallel)
        config = self.config
        chunks = build_model(config.model, config.parallel, config.training, self.ranks)
        self.model = wrap_data_parallel(chunks, config)
        self.optimizer = build_optimizer(self.model, config)
        self.scheduler = build_scheduler(self.optimizer, config)
        for inner in getattr(self.optimizer, "chained_optimizers", [self.optimizer]):
            _begin_state(inner.optimizer)

    def save(self, name: str, *, asynchronous: bool) -> tuple[float, float]:
        """Seconds until training could go on, and until the checkpoint is complete."""
        import dataclasses

        from megatron_dream.checkpoint.metadata import CheckpointMetadata
        from megatron_dream.checkpoint.save import CheckpointWriter
        from megatron_dream.parallel import barrier

        metadata = CheckpointMetadata(
            model=dataclasses.asdict(self.config.model),
            has_optimizer=True,
            optimizer_format="dp_reshardable",
            layout={"tp": RANKS, "pp": 1, "vp": 1, "cp": 1, "dp": 1},
            trained={"recipe": dataclasses.asdict(self.config)},
        )
        writer = CheckpointWriter(
            self.folder, self.ranks, asynchronous=asynchronous, moves_latest=False
        )
        barrier()
        started = time.perf_counter()
        writer.save(name, self.model, metadata, optimizer=self.optimizer, scheduler=self.scheduler)
        stall = time.perf_counter() - started
        writer.finish(wait=True)
        return stall, time.perf_counter() - started

    def load(self, name: str) -> float:
        """Seconds."""
        from megatron_dream.checkpoint.load import load_training_state
        from megatron_dream.parallel import barrier

        if self.ranks.rank == 0:
            forget(*files_of(self.folder / name))
        barrier()
        started = time.perf_counter()
        load_training_state(
            self.folder / name, self.model, self.optimizer, self.scheduler, self.ranks
        )
        barrier()
        return time.perf_counter() - started


def work(options: argparse.Namespace) -> None:
    """The rounds, on each rank; rank 0 measures dd and writes what was found."""
    from megatron_dream.parallel import barrier

    rank = Rank(options.folder, options.parameters)
    is_first = rank.ranks.rank == 0
    plain, source = options.folder / "plain", options.folder / "random"
    rank.save("warm", asynchronous=False)
    size = size_of(options.folder / "warm")
    if is_first:
        with open(source, "wb") as stream:
            for _ in range(-(-size // (4 << 20))):
                stream.write(os.urandom(4 << 20))
    found: list[dict[str, float]] = []
    for number in range(options.rounds):
        row: dict[str, float] = {}
        if is_first:
            row["dd write"] = dd(f"if={source}", f"of={plain}", "conv=fsync")
        row["save"] = rank.save(f"sync{number}", asynchronous=False)[1]
        row["stall"], row["background save"] = rank.save(f"async{number}", asynchronous=True)
        if is_first:
            forget(plain)
            row["dd read"] = dd(f"if={plain}", "of=/dev/null")
        barrier()
        row["load"] = rank.load(f"sync{number}")
        found.append(row)
        barrier()
        if is_first:
            for name in (f"async{number}", f"sync{number - 1}"):
                shutil.rmtree(options.folder / name, ignore_errors=True)
    if is_first:
        (options.folder / "found.json").write_text(json.dumps({"bytes": size, "rounds": found}))


def reshard_seconds(folder: Path, rounds: int) -> list[float]:
    """Of ``reshard`` from two tensor-parallel ranks to two stages, processes and all."""
    found = []
    for number in range(rounds):
        source, out = folder / f"sync{rounds - 1}", folder / f"resharded{number}"
        forget(*files_of(source))
        words = ["reshard", str(source), str(out), "--tp", "1", "--pp", "2"]
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "megatron_dream", *words],
            check=True,
            stdout=subprocess.DEVNULL,
            env=environment(),
        )
        found.append(time.perf_counter() - started)
        shutil.rmtree(out)
    return found


def environment() -> dict[str, str]:
    """Of the processes that are started."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONWARNINGS": "ignore",
        "MEGATRON_DREAM_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
    }


def show(found: dict[str, Any], reshards: list[float]) -> None:
    """MB/s, and the ratio to what dd does in the same round."""
    size, rounds = found["bytes"], found["rounds"]
    print(f"{size / 1e6:,.0f} MB a checkpoint, {len(rounds)} rounds: median (least to most)")

    def line(name: str, seconds: list[float], baseline: str | None) -> None:
        speeds = [size / 1e6 / value for value in seconds]
        ratio = ""
        if baseline is not None:
            ratios = [row[baseline] / value for row, value in zip(rounds, seconds, strict=True)]
            ratio = f", {statistics.median(ratios):.2f} of {baseline}"
        print(
            f"{name:<16} {statistics.median(seconds):7.2f} s {statistics.median(speeds):8.0f} MB/s "
            f"({min(speeds):.0f} to {max(speeds):.0f}){ratio}"
        )

    line("dd write", [row["dd write"] for row in rounds], None)
    line("save", [row["save"] for row in rounds], "dd write")
    line("background save", [row["background save"] for row in rounds], "dd write")
    line("its stall", [row["stall"] for row in rounds], "dd write")
    line("dd read", [row["dd read"] for row in rounds], None)
    line("load", [row["load"] for row in rounds], "dd read")
    both = [{"dd both": row["dd write"] + row["dd read"]} for row in rounds]
    for row, more in zip(rounds, both, strict=True):
        row.update(more)
    line("reshard", reshards, "dd both")


def main() -> None:
    """Start the ranks, then reshard, then print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=float, default=60e6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, help="on the disk to measure (default: a temporary one)"
    )
    parser.add_argument("--is-rank", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.is_rank:
        work(options)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        words = ["--parameters", str(options.parameters), "--rounds", str(options.rounds)]
        subprocess.run(
            [
                sys.executable, "-m", "torch.distributed.run", "--standalone",
                "--nproc_per_node", str(RANKS), __file__, "--is-rank", "--folder", name, *words,
            ],
            check=True,
            env=environment(),
        )  # fmt: skip
        found = json.loads((Path(name) / "found.json").read_text())
        show(found, reshard_seconds(Path(name), options.rounds))


if __name__ == "__main__":
    main()
