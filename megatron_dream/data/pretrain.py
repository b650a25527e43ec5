"""Clean rows of a pretraining blend by ordinal: token files > row of a source > row of the blend.

What a row is comes from megatron-core's GPTDataset: documents shuffled, laid end to end, cut into
rows, rows shuffled. Its items are not used: it writes 0 over tokens equal to its pad id, and its
index is local to a source. Each dataset is built for exactly one epoch, so that its order does not
depend on how long the run is; later epochs permute it (data/order.py).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import device
from ..errors import DataError
from ..files import sha256_file
from .cache import await_folder, digest_of, publish_folder
from .indexed import TokenFiles, open_indexed
from .order import BlendOrder, epoch_position

if TYPE_CHECKING:
    from megatron.core.datasets.gpt_dataset import GPTDataset

_INDEX_FORMAT = 2
_INDEX_PARTS = ("document_index", "sample_index", "shuffle_index")


@dataclass(frozen=True)
class TokenIds:
    """Which ids a data row may hold, and the special ones that rows are made with.

    Attributes:
        vocab_size: highest id + 1.
        mask_id: M, never in data.
        bos_id: put before each row.
        eod_id: ends a document; fills dead padding.
    """

    vocab_size: int
    mask_id: int
    bos_id: int
    eod_id: int


@dataclass(frozen=True)
class _Vocabulary:
    """The little that GPTDatasetConfig asks of a tokenizer."""

    vocab_size: int
    unique_identifiers: str


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Silence a logger below errors."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class SourceRows:
    """Rows of one source, without BOS: ``rows[i]`` for i = 0, 1, ... over all epochs.

    Args:
        files: checked token files.
        ids: what they may hold.
        row_tokens: tokens of a row.
        position: of the source in its blend; part of the keys of its orders.
        seed: of the run's data.
        split: ``"train"`` or ``"valid"``.
        cache_folder: where its index lies.

    Raises:
        DataError: it holds less than one row.
    """

    def __init__(
        self,
        files: TokenFiles,
        ids: TokenIds,
        *,
        row_tokens: int,
        position: int,
        seed: int,
        split: str,
        cache_folder: Path,
    ) -> None:
        self.files, self.ids, self.row_tokens = files, ids, row_tokens
        self.position, self.seed, self.split = position, seed, split
        self.rows_per_epoch = files.num_tokens // row_tokens
        if self.rows_per_epoch == 0:
            raise DataError(
                f"{files.bin_path} has {files.num_tokens} tokens, less than one row of "
                f"{row_tokens}; add documents, shorten data.sequence_length or drop the source."
            )
        stat = files.idx_path.stat()
        # Not the folder: a copy on a node's own disk has the index of its source (data/staging.py).
        identity = [files.prefix.name, files.bin_bytes, stat.st_size, stat.st_mtime_ns]
        digest = digest_of([_INDEX_FORMAT, *identity, row_tokens, position, seed, split])[:16]
        self.folder = cache_folder / f"{files.prefix.name}-{digest}"
        self._dataset: GPTDataset | None = None

    @property
    def is_built(self) -> bool:
        """Whether an index lies there."""
        return self.folder.exists()

    def build(self) -> None:
        """Write the index if it is missing; for one process a node."""
        if self.is_built:
            return
        with _quiet("megatron.core.datasets.gpt_dataset"):  # it warns that it saves nothing itself
            dataset = self._gpt_dataset(defer=False)
        with publish_folder(self.folder) as folder:
            for part in _INDEX_PARTS:
                np.save(folder / f"{part}.npy", getattr(dataset, part))
            identity = {"idx_sha256": sha256_file(self.files.idx_path)}
            (folder / "identity.json").write_text(json.dumps(identity), encoding="utf-8")

    def check(self, *, with_content: bool, wait_seconds: float) -> None:
        """Wait until the index is there and whole (``await_folder``).

        Raises:
            DataError: it is not, after ``wait_seconds``.
        """
        await_folder(lambda: self.folder, with_content=with_content, wait_seconds=wait_seconds)

    def identity(self) -> dict[str, Any]:
        """What tells this source from another, wherever it lies; needs ``build``."""
        path = self.folder / "identity.json"
        try:
            checksum = json.loads(path.read_text(encoding="utf-8"))["idx_sha256"]
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"The index {self.folder} is missing or incomplete; remove it and start again, "
                f"with data.cache_folder where every process sees it."
            ) from error
        return {
            "name": self.files.prefix.name,
            "bin_bytes": self.files.bin_bytes,
            "idx_bytes": self.files.idx_bytes,
            "idx_sha256": checksum,
        }

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        """Token ids, int32 [row_tokens].

        Raises:
            DataError: the row holds the mask id or an id that the tokenizer does not know.
        """
        epoch, local = divmod(index, self.rows_per_epoch)
        row = epoch_position(
            local, self.rows_per_epoch, seed=self.seed, source=self.position, epoch=epoch
        )
        text, documents = self._open()._query_document_sample_shuffle_indices(row)
        tokens = text.astype(np.int32)
        # Seen as unsigned, negative ids are too large as well.
        if (
            tokens.view(np.uint32).max() >= self.ids.vocab_size
            or (tokens == self.ids.mask_id).any()
        ):
            self._refuse(tokens, documents, row)
        return tokens

    def _open(self) -> GPTDataset:
        """The dataset, opened by the process that reads."""
        if self._dataset is None:
            self._dataset = self._gpt_dataset(defer=True)
        return self._dataset

    def _refuse(self, tokens: NDArray[np.int32], documents: NDArray[np.int64], row: int) -> None:
        unknown = tokens[(tokens < 0) | (tokens >= self.ids.vocab_size)]
        found = int(unknown[0]) if unknown.size else self.ids.mask_id
        indexed = self._open().dataset
        holders = [int(document) for document in documents if found in indexed.get(int(document))]
        fault = (
            f"id {found}, the tokenizer has 0..{self.ids.vocab_size - 1}"
            if unknown.size
            else f"the mask token {found}, which marks noise only"
        )
        raise DataError(
            f"{self.files.bin_path}, document {holders[0]} (row {row}) holds {fault}; preprocess "
            f"it again with the run's tokenizer."
        )

    def _gpt_dataset(self, *, defer: bool) -> GPTDataset:
        """megatron-core's dataset of one epoch: building its index in memory, or reading ours."""
        device.import_megatron()
        from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
        from megatron.core.datasets.utils import Split

        config = GPTDatasetConfig(
            # RandomState takes 32 bits; sources of equal size get different orders
            random_seed=int(digest_of([self.seed, self.split, self.position])[:8], 16),
            sequence_length=self.row_tokens,
            path_to_cache=str(self.folder) if defer else "",
            defer_npy_index_mmap=defer,
            tokenizer=_Vocabulary(self.ids.vocab_size, "megatron-dream"),
            add_extra_token_to_sequence=False,
            create_attention_mask=False,
            reset_position_ids=False,
            reset_attention_mask=False,
            eod_mask_loss=False,
        )
        # All documents, where an index is built; a process that reads one needs no such array
        count = 0 if defer else self.files.num_sequences
        documents = np.arange(count, dtype=np.int32)
        dataset = GPTDataset(
            open_indexed(self.files),
            str(self.files.prefix),
            documents,
            None,
            Split[self.split],
            config,
        )
        if defer:
            for part in _INDEX_PARTS:
                setattr(dataset, f"path_to_{part}", str(self.folder / f"{part}.npy"))
        return dataset

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_dataset": None}


class BlendRows:
    """Clean rows of a blend: ``rows[n]`` gives (x0 int32 [sequence_length], source).

    Args:
        sources: in the blend's order.
        order: which source and which of its rows stands at n.
        bos_id: put before each row; None: rows are tokens of the stream only.
    """

    def __init__(self, sources: list[SourceRows], order: BlendOrder, bos_id: int | None) -> None:
        self.sources, self.order, self.bos_id = sources, order, bos_id

    def __len__(self) -> int:
        return self.order.size

    def __getitem__(self, n: int) -> tuple[NDArray[np.int32], int]:
        source, index = self.order[n]
        tokens = self.sources[source][index]
        if self.bos_id is not None:
            tokens = np.concatenate((np.array([self.bos_id], dtype=np.int32), tokens))
        return tokens, source
