"""``reshard``: make a checkpoint that can be resumed at another TP and PP.

The fully reshardable format loads on any layout, so that such a checkpoint is copied after every
file was verified. A dp_reshardable one holds optimizer shards as its TP and PP cut them: as many
processes as that layout has are started here, load it, and save the fully reshardable format. Both
need no GPU.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from .. import parallel
from ..checkpoint.load import load_training_state
from ..checkpoint.metadata import (
    CheckpointMetadata,
    read_metadata,
    resolve_checkpoint,
    verify_files,
    write_metadata,
)
from ..checkpoint.save import CheckpointWriter
from ..config.layout import resolve_layout
from ..config.schema import ModelConfig, ParallelConfig, RunConfig
from ..errors import CheckpointError, UserError
from ..files import atomic_folder
from ..model.build import build_model
from .optimizer import build_optimizer, build_scheduler, wrap_data_parallel


def reshard(checkpoint: Path | str, out: Path | str, tp: int, pp: int) -> Path:
    """Write ``out``, a checkpoint with the content of ``checkpoint`` for TP ``tp`` and PP ``pp``.

    Raises:
        CheckpointError: the source is incomplete or altered, or ``out`` exists.
        LayoutError: the model cannot be cut that way.
    """
    folder, out = resolve_checkpoint(checkpoint), Path(out)
    metadata = read_metadata(folder)
    if fault := verify_files(folder, metadata):
        raise CheckpointError(fault)
    if out.exists():
        raise CheckpointError(f"{out} exists; name a new folder or remove it")
    _check_layout(metadata, tp, pp)
    out.parent.mkdir(parents=True, exist_ok=True)
    layout = {"tp": tp, "pp": pp, "vp": 1, "cp": 1, "dp": 1}
    if metadata.has_optimizer and metadata.optimizer_format == "dp_reshardable":
        _convert(folder, out, metadata)
        metadata = read_metadata(out)
        write_metadata(out, dataclasses.replace(metadata, layout=layout))
    else:
        with atomic_folder(out) as temporary:
            for name in metadata.files:
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / name, temporary / name)
            write_metadata(temporary, dataclasses.replace(metadata, layout=layout))
    print(f"{out}: step {metadata.step}, for TP {tp} and PP {pp}")
    return out


def _check_layout(metadata: CheckpointMetadata, tp: int, pp: int) -> None:
    config = RunConfig(model=ModelConfig(**metadata.model))
    config.parallel = ParallelConfig(tensor_model_parallel_size=tp, pipeline_model_parallel_size=pp)
    config.data.sequence_length = min(
        config.data.sequence_length, config.model.max_position_embeddings
    )
    resolve_layout(config, tp * pp)


def _convert(folder: Path, out: Path, metadata: CheckpointMetadata) -> None:
    """Start the source layout's processes (this module as a program) and wait for them."""
    world_size = metadata.layout["tp"] * metadata.layout["pp"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(world_size),
        "MEGATRON_DREAM_DEVICE": "cpu",
    }
    command = [sys.executable, "-m", __name__, str(folder), str(out)]
    processes = [
        subprocess.Popen(command, env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(world_size)
    ]
    if any([process.wait() for process in processes]):
        raise CheckpointError(f"{folder} could not be converted; the message above says why")


def _convert_rank(folder: Path, out: Path) -> None:
    """One process of ``_convert``: load at the source's layout, save fully reshardable."""
    metadata = read_metadata(folder)
    config = RunConfig(model=ModelConfig(**{**metadata.model, "layer_spec": "local"}))
    virtual = metadata.layout.get("vp", 1)
    config.parallel = ParallelConfig(
        tensor_model_parallel_size=metadata.layout["tp"],
        pipeline_model_parallel_size=metadata.layout["pp"],
        virtual_pipeline_model_parallel_size=virtual if virtual > 1 else None,
    )
    recipe = metadata.trained.get("recipe", {})
    config.training.precision = recipe.get("training", {}).get("precision", "bf16")
    config.training.train_steps = recipe.get("training", {}).get("train_steps", 1)
    ranks = parallel.start(config.parallel)
    chunks = build_model(config.model, config.parallel, config.training, ranks)
    wrapped = wrap_data_parallel(chunks, config)
    optimizer = build_optimizer(wrapped, config)
    scheduler = build_scheduler(optimizer, config)
    load_training_state(folder, wrapped, optimizer, scheduler, ranks)
    changed = dataclasses.replace(metadata, optimizer_format="fully_reshardable")
    writer = CheckpointWriter(out.parent, ranks, moves_latest=False)
    writer.save(out.name, wrapped, changed, optimizer=optimizer, scheduler=scheduler)
    parallel.stop()


if __name__ == "__main__":
    try:
        _convert_rank(Path(sys.argv[1]), Path(sys.argv[2]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
