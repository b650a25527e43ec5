"""The outermost wrapper: a row by its ordinal, noised, weighed and shifted.

Noise is keyed by the ordinal in the stage's stream, never by a row's number in a file (the masks
would return each epoch) nor by its index in a source (sources would share them). Everything below
this class is clean text; everything above it moves bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..config.schema import DataConfig, DiffusionConfig
from ..diffusion.noise import NoiseStream, stage_word
from ..diffusion.rows import (
    EndRun,
    Objective,
    complement_time,
    noise_row,
    row_flags,
    segment_starts,
)
from ..errors import ConfigError
from .pretrain import TokenIds


@dataclass(frozen=True)
class Row:
    """One sample on its way to a micro-batch; arrays are [S], S the row's own length.

    Attributes:
        tokens: int32, model input.
        labels: int32, the token to predict at each position, 0 where there is none.
        loss_weight: float32, of that label.
        flags: uint8, SEGMENT_START 1, PREDICTED 2, DEAD 4, UNATTENDED 8 (diffusion/rows.py).
        t: time of the sample; 1 under ``ar``.
        source: index in the blend.
        ordinal: in the stage's stream.
        num_maskable: tokens that could have been masked.
    """

    tokens: NDArray[np.int32]
    labels: NDArray[np.int32]
    loss_weight: NDArray[np.float32]
    flags: NDArray[np.uint8]
    t: float
    source: int
    ordinal: int
    num_maskable: int


class CleanRows(Protocol):
    """Rows of text by sample number: (x0 int32 [S], source)."""

    def __len__(self) -> int: ...

    def __getitem__(self, n: int) -> tuple[NDArray[np.int32], int]: ...


class Stream(Protocol):
    """Rows by ordinal as the loader takes them: pure functions of the ordinal, picklable."""

    @property
    def sequence_length(self) -> int:
        """No row is longer."""
        ...

    @property
    def pad_id(self) -> int:
        """What dead padding is filled with."""
        ...

    @property
    def has_whole_rows(self) -> bool:
        """Whether every row is one segment of ``sequence_length`` tokens: flags need no reading."""
        ...

    @property
    def has_one_width(self) -> bool:
        """Whether every micro-batch is ``sequence_length`` wide; else it is as wide as its longest row."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, ordinal: int) -> Row: ...

    def flags(self, ordinal: int) -> NDArray[np.uint8]:
        """SEGMENT_START, DEAD and UNATTENDED of a row: all that middle pipeline stages need."""
        ...

    def row_length(self, ordinal: int) -> int:
        """Tokens of a row."""
        ...


def stream_seed(seed: int, number: int) -> int:
    """Seed of one of the streams over the same data, which keys order and noise alike.

    Stream 0 has the configured seed; stream N the first 8 bytes, little endian, of
    sha256("SEED/new_stream/N"). Through it N enters the index hash.

    Raises:
        ConfigError: ``number`` is negative.
    """
    if number < 0:
        raise ConfigError(f"data.new_stream is {number}; give 0 or more.")
    return seed if number == 0 else stage_word(f"{seed}/new_stream", str(number))


def objective_of(diffusion: DiffusionConfig) -> Objective:
    """The configured objective as diffusion/rows.py takes it."""
    return Objective.of(
        diffusion.objective,
        weight=diffusion.weight,
        cart_p=diffusion.cart_p,
        normalize_weight=diffusion.normalize_weight,
        denominator=diffusion.denominator,
        t_min=diffusion.t_min,
        shift=diffusion.shift,
    )


def make_row(
    x0: NDArray[np.integer],
    segment_lengths: list[int],
    num_dead: int,
    ordinal: int,
    *,
    noise: NoiseStream,
    diffusion: DiffusionConfig,
    mask_id: int,
    source: int = 0,
    is_maskable: NDArray[np.bool_] | None = None,
    is_attended: NDArray[np.bool_] | None = None,
    end: EndRun | None = None,
) -> Row:
    """Noise one clean row; what every stage calls.

    Args:
        x0: clean ids [S], dead padding included.
        segment_lengths: of the real segments.
        num_dead: dead tokens at the end.
        ordinal: in the stage's stream.
        noise: the stage's noise.
        diffusion: the objective.
        mask_id: M.
        source: index in the blend.
        is_maskable: False where a token may not be masked; None: no such token.
        is_attended: False where no other token attends; None: no such token.
        end: the run of PAD that ends an answer.
    """
    sample, complement = ordinal, False
    if diffusion.complementary:
        sample, complement = ordinal // 2, ordinal % 2 == 1
    t, u, order = 1.0, None, None
    if diffusion.objective == "diffusion":
        t = noise.time(sample, t_min=diffusion.t_min, low_discrepancy=diffusion.low_discrepancy)
        u = noise.positions(sample, x0.shape[0])
        if diffusion.weight == "cart_shuffled":
            order = noise.weight_order(sample, x0.shape[0])
    row = noise_row(
        x0,
        segment_lengths,
        objective_of(diffusion),
        u_S=u,
        t=t,
        mask_token_id=mask_id,
        num_dead=num_dead,
        is_maskable_S=is_maskable,
        is_attended_S=is_attended,
        end=end,
        complement=complement,
        order_S=order,
    )
    return Row(
        tokens=row.tokens,
        labels=row.labels,
        loss_weight=row.loss_weight,
        flags=row.flags,
        t=complement_time(t) if complement else t,
        source=source,
        ordinal=ordinal,
        num_maskable=row.num_maskable,
    )


class NoisedStream:
    """Rows by ordinal; a pure function of its arguments, picklable for worker processes.

    With ``diffusion.complementary`` ordinals 2k and 2k + 1 share sample k and its noise, the
    second with the complement mask. With ``data.random_length`` p a row is cut with probability p
    to a uniform length; the rest is dead padding.

    Args:
        rows: clean rows of the blend.
        ids: special ids.
        data: document masks and random length.
        diffusion: the objective.
        stage: part of the noise's key.
        split: ``"train"`` or ``"valid"``, likewise.
    """

    def __init__(
        self,
        rows: CleanRows,
        ids: TokenIds,
        data: DataConfig,
        diffusion: DiffusionConfig,
        *,
        stage: str = "pretrain",
        split: str = "train",
    ) -> None:
        self.rows, self.ids, self.data, self.diffusion = rows, ids, data, diffusion
        self.noise = NoiseStream(data.seed, stage, split)
        self.ordinals_per_sample = 2 if diffusion.complementary else 1
        self.pad_id = ids.eod_id
        self.has_one_width = True

    @property
    def sequence_length(self) -> int:
        """Tokens of a row."""
        return self.data.sequence_length

    @property
    def has_whole_rows(self) -> bool:
        """Whether every row is one segment without padding, so that flags need no reading."""
        return not self.data.document_masks and self.data.random_length <= 0.0

    def __len__(self) -> int:
        return len(self.rows) * self.ordinals_per_sample

    def __getitem__(self, ordinal: int) -> Row:
        x0, source, lengths, num_dead = self._clean(ordinal)
        return make_row(
            x0,
            lengths,
            num_dead,
            ordinal,
            noise=self.noise,
            diffusion=self.diffusion,
            mask_id=self.ids.mask_id,
            source=source,
        )

    def row_length(self, ordinal: int) -> int:
        """Tokens of a row, dead padding included."""
        return self.sequence_length

    def flags(self, ordinal: int) -> NDArray[np.uint8]:
        """SEGMENT_START and DEAD of a row, uint8 [S]: all that middle pipeline stages need."""
        length = self.sequence_length
        if self.has_whole_rows:
            return row_flags(segment_starts([length], length), 0)
        _, _, lengths, num_dead = self._clean(ordinal)
        return row_flags(segment_starts(lengths, length, num_dead), num_dead)

    def _clean(self, ordinal: int) -> tuple[NDArray[np.int32], int, list[int], int]:
        """(x0, source, segment lengths, dead tokens) of the ordinal's sample."""
        sample = ordinal // self.ordinals_per_sample
        x0, source = self.rows[sample]
        kept = self.noise.row_length(sample, x0.size, self.data.random_length)
        if kept < x0.size:
            x0 = x0.copy()
            x0[kept:] = self.ids.eod_id
        lengths = [kept]
        if self.data.document_masks:
            ends = np.flatnonzero(x0[: kept - 1] == self.ids.eod_id) + 1
            lengths = np.diff(ends, prepend=0, append=kept).tolist()
        return x0, source, lengths, x0.size - kept
