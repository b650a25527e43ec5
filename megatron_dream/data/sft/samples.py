"""Prepared samples by their number in the stream: files, blend, epochs, and runs of like length.

``megatron-dream prepare-sft`` writes a document of two sequences for each sample, prompt and answer, so
that the index alone tells their lengths. Lengths are looked at by every process (truncation groups,
widths of micro-batches); tokens only by those that read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...diffusion.noise import LENGTH_ORDER, philox_words
from ...errors import DataError
from ...files import sha256_file
from ..indexed import check_sidecar, inspect_token_files, read_index
from ..order import SampleOrder
from ..pretrain import TokenIds

KIND = "sft"  # of P.json
RUNS_PER_WINDOW = 64  # of like length, shuffled with one another


class AnswerFiles:
    """Prompts and answers of one prepared source.

    Args:
        prefix: path without ending.
        ids: what they may hold.
        fingerprint: of the run's tokenizer.
        thorough: read the whole index.

    Raises:
        DataError: files that are missing, broken, of another tokenizer or of another kind.
    """

    def __init__(
        self, prefix: str, ids: TokenIds, fingerprint: str, *, thorough: bool = True
    ) -> None:
        self.files, self.ids = inspect_token_files(prefix, thorough=thorough), ids
        check_sidecar(self.files, fingerprint, ids.eod_id)
        sidecar = self.files.sidecar or {}
        if sidecar.get("kind") != KIND or self.files.num_sequences % 2:
            raise DataError(
                f"{prefix} holds no prompts and answers (its .json is not of megatron-dream prepare-sft); "
                "prepare it, or train on it with megatron-dream pretrain."
            )
        self._lengths: NDArray[np.int32] | None = None
        self._offsets: NDArray[np.int64] | None = None
        self._tokens: NDArray[Any] | None = None

    def __len__(self) -> int:
        return self.files.num_sequences // 2

    def _open(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        if self._lengths is None or self._offsets is None:
            self._lengths, self._offsets = read_index(self.files)
        return self._lengths, self._offsets

    def lengths(self, index: int) -> tuple[int, int]:
        """Tokens of a prompt and of its answer without end."""
        lengths, _ = self._open()
        return int(lengths[2 * index]), int(lengths[2 * index + 1])

    def longest_row(self) -> int:
        """Tokens of the longest prompt with its answer and end."""
        lengths, _ = self._open()
        return int((lengths[::2].astype(np.int64) + lengths[1::2]).max()) + 1

    def __getitem__(self, index: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Prompt and answer, int32.

        Raises:
            DataError: the sample holds the mask id or an id that the tokenizer does not know.
        """
        _, offsets = self._open()
        if self._tokens is None:
            self._tokens = np.memmap(self.files.bin_path, dtype=self.files.dtype, mode="r")
        prompt, response = self.lengths(index)
        start = int(offsets[2 * index]) // self.files.dtype().itemsize
        tokens = self._tokens[start : start + prompt + response].astype(np.int32)
        is_unknown = (
            tokens.view(np.uint32) >= self.ids.vocab_size
        )  # negative ids are too large as well
        if is_unknown.any() or (tokens == self.ids.mask_id).any():
            found = int(tokens[is_unknown][0]) if is_unknown.any() else self.ids.mask_id
            raise DataError(
                f"{self.files.bin_path}, sample {index} holds id {found}, which is no token of text (the "
                f"tokenizer has 0..{self.ids.vocab_size - 1}, {self.ids.mask_id} marks noise); prepare it "
                "again with the run's tokenizer."
            )
        return tokens[:prompt], tokens[prompt:]

    def identity(self) -> dict[str, Any]:
        """What tells this source from another, wherever it lies."""
        return {
            "name": self.files.prefix.name,
            "bin_bytes": self.files.bin_bytes,
            "idx_sha256": sha256_file(self.files.idx_path),
        }

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lengths": None, "_offsets": None, "_tokens": None}


class LengthOrder:
    """An order whose runs of ``run`` consecutive samples are of like length.

    Samples are sorted by length in windows of 64 runs, and the runs of a window shuffled: a batch still
    holds all lengths, a micro-batch does not. A function of (seed, window), so of no layout.

    Args:
        order: (source, index) by number.
        length_of: of a sample.
        run: consecutive samples of like length.
        key: of the stream's noise.
    """

    def __init__(
        self,
        order: SampleOrder,
        length_of: Callable[[tuple[int, int]], int],
        run: int,
        key: tuple[int, int],
    ) -> None:
        self.order, self.length_of, self.run, self.key = order, length_of, run, key
        self._window = lru_cache(maxsize=4)(self._sort)

    @staticmethod
    def planned(samples: int, run: int) -> int:
        """Samples that an order must know so that ``samples`` of them can be sorted."""
        window = RUNS_PER_WINDOW * run
        return -(-samples // window) * window

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, n: int) -> tuple[int, int]:
        window, place = divmod(n, RUNS_PER_WINDOW * self.run)
        return self._window(window)[place]

    def _sort(self, window: int) -> list[tuple[int, int]]:
        size = RUNS_PER_WINDOW * self.run
        members = [self.order[n] for n in range(window * size, (window + 1) * size)]
        lengths = np.array([self.length_of(member) for member in members])
        runs = np.argsort(lengths, kind="stable").reshape(RUNS_PER_WINDOW, self.run)
        words = philox_words(self.key, window, LENGTH_ORDER, RUNS_PER_WINDOW)
        return [members[i] for i in runs[np.argsort(words, kind="stable")].reshape(-1).tolist()]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_window"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._window = lru_cache(maxsize=4)(self._sort)


class BlendSamples:
    """Prompts and answers of a blend by their number in the stream.

    Args:
        sources: in the blend's order.
        order: which sample of which source stands at n.
    """

    def __init__(self, sources: list[AnswerFiles], order: SampleOrder | LengthOrder) -> None:
        self.sources, self.order = sources, order

    def __len__(self) -> int:
        return len(self.order)

    def lengths(self, n: int) -> tuple[int, int]:
        """Tokens of sample n's prompt and of its answer without end."""
        source, index = self.order[n]
        return self.sources[source].lengths(index)

    def __getitem__(self, n: int) -> tuple[NDArray[np.int32], NDArray[np.int32], int]:
        """Prompt, answer, source."""
        source, index = self.order[n]
        return *self.sources[source][index], source
