"""What a run is of, and whether a checkpoint may serve it: tokenizer, mask, shift, data order."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..checkpoint.metadata import CheckpointMetadata
from ..config.layout import Layout
from ..config.schema import RunConfig, SftConfig
from ..errors import CheckpointError
from ..tokenizer.base import Tokenizer, check_vocab


def resolve_vocabulary(config: RunConfig, tokenizer: Tokenizer) -> None:
    """Fill ``model.vocab_size`` from the tokenizer where it is 0, and refuse a table too small."""
    if config.model.vocab_size == 0:
        config.model.vocab_size = tokenizer.vocab_size
    check_vocab(tokenizer, config.model.vocab_size)


def run_metadata(
    config: RunConfig, tokenizer: Tokenizer, layout: Layout, index_hash: str, stage: str
) -> CheckpointMetadata:
    """The part of a checkpoint's metadata that stays the same over a run."""
    return CheckpointMetadata(
        model=dataclasses.asdict(config.model),
        mask_token_id=tokenizer.mask_id,
        tokenizer_fingerprint=tokenizer.fingerprint,
        tokenizer_path=str(config.tokenizer.path),
        special_token_ids={
            name: getattr(tokenizer, f"{name}_id")
            for name in ("pad", "eos", "bos", "mask", "expand")
        },
        num_tokens=tokenizer.vocab_size,
        shift=config.diffusion.shift,
        objective=config.diffusion.objective,
        stage=stage,
        index_hash=index_hash,
        new_stream=config.data.new_stream,
        diffusion=dataclasses.asdict(config.diffusion),
        sft=sft_identity(config.sft) if stage == "sft" else {},
        optimizer=config.optimizer.optimizer,
        use_distributed_optimizer=config.parallel.use_distributed_optimizer,
        layout={
            "tp": layout.tp,
            "pp": layout.pp,
            "vp": layout.vp,
            "cp": layout.cp,
            "dp": layout.dp,
        },
    )


def _differences(
    saved: CheckpointMetadata, here: CheckpointMetadata, names: list[str]
) -> list[str]:
    return [
        f"{name} is {getattr(saved, name)} there and {getattr(here, name)} here"
        for name in names
        if getattr(saved, name) is not None and getattr(saved, name) != getattr(here, name)
    ]


def _model_differences(saved: dict[str, Any], here: dict[str, Any]) -> list[str]:
    no_shape = {"preset", "layer_spec", "head_chunk_rows", "attention_dropout", "hidden_dropout"}
    no_shape |= {"init_method_std", "max_position_embeddings"}
    return [
        f"model.{name} is {saved.get(name)} there and {value} here"
        for name, value in here.items()
        if name not in no_shape and saved.get(name) != value
    ]


def sft_identity(sft: SftConfig) -> dict[str, Any]:
    """The fields that decide what a row is; its width is layout."""
    return {name: value for name, value in dataclasses.asdict(sft).items() if name != "width"}


def _section_differences(section: str, saved: dict[str, Any], here: dict[str, Any]) -> list[str]:
    return [
        f"{section}.{name} is {saved[name]} there and {value} here"
        for name, value in here.items()
        if name in saved and saved[name] != value
    ]


def check_initial_weights(
    saved: CheckpointMetadata, here: CheckpointMetadata, folder: str, *, override: bool
) -> None:
    """Refuse to start from weights of another shape, shift, mask id or tokenizer.

    Raises:
        CheckpointError: names both values; ``checkpoint.init_override`` allows all but the shape.
    """
    if shapes := _model_differences(saved.model, here.model):
        raise CheckpointError(f"checkpoint.init_from {folder}: {shapes[0]}; make the model equal")
    found = _differences(saved, here, ["shift", "mask_token_id", "tokenizer_fingerprint"])
    if found and not override:
        is_shift = saved.shift != here.shift
        way = (
            f"set diffusion.shift: {str(saved.shift).lower()}" if is_shift else "use the tokenizer"
        )
        raise CheckpointError(
            f"checkpoint.init_from {folder}: {found[0]}; {way} that it was made with, "
            f"or set checkpoint.init_override=true"
        )


def check_resume(saved: CheckpointMetadata, here: CheckpointMetadata, folder: str) -> None:
    """Refuse to go on with another model, objective, tokenizer, optimizer or order of the data.

    Raises:
        CheckpointError: names both values.
    """
    names = ["shift", "mask_token_id", "tokenizer_fingerprint", "objective", "stage"]
    names += ["optimizer", "use_distributed_optimizer"]
    names += ["new_stream" if here.new_stream < saved.new_stream else "index_hash"]
    if here.new_stream > saved.new_stream:
        names.remove("index_hash")  # other data, or the same in another order: what it is for
    found = _model_differences(saved.model, here.model) or _differences(saved, here, names)
    found = found or _section_differences("diffusion", saved.diffusion, here.diffusion)
    found = found or _section_differences("sft", saved.sft, here.sft)
    if found:
        raise CheckpointError(
            f"{folder} cannot be resumed: {found[0]}; restore the value, or start a new run folder "
            f"with checkpoint.init_from"
        )
