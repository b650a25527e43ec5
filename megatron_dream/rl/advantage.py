"""Advantages in a group, and what takes the place of groups that teach nothing (SPEC 8).

Shapes: G responses of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
EPSILON = 1e-6


def advantages(rewards_G: Sequence[float] | Floats) -> Floats | None:
    """(r - mean) / (std + 1e-6), std with n - 1; all tokens of a response share it.

    Args:
        rewards_G: of the responses that were judged; those whose judgement failed are not among them.

    Returns:
        [G], or None for a group that teaches nothing: fewer than two, or all alike (std below 1e-6).

    Raises:
        ValueError: a reward is no finite number.
    """
    rewards = np.asarray(rewards_G, dtype=np.float64)
    if not np.isfinite(rewards).all():
        raise ValueError(f"rewards are {rewards.tolist()}; they must be finite numbers.")
    if rewards.size < 2:
        return None
    deviation = float(rewards.std(ddof=1))
    if deviation < EPSILON:
        return None
    found: Floats = (rewards - rewards.mean()) / (deviation + EPSILON)
    return found


def substitutes(is_informative: Sequence[bool], random: np.random.Generator) -> list[int] | None:
    """For each group itself, or a random informative one where it is none.

    The copy of a group gets an id of its own, and with it fresh masks.

    Args:
        is_informative: of each group.
        random: draws the copies.

    Returns:
        Numbers of groups, or None where no group is informative: the step is skipped and counted.
    """
    good = [number for number, informative in enumerate(is_informative) if informative]
    if not good:
        return None
    return [
        number if informative else good[int(random.integers(len(good)))]
        for number, informative in enumerate(is_informative)
    ]
