"""A model of this project on the present layout, and its step, as ``training/`` makes and runs them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from torch.profiler import record_function

from megatron_dream import parallel
from megatron_dream.config.layout import resolve_layout
from megatron_dream.config.load import from_fields
from megatron_dream.config.presets import resolve_model
from megatron_dream.config.schema import RunConfig

from .stream import StrideRows


def config_of(fields: dict[str, Any]) -> RunConfig:
    """A configuration from fields by dotted path, through the product's own converter.

    Raises:
        ConfigError: a field is unknown or ill-typed.
    """
    config = from_fields(fields)
    config.model = resolve_model(config.model)
    return config


class Trainee:
    """Model, optimizer, schedule and data of one process.

    Attributes:
        config: resolved; its layer spec is the one that runs.
        data_seconds: waited for the loader so far.

    Args:
        fields: of the configuration, by dotted path.
        seed: of the data.
        documents: segments of a row.
        workers: loader processes.
    """

    def __init__(
        self, fields: dict[str, Any], *, seed: int = 0, documents: int = 1, workers: int = 0
    ) -> None:
        from megatron_dream.model.build import build_model
        from megatron_dream.model.overlap import start_overlap
        from megatron_dream.model.specs import resolve_layer_spec
        from megatron_dream.training.batches import packs_rows
        from megatron_dream.training.features import check_features
        from megatron_dream.training.optimizer import (
            build_optimizer,
            build_scheduler,
            wrap_data_parallel,
        )

        self.config = config_of(fields)
        self.config.model.layer_spec = resolve_layer_spec(self.config.model)
        check_features(self.config)
        self.layout = resolve_layout(self.config, parallel.launched_world_size())
        training = self.config.training
        self.ranks = parallel.start(
            self.config.parallel, seed=training.seed, graphs=training.cuda_graphs
        )
        start_overlap(self.config, self.layout)
        self.length = self.config.data.sequence_length
        vocab = self.config.model.vocab_size
        self.stream = StrideRows(self.length, vocab, self.config.diffusion, seed, documents)
        self.packs = packs_rows(self.config.model, self.stream)
        chunks = build_model(
            self.config.model,
            self.config.parallel,
            training,
            self.ranks,
            objective=self.config.diffusion.objective,
            variable_lengths=self.packs and self.layout.cp > 1,
            fp8=self.config.fp8,
        )
        self.model = wrap_data_parallel(chunks, self.config)
        self.optimizer = build_optimizer(self.model, self.config)
        self.scheduler = build_scheduler(self.optimizer, self.config)
        self.workers, self.data_seconds, self.number = workers, 0.0, 0
        self._readers: list[Any] = []

    def open(self, first_step: int = 0) -> None:
        """Read from the data of a step on."""
        from megatron_dream.training.batches import micro_batch_iterators

        self.number = first_step
        self._readers = micro_batch_iterators(
            self.stream,
            self.ranks,
            self.layout,
            first_step * self.layout.global_batch_size,
            self.layout.num_microbatches,
            workers=self.workers,
            packs=self.packs,
        )
        self._iterators = [self._timed(reader) for reader in self._readers]

    def _timed(self, reader: Iterator[Any]) -> Iterator[Any]:
        while True:
            began = time.perf_counter()
            with record_function("kit.data"):
                batch = next(reader)
            self.data_seconds += time.perf_counter() - began
            yield batch

    def forward_backward(self) -> Any:
        """The report of one global batch; gradients are in their buffers."""
        from megatron_dream.training.metrics import StepReport
        from megatron_dream.training.step import StepRunner

        if not self._readers:
            self.open()
        runner = StepRunner(
            self.model,
            self.config.diffusion,
            self.ranks,
            micro_batch_size=self.layout.micro_batch_size,
            sequence_length=self.length,
            num_sources=1,
            packs=self.packs,
        )
        with record_function("kit.optimizer"):
            for chunk in self.model:
                chunk.zero_grad_buffer()
            self.optimizer.zero_grad()
        sums = runner.run(self._iterators, self.layout.num_microbatches, step=self.number)
        return StepReport.of(sums, ["rows"])

    def step(self) -> Any:
        """One step with its update: (report, gradient norm)."""
        from megatron_dream.training.optimizer import update

        with record_function("kit.step"):
            report = self.forward_backward()
            with record_function("kit.optimizer"):
                self.scheduler.step(1)
                result = update(self.optimizer)
        self.number += 1
        return report, result.grad_norm

    def mark_head(self) -> None:
        """Give the head a range of its own in a profile."""
        from megatron_dream.checkpoint.state import unwrap

        for chunk in map(unwrap, self.model):
            inner = chunk._masked_loss

            def marked(*arguments: Any, inner: Any = inner, **named: Any) -> Any:
                with record_function("kit.head"):
                    return inner(*arguments, **named)

            chunk._masked_loss = marked

    def close(self) -> None:
        """End loader processes."""
        for reader in self._readers:
            reader.close()
        self._readers = []
