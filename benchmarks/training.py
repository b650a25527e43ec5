"""Training on one process against plain transformers + torch: tokens/s and peak memory.

Baseline: Qwen2ForCausalLM of transformers with ``is_causal`` off, full logits, torch's cross-entropy and
AdamW. Same shape, tokens, masks, CART weights, precision (fp32), micro-batches and threads. Each side is a
process of its own, and they step in turns: the ratio is the median over pairs of neighbouring steps, so
that a machine whose speed changes changes both. Memory is the peak over what weights, gradients and
optimizer hold (VmHWM, reset after a first tiny step made them).

    python benchmarks/training.py            both vocabularies, about six minutes on 2 cores
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

VOCABULARIES = {151_936: 2.0, 4_096: 1.0}  # size: ratio that is aimed at
HIDDEN, LAYERS, HEADS, GROUPS, FFN = 256, 8, 4, 2, 704
ROWS, LENGTH, MICRO_BATCHES = 2, 512, 2


def micro_batches(vocab: int, length: int, step: int = 0) -> list[dict[str, torch.Tensor]]:
    """The same noised rows for both sides, through the product's own data path; new ones each step."""
    from megatron_dream.config.schema import DiffusionConfig
    from megatron_dream.data.batch import BatchLayout, to_batch
    from megatron_dream.data.stream import make_row
    from megatron_dream.diffusion.noise import NoiseStream

    layout = BatchLayout(ROWS, length, True, True)
    noise, batches = NoiseStream(0), []
    for number in range(step * MICRO_BATCHES, (step + 1) * MICRO_BATCHES):
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


def serve(side: str, vocab: int) -> None:
    """One side: set up and report, then run a step for each line that comes in."""
    step = {"ours": ours, "theirs": theirs}[side](vocab)
    step(micro_batches(vocab, 8))
    held = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    first_loss = step(micro_batches(vocab, LENGTH))
    print(json.dumps({"first_loss": first_loss}), flush=True)
    for number, _ in enumerate(sys.stdin, start=1):
        batches = micro_batches(vocab, LENGTH, number)
        is_masked = torch.stack([batch["flags"] & 2 for batch in batches]).bool()
        wall, cpu = time.perf_counter(), time.process_time()
        step(batches)
        found = {
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
            "masked_share": float(is_masked.float().mean()),
            "peak_over_held": memory("VmHWM") - held,
        }
        print(json.dumps(found), flush=True)


class Side:
    """One side in a process of its own, which steps when told."""

    def __init__(self, name: str, vocab: int, threads: int) -> None:
        # Threads of the side that waits must sleep, not spin on the cores of the one that works.
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            "PYTHONWARNINGS": "ignore",
        }
        command = [sys.executable, __file__, "--side", name, "--vocab", str(vocab)]
        self.name, self.steps = name, list[dict[str, float]]()
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.first_loss = self._read()["first_loss"]

    def step(self) -> float:
        """Seconds of one step."""
        assert self._process.stdin is not None
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        self.steps.append(self._read())
        return self.steps[-1]["seconds"]

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def median(self, field: str) -> float:
        """Over the steps."""
        return statistics.median(step[field] for step in self.steps)

    def _read(self) -> dict[str, float]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                found: dict[str, float] = json.loads(line)
                return found
        self._errors.seek(0)
        raise SystemExit(f"{self.name} failed:\n{self._errors.read()[-2000:]}")


def compare(vocab: int, aim: float, threads: int, rounds: int) -> None:
    """Step both sides in turns and print their figures and the ratios."""
    theirs, ours = sides = [Side(name, vocab, threads) for name in ("theirs", "ours")]
    ratios = []
    for number in range(rounds):
        pair = sides if number % 2 == 0 else sides[::-1]
        for side in pair:
            side.step()
        ratios.append(theirs.steps[-1]["seconds"] / ours.steps[-1]["seconds"])
    for side in sides:
        side.close()
        tokens = MICRO_BATCHES * ROWS * LENGTH
        print(
            f"vocabulary {vocab:7,}  {side.name:6}  {tokens / side.median('seconds'):8.0f} tokens/s  "
            f"{side.median('cpu_seconds'):6.2f} CPU s a step  "
            f"peak {side.steps[-1]['peak_over_held'] / 1e6:7.0f} MB  first loss {side.first_loss:.3f}"
        )
    masked = statistics.mean(step["masked_share"] for step in ours.steps)
    low, middle, high = statistics.quantiles(ratios, n=4)
    peak = ours.steps[-1]["peak_over_held"] / theirs.steps[-1]["peak_over_held"]
    print(
        f"vocabulary {vocab:7,}  ratio {middle:.2f} times the baseline's tokens/s (median of {rounds} "
        f"pairs of steps, quartiles {low:.2f} and {high:.2f}; {masked:.0%} of tokens masked; aim {aim}), "
        f"{peak:.2f} of its peak memory (aim 0.5 at the large vocabulary)",
        flush=True,
    )


def main() -> None:
    """Print both sides and their ratios for every vocabulary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", choices=("ours", "theirs"))
    parser.add_argument("--vocab", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, help="pairs of steps (default: 16, at 4,096 40)")
    options = parser.parse_args()
    if options.side:
        serve(options.side, options.vocab)
        return
    for vocab, aim in VOCABULARIES.items():
        if not options.vocab or vocab == options.vocab:
            rounds = options.rounds or (16 if vocab > 100_000 else 40)
            compare(vocab, aim, options.threads, rounds)


if __name__ == "__main__":
    main()
