"""Noise of the forward process as a function of (seed, stage, split, ordinal): SPEC 1.

Words come from Philox4x64-10, a counter-based generator: a word is a function of key and counter,
with no state between samples. Whoever holds an ordinal can draw its noise: any worker, any layout,
after any resume.

Layout (pinned by tests/unit/diffusion/golden_noise.json):

* key, two 64-bit words: ``seed mod 2**64`` and the first 8 bytes of sha256("stage/split"), read as
  little endian.
* counter, four 64-bit words, lowest first: ``(1 + position // 4, n, purpose, 0)``. One counter
  value yields four words; position i takes word ``i % 4``. Blocks begin at 1 because NumPy's
  generator counts up before it draws: ``numpy.random.Philox(key, counter=(0, n, purpose, 0))``
  yields positions 0, 1, 2, ... in order.
* purpose: ``POSITIONS`` one word a token of sample n; ``SAMPLE`` words of sample n as a whole (0: its
  time, 1 and 2: its random length, 3 and 4: EOS tokens behind an infilled middle, and whether its
  corruption fades, 5 to 7: which part of a text is that middle); ``PERMUTATION`` 64 words of run n,
  whose stable argsort is perm_n; ``EPOCH_ORDER`` round keys for the order of rows in later epochs
  (data/order.py); ``CLOSING_UP`` one word for each position of an infilled middle; ``TRUNCATION`` one
  word of truncation group n, the sample that it is cut to; ``LENGTH_ORDER`` one word for each run of
  samples of like length in window n; ``WEIGHT_ORDER`` one word a token of sample n, by which weights are
  dealt anew among its masked tokens. The rl stage has one of its own (rl/batch.py): steps of rollouts.
* a word becomes a float64 in [0, 1) by ``(word >> 11) * 2**-53``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .infilling import MAX_APPENDED, InfillingDraws

POSITIONS, SAMPLE, PERMUTATION, EPOCH_ORDER, CLOSING_UP = 0, 1, 2, 3, 4
TRUNCATION, LENGTH_ORDER, WEIGHT_ORDER = 5, 6, 7
RUN_LENGTH = 64  # consecutive ordinals whose times are stratified together

Words = NDArray[np.uint64]
Floats = NDArray[np.float64]


@lru_cache(maxsize=64)
def stage_word(stage: str, split: str) -> int:
    """Second word of the key: 64 bits that name a stage's stream of samples."""
    return int.from_bytes(hashlib.sha256(f"{stage}/{split}".encode()).digest()[:8], "little")


def philox_words(key: tuple[int, int], n: int, purpose: int, count: int) -> Words:
    """Words 0..count-1 at counter (n, purpose), uint64 [count].

    Args:
        key: seed (taken modulo 2**64) and ``stage_word``.
        n: ordinal, run or source: 0 <= n < 2**64.
        purpose: one of this module's constants.
        count: number of words.
    """
    if n < 0:
        raise ValueError(f"Noise has no ordinal {n}; ordinals begin at 0.")
    generator = np.random.Philox(
        key=np.array([key[0] % 2**64, key[1]], dtype=np.uint64),
        counter=np.array([0, n, purpose, 0], dtype=np.uint64),
    )
    return generator.random_raw(count)


def unit_floats(words: Words) -> Floats:
    """Words as float64 in [0, 1): their upper 53 bits."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


@lru_cache(maxsize=64)
def _run_permutation(key: tuple[int, int], run: int) -> tuple[int, ...]:
    words = philox_words(key, run, PERMUTATION, RUN_LENGTH)
    return tuple(np.argsort(words, kind="stable").tolist())


@dataclass(frozen=True)
class NoiseStream:
    """All noise of one stream of samples. ``n`` is always the ordinal in that stream.

    Attributes:
        seed: of the run's data.
        stage: ``"pretrain"``, ``"sft"``, ...
        split: ``"train"`` or ``"valid"``.
    """

    seed: int
    stage: str = "pretrain"
    split: str = "train"

    @property
    def key(self) -> tuple[int, int]:
        """Philox key."""
        return self.seed % 2**64, stage_word(self.stage, self.split)

    def positions(self, n: int, length: int) -> Floats:
        """One uniform number a token of sample ``n``, float64 [length], for the unsliced row."""
        return unit_floats(philox_words(self.key, n, POSITIONS, length))

    def weight_order(self, n: int, length: int) -> Floats:
        """One uniform number a token of sample ``n`` that ranks its weights, float64 [length]."""
        return unit_floats(philox_words(self.key, n, WEIGHT_ORDER, length))

    def time(self, n: int, *, t_min: float = 1e-3, low_discrepancy: bool = True) -> float:
        """t_n in [t_min, 1].

        Args:
            n: ordinal.
            t_min: smallest time.
            low_discrepancy: stratify runs of 64 ordinals: one time in each 64th of [t_min, 1], in
                an order drawn from (seed, run). Without the permutation a source that returns
                every 64 ordinals would meet the same times for ever.
        """
        if not 0.0 <= t_min < 1.0:
            raise ValueError(f"t_min is {t_min}; it must lie in [0, 1).")
        u = float(unit_floats(philox_words(self.key, n, SAMPLE, 1))[0])
        if low_discrepancy:
            run, index = divmod(n, RUN_LENGTH)
            u = (_run_permutation(self.key, run)[index] + u) / RUN_LENGTH
        return t_min + (1.0 - t_min) * u

    def infilling(
        self,
        n: int,
        length: int,
        room: int,
        *,
        max_appended: int = MAX_APPENDED,
        t_min: float = 1e-3,
        low_discrepancy: bool = True,
    ) -> InfillingDraws:
        """Draws for the corruption of sample ``n``'s middle of ``length`` tokens.

        Args:
            n: ordinal.
            length: of the middle.
            room: tokens that may be added to the row.
            max_appended: EOS tokens behind the middle at most.
            t_min: smallest time.
            low_discrepancy: as in ``time``.
        """
        appended, fades = unit_floats(philox_words(self.key, n, SAMPLE, 5))[3:]
        count = int(appended * (min(max_appended, room) + 1))
        return InfillingDraws(
            t=self.time(n, t_min=t_min, low_discrepancy=low_discrepancy),
            u_M=self.positions(n, length),
            coins=unit_floats(philox_words(self.key, n, CLOSING_UP, length + count)),
            num_appended=count,
            fades=bool(fades < 0.5),
        )

    def splitting(self, n: int) -> tuple[float, float, float]:
        """Three numbers in [0, 1) that choose sample ``n``'s middle: what kind it is, and its two ends."""
        kind, first, second = unit_floats(philox_words(self.key, n, SAMPLE, 8))[5:].tolist()
        return kind, first, second

    def row_length(self, n: int, length: int, share: float) -> int:
        """Tokens to keep of sample ``n``: with probability ``share`` uniform in 1..length."""
        if share <= 0.0:
            return length
        chosen, cut = unit_floats(philox_words(self.key, n, SAMPLE, 3))[1:]
        return 1 + int(cut * length) if chosen < share else length
