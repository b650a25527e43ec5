"""Whether an update is applied, skipped, or answered by going back: a function of two numbers and a window.

What is normal is the median of the last ``spike_window`` applied updates, of the loss and of the
gradient's norm each. A median stays where it is while fewer than half of its values are wild, and
needs no assumption on their spread; a mean with a standard deviation is moved by the very spike that
it is to find, and the median absolute deviation is nearly 0 in a quiet stretch, where it would call
everything a spike. Before the window is full there is no normal, and only numbers that are not finite
are bad.

Bad updates that go on say that not the data is at fault. Where the numbers are not finite, or the loss
is a spike, the run goes back. Where the gradient's norm alone is one, as happens again and again in a
run that has nearly learnt its data by heart, the updates (clipped as always) mend it by themselves:
the norm's window begins anew, and they are applied.

Everything that a decision depends on is in ``DetectorState``, which is saved with every checkpoint:
a resumed run decides as one that never stopped.

No process group, no file, no clock in here.
"""

from __future__ import annotations

import enum
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from ...config.schema import FaultsConfig

NOT_FINITE, LOSS_SPIKE, GRADIENT_SPIKE = "not_finite", "loss_spike", "gradient_spike"
NEW_NORMAL = "new_normal"


class Action(enum.Enum):
    """What to do with an update."""

    APPLY = "applied"
    SKIP = "skipped"
    GO_BACK = "gone back"


@dataclass(frozen=True)
class Place:
    """Where a run stood before a bad update.

    Attributes:
        step: finished steps.
        consumed: samples of those.
        update: updates seen.
        kind: what was bad.
    """

    step: int
    consumed: int
    update: int = 0
    kind: str = ""


@dataclass(frozen=True)
class Verdict:
    """On one update.

    Attributes:
        action: what to do.
        kind: ``not_finite``, ``loss_spike`` or ``gradient_spike``; ``new_normal`` for one of the last that
            is applied; empty where the update is good.
        reason: half a sentence.
        since: to go back: the first bad update of those that led to it.
    """

    action: Action = Action.APPLY
    kind: str = ""
    reason: str = ""
    since: Place | None = None


@dataclass
class DetectorState:
    """All that decisions depend on.

    Attributes:
        losses: of the last applied updates, oldest first.
        grad_norms: likewise.
        skipped: the skipped ones among the last ``spike_window`` updates.
        updates: seen so far, skipped ones included.
        in_row: skipped since the last applied one.
        skipped_total: of the run.
        rollbacks: without getting past the place of trouble.
        trouble_step: where the run stood when it last went back.
        gone_to: the step of the checkpoint that it went back to.
    """

    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    skipped: list[Place] = field(default_factory=list)
    updates: int = 0
    in_row: int = 0
    skipped_total: int = 0
    rollbacks: int = 0
    trouble_step: int = 0
    gone_to: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, which keeps every bit of a float."""
        return asdict(self)

    @classmethod
    def of(cls, values: dict[str, Any]) -> DetectorState:
        """Read ``as_dict``'s; fields of other versions are left out."""
        names = {entry.name for entry in fields(cls)}
        known = {name: value for name, value in values.items() if name in names}
        known["skipped"] = [Place(**place) for place in known.get("skipped", [])]
        return cls(**known)


class Detector:
    """Decides on updates one after another.

    Args:
        config: window, factors and limits.
        state: to go on from.
        looks_at_loss: whether a finite loss can be a spike; False where its mean may be 0 (``rl``).
    """

    def __init__(
        self,
        config: FaultsConfig,
        state: DetectorState | None = None,
        *,
        looks_at_loss: bool = True,
    ) -> None:
        self.config, self.looks_at_loss = config, looks_at_loss
        self.state = state or DetectorState()

    def decide(self, step: int, consumed: int, loss: float, grad_norm: float) -> Verdict:
        """The verdict on an update, which the state then knows of.

        Args:
            step: finished steps.
            consumed: samples of finished steps.
            loss: mean of the global batch.
            grad_norm: of all gradients, before clipping.
        """
        state = self.state
        kind, reason = self._fault(loss, grad_norm)
        place = Place(step, consumed, state.updates, kind)
        state.updates += 1
        state.skipped = [p for p in state.skipped if p.update >= state.updates - self._window]
        if not kind:
            self._applied(step, loss, grad_norm)
            return Verdict()
        state.skipped.append(place)
        state.in_row += 1
        too_many = self._too_many()
        if too_many and all(one.kind == GRADIENT_SPIKE for one in too_many):
            state.skipped, state.grad_norms = [], []
            self._applied(step, loss, grad_norm)
            return Verdict(kind=NEW_NORMAL, reason=f"{reason}, as so many have been")
        state.skipped_total += 1
        if too_many:
            return Verdict(Action.GO_BACK, kind, reason, too_many[0])
        return Verdict(Action.SKIP, kind, reason)

    @property
    def _window(self) -> int:
        return self.config.spike_window

    def _applied(self, step: int, loss: float, grad_norm: float) -> None:
        state = self.state
        state.in_row = 0
        state.losses = [*state.losses, loss][-self._window :]
        state.grad_norms = [*state.grad_norms, grad_norm][-self._window :]
        if state.rollbacks and step >= state.trouble_step + self._window:
            state.rollbacks, state.gone_to = 0, None

    def _fault(self, loss: float, grad_norm: float) -> tuple[str, str]:
        """Kind and reason; two empty texts where all is well."""
        config, state = self.config, self.state
        for name, value in (("loss", loss), ("gradient's norm", grad_norm)):
            if not math.isfinite(value):
                return NOT_FINITE, f"the {name} is not finite"
        factor = config.loss_spike_factor if self.looks_at_loss else 0.0
        if factor and (middle := self._median(state.losses)) is not None:
            if loss > max(factor * middle, middle + config.loss_spike_rise):
                return LOSS_SPIKE, f"the loss {loss:.4g} is {_times(loss, middle)} its median"
        factor = config.grad_norm_spike_factor
        if factor and (middle := self._median(state.grad_norms)) is not None:
            if grad_norm > max(factor * middle, config.grad_norm_spike_floor):
                times = _times(grad_norm, middle)
                return GRADIENT_SPIKE, f"the gradient's norm {grad_norm:.4g} is {times} its median"
        return "", ""

    def _median(self, values: Sequence[float]) -> float | None:
        recent = values[-self._window :]
        return statistics.median(recent) if len(recent) == self._window else None

    def _too_many(self) -> list[Place]:
        """The bad updates that exceed a limit, the first first; none where they do not."""
        state = self.state
        if state.in_row > self.config.patience:
            return state.skipped[-state.in_row :]
        if len(state.skipped) > self.config.max_skips_in_window:
            return state.skipped
        return []


def gone_back(now: DetectorState, then: DetectorState, step: int, gone_to: int) -> DetectorState:
    """The state after going back: the window as it was then, what happened since counted.

    Args:
        now: when it was decided.
        then: of the checkpoint.
        step: finished steps when it was decided.
        gone_to: the checkpoint's step.
    """
    return replace(
        then,
        in_row=0,
        skipped_total=now.skipped_total,
        rollbacks=now.rollbacks + 1,
        trouble_step=max(step, now.trouble_step),
        gone_to=gone_to,
    )


@dataclass(frozen=True)
class SavedPlace:
    """What is asked of a checkpoint before a run goes back to it."""

    name: str
    step: int
    in_row: int  # updates that were being skipped when it was made


def rollback_order(
    saved: Sequence[SavedPlace], first_bad_step: int, gone_to: int | None
) -> list[SavedPlace]:
    """Checkpoints to go back to, the best first.

    The newest that is older than the trouble; the second time in a row the one before it, since
    weights may have been bad already in the first. Where all are younger, the oldest.

    Args:
        saved: what there is.
        first_bad_step: finished steps before the first bad update.
        gone_to: the step that the run went back to the last time, if it is not past that trouble.
    """
    newest_first = sorted(saved, key=lambda one: one.step, reverse=True)
    good = [one for one in newest_first if one.in_row == 0]
    before = [one for one in good if one.step <= first_bad_step]
    further = [one for one in before if gone_to is None or one.step < gone_to]
    rest = [one for one in before if one not in further]
    younger = [one for one in reversed(good) if one not in before]
    return further + rest + younger


def samples_to_skip(
    since: Place, now: int, checkpoint: int, batch: int, extra_steps: int
) -> tuple[int, int]:
    """Samples [first, end) that the run leaves out after it has gone back.

    From ``extra_steps`` before the first bad update, but not from before the checkpoint, to the last one.
    PaLM (arXiv:2204.02311, section 5.1) went back about 100 steps before a spike and left out 200 to
    500 batches.

    Args:
        since: the first bad update.
        now: samples consumed when it was decided, the last bad update's included.
        checkpoint: samples consumed when the checkpoint was made.
        batch: samples a step.
        extra_steps: steps of data before the first bad update.
    """
    return max(checkpoint, since.consumed - extra_steps * batch), now


def _times(value: float, middle: float) -> str:
    return f"{value / middle:.3g} times" if middle else "far above"
