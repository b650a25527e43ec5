"""The label of constructed histories of each pattern, in code and in prose."""

from __future__ import annotations

import pytest

from megatron_dream.evaluation.order.classify import classify
from megatron_dream.evaluation.order.early import Opened, early_structure
from megatron_dream.evaluation.order.structure import Layout, layout_of
from tests.unit.evaluation.order import constructed as made
from tests.unit.evaluation.order.constructed import CODE, PROSE, tokens_of

TEXTS = {"code": CODE, "prose": PROSE}


@pytest.fixture(params=sorted(TEXTS))
def layout(request: pytest.FixtureRequest) -> Layout:
    return layout_of("", tokens_of(TEXTS[request.param]))


def label(steps: list[int], layout: Layout) -> str | None:
    return classify(steps, layout).label


@pytest.mark.parametrize("size", [1, 3, 8])
def test_from_left_to_right(layout: Layout, size: int) -> None:
    found = classify(made.left_to_right(len(layout.kinds), size), layout)
    assert found.label == "left-to-right"
    assert found.disorder < 0.15


@pytest.mark.parametrize("seed", range(3))
def test_nearly_from_left_to_right(layout: Layout, seed: int) -> None:
    steps = made.nearly_left_to_right(len(layout.kinds), reach=5.0, seed=seed)
    assert label(steps, layout) == "left-to-right"


@pytest.mark.parametrize("size", [1, 3])
def test_structure_then_the_rest(layout: Layout, size: int) -> None:
    steps = made.chosen_first(len(layout.kinds), lambda i: layout.kinds[i] == "structure", size)
    found = classify(steps, layout)
    assert found.label == "sketch-first"
    assert found.structure_first > 0.95 and found.coverage > 0.6


def test_most_of_the_structure_first_is_a_sketch_too(layout: Layout) -> None:
    structure = [i for i, kind in enumerate(layout.kinds) if kind == "structure"]
    late = set(structure[::5])
    steps = made.chosen_first(
        len(layout.kinds), lambda i: layout.kinds[i] == "structure" and i not in late
    )
    assert label(steps, layout) == "sketch-first"


def test_structure_that_is_read_first_is_no_sketch() -> None:
    """A header, then what is no structure: both patterns are one order, and that is reading."""
    layout = layout_of(
        "", tokens_of("def add(first, second):\n    total = first + second\n    print = 1\n")
    )
    steps = made.left_to_right(len(layout.kinds))
    found = classify(steps, layout)
    assert found.structure_first > 0.95 and found.label == "left-to-right"


def test_a_sketch_is_out_of_reading_order() -> None:
    """One segment, reached at once, with all its structure in front: only the correlation tells."""
    layout = Layout(["structure"] * 6 + ["other"] * 10, [0] * 16, is_code=True)
    found = classify(made.left_to_right(16), layout)
    assert (found.structure_first, found.coverage) == (1.0, 1.0) and found.deviations > 3
    assert found.label == "left-to-right"


def test_other_tokens_first_are_no_sketch(layout: Layout) -> None:
    steps = made.chosen_first(len(layout.kinds), lambda i: layout.kinds[i] == "other")
    assert label(steps, layout) == "interleaved"


@pytest.mark.parametrize("parts", [2, 3])
def test_parts_in_turn(layout: Layout, parts: int) -> None:
    assert label(made.in_turn(len(layout.kinds), parts), layout) == "interleaved"


def test_neighbours_in_turn_are_not_left_to_right() -> None:
    """Pairs of lines, so that the correlation is high: the disorder of neighbours tells."""
    layout = layout_of("", tokens_of("".join(f"a{n} = b + c + d + e\n" for n in range(12))))
    found = classify(made.neighbours_in_turn(layout.segments), layout)
    assert found.label == "interleaved" and found.disorder > 0.2


def test_what_follows_no_pattern_is_what_remains(layout: Layout) -> None:
    count = len(layout.kinds)
    assert label(made.left_to_right(count)[::-1], layout) == "interleaved"
    labels = [label(made.at_random(count, seed), layout) for seed in range(40)]
    assert labels.count("interleaved") >= 38  # 3 deviations are passed by chance now and then


def test_no_label_for_a_few_tokens_or_one_step() -> None:
    short = layout_of("", tokens_of("x = f(1)"))
    assert label(list(range(len(short.kinds))), short) is None
    layout = layout_of("", tokens_of(CODE))
    assert label([0] * len(layout.kinds), layout) is None
    with pytest.raises(ValueError, match="give those of one text"):
        classify([1, 2], layout)


def opened(steps: list[int], layout: Layout, entropies: list[float]) -> Opened:
    return Opened(steps, layout.kinds, entropies)


def test_early_structure_is_told_from_what_is_easy() -> None:
    """Opened by entropy alone, structure being easy: crude early, and not early for what it is."""
    layout = layout_of("", tokens_of(CODE))
    count = len(layout.kinds)
    samples = []
    for seed in range(20):
        steps = made.at_random(count, seed)
        easy = [1.0 if kind == "structure" else 2.0 for kind in layout.kinds]
        noise = [step / count for step in steps]
        entropies = [e + 3 * n for e, n in zip(easy, noise, strict=True)]
        order = sorted(range(count), key=entropies.__getitem__)
        samples.append(opened(made.in_groups(order, 1), layout, entropies))
    found = early_structure(samples)
    assert found is not None and found.samples == 20
    assert found.crude > 0.7
    assert abs(found.matched - 0.5) < 0.1 and found.low <= found.matched <= found.high


def test_early_structure_is_seen_where_it_is() -> None:
    layout = layout_of("", tokens_of(CODE))
    steps = made.chosen_first(len(layout.kinds), lambda i: layout.kinds[i] == "structure")
    found = early_structure([opened(steps, layout, [1.0] * len(steps))] * 3)
    assert found is not None
    assert found.matched == found.crude == found.low == found.high == 1.0
    alone = early_structure([opened(steps, layout, [1.0] * len(steps))])
    assert alone is not None and alone.samples == 1
    assert alone.matched == 1.0 and alone.low is None and alone.high is None
    apart = [0.0 if kind == "structure" else 9.0 for kind in layout.kinds]
    assert early_structure([opened(steps, layout, apart)]) is None  # no pair is alike
