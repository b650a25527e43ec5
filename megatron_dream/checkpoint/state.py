"""What goes into a checkpoint: sharded state dicts of model and optimizer.

Faults of megatron-core 0.16's distributed optimizer around torch's Adam (no Transformer Engine, no
apex) are mended here: a fresh one has no state to load into; loading asks for a ``step`` that is
stored elsewhere and copies into views of leaves; and afterwards all parameters share one ``step``
tensor, which would then advance once a parameter. A fourth is silent: with several buckets in a
buffer (tied embeddings under pipelining, overlapped reduction) the fully reshardable format drops
the padding between buckets but goes on to address tensors by offsets that count it, and so writes
shifted moments; ``optimizer_state`` keeps it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch

from ..errors import CheckpointError
from ..parallel import Ranks
from .buckets import clip_gaps

LARGE_MODEL_PARAMETERS = 1_000_000_000
_EXTRA_STATE = "_extra_state"


def unwrap(model: Any) -> Any:
    """The GPTModel inside data-parallel and mixed-precision wrappers."""
    while hasattr(model, "module"):
        model = model.module
    return model


def gather_weights(chunks: list[Any]) -> None:
    """Have every data-parallel rank hold all weights as the last update left them; all ranks call this.

    With ``overlap_param_gather`` a rank has the new weights of its own shard alone until the next forward
    pass, which then gathers nothing.
    """
    for chunk in chunks:
        ddp_config = getattr(chunk, "ddp_config", None)
        if ddp_config is not None and ddp_config.overlap_param_gather:
            chunk.start_param_sync(force_sync=True)


def choose_optimizer_format(requested: str, chunks: list[Any], ranks: Ranks) -> str:
    """``fully_reshardable`` for small models, ``dp_reshardable`` above a billion parameters.

    The first gathers the whole optimizer on data-parallel ranks and loads on any layout; the second
    writes each rank's shard as it is and lets only the data-parallel size change.
    """
    if requested != "auto":
        return requested
    ddp_config = getattr(chunks[0], "ddp_config", None)
    if ddp_config is not None and not ddp_config.use_distributed_optimizer:
        return "fully_reshardable"  # there are no shards
    local = sum(p.numel() for chunk in chunks for p in unwrap(chunk).parameters())
    whole = local * ranks.tp_size * ranks.pp_size
    return "dp_reshardable" if whole > LARGE_MODEL_PARAMETERS else "fully_reshardable"


def sharding_options(optimizer_format: str, ranks: Ranks) -> dict[str, Any]:
    """The options that megatron-core's ``sharded_state_dict`` methods take."""
    return {
        "distrib_optim_sharding_type": optimizer_format,
        "chained_optim_avoid_prefix": True,
        "dp_cp_group": ranks.dp_cp_group,
    }


def model_state(chunks: list[Any], options: dict[str, Any]) -> dict[str, Any]:
    """Sharded state dict of all model chunks; layers are named by their global number.

    Transformer Engine's ``_extra_state`` stays out: it is a pickle, which its module would run on
    loading, the other layer spec has none, and in bf16 it is empty.
    """
    states = [
        {
            name: value
            for name, value in unwrap(chunk).sharded_state_dict(metadata=options).items()
            if not name.endswith(_EXTRA_STATE)
        }
        for chunk in chunks
    ]
    if len(states) == 1:
        return {"model": states[0]}
    return {f"model{index}": state for index, state in enumerate(states)}


def load_model_state(chunks: list[Any], loaded: dict[str, Any]) -> None:
    """Put what ``dist_checkpointing.load`` returned into the model chunks."""
    for index, chunk in enumerate(chunks):
        key = "model" if len(chunks) == 1 else f"model{index}"
        found = unwrap(chunk).load_state_dict(loaded[key], strict=False)
        missing = [name for name in found.missing_keys if not name.endswith(_EXTRA_STATE)]
        if missing or found.unexpected_keys:
            name = (missing + found.unexpected_keys)[0]
            raise CheckpointError(
                f"the checkpoint and the model differ in {name}; compare megatron_dream.json with "
                f"the configuration"
            )


def _inner_optimizers(optimizer: Any) -> list[Any]:
    return list(getattr(optimizer, "chained_optimizers", [optimizer]))


@torch.no_grad()
def _fill_state(optimizer: Any, model_parameter: Any, tensors: dict[str, torch.Tensor]) -> None:
    """Copy loaded tensors into one parameter's fp32 copy and moments; ``step`` comes with the groups."""
    group, order = optimizer.model_param_group_index_map[model_parameter]
    main = optimizer.optimizer.param_groups[group]["params"][order]
    targets = {"param": main, **optimizer.optimizer.state[main]}
    for name, target in targets.items():
        if name != "step":
            target.copy_(tensors[name])


@contextlib.contextmanager
def _padding_kept(optimizer: Any) -> Iterator[None]:
    """Make buckets and buffers call their whole length their content."""
    buffers = [b for inner in _inner_optimizers(optimizer) for b in getattr(inner, "buffers", [])]
    buckets = [bucket for buffer in buffers for bucket in buffer.buckets]
    saved = [(item, item.numel_unpadded) for item in (*buffers, *buckets)]
    for buffer in buffers:
        buffer.numel_unpadded = buffer.numel
    for bucket in buckets:
        bucket.numel_unpadded = bucket.grad_data.numel()
    try:
        yield
    finally:
        for item, numel in saved:
            item.numel_unpadded = numel


def optimizer_state(
    optimizer: Any, model: dict[str, Any], options: dict[str, Any], *, is_loading: bool = False
) -> Any:
    """Sharded state dict of the optimizer, beside the model's."""
    if not is_loading:
        for inner in _inner_optimizers(optimizer):
            if len(inner.optimizer.state) == 0:
                _begin_state(inner.optimizer)
    reshardable = options["distrib_optim_sharding_type"] == "fully_reshardable"
    with _padding_kept(optimizer) if reshardable else contextlib.nullcontext():
        state = optimizer.sharded_state_dict(model, is_loading=is_loading, metadata=options)
    if not is_loading and "param_state" in state:
        clip_gaps(state["param_state"])
    return state


def _begin_state(optimizer: Any) -> None:
    """Give an optimizer that has made no step the state of its beginning, which megatron-core can save.

    Such are saved where every step so far was skipped. A step without gradient, rate and decay leaves
    weights and moments as they are.
    """
    kept = [
        {name: group[name] for name in ("lr", "weight_decay")} for group in optimizer.param_groups
    ]
    for group in optimizer.param_groups:
        group.update(lr=0.0, weight_decay=0.0)
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    for group, values in zip(optimizer.param_groups, kept, strict=True):
        group.update(values)
        if "step" in group:  # fused optimizers count there
            group["step"] = 0
    for state in optimizer.state.values():
        if isinstance(state.get("step"), torch.Tensor):
            state["step"].zero_()


def _has_distributed_state(inner: Any) -> bool:
    return hasattr(inner, "_init_optimizer_states_with_dummy_values")


def prepare_for_loading(optimizer: Any) -> None:
    """Give fresh optimizers a state whose tensors the load can fill."""
    for inner in _inner_optimizers(optimizer):
        if not _has_distributed_state(inner):
            continue
        if len(inner.optimizer.state) == 0:
            inner._init_optimizer_states_with_dummy_values()
        if not inner.config.use_precision_aware_optimizer_no_fp8_or_ds_fp8:
            inner._set_main_param_and_optimizer_states = functools.partial(_fill_state, inner)


def separate_step_counters(optimizer: Any) -> None:
    """Give every parameter a ``step`` tensor of its own."""
    for inner in _inner_optimizers(optimizer):
        for state in inner.optimizer.state.values():
            if isinstance(state.get("step"), torch.Tensor):
                state["step"] = state["step"].clone()
