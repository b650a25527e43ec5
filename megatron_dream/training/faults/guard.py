"""One decision on an update, taken by all processes alike, and its record in the log."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist

from ... import device
from ...config.schema import FaultsConfig
from ..log import RunLog
from .decision import Action, Detector, DetectorState, Verdict


def agreed(loss: float, grad_norm: float) -> tuple[float, float]:
    """The largest loss and norm that any process has; NaN where one of them is not finite anywhere.

    Both are sums over all processes already, but not over all in one group and one order: their last
    bits may differ between processes, and one that goes another way than the rest ends in a hang.
    """
    values = (loss, grad_norm)
    shared = torch.tensor(
        [value if math.isfinite(value) else 0.0 for value in values]
        + [float(not math.isfinite(value)) for value in values],
        dtype=torch.float64,
        device=device.current_device(),
    )
    dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    found_loss, found_norm, is_bad_loss, is_bad_norm = shared.tolist()
    return (
        math.nan if is_bad_loss else found_loss,
        math.nan if is_bad_norm else found_norm,
    )


class UpdateGuard:
    """The detector of a run, fed with what all processes agree on.

    Args:
        config: of the run's faults.
        log: that skipped updates are told to.
        saved: the detector's state as the checkpoint has it; empty for a new run.
        looks_at_loss: whether a finite loss can be a spike.
    """

    def __init__(
        self, config: FaultsConfig, log: RunLog, saved: dict[str, Any], *, looks_at_loss: bool
    ) -> None:
        self.config, self._log = config, log
        state = DetectorState.of(saved)
        self._detector = Detector(config, state, looks_at_loss=looks_at_loss)

    @property
    def state(self) -> DetectorState:
        """What the next decision depends on."""
        return self._detector.state

    @state.setter
    def state(self, state: DetectorState) -> None:
        self._detector.state = state

    def judge(self, step: int, consumed: int, loss: float, grad_norm: float) -> Verdict:
        """The verdict on an update; every process calls this and gets the same."""
        loss, grad_norm = agreed(loss, grad_norm)
        verdict = self._detector.decide(step, consumed, loss, grad_norm)
        if verdict.kind:
            self._tell(step + 1, verdict, loss, grad_norm)
        return verdict

    def _tell(self, step: int, verdict: Verdict, loss: float, grad_norm: float) -> None:
        state = self.state
        message = f"step {step}: {verdict.reason}: update "
        if verdict.action is Action.APPLY:
            message += "applied, and what is normal learnt anew"
        else:
            recent = f"{len(state.skipped)} of the last {self.config.spike_window}"
            message += f"skipped ({state.in_row} in a row, {recent})"
        self._log.event(
            "fault", step, kind=verdict.kind, message=message, loss=loss, grad_norm=grad_norm
        )
        self._log.say(message)
