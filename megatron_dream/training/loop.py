"""The loop: batches, step, update, report, validation, checkpoint.

The position is the number of ordinals consumed by finished updates; it is all that resuming needs,
since rows and noise are functions of the ordinal.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import device, parallel
from ..checkpoint.metadata import CheckpointMetadata
from ..checkpoint.save import step_folder
from ..config.layout import Layout
from ..config.schema import RunConfig
from ..data.stream import Stream
from ..parallel import Ranks
from .background_export import BackgroundExports
from .batches import micro_batch_iterators
from .engine import Engine, data_position
from .faults.decision import Action, DetectorState, Verdict, gone_back
from .faults.fp8 import Fp8History
from .faults.guard import UpdateGuard
from .faults.rollback import choose_to_go_back, restore, skipped_ranges, taken_back
from .faults.saves import SaveKeeper
from .metrics import StepReport
from .optimizer import apply_gradients, gradient_norm
from .provenance import metrics_of
from .step import StepRunner
from .throughput import flops_per_token, peak_flops
from .validation import validate

_EXPORT_POLL_SECONDS = 5.0


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
        self.guard = UpdateGuard(
            config.faults, self.log, self.metadata.faults, looks_at_loss=self.loss_may_spike
        )
        self.saves = SaveKeeper(config, self.writer, self.log)
        self._fp8 = Fp8History(self.model)
        self._stand_at(self.metadata)
        self._export_faults: list[str] = []
        self._exports = self._background_exports()

    def _stand_at(self, metadata: CheckpointMetadata) -> None:
        """Be where ``metadata`` says: at the start of the run, or after going back."""
        self.step, self.consumed = metadata.step, metadata.consumed_samples
        self._tokens = int(metadata.trained.get("tokens") or 0)
        self._metrics: dict[str, Any] = dict(metadata.trained.get("metrics") or {})
        self._saved_step = self.step if self.step else -1
        self._rate_of = -1  # the step that the learning rate was set for
        self._verdict = Verdict()
        self._started, self._first_step = time.monotonic(), self.step

    def train(self, stop_after: int | None = None) -> None:
        """Run to ``train_steps``, or for ``stop_after`` steps."""
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
        )
        self.log.start_bar(self.step)
        self._open()
        while self.step < end:
            self._one_step()
            self.saves.look(self.step)
            if self._exports is not None:
                self._exports.tend()
            if self._verdict.action is Action.GO_BACK:
                self._go_back()
                continue
            if training.eval_interval and self.step % training.eval_interval == 0:
                self._validate()
            if self._is_time_to_save():
                self._save()
        if training.eval_interval and self.step % training.eval_interval and stop_after is None:
            self._validate()
        if self.writer is not None and self._saved_step != self.step:
            self._save()
        self.saves.end(self.step)
        self._finish_exports()
        self.log.event("end", self.step)

    def close(self) -> None:
        """End what goes on beside the run and close the log's sinks."""
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
        self.saves.look(self.step, wait=True)
        choice = choose_to_go_back(self, since)
        fault = restore(self, choice)
        position = data_position(choice.metadata, self.config.data.new_stream)
        ranges = skipped_ranges(self, position, since)
        self.guard.state = gone_back(
            self.guard.state, DetectorState.of(choice.metadata.faults), self.step, position.step
        )
        left_out = f"ordinals {ranges} are left out"
        self.log.fault(
            self.step,
            "rollback",
            f"step {self.step}: gone back to {choice.folder.name} ({self.guard.state.rollbacks} of "
            f"{self.config.faults.max_rollbacks} times), {left_out}"
            + (f"; {fault}" if fault else ""),
        )
        if sentence := choice.sentence():
            self.log.fault(self.step, "checkpoint_passed_over", sentence)
        self.metadata = taken_back(self.metadata, position, ranges)
        self._fp8.reset()
        self._stand_at(position)
        self._reopen()

    def _seconds_left(self) -> float:
        """By the mean of the steps so far."""
        done = self.step - self._first_step
        per_step = (time.monotonic() - self._started) / max(done, 1)
        return per_step * (self.config.training.train_steps - self.step)

    def _is_time_to_save(self) -> bool:
        if self.guard.state.in_row:  # nothing was learnt since the last good update
            return False
        checkpoint = self.config.checkpoint
        intervals = (checkpoint.save_interval, checkpoint.export_interval)
        return self.writer is not None and any(n and self.step % n == 0 for n in intervals)

    def _save(self) -> bool:
        """Save the run as it stands; whether the checkpoint is complete or under way."""
        assert self.writer is not None
        self._tell_of_exports()
        self._saved_step = self.step
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
        is_saved = self.saves.save(
            name, self.model, metadata, self.optimizer, self.scheduler, is_last=is_last
        )
        interval = self.config.checkpoint.export_interval
        if is_saved and self._exports is not None and self.step % interval == 0:
            self._exports.ask(name)
        return is_saved

    def _background_exports(self) -> BackgroundExports | None:
        """On rank 0 of a run that exports; one that was stopped before its export makes up for it."""
        checkpoint = self.config.checkpoint
        if self.writer is None or self.ranks.rank != 0 or not checkpoint.export_interval:
            return None
        exports = BackgroundExports(
            checkpoint.run_folder, str(self.config.tokenizer.path), self._export_faults.append
        )
        self.writer.is_read = exports.names
        exports.clean()
        name = step_folder(self.step)
        is_due = self.step and self.step % checkpoint.export_interval == 0
        if is_due and not (exports.folder / name).exists():
            exports.ask(name)
        return exports

    def _finish_exports(self) -> None:
        """Wait for the last ones; no rank is longer in one collective than a process group allows."""
        if self.writer is None or not self.config.checkpoint.export_interval:
            return
        while not parallel.broadcast_object(
            self._exports is None or self._exports.tend(_EXPORT_POLL_SECONDS)
        ):
            continue
        self._tell_of_exports()
        self.writer.remove_old()

    def _tell_of_exports(self) -> None:
        """Log what failed beside the training; rank 0 knows, and another may be the one that logs."""
        if not self.config.checkpoint.export_interval:
            return
        faults: Any = parallel.broadcast_object(self._export_faults)
        for message in faults:
            self.log.fault(self.step, "export_missed", message)
        self._export_faults.clear()


class TrainingLoop(Loop):
    """The loop over rows of a stream, and the like for validation.

    Args:
        config: of the run.
        layout: of the processes.
        ranks: this process's place.
        engine: what is trained, with what.
        train_stream: rows by ordinal.
        valid_stream: the same for validation, if there is one.
        lengthened: makes the training stream anew for a run at another place, long enough for it.
    """

    def __init__(
        self,
        config: RunConfig,
        layout: Layout,
        ranks: Ranks,
        engine: Engine,
        train_stream: Stream,
        valid_stream: Stream | None,
        lengthened: Callable[[CheckpointMetadata], Stream] | None = None,
    ) -> None:
        super().__init__(config, layout, ranks, engine)
        self.samples_a_step = layout.global_batch_size
        self._lengthened = lengthened
        self.train_stream, self.valid_stream = train_stream, valid_stream
        self.skipped_empty = 0
        self._train_runner = self._runner(self.config.data.train)
        self._valid_runner = self._runner(self.config.data.valid) if self.valid_stream else None
        peak = peak_flops(self.config.training.precision) if self.ranks.reports else None
        self._peak = peak * self.ranks.world_size if peak else None
        self._iterators: list[Any] = []

    def _open(self) -> None:
        self._iterators = micro_batch_iterators(
            self.train_stream,
            self.ranks,
            self.layout,
            self.consumed,
            self.layout.num_microbatches,
            skip=[(first, end) for first, end in self.metadata.skipped_ranges],
            workers=self.config.data.num_workers,
            loader=self.config.data.loader,
        )

    def _reopen(self) -> None:
        for iterator in self._iterators:
            iterator.close()
        if self._lengthened is not None:  # what is left out has to come from behind the end
            self.train_stream = self._lengthened(self.metadata)
        self._open()

    def _one_step(self) -> None:
        started = time.monotonic()
        self._begin_update()
        sums = self._train_runner.run(self._iterators, self.layout.num_microbatches, step=self.step)
        report = StepReport.of(sums, self._names(self.config.data.train))
        grad_norm = self._update(report)
        self.step += 1
        self.consumed += self.layout.global_batch_size
        self._tokens += report.real_tokens
        self._metrics["training"] = metrics_of(self.step, report)
        device.synchronize()
        self._report(report, grad_norm, time.monotonic() - started)

    def _update(self, report: StepReport) -> float:
        """Apply the gradients; skip a batch without masks."""
        if report.masked_tokens == 0:
            self._verdict = Verdict(Action.SKIP, "empty_batch")
            self.skipped_empty += 1  # Adam would still move the weights
            self.log.fault(
                self.step + 1,
                "empty_batch",
                f"step {self.step + 1}: global batch without masks: no update",
                is_said=False,
            )
            return 0.0
        return self._apply(report.loss)

    def _report(self, report: StepReport, grad_norm: float, seconds: float) -> None:
        if not self.ranks.reports:
            return
        positions = report.positions
        width = positions // report.rows
        flops = flops_per_token(self.config.model, self.config.diffusion, width)
        achieved = positions * flops / seconds
        norm = grad_norm if math.isfinite(grad_norm) else None
        self.log.step(
            self.step,
            {
                "loss": report.loss,
                "grad_norm": norm if norm is not None else 0.0,
                "gradient_is_finite": norm is not None,
                "lr": float(self.optimizer.param_groups[0]["lr"]),
                "seconds": round(seconds, 4),
                "tokens_per_second": positions / seconds,
                "useful_tokens_per_second": report.masked_tokens / seconds,
                "mfu": achieved / self._peak if self._peak else None,
                "seconds_left": self._seconds_left(),
                "consumed_samples": self.consumed,
                "peak_memory_bytes": device.peak_memory_bytes(),
                "skipped_empty": self.skipped_empty,
                "update": self._verdict.action.value,
                "skipped_updates": self.guard.state.skipped_total,
                **{k: v for k, v in report.as_dict().items() if k != "loss"},
            },
        )

    def _validate(self) -> None:
        if self._valid_runner is None or self.valid_stream is None:
            return
        rows = self.layout.micro_batch_size * self.layout.dp
        count = self.config.training.eval_samples // rows  # whole: resolve_layout asks for it
        stream = self.valid_stream
        report = validate(
            self._valid_runner,
            lambda: micro_batch_iterators(stream, self.ranks, self.layout, 0, count),
            count,
            step=self.step,
            source_names=self._names(self.config.data.valid),
        )
        self._metrics["validation"] = metrics_of(self.step, report)
        self.log.validation(self.step, report.as_dict())

    def _runner(self, sources: list[Any]) -> StepRunner:
        return StepRunner(
            self.model,
            self.config.diffusion,
            self.ranks,
            micro_batch_size=self.layout.micro_batch_size,
            sequence_length=self.config.data.sequence_length,
            num_sources=max(len(sources), 1),
        )

    def _names(self, sources: list[Any]) -> list[str]:
        return [source.name or Path(source.prefix).name for source in sources]
