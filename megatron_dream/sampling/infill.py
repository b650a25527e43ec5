"""Infilling of unknown length (DreamOn): a gap that grows and shrinks while it is filled.

A gap begins with a few masks between prefix and suffix. Every step opens the surest token of each gap, or,
with an adaptive algorithm, all that are sure enough. An opened ``<|expand|>`` becomes two masks; an opened
end token is taken out, and with ``eos_closes_right`` all masks right of it in the gap. Prefix and suffix
never change. A gap without masks is done and leaves the batch. Rows do not depend on one another; nothing
is cached, since positions move. SPEC 6.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from .blocks import Block
from .canvas import build_canvas, pad_left
from .decode import Choice, choose
from .passes import Passes
from .randomness import RowRandom, fresh_seed
from .sampling_config import SamplingConfig
from .schedule import Schedule
from .selection import select, spread


@dataclass(frozen=True)
class GapConfig:
    """How a gap may change.

    Attributes:
        expand_token_id: grows; None: the model has no such token, and gaps do not grow.
        masks: to begin with.
        max_masks: of a gap at any time.
        max_expansions: of a gap in all; over either bound ``<|expand|>`` is forbidden.
        eos_closes_right: an end token takes the masks right of it with it.
    """

    expand_token_id: int | None = None
    masks: int = 4
    max_masks: int = 64
    max_expansions: int = 64
    eos_closes_right: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name, low in (("masks", 1), ("max_masks", 1), ("max_expansions", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise ValueError(f"{name} is {value!r}: give a whole number of at least {low}.")
        if self.masks > self.max_masks:
            raise ValueError(
                f"masks is {self.masks}, over max_masks {self.max_masks}: lower one or raise the other."
            )


@dataclass
class Slot:
    """A position that a gap has or had.

    Attributes:
        token: None: masked.
        inserted_step: when it came in; -1: it was there from the start.
        opened_step: when it opened for the last time; -1: never.
        removed_step: when it went out; -1: it stayed.
        confidence: the algorithm's, at its last opening.
        earlier: (step, token or None for masked again) before that.
    """

    token: int | None = None
    inserted_step: int = -1
    opened_step: int = -1
    removed_step: int = -1
    confidence: float | None = None
    earlier: list[tuple[int, int | None]] = field(default_factory=list)

    @property
    def is_masked(self) -> bool:
        """Whether it is there and not open."""
        return self.token is None and self.removed_step < 0


@dataclass
class Gap:
    """One gap while it is filled.

    Attributes:
        prefix: ids before it, at least one.
        suffix: ids after it.
        slots: every position that it ever had, in the order in which they stand.
        max_length: of the whole row; None: no bound.
        num_expansions: so far.
        num_steps: in which something opened.
    """

    prefix: list[int]
    suffix: list[int]
    slots: list[Slot]
    max_length: int | None = None
    num_expansions: int = 0
    num_steps: int = 0

    @property
    def living(self) -> list[Slot]:
        """Its positions now."""
        return [slot for slot in self.slots if slot.removed_step < 0]

    @property
    def tokens(self) -> list[int]:
        """What has opened so far."""
        return [slot.token for slot in self.living if slot.token is not None]

    @property
    def num_masks(self) -> int:
        """Still to open."""
        return sum(slot.is_masked for slot in self.slots)

    def ids(self, mask_id: int) -> list[int]:
        """The row."""
        middle = [mask_id if slot.token is None else slot.token for slot in self.living]
        return [*self.prefix, *middle, *self.suffix]

    def may_grow(self, config: GapConfig) -> bool:
        """Whether ``<|expand|>`` may open: it adds one mask to those there are."""
        length = len(self.prefix) + len(self.living) + len(self.suffix)
        return (
            config.expand_token_id is not None
            and self.num_expansions < config.max_expansions
            and self.num_masks < config.max_masks
            and (self.max_length is None or length < self.max_length)
        )

    def open(
        self,
        step: int,
        openings: Sequence[tuple[Slot, int, float]],
        config: GapConfig,
        end_ids: Sequence[int],
    ) -> None:
        """Put in what a step chose: plain tokens, then growth, then ends, each from left to right.

        An ``<|expand|>`` for which there is no room any more stays a mask.
        """
        self.num_steps += 1
        for slot, token, confidence in openings:
            if token != config.expand_token_id:
                slot.token, slot.opened_step, slot.confidence = token, step, confidence
        for slot, token, _ in openings:
            if token == config.expand_token_id and self.may_grow(config):
                slot.earlier += [(step, token), (step, None)]
                self.slots.insert(_place(self.slots, slot) + 1, Slot(inserted_step=step))
                self.num_expansions += 1
        for slot, token, _ in openings:
            if token not in end_ids:
                continue
            slot.removed_step = step
            after = self.slots[_place(self.slots, slot) + 1 :] if config.eos_closes_right else []
            for closed in after:
                if closed.is_masked:
                    closed.removed_step = closed.opened_step = step


@dataclass(frozen=True)
class InfillOutput:
    """Finished gaps, ``num_return_sequences`` for each that was given, side by side.

    Attributes:
        gaps: in that order.
        num_forward: forward passes.
        seed: repeats the draw.
    """

    gaps: list[Gap]
    num_forward: int
    seed: int


def fill_gaps(
    model: Any,
    prefixes: Sequence[Sequence[int]],
    suffixes: Sequence[Sequence[int]],
    *,
    sampling: SamplingConfig,
    gap: GapConfig,
    row_ids: Sequence[int] | None = None,
    row_seeds: Sequence[int] | None = None,
    max_position: int | None = None,
    device: torch.device | None = None,
    on_step: Callable[[list[Gap]], None] | None = None,
) -> InfillOutput:
    """Fill the gap between each prefix and its suffix.

    Args:
        model: as for ``diffusion_generate``.
        prefixes: ids before each gap, at least one (BOS): something has to predict its first token.
        suffixes: ids after it, its end token included.
        sampling: algorithm, temperature, filters, seed, token ids; what belongs to a canvas of fixed length
            (steps, blocks, caches, PAD's penalty, remasking, ``origin``) has no meaning here.
        gap: how it may change.
        row_ids: number of each gap among all of the run, for its draws.
        row_seeds: a seed for each gap in place of the configuration's.
        max_position: longest sequence the model knows.
        device: of the model.
        on_step: shown the gaps, ``num_return_sequences`` for each that was given, after every step.

    Raises:
        ValueError: one sentence: what is wrong and what to do.
    """
    config = check_growing(sampling, gap)
    row_ids = range(len(prefixes)) if row_ids is None else row_ids
    row_seeds = [config.seed or 0] * len(prefixes) if row_seeds is None else row_seeds
    counts = [len(each) for each in (prefixes, suffixes, row_ids, row_seeds)]
    if len(set(counts)) > 1:
        raise ValueError(
            "{} prefixes, {} suffixes, {} row_ids, {} row_seeds: give one of each for every gap.".format(
                *counts
            )
        )
    gaps, seeds, keys = [], [], []
    for number, seed, prefix, suffix in zip(row_ids, row_seeds, prefixes, suffixes, strict=True):
        _check_texts(prefix, suffix, number, config)
        size = len(prefix) + gap.masks + len(suffix)
        if max_position is not None and size > max_position:
            raise ValueError(
                f"gap {number} with its texts has {size} tokens, over the model's {max_position} positions: "
                "shorten the texts or give fewer masks."
            )
        for copy in range(config.num_return_sequences):
            slots = [Slot() for _ in range(gap.masks)]
            gaps.append(Gap(list(prefix), list(suffix), slots, max_position))
            seeds.append(int(seed))
            keys.append((int(number), copy))
    one_each = dataclasses.replace(config, num_return_sequences=1)  # rows stand for themselves
    run = _Run(model, gaps, one_each, gap, RowRandom(seeds, keys), device or torch.device("cpu"))
    step = 0
    while any(gap.num_masks for gap in gaps):
        with torch.no_grad():
            run.step(step)
        if on_step is not None:
            on_step(gaps)
        step += 1
    return InfillOutput(gaps, run.num_forward, config.seed or 0)


@dataclass
class _Run:
    """One call in progress."""

    model: Any
    gaps: list[Gap]
    config: SamplingConfig
    gap_config: GapConfig
    random: RowRandom
    device: torch.device
    num_forward: int = 0

    def step(self, step: int) -> None:
        """Open what this step opens in every gap that has masks."""
        config, active = self.config, [gap for gap in self.gaps if gap.num_masks]
        rows = [gap.ids(config.mask_token_id or 0) for gap in active]
        ids_BS, real_BS = pad_left(rows, config.pad_token_id or 0, self.device)
        is_padded = len({len(row) for row in rows}) > 1
        canvas = build_canvas(ids_BS, real_BS if is_padded else None, config)
        masked_BS = (ids_BS == config.mask_token_id) & canvas.real_BS
        passes = Passes(self.model, canvas, config)
        size = ids_BS.shape[1]
        passes.begin(Block(0, size, size, 0, Schedule(1, config.eps)), masked_BS)
        logits = passes.logits(0, canvas.x_BS, masked_BS, masked_BS.any(-1))
        choice = choose(
            self._without_growth(logits, active, masked_BS),
            None,
            self._uniforms() if config.temperature else None,
            config,
        )
        self.num_forward += passes.num_forward
        opened_BS = self._opened(active, choice, masked_BS)
        columns = masked_BS.nonzero()[:, 1].tolist()
        is_open = opened_BS[masked_BS].tolist()
        tokens, sure = choice.tokens_N.tolist(), choice.confidence_N.tolist()
        n = 0
        for gap in active:
            openings = []
            begin = size - len(gap.ids(0)) + len(gap.prefix)
            living = gap.living
            for _ in range(gap.num_masks):
                if is_open[n]:
                    openings.append((living[columns[n] - begin], tokens[n], sure[n]))
                n += 1
            gap.open(step, openings, self.gap_config, config.eos_token_ids)

    def _without_growth(
        self, logits: Iterable[torch.Tensor], active: list[Gap], masked_BS: torch.Tensor
    ) -> Iterator[torch.Tensor]:
        """The logits, ``<|expand|>`` forbidden in gaps that may not grow."""
        may_grow = [gap.may_grow(self.gap_config) for gap in active]
        if self.gap_config.expand_token_id is None or all(may_grow):
            yield from logits
            return
        rows_N = masked_BS.nonzero()[:, 0]
        is_full_N = ~torch.tensor(may_grow, device=masked_BS.device)[rows_N]
        start = 0
        for part_NV in logits:
            here = is_full_N[start : start + len(part_NV)]
            start += len(part_NV)
            part_NV = part_NV.clone()
            part_NV[here, self.gap_config.expand_token_id] = float("-inf")
            yield part_NV

    def _opened(self, active: list[Gap], choice: Choice, masked_BS: torch.Tensor) -> torch.Tensor:
        uniforms_BS = None
        if self.config.alg_temp > 0:
            uniforms_BS = spread(self._uniforms(), masked_BS)
        one_B = torch.ones(len(active), dtype=torch.int64)
        confidence_BS = spread(choice.confidence_N, masked_BS)
        return select(confidence_BS, masked_BS, one_B, uniforms_BS, False, self.config)

    def _uniforms(self) -> torch.Tensor:
        """A number for each mask, from its gap's own generator."""
        counts = [gap.num_masks for gap in self.gaps]
        return self.random.uniforms(counts, self.device)


def _place(slots: list[Slot], slot: Slot) -> int:
    """By identity: equal slots are not the same."""
    return next(place for place, one in enumerate(slots) if one is slot)


def check_growing(sampling: SamplingConfig, gap: GapConfig) -> SamplingConfig:
    """The sampling configuration, resolved and with a seed.

    Raises:
        ValueError: one sentence that names what has no meaning for gaps.
    """
    config = dataclasses.replace(sampling, max_new_tokens=0).resolved()
    for name, default in (
        ("steps", None), ("block_length", None), ("cache", "none"), ("remask", "none"),
        ("suffix_window", None), ("early_end", False),
    ):  # fmt: skip
        if getattr(sampling, name) != default:
            raise ValueError(
                f"{name} belongs to a canvas of fixed length: leave it out for a gap that grows and shrinks."
            )
    if config.pad_penalty:
        raise ValueError("PAD's penalty belongs to a canvas of fixed length: leave it out.")
    if config.alg == "origin":
        raise ValueError(
            "alg origin opens by a schedule, which a gap of unknown length has not: choose another."
        )
    if config.output_history:
        raise ValueError("output_history is for a fixed canvas: a gap's slots are its history.")
    if not config.eos_token_ids:
        raise ValueError("eos_token_id is not set: say which token takes a position out of a gap.")
    if config.seed is None:
        config = dataclasses.replace(config, seed=fresh_seed())
    ids = (config.mask_token_id, *config.eos_token_ids)
    if gap.expand_token_id is not None and gap.expand_token_id in ids:
        raise ValueError(
            f"expand_token_id {gap.expand_token_id} is mask or end token too: give three different ids."
        )
    return config


def _check_texts(
    prefix: Sequence[int], suffix: Sequence[int], number: int, config: SamplingConfig
) -> None:
    if not prefix:
        raise ValueError(
            f"the prefix of gap {number} is empty: put a token before it, such as BOS."
        )
    if config.mask_token_id in (*prefix, *suffix):
        raise ValueError(
            f"prefix or suffix of gap {number} holds the mask token: a row has one gap; fill masks inside "
            "a prompt with diffusion_generate."
        )
