"""Runs prepare-sft on records and reads what it wrote, by a reader of its own."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from megatron_dream.data.sft.prepare import prepare_sft

ANSWER = "def add(a, b):\n    return a + b\n"
ASKED = "Write a function that adds two numbers."


def pair(prompt: Any, response: Any) -> dict[str, Any]:
    """A record."""
    return {"prompt": prompt, "response": response}


def write_lines(path: Path, records: list[Any]) -> Path:
    """JSON lines; bytes are written as they are."""
    lines = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in records]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def read_pairs(prefix: Path | str) -> list[tuple[list[int], list[int]]]:
    """(prompt ids, response ids) of every document, from the format's definition."""
    raw = Path(f"{prefix}.idx").read_bytes()
    magic, version, code, sequences, documents = struct.unpack_from("<9sQBQQ", raw)
    assert (magic, version) == (b"MMIDIDX\x00\x00", 1)
    dtype = {4: np.dtype("<i4"), 8: np.dtype("<u2")}[code]
    at = struct.calcsize("<9sQBQQ")
    lengths = np.frombuffer(raw, "<i4", sequences, at)
    offsets = np.frombuffer(raw, "<i8", sequences, at + 4 * sequences)
    ends = np.frombuffer(raw, "<i8", documents, at + 12 * sequences)
    assert len(raw) == at + 12 * sequences + 8 * documents
    assert ends.tolist() == list(range(0, sequences + 1, 2))
    data = Path(f"{prefix}.bin").read_bytes()
    assert len(data) == int(lengths.sum()) * dtype.itemsize
    rows = [
        np.frombuffer(data, dtype, n, o).tolist() for n, o in zip(lengths, offsets, strict=True)
    ]
    return list(zip(rows[::2], rows[1::2], strict=True))


def prepare(folder: Path, model: Path, records: list[Any], **options: Any) -> dict[str, Any]:
    """Prepare records; the sidecar, with lists of dropped and rejected lines beside it."""
    path = write_lines(folder / "in.jsonl", records)
    options = {"quiet": True, "max_rejects": 1.0, **options}
    prepare_sft([path], folder / "out", model, **options)
    return report(folder / "out")


def report(prefix: Path) -> dict[str, Any]:
    """``P.json``, and the lines of ``P.dropped.jsonl`` and ``P.rejects.jsonl``."""
    found: dict[str, Any] = json.loads(Path(f"{prefix}.json").read_text())
    for name in ("dropped", "rejects"):
        path = Path(f"{prefix}.{name}.jsonl")
        lines = path.read_text().splitlines() if path.exists() else []
        found[f"{name}_lines"] = [json.loads(line) for line in lines]
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder but the input."""
    found = sorted(path for path in folder.iterdir() if path.is_file())
    return {path.name: path.read_bytes() for path in found if path.name != "in.jsonl"}


def names(folder: Path) -> list[str]:
    """Of everything in a folder."""
    return sorted(path.name for path in folder.iterdir())
