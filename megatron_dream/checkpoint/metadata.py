"""megatron_dream.json: what a checkpoint is of, and the list of its files with sizes and checksums.

A checkpoint is complete when megatron-core's own marker (metadata.json) and this file are there and
every file in the list has its size and checksum. It is written last, before the folder gets its
name, and holds a checksum of itself.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..files import sha256_file, write_json

FILE_NAME = "megatron_dream.json"
LATEST = "latest"
FORMAT_VERSION = 1


@dataclasses.dataclass
class CheckpointMetadata:
    """Content of megatron_dream.json."""

    model: dict[str, Any]  # ModelConfig, presets filled in
    mask_token_id: int | None = None
    tokenizer_fingerprint: str | None = None
    tokenizer_path: str | None = None  # where the run found it; a hint, never trusted
    special_token_ids: dict[str, int] = dataclasses.field(default_factory=dict)
    num_tokens: int | None = None  # ids that are tokens; rows beyond are padding of the table
    objective: str = "diffusion"
    shift: bool = True
    step: int = 0
    consumed_samples: int = 0  # ordinals of finished updates, of the present stream
    new_stream: int = 0  # number of the present stream over the data
    earlier_samples: int = 0  # consumed of streams before it
    skipped_ranges: list[list[int]] = dataclasses.field(default_factory=list)  # [first, end)
    index_hash: str | None = None
    diffusion: dict[str, Any] = dataclasses.field(default_factory=dict)  # DiffusionConfig
    stage: str | None = None  # pretrain, sft; None: imported
    sft: dict[str, Any] = dataclasses.field(default_factory=dict)  # SftConfig, of that stage
    faults: dict[str, Any] = dataclasses.field(default_factory=dict)  # state of the detector
    has_optimizer: bool = False
    optimizer_format: str | None = None
    optimizer: str | None = None
    use_distributed_optimizer: bool | None = None
    layout: dict[str, int] = dataclasses.field(default_factory=dict)  # tp, pp, vp, cp, dp
    trained: dict[str, Any] = dataclasses.field(default_factory=dict)  # for the model card
    files: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    version: int = FORMAT_VERSION
    checksum: str | None = None  # of all the rest; None: written before there was one


def read_metadata(folder: Path | str) -> CheckpointMetadata:
    """Read and check megatron_dream.json of a checkpoint folder.

    Raises:
        CheckpointError: missing, unreadable, altered, of another version, or with unknown or missing
            fields.
    """
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is no complete checkpoint: {FILE_NAME} is missing; name a folder that "
            f"contains it, or a run folder with a file 'latest'"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{path} is not valid JSON ({error}); use another checkpoint"
        ) from None
    if not isinstance(values, dict) or values.get("version") != FORMAT_VERSION:
        found = values.get("version") if isinstance(values, dict) else type(values).__name__
        raise CheckpointError(
            f"{path} has version {found!r}, this program reads {FORMAT_VERSION}; "
            f"use the program that wrote it"
        )
    names = {field.name for field in dataclasses.fields(CheckpointMetadata)}
    if unknown := sorted(set(values) - names):
        raise CheckpointError(f"{path} has an unknown field {unknown[0]!r}; use another checkpoint")
    if not isinstance(values.get("model"), dict) or not isinstance(values.get("files"), dict):
        raise CheckpointError(f"{path} lacks the field 'model' or 'files'; use another checkpoint")
    metadata = CheckpointMetadata(**values)
    if metadata.checksum not in (None, _checksum(values)):
        raise CheckpointError(f"{path} was altered: its checksum differs; use another checkpoint")
    if name := _wrong_field(metadata):
        raise CheckpointError(f"{path}: {name} is {values[name]!r}; use another checkpoint")
    return metadata


def refuse_without_shift(folder: Path | str, metadata: CheckpointMetadata) -> None:
    """Refuse what samplers do not know: a model trained without the shift.

    Raises:
        CheckpointError: it is one.
    """
    if not metadata.shift:
        raise CheckpointError(
            f"{folder} was trained with diffusion.shift false, and sampling and exports know models with "
            f"the shift only; name another checkpoint, or train with diffusion.shift true"
        )


def write_metadata(folder: Path | str, metadata: CheckpointMetadata) -> None:
    """Write megatron_dream.json of a checkpoint folder, atomically, with its own checksum."""
    values = json.loads(json.dumps(dataclasses.asdict(metadata)))
    write_json(Path(folder) / FILE_NAME, {**values, "checksum": _checksum(values)})


def _checksum(values: dict[str, Any]) -> str:
    """SHA-256 of all fields but ``checksum``, whatever their order and the space between them."""
    content = {name: value for name, value in values.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _wrong_field(metadata: CheckpointMetadata) -> str | None:
    """The first field that is of another type than its default; a missing value is of none."""
    empty = CheckpointMetadata(model={})
    for field in dataclasses.fields(CheckpointMetadata):
        default = getattr(empty, field.name)
        if default is not None and type(getattr(metadata, field.name)) is not type(default):
            return field.name
    return None


def resolve_checkpoint(path: Path | str) -> Path:
    """The checkpoint folder that ``path`` means: itself, or what its file ``latest`` names.

    Raises:
        CheckpointError: neither.
    """
    path = Path(path)
    if (path / FILE_NAME).is_file():
        return path
    for latest in (path / LATEST, path / "checkpoints" / LATEST):
        if latest.is_file():
            name = latest.read_text(encoding="utf-8").strip()
            if not name or Path(name).name != name:
                raise CheckpointError(f"{latest} names {name!r}, which is no folder beside it")
            if not (latest.parent / name / FILE_NAME).is_file():
                raise CheckpointError(
                    f"{latest} names {name}, which is missing or incomplete; write the name of a "
                    f"complete checkpoint into {latest}"
                )
            return latest.parent / name
    if not path.exists():
        raise CheckpointError(f"checkpoint {path} does not exist; check the path")
    raise CheckpointError(
        f"{path} is no complete checkpoint: neither {FILE_NAME} nor a file 'latest' is in it; "
        f"name a checkpoint or run folder"
    )


def list_files(folder: Path) -> list[str]:
    """Names of all files of a checkpoint except megatron_dream.json, relative, sorted."""
    return sorted(
        str(file.relative_to(folder))
        for file in folder.rglob("*")
        if file.is_file() and file.name != FILE_NAME
    )


def describe_file(folder: Path, name: str) -> dict[str, Any]:
    """Size and SHA-256 of one file."""
    path = folder / name
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def verify_files(
    folder: Path, metadata: CheckpointMetadata, part: int = 0, parts: int = 1
) -> str | None:
    """Check every file's presence and size, and the checksums of this part of them.

    Returns:
        A sentence about the first fault, or None.
    """
    if missing := sorted({".metadata", "metadata.json"} - set(metadata.files)):
        return f"{folder / FILE_NAME} does not list {missing[0]}; use another checkpoint"
    for index, (name, expected) in enumerate(sorted(metadata.files.items())):
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            return (
                f"{folder / FILE_NAME} lists {name!r}, outside the folder; use another checkpoint"
            )
        if not path.is_file():
            return f"{path} is missing; use another checkpoint"
        if path.stat().st_size != expected["bytes"]:
            return (
                f"{path} has {path.stat().st_size} bytes instead of {expected['bytes']}: it is half "
                f"written or altered; use another checkpoint"
            )
        if index % parts == part and sha256_file(path) != expected["sha256"]:
            return f"{path} was altered: its checksum differs; use another checkpoint"
    if extra := sorted(set(list_files(folder)) - set(metadata.files)):
        return f"{folder / extra[0]} does not belong to the checkpoint; remove it"
    return None
