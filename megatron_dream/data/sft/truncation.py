"""How much of a sample stands in its row (SPEC 5): random truncation, filling with PAD.

Why: padded to the longest answer, most tokens that carry loss are PAD, and a model learns to say PAD
early. Cut or filled to the length of an answer drawn at random, PAD is seen as often as a sampler's
canvas is too long for its answer.

Pure functions of lengths. A truncation group is a run of consecutive samples of the stream; which of
them is drawn depends on (seed, group) alone, never on who shares a micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...diffusion.noise import TRUNCATION, philox_words, unit_floats


@dataclass(frozen=True)
class Fit:
    """Tokens of a row, in their order; the row's length is their sum.

    Attributes:
        prompt: kept of the prompt.
        response: kept of the answer.
        end: 1 where the token that ends the answer is there, else 0.
        fill: PAD behind it.
    """

    prompt: int
    response: int
    end: int
    fill: int

    @property
    def total(self) -> int:
        """Tokens of the row."""
        return self.prompt + self.response + self.end + self.fill


def drawn_sample(key: tuple[int, int], group: int, group_size: int) -> int:
    """The sample that a truncation group is cut to.

    Args:
        key: of the stream's noise.
        group: number of the group.
        group_size: samples of it.

    Returns:
        A sample of ``group * group_size ... + group_size - 1``.
    """
    u = float(unit_floats(philox_words(key, group, TRUNCATION, 1))[0])
    return group * group_size + int(u * group_size)


def fill_to_answer(prompt: int, response: int, drawn_response: int, limit: int) -> Fit:
    """``random_with_input_pad``: the answer is cut to the drawn one's tokens, or filled to as many.

    An answer as long as the drawn one, or longer, ends without its end. With a long prompt the answer has
    the room that ``limit`` leaves it.

    Args:
        prompt: tokens.
        response: tokens of the answer without its end.
        drawn_response: the same of the drawn sample.
        limit: tokens that a row may have.
    """
    wanted = min(drawn_response, limit - prompt)
    kept = min(response, wanted)
    end = min(1, wanted - kept)
    return Fit(prompt, kept, end, wanted - kept - end)


def cut_to_row(prompt: int, response: int, drawn_total: int, limit: int) -> Fit:
    """``random``: prompt, answer and end are cut to the drawn sample's whole length; nothing is filled."""
    total = min(drawn_total, limit)
    kept_prompt = min(prompt, total)
    kept = min(response, total - kept_prompt)
    return Fit(kept_prompt, kept, min(1, total - kept_prompt - kept), 0)


def fill_to_length(prompt: int, response: int, total: int) -> Fit:
    """``off``: everything, with PAD up to ``total`` tokens where there is room."""
    return Fit(prompt, response, 1, max(0, total - prompt - response - 1))
