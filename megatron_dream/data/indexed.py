"""Opens token files ``P.bin``/``P.idx`` with every check done before megatron-core reads a byte.

megatron-core trusts the index: a truncated or foreign file ends there in an assertion or in wrong
tokens. Here the header, the counts and the offsets are compared with the files' lengths first. The
sidecar ``P.json`` of ``megatron-dream preprocess`` tells which tokenizer made the ids; files from
elsewhere have none, and then only the ids themselves can be checked (data/pretrain.py, a row at a
time).
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .prefix import prefix_path

if TYPE_CHECKING:
    from megatron.core.datasets.indexed_dataset import IndexedDataset

MAGIC, VERSION = b"MMIDIDX\x00\x00", 1
_HEADER = struct.Struct("<9sQBQQ")  # magic, version, dtype code, sequences, documents
_DTYPES: dict[int, type[np.generic]] = {4: np.int32, 8: np.uint16}
_ALL_DTYPES = {1: "uint8", 2: "int8", 3: "int16", 5: "int64", 6: "float64", 7: "float32"}
_MAKE_AGAIN = "make it again with megatron-dream preprocess"


@dataclass(frozen=True)
class TokenFiles:
    """What the headers and the sidecar say of a pair of token files.

    Attributes:
        prefix: path without ending, as configured.
        dtype: of the ids.
        num_sequences: entries of the index; one a document in files that preprocess writes.
        num_tokens: in the ``.bin`` file.
        bin_bytes: its length.
        idx_bytes: length of the ``.idx`` file.
        sidecar: content of ``P.json``, or None where there is none.
    """

    prefix: Path
    dtype: type[np.generic]
    num_sequences: int
    num_tokens: int
    bin_bytes: int
    idx_bytes: int
    sidecar: dict[str, Any] | None

    @property
    def bin_path(self) -> Path:
        """Token ids, one after another."""
        return prefix_path(self.prefix, ".bin")

    @property
    def idx_path(self) -> Path:
        """Lengths and offsets of the documents."""
        return prefix_path(self.prefix, ".idx")


def inspect_token_files(prefix: Path | str, *, thorough: bool = True) -> TokenFiles:
    """Check ``P.bin`` and ``P.idx`` against each other.

    Args:
        prefix: their path without ending.
        thorough: read the whole index (12 bytes a document); else only what the files' lengths and
            the last entry tell, for the thousand processes that need not all do it.

    Raises:
        DataError: one is missing, foreign, truncated or empty, or counts and offsets disagree with
            the files' lengths.
    """
    idx, binary = prefix_path(prefix, ".idx"), prefix_path(prefix, ".bin")
    for path in (idx, binary):
        if not path.is_file():
            raise DataError(
                f"{path} does not exist; data prefixes are paths without .bin and .idx, "
                f"check data.train and data.valid or run megatron-dream preprocess."
            )
    dtype, num_sequences, num_documents = _read_header(idx)
    lengths, offsets, documents = _read_arrays(idx, num_sequences, num_documents)
    bin_bytes, itemsize = binary.stat().st_size, np.dtype(dtype).itemsize
    _check_length(idx, binary, int(offsets[-1]) + int(lengths[-1]) * itemsize, bin_bytes)
    if thorough:
        _check_documents(idx, documents, num_sequences)
        _check_offsets(idx, lengths, offsets, itemsize)
    return TokenFiles(
        prefix=Path(prefix),
        dtype=dtype,
        num_sequences=num_sequences,
        num_tokens=bin_bytes // np.dtype(dtype).itemsize,
        bin_bytes=bin_bytes,
        idx_bytes=idx.stat().st_size,
        sidecar=_read_sidecar(prefix_path(prefix, ".json")),
    )


def read_index(files: TokenFiles) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Length of every document and its byte offset, memory-mapped: int32 and int64 [documents]."""
    num_documents = (files.idx_bytes - _HEADER.size - 12 * files.num_sequences) // 8
    lengths, offsets, _ = _read_arrays(files.idx_path, files.num_sequences, num_documents)
    return lengths, offsets


def _read_header(idx: Path) -> tuple[type[np.generic], int, int]:
    with open(idx, "rb") as stream:
        raw = stream.read(_HEADER.size)
    if raw[: len(MAGIC)] != MAGIC[: len(raw)] or not raw:
        raise DataError(
            f"{idx} is no Megatron index (it does not begin with MMIDIDX); give the prefix of "
            f"files that preprocess wrote."
        )
    if len(raw) < _HEADER.size:
        raise DataError(f"{idx} is truncated inside its header; {_MAKE_AGAIN}.")
    _, version, code, num_sequences, num_documents = _HEADER.unpack(raw)
    if version != VERSION:
        raise DataError(f"{idx} has version {version}, only {VERSION} is known; {_MAKE_AGAIN}.")
    if code not in _DTYPES:
        name = _ALL_DTYPES.get(code, f"code {code}")
        raise DataError(f"{idx} holds {name} items, not int32 or uint16 tokens; {_MAKE_AGAIN}.")
    return _DTYPES[code], num_sequences, num_documents


def _read_arrays(
    idx: Path, num_sequences: int, num_documents: int
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    expected = _HEADER.size + num_sequences * 12 + num_documents * 8
    actual = idx.stat().st_size
    if actual != expected:
        fault = "is truncated" if actual < expected else "is too long"
        raise DataError(
            f"{idx} {fault}: {num_sequences} sequences and {num_documents} document ends need "
            f"{expected} bytes, it has {actual}; copy it again or {_MAKE_AGAIN}."
        )
    if num_sequences == 0 or num_documents == 0:
        raise DataError(f"{idx} lists no documents; drop it from the blend or {_MAKE_AGAIN}.")
    raw = np.memmap(idx, dtype=np.uint8, mode="r")
    first, second = _HEADER.size + 4 * num_sequences, _HEADER.size + 12 * num_sequences
    return (
        raw[_HEADER.size : first].view(np.int32),
        raw[first:second].view(np.int64),
        raw[second:].view(np.int64),
    )


def _check_documents(idx: Path, documents: NDArray[np.int64], num_sequences: int) -> None:
    if documents[0] != 0 or documents[-1] != num_sequences or (np.diff(documents) < 0).any():
        raise DataError(
            f"{idx} has document ends that do not rise from 0 to its {num_sequences} sequences; "
            f"{_MAKE_AGAIN}."
        )


def _check_offsets(
    idx: Path, lengths: NDArray[np.int32], offsets: NDArray[np.int64], itemsize: int
) -> None:
    if (lengths < 0).any():
        raise DataError(f"{idx} has a sequence of negative length; {_MAKE_AGAIN}.")
    expected = np.zeros(lengths.size, dtype=np.int64)
    np.cumsum(lengths[:-1], dtype=np.int64, out=expected[1:])
    if not np.array_equal(expected * itemsize, offsets):
        raise DataError(
            f"{idx} has offsets that are not the sums of its sequence lengths; {_MAKE_AGAIN}."
        )


def _check_length(idx: Path, binary: Path, expected: int, actual: int) -> None:
    if expected != actual:
        fault = "is truncated" if actual < expected else "is longer than its index says"
        raise DataError(
            f"{binary} {fault}: {idx.name} needs {expected} bytes, it has {actual}; copy both "
            f"files again or {_MAKE_AGAIN}."
        )
    if actual == 0:
        raise DataError(f"{binary} holds no tokens; drop it from the blend or {_MAKE_AGAIN}.")


def _read_sidecar(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}); {_MAKE_AGAIN}.") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds no JSON object; {_MAKE_AGAIN}.")
    return value


def check_sidecar(
    files: TokenFiles, fingerprint: str, eod_id: int, *, needs_eod: bool = False
) -> None:
    """Refuse ids of another tokenizer; without a sidecar nothing is checked.

    Args:
        files: what was found.
        fingerprint: of the run's tokenizer.
        eod_id: its end-of-document id.
        needs_eod: the run cuts rows at end-of-document tokens (data.document_masks).

    Raises:
        DataError: naming both values.
    """
    sidecar, path = files.sidecar, prefix_path(files.prefix, ".json")
    if sidecar is None:
        return
    found = sidecar.get("tokenizer_fingerprint")
    if found is not None and found != fingerprint:
        raise DataError(
            f"{files.bin_path} was made with the tokenizer {str(found)[:16]} ({path.name}), the "
            f"run's is {fingerprint[:16]}; set tokenizer.path to the one used or preprocess again."
        )
    if sidecar.get("eod_id") not in (None, eod_id):
        raise DataError(
            f"{files.bin_path} ends documents with id {sidecar['eod_id']} ({path.name}), the run's "
            f"tokenizer with {eod_id}; set tokenizer.path to the one used or preprocess again."
        )
    if sidecar.get("tokens") not in (None, files.num_tokens):
        raise DataError(
            f"{files.bin_path} holds {files.num_tokens} tokens, {path.name} says "
            f"{sidecar['tokens']}; the files are not of one run, copy them again."
        )
    if needs_eod and sidecar.get("append_eod") is False:
        raise DataError(
            f"{files.bin_path} was made without --append-eod, so data.document_masks finds no "
            f"document ends; preprocess again with --append-eod or turn document_masks off."
        )


def open_indexed(files: TokenFiles) -> IndexedDataset:
    """megatron-core's IndexedDataset over checked files, memory-mapped."""
    from .. import device  # it imports torch, which those who look at files do without

    device.import_megatron()
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    return IndexedDataset(str(files.prefix), multimodal=False, mmap=True)
