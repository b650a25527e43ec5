"""The loop: batches, step, update, report, validation, checkpoint.

The position is the number of ordinals consumed by finished updates; it is all that resuming needs,
since rows and noise are functions of the ordinal.
"""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

from .. import device, exit_codes, parallel
from ..checkpoint.save import step_folder
from ..checkpoint.state import unwrap
from ..config.layout import Layout
from ..config.schema import RunConfig
from ..data.stream import Stream
from ..errors import DataError
from ..parallel import Ranks
from .batches import micro_batch_iterators
from .engine import Engine
from .metrics import StepReport
from .optimizer import update
from .provenance import metrics_of
from .step import StepRunner
from .throughput import flops_per_token, peak_flops
from .validation import validate
from .watch.watch import Stop

MAX_BAD_STEPS = 5  # consecutive updates whose gradient was not finite


class Loop:
    """Steps, validations and checkpoints of a run; what a step is, the stage's own loop says.

    Args:
        config: of the run.
        layout: of the processes.
        ranks: this process's place.
        engine: what is trained, with what.
    """

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
        self.step = self.metadata.step
        self.consumed = self.metadata.consumed_samples
        self.bad_steps = 0
        self._saved_step = self.step if self.step else -1
        self._tokens = int(self.metadata.trained.get("tokens") or 0)
        self._started = time.monotonic()
        self._first_step = self.step
        self._metrics: dict[str, Any] = dict(self.metadata.trained.get("metrics") or {})

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
            if self.writer is not None:
                self.writer.finish()
            if self._stop is not None:
                break
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
        if self.writer is not None and self._saved_step != self.step and is_new:
            self._save()
        with self.watch.during("end"):
            if self.writer is not None:
                self.writer.finish(wait=True)
        stop = self._stop or Stop("done", exit_codes.DONE, "all steps are done")
        event = "end" if self._stop is None else "stop"
        self.log.event(event, self.step, reason=stop.reason, message=stop.message)
        if self._stop is not None:
            self.log.say(f"stopped at step {self.step}: {stop.message}")
        self.watch.tell_end(stop.reason, stop.code, stop.message)
        return stop.code

    def close(self) -> None:
        """Close the log's sinks."""
        self.log.close()

    def _open(self) -> None:
        """Begin what steps read from."""

    def _one_step(self) -> None:
        raise NotImplementedError

    def _validate(self) -> None:
        raise NotImplementedError

    def _settle(self) -> None:
        """End the step on the device; learn whether all ranks stop behind it."""
        if self.writer is not None and self.writer.longest_seconds:
            self.watch.took("save", self.writer.longest_seconds)
        self._stop = self.watch.settle(self.step, self._upcoming())

    def _upcoming(self) -> list[str]:
        """What comes before there is another chance to stop: the next step, and what follows it."""
        after = self.step + 1
        training, checkpoint = self.config.training, self.config.checkpoint
        intervals = {
            "validation": training.eval_interval,
            "save": checkpoint.save_interval,
            "export": checkpoint.export_interval,
        }
        now = [name for name, n in intervals.items() if n and self.step % n == 0]
        then = [name for name, n in intervals.items() if n and after % n == 0]
        return [*now, "step", *then]

    def _is_time_to_validate(self) -> bool:
        interval = self.config.training.eval_interval
        return bool(interval) and self.step % interval == 0

    def _validate_now(self) -> None:
        with self.watch.during("validation"):
            self._validate()

    def _zero_gradients(self) -> None:
        for chunk in self.model:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()

    def _apply(self) -> float:
        """Apply the gradients, tell their norm; stop after too many that are not finite."""
        self.watch.enter("update")
        result = update(self.optimizer)
        self.bad_steps = 0 if result.applied else self.bad_steps + 1
        if not result.applied:
            message = f"gradient is not finite at step {self.step}: no update"
            self.log.event("fault", self.step, kind="nan", message=message)
            self.log.say(message)
        if self.bad_steps > MAX_BAD_STEPS:
            raise DataError(
                f"the gradient was not finite in {self.bad_steps} steps one after another (last: step "
                f"{self.step}); lower optimizer.lr, or start again from the last checkpoint in "
                f"{self.config.checkpoint.run_folder}"
            )
        return result.grad_norm

    def _seconds_left(self) -> float:
        """By the mean of the steps so far."""
        done = self.step - self._first_step
        per_step = (time.monotonic() - self._started) / max(done, 1)
        return per_step * (self.config.training.train_steps - self.step)

    def _is_time_to_save(self) -> bool:
        checkpoint = self.config.checkpoint
        intervals = (checkpoint.save_interval, checkpoint.export_interval)
        return self.writer is not None and any(n and self.step % n == 0 for n in intervals)

    def _save(self) -> None:
        assert self.writer is not None
        metadata = dataclasses.replace(
            self.metadata,
            step=self.step,
            consumed_samples=self.consumed,
            trained={
                **self.metadata.trained,
                "recipe": dataclasses.asdict(self.config),
                "tokens": self._tokens,
                "metrics": dict(self._metrics),
            },
        )
        name = step_folder(self.step)
        with self.watch.during("save"):
            self.writer.save(
                name, self.model, metadata, optimizer=self.optimizer, scheduler=self.scheduler
            )
            if self._stop is not None:
                self.writer.finish(wait=True)
            self._saved_step = self.step
            seconds = self.watch.elapsed()
            self.log.event("checkpoint", self.step, name=name, seconds=seconds)
        interval = self.config.checkpoint.export_interval
        if interval and self.step % interval == 0 and self._stop is None:
            with self.watch.during("export"):
                self._export(name)
                self.log.event("export", self.step, name=name, seconds=self.watch.elapsed())

    def _export(self, name: str) -> None:
        """Write the step's Hugging Face folder from its finished checkpoint."""
        assert self.writer is not None
        self.writer.finish(wait=True)
        if self.ranks.rank == 0:
            from ..hf import export_hf

            target = Path(self.config.checkpoint.run_folder) / "exports" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            export_hf(self.writer.folder / name, target, tokenizer=self.config.tokenizer.path)
        parallel.barrier()


class TrainingLoop(Loop):
    """The loop over rows of a stream, and the like for validation.

    Args:
        config: of the run.
        layout: of the processes.
        ranks: this process's place.
        engine: what is trained, with what.
        train_stream: rows by ordinal.
        valid_stream: the same for validation, if there is one.
    """

    def __init__(
        self,
        config: RunConfig,
        layout: Layout,
        ranks: Ranks,
        engine: Engine,
        train_stream: Stream,
        valid_stream: Stream | None,
    ) -> None:
        super().__init__(config, layout, ranks, engine)
        self.train_stream, self.valid_stream = train_stream, valid_stream
        self.skipped_empty = 0
        self._train_runner = self._runner(self.config.data.train)
        self._valid_runner = self._runner(self.config.data.valid) if self.valid_stream else None
        peak = peak_flops(self.config.training.precision) if self.ranks.reports else None
        self._peak = peak * self.ranks.world_size if peak else None
        self._iterators: list[Any] = []

    def _open(self) -> None:
        iterators = micro_batch_iterators(
            self.train_stream,
            self.ranks,
            self.layout,
            self.consumed,
            self.layout.num_microbatches,
            skip=[(first, end) for first, end in self.metadata.skipped_ranges],
            workers=self.config.data.num_workers,
            loader=self.config.data.loader,
        )
        self._iterators = [self.watch.reading(iterator) for iterator in iterators]

    def _one_step(self) -> None:
        started = time.monotonic()
        self._zero_gradients()
        self.watch.begin_compute()
        sums = self._train_runner.run(self._iterators, self.layout.num_microbatches, step=self.step)
        report = StepReport.of(sums, self._names(self.config.data.train))
        # Before the update: megatron-core's own order would spend the first update on a rate of 0.
        self.scheduler.step(1)
        grad_norm = self._update(report)
        self.step += 1
        self.consumed += self.layout.global_batch_size
        self._tokens += report.real_tokens
        self._metrics["training"] = metrics_of(self.step, report)
        self._settle()
        self._report(report, grad_norm, time.monotonic() - started)

    def _update(self, report: StepReport) -> float:
        """Apply the gradients; skip a batch without masks."""
        if report.masked_tokens == 0:
            self.skipped_empty += 1  # Adam would still move the weights
            self.log.event("fault", self.step, message="global batch without masks: no update")
            return 0.0
        return self._apply()

    def _report(self, report: StepReport, grad_norm: float, seconds: float) -> None:
        if not self.ranks.reports:
            return
        positions = report.positions
        width = positions // report.rows
        flops = flops_per_token(self.config.model, self.config.diffusion, width)
        achieved = positions * flops / seconds
        # JSON has no NaN; a bad step's norm is recorded as null.
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
                **self.watch.facts,
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
        seconds = self.watch.elapsed()
        self.log.validation(self.step, {**report.as_dict(), "seconds": seconds})

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
