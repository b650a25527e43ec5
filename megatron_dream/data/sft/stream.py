"""The ``sft`` stage's stream: a prompt and its answer by ordinal, fitted, noised, weighed and shifted.

Stands where data/stream.py's ``NoisedStream`` stands in pretraining. Noise falls on answers only; the
prompt is always read. A row has its own length: what a micro-batch adds behind it is dead.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...config.schema import DataConfig, DiffusionConfig, SftConfig
from ...diffusion.noise import NoiseStream
from ...diffusion.rows import EndRun, row_flags, segment_starts
from ..stream import Row, make_row
from .truncation import Fit, cut_to_row, drawn_sample, fill_to_answer, fill_to_length


class Samples(Protocol):
    """Prompts and answers by their number in the stream."""

    def __len__(self) -> int: ...

    def lengths(self, n: int) -> tuple[int, int]:
        """Tokens of sample n's prompt and of its answer without end."""
        ...

    def __getitem__(self, n: int) -> tuple[NDArray[np.int32], NDArray[np.int32], int]: ...


class SftStream:
    """Rows by ordinal; a pure function of its arguments, picklable for worker processes.

    Args:
        samples: prompts and answers.
        data: sequence length and seed.
        diffusion: the objective. With ``complementary`` ordinals 2k and 2k + 1 share sample k.
        sft: truncation, PAD and what pays.
        mask_id: M.
        pad_id: PAD, which is EOS.
        end_id: ends an answer.
        group_size: ordinals of a truncation group.
        stage: part of the noise's key.
        split: ``"train"`` or ``"valid"``, likewise.
    """

    has_whole_rows = False

    def __init__(
        self,
        samples: Samples,
        data: DataConfig,
        diffusion: DiffusionConfig,
        sft: SftConfig,
        *,
        mask_id: int,
        pad_id: int,
        end_id: int,
        group_size: int,
        stage: str = "sft",
        split: str = "train",
    ) -> None:
        self.samples, self.data, self.diffusion, self.sft = samples, data, diffusion, sft
        self.mask_id, self.pad_id, self.end_id = mask_id, pad_id, end_id
        self.noise = NoiseStream(data.seed, stage, split)
        self.ordinals_per_sample = 2 if diffusion.complementary else 1
        self.group_size = group_size // self.ordinals_per_sample
        self.sequence_length = data.sequence_length
        self.has_one_width = sft.width == "max"
        self._target = lru_cache(maxsize=8)(self._group_target)

    def __len__(self) -> int:
        return len(self.samples) * self.ordinals_per_sample

    def __getitem__(self, ordinal: int) -> Row:
        n = ordinal // self.ordinals_per_sample
        prompt, response, source = self.samples[n]
        fit = self.fit(n)
        end, pad = [self.end_id] * fit.end, [self.pad_id] * fit.fill
        answer = np.concatenate([response[: fit.response], end, pad]).astype(np.int32)
        return make_row(
            np.concatenate([prompt[: fit.prompt], answer]),
            [fit.total],
            0,
            ordinal,
            noise=self.noise,
            diffusion=self.diffusion,
            mask_id=self.mask_id,
            source=source,
            is_maskable=np.arange(fit.total) >= fit.prompt,
            is_attended=self._is_attended(fit),
            end=self._end_run(fit),
        )

    def row_length(self, ordinal: int) -> int:
        """Tokens of a row."""
        return self.fit(ordinal // self.ordinals_per_sample).total

    def flags(self, ordinal: int) -> NDArray[np.uint8]:
        """SEGMENT_START and UNATTENDED of a row: all that middle pipeline stages need."""
        fit = self.fit(ordinal // self.ordinals_per_sample)
        starts = segment_starts([fit.total], fit.total)
        return row_flags(starts, 0, is_attended_S=self._is_attended(fit))

    def fit(self, n: int) -> Fit:
        """How much of sample n stands in its row."""
        prompt, response = self.samples.lengths(n)
        target = self._target(n // self.group_size)
        if self.sft.truncation == "random_with_input_pad":
            return fill_to_answer(prompt, response, target, self.sequence_length)
        if self.sft.truncation == "random":
            return cut_to_row(prompt, response, target, self.sequence_length)
        return fill_to_length(prompt, response, target)

    def _group_target(self, group: int) -> int:
        """What the samples of a group are cut or filled to: tokens of an answer, or of a row."""
        if self.sft.truncation == "off":
            if self.sft.pad == "longest":
                return self._longest(group)
            return self.sequence_length if self.sft.pad == "max" else 0
        drawn = drawn_sample(self.noise.key, group, self.group_size)
        prompt, response = self.samples.lengths(drawn)
        return response if self.sft.truncation == "random_with_input_pad" else prompt + response + 1

    def _longest(self, group: int) -> int:
        members = range(group * self.group_size, (group + 1) * self.group_size)
        return max(sum(self.samples.lengths(n)) + 1 for n in members)

    def _is_attended(self, fit: Fit) -> NDArray[np.bool_] | None:
        if self.sft.pad_attended or not fit.fill:
            return None
        return np.arange(fit.total) < fit.total - fit.fill

    def _end_run(self, fit: Fit) -> EndRun | None:
        """The PAD that ends the answer; its end is one of them where it is the same token."""
        length = fit.fill + (fit.end if self.end_id == self.pad_id else 0)
        if not length:
            return None
        return EndRun(fit.total - length, fit.total, self.sft.eos_as_one, self.sft.eos_loss)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_target"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._target = lru_cache(maxsize=8)(self._group_target)
