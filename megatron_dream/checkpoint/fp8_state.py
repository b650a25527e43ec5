"""FP8 history in checkpoints, so that a resumed run scales as one that never stopped.

Transformer Engine's own ``_extra_state`` is a pickle, which its module runs on loading; it stays out
(state.py). What delayed scaling looks back on is two tensors a direction of a linear layer, stored here as
one plain tensor ``fp8.layers.N.MODULE.scaling_fwd`` [1 + history, tensors]: the scale, then the largest
values. They are reduced over tensor-, context- and data-parallel ranks after every pass (megatron-core's
amax group), so that every rank of a stage holds the same. Recipes without history have nothing here.

Read against Transformer Engine 2.9 to 2.16 (module/base.py); tested with a stand-in of its modules.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..parallel import Ranks
from .metadata import CheckpointMetadata
from .state import unwrap
from .tensors import TensorReader

PREFIX = "fp8.layers."
_DIRECTIONS = ("scaling_fwd", "scaling_bwd")


def layout_of(ranks: Ranks) -> dict[str, int]:
    """A run's layout as metadata holds it."""
    return {name: getattr(ranks, f"{name}_size") for name in ("tp", "pp", "vp", "cp", "dp")}


def uses_history(chunks: list[Any]) -> bool:
    """Whether the model's recipe looks back."""
    config = unwrap(chunks[0]).config
    return bool(config.fp8) and config.fp8_recipe == "delayed"


def _linear_modules(chunks: list[Any]) -> Iterator[tuple[str, Any]]:
    """Modules with weights and FP8 state, by global layer number and name."""
    for chunk in chunks:
        for layer in unwrap(chunk).decoder.layers:
            for name, module in layer.named_modules():
                if isinstance(getattr(module, "fp8_meta", None), dict) and hasattr(
                    module, "weight"
                ):
                    yield f"{PREFIX}{layer.layer_number - 1}.{name}", module


def _sharded(key: str, values: Tensor, ranks: Ranks) -> Any:
    """One tensor that every rank of the stage holds; a single one of them writes it."""
    from megatron.core.dist_checkpointing import ShardedTensor

    replica = (0, ranks.tp_rank, dist.get_rank(ranks.dp_cp_group))
    return ShardedTensor.from_rank_offsets(key, values, replica_id=replica)


def saved_history(chunks: list[Any], ranks: Ranks) -> dict[str, Any]:
    """What goes into a checkpoint, by name; empty where nothing looks back."""
    if not uses_history(chunks):
        return {}
    found = {}
    for name, module in _linear_modules(chunks):
        for direction in _DIRECTIONS:
            state = module.fp8_meta.get(direction)
            if state is not None:
                key = f"{name}.{direction}"
                values = torch.cat((state.scale.unsqueeze(0), state.amax_history))
                found[key] = _sharded(key, values, ranks)
    return found


def why_reset(chunks: list[Any], saved: CheckpointMetadata, here: dict[str, int]) -> str | None:
    """Why FP8 history of a checkpoint is not taken over, as a sentence; None: it is, or there is none.

    Args:
        chunks: of the model.
        saved: the checkpoint's metadata.
        here: the run's layout, as metadata holds it.
    """
    recipe = saved.trained.get("recipe") or {}
    was_saved = (recipe.get("fp8") or {}).get("recipe") == "delayed"
    if not uses_history(chunks) or not was_saved or saved.layout == here:
        return None
    return (
        f"warning: FP8 history begins anew, since it was saved at layout {saved.layout} and this run has "
        f"{here}: for some steps scales are chosen from few values"
    )


def wanted_history(
    chunks: list[Any], folder: Path, saved: CheckpointMetadata, ranks: Ranks
) -> dict[str, Any]:
    """What is to be read from a checkpoint, empty where history begins anew."""
    if not uses_history(chunks) or why_reset(chunks, saved, layout_of(ranks)):
        return {}
    reader = TensorReader(folder)
    stored = {name for name in reader.names() if name.startswith(PREFIX)}
    keys = [f"{name}.{part}" for name, _ in _linear_modules(chunks) for part in _DIRECTIONS]
    device = next(unwrap(chunks[0]).parameters()).device
    return {
        key: _sharded(key, torch.empty(reader.shape(key), device=device), ranks)
        for key in keys
        if key in stored
    }


@torch.no_grad()
def put_history(chunks: list[Any], loaded: dict[str, Tensor]) -> None:
    """Give modules the history that was read; those of which none was read keep theirs.

    Modules that made no pass yet have no tensors: they are made as ``set_extra_state`` makes them.
    A history of another length is cut, or filled with zeros behind.
    """
    if not loaded:
        return
    from megatron.core.fp8_utils import get_fp8_recipe

    recipe = get_fp8_recipe(unwrap(chunks[0]).config)
    for name, module in _linear_modules(chunks):
        values = {part: loaded.get(f"{name}.{part}") for part in _DIRECTIONS}
        if any(value is None for value in values.values()):
            continue
        if _DIRECTIONS[0] not in module.fp8_meta:
            # Three tensors a product in the forward pass: input, weight, output.
            module.fp8_meta["num_gemms"] = values["scaling_fwd"].shape[1] // 3  # type: ignore[union-attr]
            module.fp8_meta["recipe"] = recipe
            module.init_fp8_meta_tensors(recipe)
        for part, value in values.items():
            state = module.fp8_meta[part]
            length = min(len(state.amax_history), len(value) - 1)  # type: ignore[arg-type]
            state.scale.copy_(value[0])  # type: ignore[index]
            state.amax_history.zero_()
            state.amax_history[:length].copy_(value[1 : length + 1])  # type: ignore[index]
