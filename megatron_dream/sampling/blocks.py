"""The canvas cut into blocks that are filled one after the other, each with its share of the steps."""

from __future__ import annotations

from dataclasses import dataclass

from .sampling_config import SamplingConfig
from .schedule import Schedule


@dataclass(frozen=True)
class Block:
    """Columns that are filled together.

    Attributes:
        first: where it begins; masks before it (inside the prompt) are filled with the first block.
        end: one past its last column.
        limit: columns that its passes see: all, or ``suffix_window`` beyond its end.
        first_step: number of its first step among all.
        schedule: of its own steps, from time 1 on.
    """

    first: int
    end: int
    limit: int
    first_step: int
    schedule: Schedule


def plan_blocks(prompt_length: int, config: SamplingConfig) -> list[Block]:
    """The blocks of a generation: the new tokens from the left, the last one shorter.

    Without ``block_length`` there is one, the whole canvas. Of all steps a block gets the share that it
    has of the new tokens, rounded so that the sum is right.

    Args:
        prompt_length: P, padded.
        config: resolved.

    Raises:
        ValueError: there are fewer steps than blocks.
    """
    new, steps = config.max_new_tokens, config.steps or 1
    size = prompt_length + new
    length = config.block_length or max(new, 1)
    ends = [*range(length, new, length), new]
    if steps < len(ends):
        raise ValueError(
            f"steps is {steps}, fewer than the {len(ends)} blocks of {length}: give every block a step, "
            "or make block_length longer."
        )
    blocks, begin, done = [], 0, 0
    for number, end in enumerate(ends):
        left = len(ends) - number - 1  # each of these needs a step
        until = min(max(steps * end // max(new, 1), done + 1), steps - left) if left else steps
        window = (
            size if config.suffix_window is None else prompt_length + end + config.suffix_window
        )
        blocks.append(
            Block(
                first=prompt_length + begin,
                end=prompt_length + end,
                limit=min(size, window),
                first_step=done,
                schedule=Schedule(until - done, config.eps),
            )
        )
        begin, done = end, until
    return blocks
