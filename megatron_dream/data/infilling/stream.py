"""The infilling stage's stream (SPEC 6, DreamOn): a text by ordinal, split, corrupted, weighed and shifted.

Stands where data/stream.py's ``NoisedStream`` stands in pretraining:

    text > prefix, middle, suffix > ids of each > corrupted middle > BOS + prefix, middle, suffix + EOS

The middle alone is noised and pays. Corruption changes its length before positions, shift and weights are
made, so a row has the length that is left; what a micro-batch adds behind it is dead. BOS stands before
everything: the middle never lies at position 0, which nothing predicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...config.schema import DataConfig, DiffusionConfig, SftConfig
from ...diffusion.infilling import Middle, corrupt_middle
from ...diffusion.noise import NoiseStream
from ...diffusion.rows import row_flags, segment_starts, shift_left
from ...tokenizer.base import Tokenizer
from ..stream import Row, objective_of
from .splitting import Split, split_text

KEPT_ROWS = 256  # more than a micro-batch has: lengths are asked for before rows
_BOS_AND_EOS = 2


class Texts(Protocol):
    """Texts by their number in the stream, over all epochs."""

    def __len__(self) -> int: ...

    def __getitem__(self, n: int) -> tuple[str, int]:
        """Text and source."""
        ...


class InfillStream:
    """Rows by ordinal; a pure function of its arguments, picklable for worker processes.

    A row's ``num_maskable`` is the number of positions that its middle has after corruption.

    Args:
        texts: what is split.
        tokenizer: encodes the parts; ``<|expand|>`` and the like in a text are text.
        data: sequence length and seed.
        diffusion: times and the constant that weights are divided by; the weight is 1 - t.
        sft: share of spans, probability of closing up, width.
        stage: part of the noise's key.
        split: ``"train"`` or ``"valid"``, likewise.
    """

    has_whole_rows = False

    def __init__(
        self,
        texts: Texts,
        tokenizer: Tokenizer,
        data: DataConfig,
        diffusion: DiffusionConfig,
        sft: SftConfig,
        *,
        stage: str = "sft",
        split: str = "train",
    ) -> None:
        self.texts, self.tokenizer = texts, tokenizer
        self.data, self.diffusion, self.sft = data, diffusion, sft
        self.noise = NoiseStream(data.seed, stage, split)
        self.sequence_length = data.sequence_length
        self.pad_id = tokenizer.pad_id
        self.has_one_width = sft.width == "max"
        self._row = lru_cache(maxsize=KEPT_ROWS)(self._make)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, ordinal: int) -> Row:
        """Row of one segment; its arrays may be read only."""
        return self._row(ordinal)

    def row_length(self, ordinal: int) -> int:
        """Tokens of a row."""
        return self._row(ordinal).tokens.size

    def flags(self, ordinal: int) -> NDArray[np.uint8]:
        """SEGMENT_START of a row: all that middle pipeline stages need."""
        length = self.row_length(ordinal)
        return row_flags(segment_starts([length], length), 0)

    def split(self, text: str, ordinal: int) -> Split:
        """Which part of a text is the middle; what a stream of other gaps replaces."""
        return split_text(text, self.noise.splitting(ordinal), self.sft.span_share)

    def _make(self, ordinal: int) -> Row:
        text, source = self.texts[ordinal]
        split = self.split(text, ordinal)
        parts = [self.tokenizer.encode(part) for part in (split.prefix, split.middle, split.suffix)]
        room = self.sequence_length - _BOS_AND_EOS
        prefix, middle, suffix = trim(parts[0], parts[1], parts[2], room)
        room -= len(prefix) + len(middle) + len(suffix)
        draws = self.noise.infilling(
            ordinal,
            len(middle),
            room,
            max_appended=self.sft.max_appended,
            t_min=self.diffusion.t_min,
            low_discrepancy=self.diffusion.low_discrepancy,
        )
        corrupted = corrupt_middle(
            np.array(middle, dtype=np.int32),
            draws,
            mask_id=self.tokenizer.mask_id,
            eos_id=self.tokenizer.eos_id,
            expand_id=self.tokenizer.expand_id,
            expand_probability=self.sft.expand_probability,
        )
        return infill_row(
            [self.tokenizer.bos_id, *prefix],
            corrupted,
            [*suffix, self.tokenizer.eos_id],
            normalizer=objective_of(self.diffusion).normalizer,
            t=draws.t,
            source=source,
            ordinal=ordinal,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_row"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._row = lru_cache(maxsize=KEPT_ROWS)(self._make)


def trim(
    prefix: Sequence[int], middle: Sequence[int], suffix: Sequence[int], room: int
) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    """Cut three parts to ``room`` tokens: the suffix at its end, then the prefix at its beginning.

    What is far from the middle goes first; a middle that is longer than ``room`` is cut at its end.
    """
    excess = max(0, len(prefix) + len(middle) + len(suffix) - room)
    suffix, excess = suffix[: max(0, len(suffix) - excess)], max(0, excess - len(suffix))
    prefix, excess = prefix[min(len(prefix), excess) :], max(0, excess - len(prefix))
    return prefix, middle[: len(middle) - excess], suffix


def infill_row(
    prefix: Sequence[int],
    middle: Middle,
    suffix: Sequence[int],
    *,
    normalizer: float,
    t: float,
    source: int = 0,
    ordinal: int = 0,
) -> Row:
    """Put a row together; labels, weights and PREDICTED are rolled left by one.

    Args:
        prefix: clean ids, BOS among them: at least one.
        middle: corrupted.
        suffix: clean ids, EOS among them.
        normalizer: what weights are divided by.
        t: time of the sample.
        source: index in the blend.
        ordinal: in the stage's stream.
    """
    before, after = np.array(prefix, dtype=np.int32), np.array(suffix, dtype=np.int32)
    total = before.size + middle.tokens.size + after.size
    inside = slice(before.size, before.size + middle.tokens.size)
    weight, is_masked = np.zeros(total, np.float32), np.zeros(total, np.bool_)
    weight[inside], is_masked[inside] = middle.weight / normalizer, middle.is_masked
    targets = np.concatenate([before, middle.targets, after])
    is_start = segment_starts([total], total)
    row = Row(
        tokens=np.concatenate([before, middle.tokens, after]),
        labels=shift_left(targets, is_start),
        loss_weight=shift_left(weight, is_start),
        flags=row_flags(is_start, 0, shift_left(is_masked, is_start)),
        t=t,
        source=source,
        ordinal=ordinal,
        num_maskable=middle.tokens.size,
    )
    for values in (row.tokens, row.labels, row.loss_weight, row.flags):
        values.setflags(write=False)  # rows are kept and given out again
    return row
