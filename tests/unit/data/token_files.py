"""Small token files and a tokenizer's ids, without the engine that writes real ones."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from megatron_dream.config.schema import RunConfig, SourceConfig

VOCAB, MASK, BOS, EOD = 1000, 999, 998, 997


class FakeTokenizer:
    """What build_streams asks of a tokenizer."""

    vocab_size, mask_id, bos_id, eod_id = VOCAB, MASK, BOS, EOD
    fingerprint = "ab" * 32


def write_tokens(
    prefix: Path, documents: Sequence[np.ndarray], dtype: type = np.uint16, **sidecar: Any
) -> Path:
    """Write P.bin, P.idx and, if anything is given for it, P.json."""
    lengths = np.array([len(d) for d in documents], dtype=np.int32)
    offsets = np.concatenate(([0], np.cumsum(lengths[:-1], dtype=np.int64))) * dtype().itemsize
    np.concatenate(documents).astype(dtype).tofile(f"{prefix}.bin")
    code = {np.int32: 4, np.uint16: 8, np.int64: 5}[dtype]
    header = struct.pack("<9sQBQQ", b"MMIDIDX\x00\x00", 1, code, len(documents), len(documents) + 1)
    with open(f"{prefix}.idx", "wb") as stream:
        stream.write(header + lengths.tobytes() + offsets.astype(np.int64).tobytes())
        stream.write(np.arange(len(documents) + 1, dtype=np.int64).tobytes())
    if sidecar:
        Path(f"{prefix}.json").write_text(json.dumps(sidecar))
    return prefix


def random_documents(count: int, mean: int, seed: int = 0) -> list[np.ndarray]:
    """Documents of 1 to 2 x mean tokens that end with EOD."""
    rng = np.random.default_rng(seed)
    documents = [rng.integers(0, 900, int(rng.integers(1, 2 * mean))) for _ in range(count)]
    for document in documents:
        document[-1] = EOD
    return documents


def run_config(
    folder: Path, *prefixes: Path, weights: Sequence[float] = (), **data: Any
) -> RunConfig:
    """A run over token files with rows of 64 tokens and its cache in ``folder``."""
    config = RunConfig()
    config.data.cache_folder = str(folder / "cache")
    config.data.sequence_length = 64
    shares = weights or [1.0] * len(prefixes)
    config.data.train = [
        SourceConfig(prefix=str(p), weight=w) for p, w in zip(prefixes, shares, strict=True)
    ]
    for name, value in data.items():
        setattr(config.data, name, value)
    return config
