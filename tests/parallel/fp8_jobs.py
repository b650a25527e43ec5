"""Jobs of test_fp8_state.py: a model whose linear layers keep FP8 history as Transformer Engine's do."""

from __future__ import annotations

import types
from typing import Any

import torch
from layout_jobs import Case, Run, metadata_of

HISTORY = 4


def begin(module: Any, history: int = HISTORY) -> None:
    """Tensors as RecipeState makes them: three a product forward, two backward."""
    for part, count in (("scaling_fwd", 3), ("scaling_bwd", 2)):
        module.fp8_meta[part] = types.SimpleNamespace(
            scale=torch.ones(count), amax_history=torch.zeros(history, count)
        )


def give_meta(run: Run, *, has_tensors: bool, history: int = HISTORY) -> None:
    """``fp8_meta`` on every linear layer, and a configuration that says delayed scaling."""
    from megatron_dream.checkpoint.state import unwrap

    for chunk in run.model:
        core = unwrap(chunk)
        core.config.fp8, core.config.fp8_recipe = "hybrid", "delayed"
        for layer in core.decoder.layers:
            for name, module in layer.named_modules():
                if "linear" not in name:
                    continue
                module.fp8_meta = {"fp8_checkpoint": False}
                module.init_fp8_meta_tensors = lambda _, m=module: begin(m, history)
                if has_tensors:
                    begin(module, history)
                    fill(module, layer.layer_number, name)


def fill(module: Any, layer: int, name: str) -> None:
    """Values that tell layer, module, direction and place; equal on all ranks of a stage."""
    first = 100.0 * layer + 10.0 * len(name)
    for index, part in enumerate(("scaling_fwd", "scaling_bwd")):
        state = module.fp8_meta[part]
        state.scale += first + index
        history = torch.arange(state.amax_history.numel()).view_as(state.amax_history)
        state.amax_history += history + first + index


def history_of(run: Run) -> dict[str, Any]:
    """All tensors by layer and module."""
    from megatron_dream.checkpoint.state import unwrap

    found = {}
    for chunk in run.model:
        for layer in unwrap(chunk).decoder.layers:
            for name, module in layer.named_modules():
                for part in ("scaling_fwd", "scaling_bwd"):
                    state = getattr(module, "fp8_meta", {}).get(part)
                    if state is not None:
                        key = f"{layer.layer_number}.{name}.{part}"
                        found[key] = (state.scale.tolist(), state.amax_history.tolist())
    return found


def save_history(case: Case, folder: str) -> dict[str, Any]:
    """Save a model with history; what it was."""
    from megatron_dream.checkpoint.save import CheckpointWriter, step_folder

    run = Run(case)
    give_meta(run, has_tensors=True)
    metadata = metadata_of(run, 1, "fully_reshardable")
    metadata.trained["recipe"]["fp8"]["recipe"] = "delayed"
    writer = CheckpointWriter(folder, run.ranks)
    writer.save(
        step_folder(1), run.model, metadata, optimizer=run.optimizer, scheduler=run.scheduler
    )
    writer.finish(wait=True)
    return history_of(run)


def load_history(case: Case, folder: str, history: int = HISTORY) -> tuple[dict[str, Any], Any]:
    """What a new model has after loading, and why its history began anew."""
    from megatron_dream.checkpoint.fp8_state import layout_of, why_reset
    from megatron_dream.checkpoint.load import load_training_state

    run = Run(case)
    give_meta(run, has_tensors=False, history=history)
    saved = load_training_state(folder, run.model, run.optimizer, run.scheduler, run.ranks)
    return history_of(run), why_reset(run.model, saved, layout_of(run.ranks))
