"""Gaps that grow and shrink, against SPEC 6 told once more for one row with plain lists."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.sampling import SamplingConfig
from megatron_dream.sampling.infill import GapConfig, fill_gaps
from tests.unit.sampling.plain_definition import (
    BOS,
    MASK,
    NUM_TOKENS,
    TinyModel,
    plain_confidence,
    plain_count,
)
from tests.unit.sampling.tiny_transformer import TinyTransformer

EOS, EXPAND = 18, 19
SAMPLING = SamplingConfig(
    mask_token_id=MASK, eos_token_id=EOS, num_tokens=NUM_TOKENS, seed=1, threshold=0.5
)
GAP = GapConfig(EXPAND, masks=3, max_masks=8, max_expansions=9)


class Eager(TinyModel):
    """Likes to grow and to end."""

    def __init__(self, seed=0, grow=2.0, end=1.0):
        super().__init__(seed)
        self.liking = torch.zeros(24)
        self.liking[EXPAND], self.liking[EOS] = grow, end

    def forward(self, input_ids, attention_mask, position_ids):
        return super().forward(input_ids, attention_mask, position_ids) + self.liking


def by_hand(model, prefix, suffix, config, gap):
    """One row: (tokens, steps, expansions)."""
    config = config.resolved()
    middle, steps, grown = [MASK] * gap.masks, 0, 0
    while MASK in middle:
        x = [*prefix, *middle, *suffix]
        logits = model.forward(torch.tensor([x]), None, None)[0].tolist()
        found = []
        for place, token in enumerate(middle):
            if token != MASK:
                continue
            row = logits[len(prefix) + place - 1]
            for never in (MASK, *range(NUM_TOKENS, len(row))):
                row[never] = -math.inf
            if middle.count(MASK) >= gap.max_masks or grown >= gap.max_expansions:
                row[EXPAND] = -math.inf
            probs = torch.softmax(torch.tensor(row), -1)
            best = int(probs.argmax())
            found.append((plain_confidence(probs.tolist(), best, config.alg), place, best))
        found.sort(key=lambda one: (-one[0], one[1]))
        count = plain_count(config, [one[0] for one in found], 1, False)
        chosen = sorted((place, token) for _, place, token in found[:count])
        # A list of lists, so that places stay while things are put in and taken out.
        cells = [[token] for token in middle]
        for place, token in chosen:
            if token not in (EXPAND, EOS):
                cells[place] = [token]
        for place, token in chosen:
            if token == EXPAND:
                ends = sum(t == EOS for _, t in chosen)  # open, though still in their cells
                masks = sum(cell.count(MASK) for cell in cells) - ends
                if grown < gap.max_expansions and masks < gap.max_masks:
                    cells[place] = [MASK, MASK]
                    grown += 1
        for place, token in chosen:
            if token == EOS:
                cells[place] = []
                if gap.eos_closes_right:
                    for later in range(place + 1, len(cells)):
                        is_other_end = (later, EOS) in chosen
                        if not is_other_end:
                            cells[later] = [t for t in cells[later] if t != MASK]
        middle = [token for cell in cells for token in cell]
        steps += 1
    return middle, steps, grown


texts = st.lists(st.integers(0, 17), max_size=5)


@given(
    gaps=st.lists(st.tuples(texts, texts), min_size=1, max_size=4),
    alg=st.sampled_from(["entropy", "maskgit_plus", "topk_margin", "threshold", "entropy_bound"]),
    grow=st.floats(0, 9),
    end=st.floats(-2, 9),
    masks=st.integers(1, 8),
    expansions=st.integers(0, 12),
    closes=st.booleans(),
    seed=st.integers(0, 5),
)
@settings(max_examples=100, deadline=None)
def test_equals_the_definition_by_hand(gaps, alg, grow, end, masks, expansions, closes, seed):
    model = Eager(seed, round(grow, 2), round(end, 2))
    config = dataclasses.replace(SAMPLING, alg=alg, entropy_bound=0.8)
    gap = GapConfig(EXPAND, masks, 8, expansions, closes)
    prefixes = [[BOS, *before] for before, _ in gaps]
    suffixes = [[*after, EOS] for _, after in gaps]
    output = fill_gaps(model, prefixes, suffixes, sampling=config, gap=gap)
    for found, prefix, suffix in zip(output.gaps, prefixes, suffixes, strict=True):
        tokens, steps, grown = by_hand(model, prefix, suffix, config, gap)
        assert (found.tokens, found.num_steps, found.num_expansions) == (tokens, steps, grown)
        assert (found.prefix, found.suffix) == (prefix, suffix)


def fill(model=None, count=4, **changes):
    config = dataclasses.replace(SAMPLING, **changes)
    prefixes = [[BOS, *range(number)] for number in range(count)]
    return fill_gaps(
        model or Eager(),
        prefixes,
        [[4, EOS]] * count,
        sampling=config,
        gap=GAP,
        row_ids=range(count),
    )


@pytest.mark.parametrize("alg, alg_temp", [("entropy", 0.5), ("threshold", 0.0)])
def test_a_gap_does_not_depend_on_its_batch(alg, alg_temp):
    """Gaps end at different lengths and times; each draws from its own generator."""
    model = Eager(3, grow=1.0, end=0.5)
    changes = dict(alg=alg, alg_temp=alg_temp, temperature=0.9, top_p=0.95)
    together = fill(model, **changes)
    assert len({gap.num_steps for gap in together.gaps}) > 1
    config = dataclasses.replace(SAMPLING, **changes)
    for number, gap in enumerate(together.gaps):
        alone = fill_gaps(
            model, [gap.prefix], [gap.suffix], sampling=config, gap=GAP, row_ids=[number]
        )
        assert alone.gaps[0].tokens == gap.tokens
        assert alone.gaps[0].slots == gap.slots


def test_budgets_hold_at_every_step():
    longest = 0

    def look(gaps):
        nonlocal longest
        (gap,) = gaps
        assert gap.num_masks <= GAP.max_masks and gap.num_expansions <= GAP.max_expansions
        longest = max(longest, len(gap.ids(MASK)))

    eager = Eager(grow=30.0, end=-30.0)
    fill_gaps(eager, [[BOS]], [[1, EOS]], sampling=SAMPLING, gap=GAP, max_position=9, on_step=look)
    assert longest == 9  # the model's positions
    (long,) = fill(eager, count=1).gaps
    assert long.num_expansions == GAP.max_expansions
    assert len(long.tokens) == GAP.masks + GAP.max_expansions


def canvas_of(gap, step):
    """As the slots tell it."""
    here = []
    for slot in gap.slots:
        if slot.inserted_step <= step and not 0 <= slot.removed_step <= step:
            here.append(slot.token if 0 <= slot.opened_step <= step else None)
    return here


def test_slots_tell_the_whole_story():
    """From them every canvas can be made again."""
    grew = shrank = False
    for seed in range(8):
        seen = [[None] * GAP.masks]
        (gap,) = fill_gaps(
            Eager(seed, 5.0, 6.0),
            [[BOS, 1]],
            [[2, EOS]],
            sampling=SAMPLING,
            gap=GAP,
            on_step=lambda gaps, seen=seen: seen.append([slot.token for slot in gaps[0].living]),
        ).gaps
        assert [canvas_of(gap, step) for step in range(-1, len(seen) - 1)] == seen
        grew |= any(slot.earlier for slot in gap.slots)
        shrank |= any(slot.removed_step >= 0 for slot in gap.slots)
    assert grew and shrank


def test_several_samples_of_a_gap():
    output = fill(Eager(1), count=2, num_return_sequences=3, temperature=1.5)
    assert len(output.gaps) == 6
    assert output.gaps[0].prefix == output.gaps[2].prefix != output.gaps[3].prefix
    assert len({tuple(gap.tokens) for gap in output.gaps[:3]}) > 1


def test_states_models_run_the_head_for_masks_only():
    """The same through hidden states, as exported models and checkpoints give them."""
    model, sizes = TinyTransformer(), []
    head = model.sampler_logits
    model.sampler_logits = lambda states: sizes.append(len(states)) or head(states)
    output = fill(model, count=3)
    assert sizes[0] == 3 * GAP.masks and max(sizes) <= 3 * GAP.max_masks
    assert output.num_forward == len(sizes)


@pytest.mark.parametrize(
    ("changes", "gap", "words"),
    [
        ({"steps": 4}, {}, "steps belongs"),
        ({"cache": "dual"}, {}, "cache belongs|block_length belongs"),
        ({"alg": "origin"}, {}, "alg origin"),
        ({"pad_penalty": 1.0, "pad_token_id": 5}, {}, "PAD's penalty"),
        ({"eos_token_id": None}, {}, "eos_token_id is not set"),
        ({}, {"masks": 0}, "masks is 0"),
        ({}, {"masks": 9}, "over max_masks"),
        ({}, {"expand_token_id": EOS}, "three different ids"),
    ],
)
def test_what_has_no_meaning_is_refused(changes, gap, words):
    with pytest.raises(ValueError, match=words):
        config = dataclasses.replace(SAMPLING, **changes)
        fill_gaps(Eager(), [[BOS]], [[EOS]], sampling=config, gap=dataclasses.replace(GAP, **gap))


@pytest.mark.parametrize(
    ("prefixes", "suffixes", "words"),
    [
        ([[]], [[1]], "is empty"),
        ([[BOS, MASK]], [[1]], "holds the mask"),
        ([[1] * 9], [[1]], "13 tokens, over the model's 12"),
        ([[1]], [], "one of each"),
    ],
)
def test_broken_texts_are_refused(prefixes, suffixes, words):
    with pytest.raises(ValueError, match=words):
        fill_gaps(Eager(), prefixes, suffixes, sampling=SAMPLING, gap=GAP, max_position=12)
