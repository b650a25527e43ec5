"""Training on one process against plain transformers + torch: tokens/s and peak memory.

Baseline: Qwen2ForCausalLM of transformers with ``is_causal`` off, full logits, torch's cross-entropy and
AdamW. Same shape, tokens, masks, CART weights, precision (fp32), micro-batches and threads; each side in a
process of its own, one after the other. Memory is the peak over what weights, gradients and optimizer hold
(VmHWM, reset after a first tiny step made them).

    python benchmarks/training.py            both vocabularies, about six minutes on 2 cores
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

VOCABULARIES = {151_936: 2.0, 4_096: 1.0}  # size: ratio that is aimed at
HIDDEN, LAYERS, HEADS, GROUPS, FFN = 256, 8, 4, 2, 704
ROWS, LENGTH, MICRO_BATCHES, STEPS = 2, 512, 2, 3


def micro_batches(vocab: int, length: int) -> list[dict[str, torch.Tensor]]:
    """The same noised rows for both sides, through the product's own data path."""
    from megatron_dream.config.schema import DiffusionConfig
    from megatron_dream.data.batch import BatchLayout, to_batch
    from megatron_dream.data.stream import make_row
    from megatron_dream.diffusion.noise import NoiseStream

    layout = BatchLayout(ROWS, length, True, True)
    noise, batches = NoiseStream(0), []
    for number in range(MICRO_BATCHES):
        rows = []
        for ordinal in range(number * ROWS, (number + 1) * ROWS):
            x0 = np.random.default_rng(ordinal).integers(0, vocab - 1, length).astype(np.int32)
            row = make_row(
                x0,
                [length],
                0,
                ordinal,
                noise=noise,
                diffusion=DiffusionConfig(),
                mask_id=vocab - 1,
            )
            rows.append(row)
        batches.append(to_batch(layout.pack(rows), layout, has_whole_rows=True))
    return batches


def ours(vocab: int) -> Callable[[list[dict[str, torch.Tensor]]], float]:
    """A function that runs one step of Megatron-Dream and returns its loss."""
    from megatron_dream import parallel
    from megatron_dream.config.schema import ModelConfig, RunConfig
    from megatron_dream.model.build import build_model
    from megatron_dream.training.metrics import StepReport
    from megatron_dream.training.optimizer import build_optimizer, update, wrap_data_parallel
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
    optimizer = build_optimizer(model, config)

    def step(batches: list[dict[str, torch.Tensor]]) -> float:
        length = batches[0]["tokens"].shape[1]
        runner = StepRunner(
            model,
            config.diffusion,
            ranks,
            micro_batch_size=ROWS,
            sequence_length=length,
            num_sources=1,
        )
        model[0].zero_grad_buffer()
        optimizer.zero_grad()
        sums = runner.run([iter(batches)], len(batches), step=0)
        update(optimizer)
        return StepReport.of(sums, ["random"]).loss

    return step


def theirs(vocab: int) -> Callable[[list[dict[str, torch.Tensor]]], float]:
    """The same step with transformers and torch alone."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=vocab,
        hidden_size=HIDDEN,
        intermediate_size=FFN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=GROUPS,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    model = Qwen2ForCausalLM(config)
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.95), weight_decay=0.1)

    def step(batches: list[dict[str, torch.Tensor]]) -> float:
        optimizer.zero_grad()
        count = sum(int((batch["flags"] & 2).bool().sum()) for batch in batches)
        total = 0.0
        for batch in batches:
            logits = model(batch["tokens"], use_cache=False).logits
            labels = batch["labels"].masked_fill((batch["flags"] & 2) == 0, -100)
            each = torch.nn.functional.cross_entropy(
                logits.view(-1, vocab), labels.view(-1), reduction="none"
            )
            loss = (each * batch["loss_weight"].view(-1)).sum() / count
            loss.backward()
            total += float(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return total

    return step


def memory(field: str) -> int:
    """Bytes of VmRSS or VmHWM of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def measure(side: str, vocab: int) -> dict[str, Any]:
    """Run one side: a tiny step for the buffers, a warm-up, then timed steps."""
    step = {"ours": ours, "theirs": theirs}[side](vocab)
    step(micro_batches(vocab, 8))
    batches = micro_batches(vocab, LENGTH)
    held = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    losses, seconds = [step(batches)], []
    for _ in range(STEPS):
        started = time.perf_counter()
        losses.append(step(batches))
        seconds.append(time.perf_counter() - started)
    tokens = MICRO_BATCHES * ROWS * LENGTH
    return {
        "tokens_per_second": tokens / sorted(seconds)[len(seconds) // 2],
        "peak_over_held": memory("VmHWM") - held,
        "first_loss": losses[0],
    }


def run_side(side: str, vocab: int, threads: int) -> dict[str, Any]:
    """``measure`` in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, __file__, "--side", side, "--vocab", str(vocab)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{side} at vocabulary {vocab} failed:\n{result.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print both sides and their ratios for every vocabulary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", choices=("ours", "theirs"))
    parser.add_argument("--vocab", type=int)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options.side, options.vocab)))
        return
    for vocab, aim in VOCABULARIES.items():
        if options.vocab and vocab != options.vocab:
            continue
        sides = {side: run_side(side, vocab, options.threads) for side in ("theirs", "ours")}
        for side, found in sides.items():
            print(
                f"vocabulary {vocab:7,}  {side:6}  {found['tokens_per_second']:8.0f} tokens/s  "
                f"peak {found['peak_over_held'] / 1e6:7.0f} MB  first loss {found['first_loss']:.3f}"
            )
        speed = sides["ours"]["tokens_per_second"] / sides["theirs"]["tokens_per_second"]
        peak = sides["ours"]["peak_over_held"] / sides["theirs"]["peak_over_held"]
        print(
            f"vocabulary {vocab:7,}  ratio {speed:.2f} times the baseline's tokens/s (aim {aim}), "
            f"{peak:.2f} of its peak memory (aim 0.5 at the large vocabulary)"
        )


if __name__ == "__main__":
    main()
