"""The loop over rows: batches, step, update, report, validation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .. import device
from ..checkpoint.metadata import CheckpointMetadata
from ..config.layout import Layout
from ..config.schema import RunConfig
from ..data.loader import MicroBatchIterator
from ..data.stream import Stream
from ..parallel import Ranks
from .batches import micro_batch_iterators, packs_rows
from .engine import Engine
from .faults.decision import Action, Verdict
from .loop import Loop
from .metrics import StepReport
from .provenance import metrics_of
from .step import StepRunner
from .throughput import flops_per_token, peak_flops
from .validation import validate


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
        self._train_runner = self._runner(self.config.data.train, train_stream)
        self._valid_runner = (
            self._runner(self.config.data.valid, valid_stream) if valid_stream else None
        )
        peak = peak_flops(self.config.training.precision) if self.ranks.reports else None
        self._peak = peak * self.ranks.world_size if peak else None
        self._readers: list[MicroBatchIterator] = []
        self._iterators: list[Iterator[Any]] = []

    def _open(self) -> None:
        self._readers = micro_batch_iterators(
            self.train_stream,
            self.ranks,
            self.layout,
            self.consumed,
            self.layout.num_microbatches,
            skip=[(first, end) for first, end in self.metadata.skipped_ranges],
            workers=self.config.data.num_workers,
            loader=self.config.data.loader,
            packs=self._packs(self.train_stream),
        )
        self._iterators = [self.watch.reading(iterator) for iterator in self._readers]

    def _reopen(self) -> None:
        for reader in self._readers:
            reader.close()
        if self._lengthened is not None:  # what is left out has to come from behind the end
            self.train_stream = self._lengthened(self.metadata)
        self._open()

    def _one_step(self) -> None:
        started = time.monotonic()
        self._begin_update()
        self.watch.begin_compute()
        sums = self._train_runner.run(self._iterators, self.layout.num_microbatches, step=self.step)
        report = StepReport.of(sums, self._names(self.config.data.train))
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
            lambda: micro_batch_iterators(
                stream, self.ranks, self.layout, 0, count, packs=self._packs(stream)
            ),
            count,
            step=self.step,
            source_names=self._names(self.config.data.valid),
        )
        self._metrics["validation"] = metrics_of(self.step, report)
        seconds = self.watch.elapsed()
        self.log.validation(self.step, {**report.as_dict(), "seconds": seconds})

    def _packs(self, stream: Stream) -> bool:
        return packs_rows(self.config.model, stream)

    def _runner(self, sources: list[Any], stream: Stream) -> StepRunner:
        return StepRunner(
            self.model,
            self.config.diffusion,
            self.ranks,
            micro_batch_size=self.layout.micro_batch_size,
            sequence_length=self.config.data.sequence_length,
            num_sources=max(len(sources), 1),
            packs=self._packs(stream),
        )

    def _names(self, sources: list[Any]) -> list[str]:
        return [source.name or Path(source.prefix).name for source in sources]
