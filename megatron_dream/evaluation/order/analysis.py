"""Records to figures: each sample's order, the two nulls beside it, and the means over all samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .classify import LABELS, Evidence, classify
from .early import EarlyStructure, Opened, early_structure
from .measures import SPANS, OrderFigures, order_figures
from .record import OrderRecord
from .structure import Layout, layout_of

NUM_SHUFFLES = 20  # of each sample's steps, for the null of random order


@dataclass(frozen=True)
class SampleOrder:
    """One sample.

    Attributes:
        record: as read.
        layout: of the tokens of the text.
        figures: of their steps.
        evidence: the label and what it rests on.
    """

    record: OrderRecord
    layout: Layout
    figures: OrderFigures
    evidence: Evidence


@dataclass(frozen=True)
class Null:
    """Mean figures, by name, over samples; of the shuffled one with the spread of the mean."""

    name: str
    means: dict[str, float]
    ranges: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Analysis:
    """A file's.

    Attributes:
        samples: with at least two tokens of text.
        num_skipped: others.
        means: of the samples, by name.
        nulls: left to right, and origin.
        labels: how many samples have each; those without one are not counted.
        early: structure against others of equal entropy; None: not recorded, or no such pair.
        forced_by: the setting that forced a part of the order in some sample, or None.
    """

    samples: list[SampleOrder]
    num_skipped: int
    means: dict[str, float]
    nulls: list[Null]
    labels: dict[str, int]
    early: EarlyStructure | None
    forced_by: str | None


def sample_order(record: OrderRecord) -> SampleOrder:
    """All figures of one sample."""
    layout = layout_of(record.prefix, record.text_tokens)
    steps = record.steps
    return SampleOrder(record, layout, order_figures(steps), classify(steps, layout))


def analyse(records: Sequence[OrderRecord], seed: int = 0) -> Analysis:
    """All figures of a file.

    Args:
        records: in any order.
        seed: of the shuffles and of the samples drawn again.
    """
    long_enough = [record for record in records if record.num_tokens >= 2]
    samples = [sample_order(record) for record in long_enough]
    opened = [
        Opened(one.record.steps, one.layout.kinds, one.record.entropies)
        for one in samples
        if one.record.entropies is not None
    ]
    given = [one.evidence.label for one in samples if one.evidence.label]
    return Analysis(
        samples=samples,
        num_skipped=len(records) - len(samples),
        means=_means([_flat(one.figures, one.evidence) for one in samples]),
        nulls=[_left_to_right(samples), _origin(samples, seed)],
        labels={label: given.count(label) for label in LABELS},
        early=early_structure(opened, seed) if opened else None,
        forced_by=next((forced for r in records if (forced := r.forced_by())), None),
    )


def _flat(figures: OrderFigures, evidence: Evidence) -> dict[str, float | None]:
    """The columns of the table."""
    row: dict[str, float | None] = {"spearman": figures.spearman, "kendall": figures.kendall}
    row |= {f"local@{k}": figures.local_ar_ness[k] for k in SPANS}
    row |= {f"global@{k}": figures.global_ar_ness[k] for k in SPANS}
    row |= {"next": figures.next_share, "back": figures.back_share, "far": figures.far_share}
    row |= {"structure first": evidence.structure_first, "disorder": evidence.disorder}
    return row | {"coverage": evidence.coverage}


def _means(rows: Sequence[dict[str, float | None]]) -> dict[str, float]:
    """Of each column over the rows that have it; a column that none has is left out."""
    means = {}
    for name in rows[0] if rows else ():
        known = [value for row in rows if (value := row[name]) is not None]
        if known:
            means[name] = float(np.mean(known))
    return means


def _of_steps(sample: SampleOrder, steps: Sequence[int]) -> dict[str, float | None]:
    return _flat(order_figures(steps), classify(steps, sample.layout))


def _left_to_right(samples: Sequence[SampleOrder]) -> Null:
    return Null(
        "left to right", _means([_of_steps(one, sorted(one.record.steps)) for one in samples])
    )


def _origin(samples: Sequence[SampleOrder], seed: int) -> Null:
    generator = np.random.Generator(np.random.Philox(seed))
    rounds = [_means(list(_shuffled(samples, generator))) for _ in range(NUM_SHUFFLES)]
    names = rounds[0] if rounds else {}
    columns = {name: [one[name] for one in rounds] for name in names}
    return Null(
        "origin",
        {name: float(np.mean(values)) for name, values in columns.items()},
        {name: (min(values), max(values)) for name, values in columns.items()},
    )


def _shuffled(
    samples: Sequence[SampleOrder], generator: np.random.Generator
) -> Iterator[dict[str, float | None]]:
    for one in samples:
        yield _of_steps(one, generator.permutation(one.record.steps).tolist())


def as_dict(analysis: Analysis) -> dict[str, Any]:
    """Plain values for JSON; tokens are left in the file that was read."""
    return {
        "samples": [
            {
                "where": one.record.where,
                **dataclasses.asdict(one.figures),
                **dataclasses.asdict(one.evidence),
                "is_code": one.layout.is_code,
                "settings": one.record.settings,
            }
            for one in analysis.samples
        ],
        "num_skipped": analysis.num_skipped,
        "means": analysis.means,
        "nulls": {null.name: dataclasses.asdict(null) for null in analysis.nulls},
        "labels": analysis.labels,
        "early_structure": None if analysis.early is None else dataclasses.asdict(analysis.early),
        "forced_by": analysis.forced_by,
    }
