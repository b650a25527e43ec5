"""Rows without files, for the kit: tokens that a model can learn, noised by the product's own data path."""

from __future__ import annotations

from typing import Any

import numpy as np

from megatron_dream.config.schema import DiffusionConfig
from megatron_dream.data.stream import Row, make_row
from megatron_dream.diffusion.noise import NoiseStream
from megatron_dream.diffusion.rows import row_flags, segment_starts


class StrideRows:
    """Rows that count up: start + stride x i modulo the vocabulary, a tenth of the tokens at random.

    A pure function of the ordinal, picklable for loader processes. The last id is the mask.

    Args:
        sequence_length: tokens of a row.
        vocab_size: rows of the table.
        diffusion: the objective.
        seed: of tokens and noise.
        documents: segments of a row, of unequal lengths; 1: the row is whole.
    """

    pad_id, has_one_width = 0, True

    def __init__(
        self,
        sequence_length: int,
        vocab_size: int,
        diffusion: DiffusionConfig | None = None,
        seed: int = 0,
        documents: int = 1,
    ) -> None:
        self.sequence_length, self.vocab_size = sequence_length, vocab_size
        self.diffusion, self.seed = diffusion or DiffusionConfig(), seed
        self.documents = documents
        self.noise = NoiseStream(seed, "pretrain", "train")

    def __len__(self) -> int:
        return 1 << 30

    @property
    def has_whole_rows(self) -> bool:
        """Whether every row is one segment."""
        return self.documents == 1

    def segments(self, ordinal: int) -> list[int]:
        """Lengths of a row's segments."""
        if self.documents == 1:
            return [self.sequence_length]
        generator = np.random.default_rng([self.seed, ordinal, 7])
        ends = generator.choice(self.sequence_length - 1, self.documents - 1, replace=False) + 1
        return np.diff(np.sort(ends), prepend=0, append=self.sequence_length).tolist()

    def tokens(self, ordinal: int) -> Any:
        """int32 [S]."""
        generator = np.random.default_rng([self.seed, ordinal])
        start, stride = generator.integers(0, self.vocab_size - 1), generator.integers(1, 4)
        counted = (start + stride * np.arange(self.sequence_length)) % (self.vocab_size - 1)
        strange = generator.integers(0, self.vocab_size - 1, self.sequence_length)
        is_strange = generator.random(self.sequence_length) < 0.1
        return np.where(is_strange, strange, counted).astype(np.int32)

    def __getitem__(self, ordinal: int) -> Row:
        return make_row(
            self.tokens(ordinal),
            self.segments(ordinal),
            0,
            ordinal,
            noise=self.noise,
            diffusion=self.diffusion,
            mask_id=self.vocab_size - 1,
        )

    def row_length(self, ordinal: int) -> int:
        """Tokens of a row."""
        return self.sequence_length

    def flags(self, ordinal: int) -> Any:
        """Segments of a row, uint8 [S]."""
        starts = segment_starts(self.segments(ordinal), self.sequence_length, 0)
        return row_flags(starts, 0)
