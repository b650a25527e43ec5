"""SFT by way of truncation and padding: useful tokens a second, against padding to the longest answer.

    python benchmarks/sft_padding.py DATA... --tokenizer T [--sequence-length N] [--samples N] [--rounds N]

DATA is what `megatron-dream prepare-sft` wrote. Forward and backward pass of a model of 6M parameters
and the tokenizer's vocabulary over the same global batches, each way in turn, medians over rounds. Useful
are the tokens of prompts, answers and their ends; PAD is not, wherever it stands.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

BASELINE = "to the longest"
HIDDEN, LAYERS, HEADS, GROUPS, FFN = 256, 8, 4, 2, 704


def runner_of(vocab: int, micro_batch_size: int, sequence_length: int) -> Any:
    """A model and what runs its steps."""
    from megatron_dream import parallel
    from megatron_dream.config.schema import ModelConfig, RunConfig
    from megatron_dream.model.build import build_model
    from megatron_dream.training.optimizer import wrap_data_parallel
    from megatron_dream.training.step import StepRunner

    config = RunConfig()
    config.model = ModelConfig(
        num_layers=LAYERS,
        hidden_size=HIDDEN,
        num_attention_heads=HEADS,
        num_query_groups=GROUPS,
        ffn_hidden_size=FFN,
        vocab_size=vocab,
        tie_word_embeddings=True,
        layer_spec="local",
    )
    config.training.precision = "fp32"
    ranks = parallel.start(config.parallel)
    chunks = build_model(config.model, config.parallel, config.training, ranks)
    model = wrap_data_parallel(chunks, config)
    return StepRunner(
        model,
        config.diffusion,
        ranks,
        micro_batch_size=micro_batch_size,
        sequence_length=sequence_length,
        num_sources=16,
    )


def seconds_of(runner: Any, stream: Any, first: int, samples: int, micro_batch_size: int) -> float:
    """Forward and backward over ``samples`` rows from ``first`` on."""
    from megatron_dream.data.loader import MicroBatchIterator

    count = samples // micro_batch_size
    iterator = MicroBatchIterator(
        stream, consumed=first, micro_batch_size=micro_batch_size, num_microbatches=count
    )
    runner.model[0].zero_grad_buffer()
    started = time.perf_counter()
    runner.run([iterator], count, step=0)
    return time.perf_counter() - started


def main() -> None:
    """Run all ways and print a table with ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--sequence-length", type=int, default=640)
    parser.add_argument("--samples", type=int, default=192, help="of a global batch")
    parser.add_argument("--micro-batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    from megatron_dream.config.schema import RunConfig, SourceConfig
    from megatron_dream.evaluation.padding import shares_of, streams_of
    from megatron_dream.tokenizer.load import load_tokenizer

    size, samples = options.micro_batch_size, options.samples
    config = RunConfig()
    config.data.train = [SourceConfig(prefix=prefix) for prefix in options.data]
    config.data.sequence_length = options.sequence_length
    config.training.global_batch_size = samples
    streams = dict(streams_of(config, options.tokenizer, samples * options.rounds))
    runner = runner_of(load_tokenizer(options.tokenizer).vocab_size, size, options.sequence_length)
    load = f"load {os.getloadavg()[0]:.1f}"
    print(
        f"{samples} samples a round, micro-batches of {size}, {torch.get_num_threads()} threads, {load}"
    )
    speeds: dict[str, list[float]] = {way: [] for way in streams}
    pads: dict[str, float] = {}
    for stream in streams.values():
        seconds_of(runner, stream, 0, size, size)  # warms up
    for number in range(options.rounds):
        for way, stream in streams.items():
            shares = shares_of(way, stream, samples, size, first=number * samples)
            seconds = seconds_of(runner, stream, number * samples, samples, size)
            pads[way] = shares.pad_share
            speeds[way].append(shares.text / seconds)
            print(f"[{number + 1}/{options.rounds}] {way}: {seconds:.1f} s", flush=True)
    baseline = statistics.median(speeds[BASELINE])
    for way, found in speeds.items():
        speed = statistics.median(found)
        print(
            f"{way:36} {speed:8,.0f} useful tokens/s  {speed / baseline:5.2f} times {BASELINE!r}; "
            f"PAD {pads[way]:.1%} of the positions of the last round"
        )


if __name__ == "__main__":
    main()
