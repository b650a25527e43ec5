"""The loop of every stage: step, update, validation, checkpoint, going back, stopping.

The position is the number of ordinals consumed by finished updates; it is all that resuming needs,
since rows and noise are functions of the ordinal.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from .. import exit_codes
from ..checkpoint.metadata import CheckpointMetadata
from ..checkpoint.save import step_folder
from ..checkpoint.state import unwrap
from ..config.layout import Layout
from ..config.schema import RunConfig
from ..parallel import Ranks
from .engine import Engine
from .exports import ExportKeeper
from .faults.decision import Action, Verdict
from .faults.fp8 import Fp8History
from .faults.guard import UpdateGuard
from .faults.rollback import go_back
from .faults.saves import SaveKeeper
from .optimizer import apply_gradients, gradient_norm
from .watch.watch import Stop


class Loop:
    """Steps, validations and checkpoints of a run; what a step is, the stage's own loop says.

    Attributes:
        loss_may_spike: whether the mean loss is positive, so that a multiple of it means something.
        samples_a_step: ordinals that a step consumes.

    Args:
        config: of the run.
        layout: of the processes.
        ranks: this process's place.
        engine: what is trained, with what.
    """

    loss_may_spike = True
    samples_a_step: int

    def __init__(self, config: RunConfig, layout: Layout, ranks: Ranks, engine: Engine) -> None:
        self.config, self.layout, self.ranks = config, layout, ranks
        self.model, self.optimizer, self.scheduler = (
            engine.model,
            engine.optimizer,
            engine.scheduler,
        )
        self.metadata, self.writer, self.log = engine.metadata, engine.writer, engine.log
        self.watch = engine.watch
        self._stop: Stop | None = None  # why to end before the last step
        self.guard = UpdateGuard(
            config.faults, self.log, self.metadata.faults, looks_at_loss=self.loss_may_spike
        )
        self.saves = SaveKeeper(config, self.writer, self.log)
        if self.writer is not None:
            self.writer.on_wait = self.watch.goes_on
        self.exports = ExportKeeper(config, self.writer, self.log, ranks, self.metadata.step)
        self._fp8 = Fp8History(self.model)
        self._stand_at(self.metadata)

    def _stand_at(self, metadata: CheckpointMetadata) -> None:
        """Be where ``metadata`` says: at the start of the run, or after going back."""
        self.step, self.consumed = metadata.step, metadata.consumed_samples
        self._tokens = int(metadata.trained.get("tokens") or 0)
        self._metrics: dict[str, Any] = dict(metadata.trained.get("metrics") or {})
        self._saved_step = self.step if self.step else -1
        self._rate_of = -1  # the step that the learning rate was set for
        self._verdict = Verdict()
        self._started, self._first_step = time.monotonic(), self.step

    def train(self, stop_after: int | None = None) -> int:
        """Run to ``train_steps``, or for ``stop_after`` steps.

        Returns:
            Exit code: 0, or why it ended before (exit_codes.py).
        """
        training = self.config.training
        end = training.train_steps
        if stop_after is not None:
            end = min(end, self.step + stop_after)
        self.log.event(
            "start",
            self.step,
            total_steps=training.train_steps,
            layout=self.layout.equation(),
            consumed_samples=self.consumed,
            **self.watch.start_facts,
        )
        self.log.start_bar(self.step)
        self.watch.open(self.log, unwrap(self.model[0]).config)
        self._settle()  # a signal may have come before the first step
        self._open()
        while self.step < end and self._stop is None:
            self.watch.begin_step()
            self._one_step()
            self.saves.look(self.step)
            self.exports.look()
            if self._stop is not None:
                break
            if self._verdict.action is Action.GO_BACK:
                self._go_back()
                continue
            self.watch.after_step()
            if self._is_time_to_validate():
                self._validate_now()
                self._stop = self.watch.agree(self._upcoming())  # validations may take long
            if self._stop is None and self._is_time_to_save():
                self._save()
        is_whole = self._stop is None and stop_after is None
        if is_whole and training.eval_interval and not self._is_time_to_validate():
            self._validate_now()
        return self._finish()

    def _finish(self) -> int:
        """Save what is not saved, say how it ended."""
        is_new = self.step > self._first_step or self._stop is None
        # Where the run should have gone back, the next start comes to that by itself.
        is_good = self._verdict.action is not Action.GO_BACK
        if self.writer is not None and self._saved_step != self.step and is_new and is_good:
            self._save()
        with self.watch.during("end"):
            if self._stop is None:
                self.saves.end(self.step)
                self._stop = self.exports.finish(self.step, self.watch)
            else:
                self.saves.look(self.step, wait=True)
                self.exports.tell(self.step)
        stop = self._stop or Stop("done", exit_codes.DONE, "all steps are done")
        event = "end" if self._stop is None else "stop"
        self.log.event(event, self.step, reason=stop.reason, message=stop.message)
        if self._stop is not None:
            self.log.say(f"stopped at step {self.step}: {stop.message}")
        self.watch.tell_end(stop.reason, stop.code, stop.message)
        return stop.code

    def close(self) -> None:
        """End what goes on beside the run and close the log's sinks."""
        self.exports.close()
        self.saves.close()
        self.log.close()

    def _open(self) -> None:
        """Begin what steps read from."""

    def _one_step(self) -> None:
        raise NotImplementedError

    def _validate(self) -> None:
        raise NotImplementedError

    def _reopen(self) -> None:
        """Read on from where the run has gone back to."""

    def _settle(self) -> None:
        """End the step on the device; learn whether all ranks stop behind it."""
        if self.saves.longest_seconds:
            self.watch.took("save", self.saves.longest_seconds)
        self._stop = self.watch.settle(self.step, self._upcoming())

    def _upcoming(self) -> list[str]:
        """What comes before there is another chance to stop: the next step, and what follows it."""
        every, is_held = self.config.training.eval_interval, self.guard.state.in_row > 0
        last_save = self._last_save()

        def due(step: int) -> list[str]:
            nonlocal last_save
            found = ["validation"] if every and step % every == 0 else []
            if self._is_save_due(step, last_save) and not (is_held and step == self.step):
                found.append("save")
                last_save = step
            return found

        return [*due(self.step), "step", *due(self.step + 1)]

    def _is_time_to_validate(self) -> bool:
        interval = self.config.training.eval_interval
        return bool(interval) and self.step % interval == 0

    def _validate_now(self) -> None:
        with self.watch.during("validation"):
            self._validate()

    def _begin_update(self) -> None:
        """Before the first forward pass of an update."""
        self._verdict = Verdict()
        self._fp8.save()
        for chunk in self.model:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()

    def _apply(self, loss: float) -> float:
        """Apply the gradients if they are good, which all processes decide alike; tell their norm.

        A skipped update leaves weights, moments, learning-rate schedule and FP8 history as they are.
        """
        self.watch.enter("update")
        grad_norm = gradient_norm(self.optimizer)
        self._verdict = self.guard.judge(self.step, self.consumed, loss, grad_norm)
        if self._verdict.action is not Action.APPLY:
            self._fp8.restore()
            return grad_norm
        if self._rate_of != self.step:
            # Before the update: megatron-core's own order would spend the first one on a rate of 0.
            self.scheduler.step(1)
            self._rate_of = self.step
        apply_gradients(self.optimizer, grad_norm)
        return grad_norm

    def _go_back(self) -> None:
        """Be where the last good checkpoint was made, without the data that was bad since."""
        since = self._verdict.since
        assert since is not None
        with self.watch.during("rollback"):
            self.saves.look(self.step, wait=True)
            self._fp8.reset()  # the checkpoint has the history of then, unless the layout is another
            self.metadata, position = go_back(self, since)
            self._stand_at(position)
            self.exports.gone_back(self.step)
            self.watch.stands_at(self.step)
            self._reopen()

    def _seconds_left(self) -> float:
        """By the mean of the steps so far."""
        done = self.step - self._first_step
        per_step = (time.monotonic() - self._started) / max(done, 1)
        return per_step * (self.config.training.train_steps - self.step)

    def _is_time_to_save(self) -> bool:
        """Whether a save is due. While updates are skipped it waits: nothing was learnt meanwhile."""
        if self.writer is None or self.guard.state.in_row:
            return False
        return self._is_save_due(self.step, self._last_save())

    def _last_save(self) -> int:
        return max(self._saved_step, 0)

    def _is_save_due(self, step: int, last_save: int) -> bool:
        """Whether a multiple of an interval lies behind ``last_save``, up to ``step``."""
        checkpoint = self.config.checkpoint
        intervals = (checkpoint.save_interval, checkpoint.export_interval)
        return any(n and step // n > last_save // n for n in intervals)

    def _save(self) -> bool:
        """Save the run as it stands; whether the checkpoint is complete or under way."""
        assert self.writer is not None
        self.exports.tell(self.step)
        last_save, self._saved_step = self._last_save(), self.step
        metadata = dataclasses.replace(
            self.metadata,
            step=self.step,
            consumed_samples=self.consumed,
            faults=self.guard.state.as_dict(),
            trained={
                **self.metadata.trained,
                "recipe": dataclasses.asdict(self.config),
                "tokens": self._tokens,
                "metrics": dict(self._metrics),
            },
        )
        name = step_folder(self.step)
        is_last = self.step >= self.config.training.train_steps
        with self.watch.during("save"):
            is_saved = self.saves.save(
                name, self.model, metadata, self.optimizer, self.scheduler, is_last=is_last
            )
        if is_saved and self._stop is None:
            self.exports.saved(name, self.step, last_save)
        return is_saved
