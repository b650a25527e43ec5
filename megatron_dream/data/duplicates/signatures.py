"""Signatures by shard: the first step of a pass, done by any process for any shards.

    FOLDER/
      manifest.json    what the pass is of
      000012.sig       columns of one shard, see ``Signatures``
      000012.json      its record, written last: counts and checksum; a part exists when this does

A kill leaves at most files that the next run overwrites; finished parts are not done again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from ...files import atomic_write, sha256_file, write_json
from ..document import Document
from ..preprocessing.job import first_difference
from .exact import KEY_BYTES, Signer, hash_of

MANIFEST = "manifest.json"
_PLACE_COLUMNS = 5  # place, position (high and low), id (high and low)
_WORD = (1 << 64) - 1
Words = NDArray[np.uint64]


class FileOrder:
    """Which document comes first: by the source's place in the recipe, then its file's, then position.

    Args:
        files: (source, file) of every input, in that order.

    Raises:
        DataError: two files give their documents the same ids.
    """

    def __init__(self, files: Iterable[tuple[str, str]]) -> None:
        self._places: dict[str, int] = {}
        for source, file in files:
            name = f"{source}/{file}"
            if name in self._places:
                raise DataError(
                    f"{name} names two inputs, whose documents could not be told apart; name the file once, "
                    f"and give every source a name of its own."
                )
            self._places[name] = len(self._places)

    def place(self, document: Document) -> int:
        """Number of the document's file.

        Raises:
            DataError: the file is not among those given.
        """
        try:
            return self._places[f"{document.source}/{document.file}"]
        except KeyError:
            raise DataError(
                f"{document.id} is of no file in the order of this pass; list its file there."
            ) from None


@dataclass
class SignatureRecord:
    """What ``NNNNNN.json`` says of one part.

    Attributes:
        shard: number in the plan.
        documents: read.
        signed: of these, with keys: the part's rows.
        empty: of these, without text.
        text_bytes: UTF-8 bytes of all of them.
        bands: keys of each row.
        sha256: of the ``.sig`` file.
    """

    shard: int
    documents: int = 0
    signed: int = 0
    empty: int = 0
    text_bytes: int = 0
    bands: int = 1
    sha256: str = ""


def begin_pass(folder: Path | str, identity: Mapping[str, Any]) -> Path:
    """Make the folder of a pass, or make sure that what lies there is of the same one.

    Raises:
        DataError: it is of another; names the first difference.
    """
    folder = Path(folder)
    wanted = json.loads(json.dumps(identity))
    path = folder / MANIFEST
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, wanted)
        return folder
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(
            f"{path} cannot be read ({error}); remove {folder} to begin anew."
        ) from None
    if difference := first_difference(found, wanted):
        raise DataError(
            f"{folder} was begun with {difference}; restore that to go on, or remove the folder to begin "
            f"anew."
        )
    return folder


def write_signatures(
    shards: Iterable[int],
    documents_of: Callable[[int], Iterable[Document]],
    folder: Path | str,
    signer: Signer,
    order: FileOrder,
) -> list[SignatureRecord]:
    """Sign the documents of shards, one part a shard; parts that exist are not done again.

    Args:
        shards: numbers; any process may take any of them.
        documents_of: a shard's documents.
        folder: from ``begin_pass``.
        signer: what documents are compared by.
        order: of files.

    Returns:
        The parts' records, in the order of ``shards``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for shard in shards:
        record = read_record(folder, shard)
        records.append(record or _write_part(folder, shard, documents_of(shard), signer, order))
    return records


def _write_part(
    folder: Path, shard: int, documents: Iterable[Document], signer: Signer, order: FileOrder
) -> SignatureRecord:
    record = SignatureRecord(shard, bands=signer.num_bands)
    keys, ids, places = bytearray(), bytearray(), []
    for document in documents:
        record.documents += 1
        record.empty += not document.text
        record.text_bytes += len(document.text.encode("utf-8", "surrogatepass"))
        signature = signer.sign(document.text)
        if signature is not None:
            keys += signature
            ids += hash_of(document.id)
            position = document.position
            places.append((order.place(document), position >> 64, position & _WORD))
    record.signed = len(places)
    path = folder / f"{shard:06d}.sig"
    with atomic_write(path, "wb") as stream:
        for column in _columns(keys, ids, places, signer.num_bands):
            stream.write(np.ascontiguousarray(column).data)
    record.sha256 = sha256_file(path)
    write_json(path.with_suffix(".json"), dataclasses.asdict(record))
    return record


def _columns(
    keys: bytearray, ids: bytearray, places: list[tuple[int, int, int]], bands: int
) -> list[NDArray[Any]]:
    """All columns of a part, the keys of each band sorted."""
    count = len(places)
    columns: list[NDArray[Any]] = list(np.array(places, dtype="<u8").reshape(count, 3).T)
    columns += list(words_of(ids).T)
    rows = []
    by_band = words_of(keys).reshape(count, bands, 2)
    for band in range(bands):
        high, low = by_band[:, band, 0], by_band[:, band, 1]
        sorting = np.lexsort((low, high))
        columns += [high[sorting], low[sorting]]
        rows.append(sorting.astype("<u4"))
    return columns + rows


def words_of(digests: bytes | bytearray) -> Words:
    """[n, 2]: high and low halves of 128-bit digests, whose order as numbers is that of the bytes."""
    return np.frombuffer(bytes(digests), dtype=">u8").astype("<u8").reshape(-1, KEY_BYTES // 8)


def read_record(folder: Path, shard: int) -> SignatureRecord | None:
    """The record of a part that exists, or None.

    Raises:
        DataError: it cannot be understood.
    """
    path = folder / f"{shard:06d}.json"
    try:
        return SignatureRecord(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{path} is no record of signatures ({error}); remove it, and the shard is done again."
        ) from None


class Signatures:
    """One part, memory-mapped. All columns have one entry a row; rows are in reading order.

    Attributes:
        place, position_high, position_low, id_high, id_low: of the row's document.

    Args:
        folder: of the pass.
        record: of the part.

    Raises:
        DataError: the file is missing or of another length than its record says.
    """

    def __init__(self, folder: Path, record: SignatureRecord) -> None:
        rows, bands = record.signed, record.bands
        words = _PLACE_COLUMNS + 2 * bands
        self._path = folder / f"{record.shard:06d}.sig"
        size = self._path.stat().st_size if self._path.is_file() else -1
        if size != rows * (8 * words + 4 * bands):
            raise self._altered()
        self._record = record
        self._words: NDArray[Any] = np.zeros((words, 0), "<u8")
        self._rows: NDArray[Any] = np.zeros((bands, 0), "<u4")
        if rows:
            content = np.memmap(self._path, mode="r", dtype=np.uint8).view(np.ndarray)
            self._words = content[: 8 * rows * words].view("<u8").reshape(words, rows)
            self._rows = content[8 * rows * words :].view("<u4").reshape(bands, rows)

    def check(self) -> None:
        """Compare the checksum.

        Raises:
            DataError: the file was altered.
        """
        if sha256_file(self._path) != self._record.sha256:
            raise self._altered()

    def identity_columns(self, rows: NDArray[np.int64]) -> Words:
        """[5, len(rows)]: place, position (high, low), id (high, low)."""
        return self._words[:_PLACE_COLUMNS, rows]

    def keys(self, band: int, first: int, last: int) -> tuple[Words, Words, NDArray[np.uint32]]:
        """Sorted keys (high, low halves) with ``first`` <= high <= ``last``, and their rows."""
        high = self._words[_PLACE_COLUMNS + 2 * band]
        start = int(np.searchsorted(high, np.uint64(first), "left"))
        stop = int(np.searchsorted(high, np.uint64(last), "right"))
        low = self._words[_PLACE_COLUMNS + 2 * band + 1]
        return high[start:stop], low[start:stop], self._rows[band, start:stop]

    def _altered(self) -> DataError:
        return DataError(
            f"{self._path} is missing or altered; remove {self._path.stem}.json beside it and run the same "
            f"command again, which makes this part anew."
        )
