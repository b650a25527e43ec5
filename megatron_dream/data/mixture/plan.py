"""What a mixture takes: tokens and samples of every source, epochs, bytes, and what is wrong with it.

Shares are exact fractions of the weights as written, and counts are cut from their running sum: they
add up to the whole. A row counts with all its tokens, BOS too, as the budget of a run does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ..contamination import contamination_words
from .found import SourceFiles

# Up to about four, repeated data is nearly as good as new (Scaling Data-Constrained Language Models,
# arXiv 2305.16264).
MAX_EPOCHS = 4
_SUM_TOLERANCE = Fraction(1, 10**9)


@dataclass(frozen=True)
class Entry:
    """One source as it goes into a plan.

    Attributes:
        name: in reports.
        weight: as written.
        found: what lies there of it.
        sets: evaluation sets that its filters name, for as long as there are no token files.
        filters: what its documents have to pass, as jobs record it; None: nobody says, or cannot.
        needs_fetch: whether what is published of it are blob ids.
    """

    name: str
    weight: float
    found: SourceFiles
    sets: tuple[str, ...] = ()
    needs_fetch: bool = False
    filters: list[dict[str, Any]] | None = None

    @property
    def decontaminated_against(self) -> list[str]:
        """As its token files tell, or as the recipe promises."""
        return self.found.decontaminated_against if self.found.is_ready else list(self.sets)


@dataclass(frozen=True)
class Target:
    """What is planned for.

    Attributes:
        token_budget: tokens of the run.
        sequence_length: tokens of a row, BOS included.
        global_batch_size: rows of a step; None: steps are not planned.
        itemsize: bytes of an id on disk.
        fingerprint: of the tokenizer; None where it is not there.
        append_eod: whether documents should end with EOD; None: nobody says.
        missing_tokenizer: path of a tokenizer that is not there.
    """

    token_budget: int
    sequence_length: int = 2048
    global_batch_size: int | None = None
    itemsize: int = 4
    fingerprint: str | None = None
    append_eod: bool | None = None
    missing_tokenizer: str = ""

    @property
    def train_steps(self) -> int | None:
        """Steps that pass the budget."""
        if self.global_batch_size is None:
            return None
        return -(-self.token_budget // (self.sequence_length * self.global_batch_size))

    @property
    def samples(self) -> int:
        """Rows: those of all steps, or where no batch is given those that hold the budget."""
        if self.global_batch_size is None or self.train_steps is None:
            return -(-self.token_budget // self.sequence_length)
        return self.train_steps * self.global_batch_size


@dataclass(frozen=True)
class SourcePlan:
    """One source's part.

    Attributes:
        entry: the source.
        share: of all tokens.
        tokens_needed: of the budget.
        samples: of all rows.
        bytes_needed: of the ids of ``tokens_needed``.
    """

    entry: Entry
    share: float
    tokens_needed: int
    samples: int
    bytes_needed: int

    @property
    def is_estimate(self) -> bool:
        """Whether ``tokens_available`` is a guess by the bytes of the input."""
        return not self.entry.found.is_ready and self.tokens_available is not None

    @property
    def tokens_available(self) -> int | None:
        """Of the token files, or about those that the input makes; None where nothing is known."""
        found = self.entry.found
        return found.tokens if found.is_ready else found.estimated_tokens or None

    @property
    def epochs(self) -> float | None:
        """How often its tokens are passed."""
        available = self.tokens_available
        return self.tokens_needed / available if available else None


@dataclass(frozen=True)
class MixturePlan:
    """A whole mixture.

    Attributes:
        target: what it is for.
        sources: in the recipe's order.
        weight_sum: what the weights as written add up to.
        free_bytes: on the disk of the token files; None where nobody looked.
    """

    target: Target
    sources: tuple[SourcePlan, ...]
    weight_sum: Fraction
    free_bytes: int | None = None

    @property
    def bytes_to_write(self) -> int:
        """Of ids that preprocessing has still to write, about; unknown sources as far as needed."""
        waiting = (source for source in self.sources if not source.entry.found.is_ready)
        return sum((s.tokens_available or s.tokens_needed) * self.target.itemsize for s in waiting)

    @property
    def contamination(self) -> str:
        """``decontaminated against ...`` or ``not decontaminated``."""
        return contamination_words(
            (source.entry.name, source.entry.decontaminated_against) for source in self.sources
        )

    @property
    def warnings(self) -> list[str]:
        """What to mend, most general first, a sentence each."""
        found = [*_weight_warnings(self), *_tokenizer_warnings(self.target)]
        for source in self.sources:
            found += _state_warnings(source)
            found += _size_warnings(source, self.target)
            found += _origin_warnings(source.entry, self.target)
        found += _room_warnings(self)
        return found


def make_plan(
    entries: Sequence[Entry], target: Target, free_bytes: int | None = None
) -> MixturePlan:
    """Divide the budget among sources.

    Args:
        entries: sources, with weights above 0.
        target: budget, rows, tokenizer.
        free_bytes: on the disk of the token files.
    """
    weights = [Fraction(repr(entry.weight)) for entry in entries]
    total = sum(weights, Fraction(0))
    shares = [weight / total for weight in weights]
    tokens = _divide(target.token_budget, shares)
    samples = _divide(target.samples, shares)
    return MixturePlan(
        target,
        tuple(
            SourcePlan(entry, float(share), need, rows, need * target.itemsize)
            for entry, share, need, rows in zip(entries, shares, tokens, samples, strict=True)
        ),
        total,
        free_bytes,
    )


def _divide(total: int, shares: Sequence[Fraction]) -> list[int]:
    """Whole parts of ``total`` that add up to it, each within 1 of its share."""
    parts, passed, before = [], Fraction(0), 0
    for share in shares:
        passed += share
        now = round(passed * total)
        parts.append(now - before)
        before = now
    return parts


def _weight_warnings(plan: MixturePlan) -> Iterator[str]:
    if abs(plan.weight_sum - 1) > _SUM_TOLERANCE:
        yield (
            f"The weights add up to {float(plan.weight_sum):.10g}, not 1: each is divided by that, as in "
            f"training."
        )


def _tokenizer_warnings(target: Target) -> Iterator[str]:
    if target.missing_tokenizer:
        yield (
            f"The tokenizer {target.missing_tokenizer} is not there: {target.itemsize} bytes a token are "
            f"assumed, and whose tokens the files hold is not compared."
        )


def _state_warnings(source: SourcePlan) -> Iterator[str]:
    entry, found = source.entry, source.entry.found
    if found.is_ready:
        return
    state = "is not preprocessed"
    if found.shards:
        state = f"is preprocessed in part, {found.shards[0]:,} of {found.shards[1]:,} shards"
    if found.input_files is None:
        fetch = "; its texts are fetched with tools/fetch_swh.py" if entry.needs_fetch else ""
        yield f"{entry.name} {state}, and {found.input_problem}{fetch}."
        return
    yield (
        f"{entry.name} {state}: {found.input_files:,} input files, {found.input_bytes / 1e9:,.3f} GB, "
        f"are about {found.estimated_tokens:,} tokens (an estimate by bytes, before filters)."
    )


def _size_warnings(source: SourcePlan, target: Target) -> Iterator[str]:
    name, epochs = source.entry.name, source.epochs
    if epochs is not None and epochs > MAX_EPOCHS:
        share = MAX_EPOCHS * (source.tokens_available or 0) / target.token_budget
        about = "about " if source.is_estimate else ""
        yield (
            f"{name} is passed {about}{epochs:,.1f} times, over {MAX_EPOCHS} epochs: repeated data teaches "
            f"less; add data, or give it at most {share:.4g} of the mixture."
        )
    for one in source.entry.found.files:
        if one.num_tokens < target.sequence_length - 1:
            yield (
                f"{one.prefix} holds {one.num_tokens:,} tokens, less than one row of "
                f"{target.sequence_length:,}: training refuses it."
            )
    if source.samples == 0:
        yield f"{name} has no sample at all: its weight is too small for this budget."


def _origin_warnings(entry: Entry, target: Target) -> Iterator[str]:
    for one in entry.found.files:
        sidecar = one.sidecar
        if sidecar is None:
            yield f"{one.prefix} has no .json beside it: nothing tells which tokenizer made its ids."
            continue
        fingerprint = sidecar.get("tokenizer_fingerprint")
        if target.fingerprint not in (None, fingerprint):
            yield (
                f"{one.prefix} holds tokens of another tokenizer ({str(fingerprint)[:16]}, this one is "
                f"{str(target.fingerprint)[:16]}): preprocess it again."
            )
        if target.append_eod not in (None, sidecar.get("append_eod", target.append_eod)):
            wanted = "true" if target.append_eod else "false"
            yield f"{one.prefix} was not made with append_eod: {wanted}: preprocess it again."
        made = sidecar.get("job", {}).get("filters")
        if made is not None and entry.filters is not None and made != entry.filters:
            old, new = (
                ", ".join(next(iter(spec)) for spec in each) or "none"
                for each in (made, entry.filters)
            )
            yield (
                f"{one.prefix} was made with other filters than the recipe has now, or other options of them "
                f"({old}; now {new}): preprocess it again."
            )


def _room_warnings(plan: MixturePlan) -> Iterator[str]:
    if plan.free_bytes is not None and plan.bytes_to_write > plan.free_bytes:
        yield (
            f"Preprocessing has about {plan.bytes_to_write / 1e9:,.1f} GB to write and "
            f"{plan.free_bytes / 1e9:,.1f} GB are free."
        )
