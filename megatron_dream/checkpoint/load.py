"""Reading a checkpoint into a model, and into an optimizer where a run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from .. import device
from ..errors import CheckpointError
from ..parallel import Ranks
from .buckets import follow_saved_buckets
from .fp8_state import put_history, wanted_history
from .metadata import CheckpointMetadata, read_metadata, resolve_checkpoint, verify_files
from .state import (
    load_model_state,
    model_state,
    optimizer_state,
    prepare_for_loading,
    separate_step_counters,
    sharding_options,
)
from .tensors import TensorReader
from .unpickle import check_metadata, restricted_reading


def verified_metadata(path: Path | str, ranks: Ranks) -> tuple[Path, CheckpointMetadata]:
    """Resolve and check a checkpoint, the checksums shared out over the processes.

    Raises:
        CheckpointError: on every process alike, with the first fault found.
    """
    folder = resolve_checkpoint(path)
    metadata = read_metadata(folder)
    fault = verify_files(folder, metadata, part=ranks.rank, parts=ranks.world_size)
    faults: list[str | None] = [None] * ranks.world_size
    dist.all_gather_object(faults, fault)
    if found := [sentence for sentence in faults if sentence]:
        raise CheckpointError(found[0])
    return folder, metadata


def _read(folder: Path, state: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.core import CheckpointingException
    from megatron.core.dist_checkpointing.serialization import get_default_load_sharded_strategy
    from megatron.core.dist_checkpointing.strategies.fully_parallel import (
        FullyParallelLoadStrategyWrapper,
    )

    check_metadata(folder / ".metadata")
    with restricted_reading():
        try:
            strategy = get_default_load_sharded_strategy(str(folder))
            if ranks.dp_size * ranks.cp_size > 1:
                strategy = FullyParallelLoadStrategyWrapper(strategy, ranks.dp_cp_group)
            return dist_checkpointing.load(state, str(folder), strategy)
        except (CheckpointingException, KeyError, RuntimeError) as error:
            first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(
                f"checkpoint {folder} does not fit this model or layout ({first_line}); compare "
                f"its megatron_dream.json with the configuration"
            ) from error


def load_weights(path: Path | str, chunks: list[Any], ranks: Ranks) -> CheckpointMetadata:
    """Load only the weights, on any layout."""
    folder, metadata = verified_metadata(path, ranks)
    options = sharding_options(metadata.optimizer_format or "fully_reshardable", ranks)
    load_model_state(chunks, _read(folder, model_state(chunks, options), ranks))
    return metadata


def check_optimizer_layout(
    metadata: CheckpointMetadata, folder: Path, here: tuple[int, int, int]
) -> None:
    """Refuse an optimizer that a layout cannot load.

    Args:
        metadata: of the checkpoint.
        folder: where it is.
        here: TP, PP and VP of the run.

    Raises:
        CheckpointError: weights only, or shards for other TP, PP or VP.
    """
    if not metadata.has_optimizer:
        raise CheckpointError(
            f"{folder} holds weights only; to start a new run from them set checkpoint.init_from"
        )
    saved = (metadata.layout.get("tp"), metadata.layout.get("pp"), metadata.layout.get("vp"))
    if metadata.optimizer_format == "dp_reshardable" and saved != here:
        raise CheckpointError(
            f"{folder} was saved at TP {saved[0]} PP {saved[1]} VP {saved[2]} in a format that lets "
            f"only the data-parallel size change, and this run has TP {here[0]} PP {here[1]} VP "
            f"{here[2]}; convert it: megatron-dream reshard {folder} OUT --tp {here[0]} --pp {here[1]}"
        )


def load_training_state(
    path: Path | str,
    chunks: list[Any],
    optimizer: Any,
    scheduler: Any,
    ranks: Ranks,
    *,
    verified: CheckpointMetadata | None = None,
) -> CheckpointMetadata:
    """Load weights, optimizer and scheduler, to go on where the run stopped, or to go back in a run.

    Args:
        path: checkpoint or run folder.
        chunks: of the model.
        optimizer: megatron-core's.
        scheduler: of its rate.
        ranks: this process's place.
        verified: the checkpoint's metadata, if its files were checked just now.

    Raises:
        CheckpointError: incomplete, altered, weights only, or saved for another layout in a format
            that does not change it.
    """
    if verified is None:
        folder, metadata = verified_metadata(path, ranks)
    else:
        folder, metadata = Path(path), verified
    check_optimizer_layout(metadata, folder, (ranks.tp_size, ranks.pp_size, ranks.vp_size))
    options = sharding_options(metadata.optimizer_format or "fully_reshardable", ranks)
    state = model_state(chunks, options)
    prepare_for_loading(optimizer)
    state["optimizer"] = optimizer_state(optimizer, state, options, is_loading=True)
    if metadata.optimizer_format == "dp_reshardable" and "param_state" in state["optimizer"]:
        follow_saved_buckets(state["optimizer"], optimizer, TensorReader(folder))
    if history := wanted_history(chunks, folder, metadata, ranks):
        state["fp8"] = history
    loaded = _read(folder, state, ranks)
    load_model_state(chunks, loaded)
    put_history(chunks, loaded.get("fp8", {}))
    optimizer.load_state_dict(loaded["optimizer"])
    separate_step_counters(optimizer)
    scheduler.num_steps = 0  # loading adds the saved number to it
    scheduler.load_state_dict(loaded["scheduler"])
    if device.device_type() == "cuda":
        torch.cuda.empty_cache()
    return metadata
