"""Texts in files: ``P.bin`` and ``P.idx`` with one sequence of UTF-8 bytes a text, ``P.json`` beside them.

Text is stored, not ids: the middle is drawn anew at each ordinal, and prefix, middle and suffix must be
encoded apart, as they are when somebody infills. Ids of the whole would have tokens across the borders,
which no sampler ever sees. The index is megatron-core's (``MMIDIDX``, version 1) with items of uint8.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from ...files import sha256_file
from ..indexed import MAGIC, VERSION
from ..order import SampleOrder
from ..prefix import prefix_path
from ..sequence_writer import CODES, HEADER, starts_of

KIND, FORMAT_VERSION = "infill", 1  # of P.json
_AGAIN = "make it again with megatron-dream prepare-infill"


class TextFiles:
    """Texts of one prepared source by their number, memory-mapped.

    Args:
        prefix: path without ending.
        fingerprint: of the run's tokenizer, which lengths were counted with.
        thorough: read the whole index; else only what lengths of files tell.

    Attributes:
        max_tokens: of the longest text, encoded whole, with BOS and EOS.

    Raises:
        DataError: files that are missing, broken, of another tokenizer or of another kind.
    """

    def __init__(self, prefix: Path | str, fingerprint: str, *, thorough: bool = True) -> None:
        self.prefix = Path(prefix)
        self.bin_path, self.idx_path = prefix_path(prefix, ".bin"), prefix_path(prefix, ".idx")
        for path in (self.idx_path, self.bin_path):
            if not path.is_file():
                raise DataError(
                    f"{path} does not exist; data prefixes are paths without .bin and .idx, check "
                    "data.train and data.valid or run megatron-dream prepare-infill."
                )
        self._size = _num_texts(self.idx_path)
        self._arrays: tuple[NDArray[np.int32], NDArray[np.int64]] | None = None
        self._bytes: NDArray[np.uint8] | None = None
        self._check_index(thorough)
        sidecar = _read_sidecar(prefix_path(prefix, ".json"))
        _check_sidecar(self.bin_path, sidecar, fingerprint, self._size)
        self.max_tokens = int(sidecar["max_tokens"])

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> str:
        """One text.

        Raises:
            DataError: its bytes are no UTF-8.
        """
        lengths, starts = self._index()
        if self._bytes is None:
            self._bytes = np.memmap(self.bin_path, np.uint8, "r")
        start = int(starts[index])
        try:
            return self._bytes[start : start + int(lengths[index])].tobytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self.bin_path}, sample {index} is no UTF-8 ({error.reason}); the file was altered, copy "
                f"it again or {_AGAIN}."
            ) from None

    def identity(self) -> dict[str, Any]:
        """What tells this source from another, wherever it lies."""
        return {
            "name": self.prefix.name,
            "bin_bytes": self.bin_path.stat().st_size,
            "idx_sha256": sha256_file(self.idx_path),
        }

    def _index(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Length and first byte of every text."""
        if self._arrays is None:
            raw = np.memmap(self.idx_path, np.uint8, "r")
            first, second = HEADER.size + 4 * self._size, HEADER.size + 12 * self._size
            self._arrays = (
                raw[HEADER.size : first].view(np.int32),
                raw[first:second].view(np.int64),
            )
        return self._arrays

    def _check_index(self, thorough: bool) -> None:
        lengths, starts = self._index()
        if thorough and ((lengths <= 0).any() or not np.array_equal(starts_of(lengths), starts)):
            raise DataError(
                f"{self.idx_path} has places that are not the sums of its lengths; {_AGAIN}."
            )
        needed, found = int(starts[-1]) + int(lengths[-1]), self.bin_path.stat().st_size
        if needed != found:
            fault = "is truncated" if found < needed else "is longer than its index says"
            raise DataError(
                f"{self.bin_path} {fault}: {self.idx_path.name} needs {needed} bytes, it has {found}; copy "
                f"both files again or {_AGAIN}."
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_arrays": None, "_bytes": None}


class BlendTexts:
    """Texts of a blend by their number in the stream, over all epochs.

    Args:
        sources: in the blend's order.
        order: which text of which source stands at n.
    """

    def __init__(self, sources: list[TextFiles], order: SampleOrder) -> None:
        self.sources, self.order = sources, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, n: int) -> tuple[str, int]:
        """Text and source."""
        source, index = self.order[n]
        return self.sources[source][index], source


def _num_texts(path: Path) -> int:
    """From the header of an index, after a look at its length."""
    with open(path, "rb") as stream:
        raw = stream.read(HEADER.size)
    if len(raw) < HEADER.size or raw[: len(MAGIC)] != MAGIC:
        raise DataError(
            f"{path} is no Megatron index, or truncated inside its header; give the prefix of files that "
            "megatron-dream prepare-infill wrote."
        )
    _, version, code, size, num_ends = HEADER.unpack(raw)
    if version != VERSION or code != CODES["uint8"]:
        raise DataError(
            f"{path} holds tokens, not texts (it is not of megatron-dream prepare-infill); prepare the data "
            "for infilling, or train on it with megatron-dream pretrain or sft.task: answer."
        )
    expected, found = HEADER.size + 12 * size + 8 * num_ends, path.stat().st_size
    if found != expected or not size:
        raise DataError(
            f"{path} is truncated or empty: {size} texts need {expected} bytes, it has {found}; copy it "
            f"again or {_AGAIN}."
        )
    return int(size)


def _read_sidecar(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; copy it beside its .bin, or {_AGAIN}.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}); copy it again or {_AGAIN}.") from None
    if not isinstance(value, dict) or value.get("kind") != KIND:
        raise DataError(
            f"{path} is not of megatron-dream prepare-infill (its kind is not {KIND}); {_AGAIN}."
        )
    if value.get("format") != FORMAT_VERSION or not isinstance(value.get("max_tokens"), int):
        raise DataError(
            f"{path} has format {value.get('format')}, only {FORMAT_VERSION} is known; {_AGAIN}."
        )
    return value


def _check_sidecar(path: Path, sidecar: dict[str, Any], fingerprint: str, size: int) -> None:
    found = str(sidecar.get("tokenizer_fingerprint"))
    if found != fingerprint:
        raise DataError(
            f"{path} was measured with the tokenizer {found[:16]} ({path.stem}.json), the run's is "
            f"{fingerprint[:16]}; set tokenizer.path to the one used or prepare the data again."
        )
    if sidecar.get("num_samples") != size:
        raise DataError(
            f"{path} holds {size} texts, {path.stem}.json says {sidecar.get('num_samples')}; the files are "
            "not of one run, copy them again."
        )
