"""What ``infill_toy.py`` could reach at best: its decoder with a model that knows the rows exactly.

Nothing is trained. For a gap of which r characters are left and m masks stand, the probabilities of every
label follow from the corruption (SPEC 6): which masks swallowed their next ones, how many EOS were put
behind, each label with the weight that the loss gives it. With these in a network's place the decoder's
rules run at temperature 0: surest mask first (entropy), 64 masks and 64 expansions at most, an EOS closes
what is right of it. Only ends of the gap open, which the program checks.

    python tests/acceptance/infill_toy_bound.py [--mixture Q:N,... ...]       about a minute for each
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import cache
from math import exp, lgamma, log

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mixture = tuple[tuple[float, int], ...]
LENGTHS = (1, 2, 3, 5, 8, 12, 16, 20, 25, 30, 35, 40, 45, 50, 55, 60, 64)
STARTS = (4, 16, 64)
MAX_MASKS = MAX_EXPANSIONS = 64
NEVER = -1e300


def mixture_of(text: str) -> Mixture:
    """Of ``Q:N,Q:N``: expand_probability and max_appended of each corruption."""
    pairs = [part.split(":") for part in text.split(",")]
    return tuple((float(probability), int(appended)) for probability, appended in pairs)


@cache
def log_ways(tokens: int, groups: int) -> float:
    """Logarithm of the number of ways to cut a run of tokens into groups of one or more."""
    if tokens == 0 or groups == 0:
        return 0.0 if tokens == groups else NEVER
    if groups < 0 or groups > tokens:
        return NEVER
    return lgamma(tokens) - lgamma(groups) - lgamma(tokens - groups + 1)


def worlds(
    r: int, m: int, is_closed: bool, q: float, most: int
) -> Iterator[tuple[float, int, int, bool]]:
    """Ways in which m masks stand for r tokens and EOS behind them.

    Args:
        r: tokens, 1 or more unless all have opened.
        m: masks.
        is_closed: a token right of them is open, so no EOS is among them.
        q: probability that a mask swallows the next.
        most: EOS that the corruption appends at most.

    Yields:
        (weight, groups of tokens, EOS that stand, whether the last group swallowed an EOS).
    """
    for groups in range(min(r, 1), min(r, m) + 1):
        for swallowed_end in (False, True):
            eos = m - groups
            appended = eos + swallowed_end
            if (is_closed and appended) or appended > most:
                continue
            if (swallowed_end and not r) or (q == 0.0 and (groups < r or swallowed_end)):
                continue
            weight = log_ways(r, groups)
            if q > 0.0:
                weight += (r - groups + swallowed_end) * log(q)
                stays = groups - 1 + (appended > 0 and not swallowed_end) if r else 0
                weight += stays * log(1.0 - q)
            yield exp(weight) if weight > -700 else 0.0, groups, eos, swallowed_end


@cache
def alone(r: int, groups: int) -> Floats:
    """Probability that group j is token i alone, [groups, r], where every cut is as likely."""
    found = np.zeros((groups, r))
    for j in range(groups):
        for i in range(j, r - groups + j + 1):
            log_share = log_ways(i, j) + log_ways(r - i - 1, groups - j - 1) - log_ways(r, groups)
            found[j, i] = exp(log_share) if log_share > -300 else 0.0
    return found


@cache
def labels(r: int, m: int, is_closed: bool, mixture: Mixture, fading: float) -> Floats:
    """Probabilities at each mask, [m, r + 2]: every token left, ``<|expand|>``, EOS.

    Of each corruption half of the rows have its q, half q times ``fading``; the EOS of a row pay as one
    token together.
    """
    found = np.zeros((m, r + 2))
    for each, most in [(q * f, most) for q, most in mixture for f in (1.0, fading)]:
        for weight, groups, eos, swallowed_end in worlds(r, m, is_closed, each, most):
            weight /= most + 1  # each number of EOS is as likely
            single = alone(r, groups).copy()
            if swallowed_end:
                single[-1] = 0.0
            found[:groups, :r] += weight * single
            found[:groups, r] += weight * (1.0 - single.sum(1))
            found[groups:, r + 1] += weight / max(eos, 1)
    total = found.sum(1, keepdims=True)
    return found / np.where(total > 0, total, 1.0)


def decode(length: int, masks: int, mixture: Mixture) -> tuple[bool, int, int]:
    """Whether the gap comes out right, its expansions and its steps."""
    r, m, is_closed, expansions, steps = length, masks, False, 0, 0
    while m:
        steps += 1
        if r == 0 and is_closed:
            return False, expansions, steps  # masks between two neighbours: no row was like that
        shares = labels(r, m, is_closed, mixture, 1.0 - r / length).copy()
        if expansions >= MAX_EXPANSIONS or m >= MAX_MASKS:
            shares[:, r] = 0.0
            shares /= np.maximum(shares.sum(1, keepdims=True), 1e-300)
        place = int(np.argmax((shares * np.log(shares + 1e-10)).sum(1)))
        label = int(shares[place].argmax())
        if label == r:
            m, expansions = m + 1, expansions + 1
        elif label == r + 1:
            m = place
        elif (place, label) in ((0, 0), (m - 1, r - 1)):
            r, m, is_closed = r - 1, m - 1, is_closed or place > 0
        else:
            raise SystemExit(f"token {label} of {r} opened at mask {place} of {m}: not at an end")
    return r == 0, expansions, steps


def main() -> None:
    """Print a line for each Q and start."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--mixture",
        nargs="+",
        default=["0.5:63", "0.25:63", "0.1:63", "0.25:63,0.5:0,0.25:63,0.85:0"],
        metavar="Q:N,...",
        help="expand_probability and max_appended of corruptions that take turns",
    )
    for name in parser.parse_args().mixture:
        mixture = mixture_of(name)
        for masks in STARTS:
            found = {length: decode(length, masks, mixture) for length in LENGTHS}
            wrong = [length for length, (is_right, _, _) in found.items() if not is_right]
            used = max(expansions for _, expansions, _ in found.values())
            print(
                f"{name} from {masks:2} masks: {len(LENGTHS) - len(wrong)} of "
                f"{len(LENGTHS)} lengths right, {used} expansions at most; wrong: {wrong or 'none'}",
                flush=True,
            )


if __name__ == "__main__":
    main()
