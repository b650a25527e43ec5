"""Rollouts per second by cache, against full recomputation, on one model, and what passes of each.

    python benchmarks/rollouts.py MODEL --problems P.jsonl [--count 48] [--rounds 3]

MODEL is a checkpoint or folder that solves some of the problems, such as the RL demonstration's
(work/rl_demo/runs/grpo-0 with work/rl_demo/heldout.jsonl): speed is worth nothing where the pass rate falls.
Sides in turns, the median; all draw with the same seed. Blocks of 10 tokens, one token a step, entropy's
order.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from megatron_dream.config.schema import RlConfig  # noqa: E402
from megatron_dream.evaluation.sampler import load_model  # noqa: E402
from megatron_dream.rl.grading import Grader  # noqa: E402
from megatron_dream.rl.problems import RlProblem, read_problems  # noqa: E402
from megatron_dream.rl.rollout import make_rollouts, rollout_config  # noqa: E402
from megatron_dream.sampling.text import cut_at_eos  # noqa: E402

SIDES = ("none", "prefix", "dual")


def main() -> None:
    """Print responses a second, the ratio to no cache, and the share that passes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--problems", type=Path, required=True)
    parser.add_argument("--count", type=int, default=48, help="problems")
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--canvas", type=int, default=30)
    parser.add_argument("--block", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    sampler = load_model(options.model)
    tokenizer = sampler.tokenizer
    problems = list(read_problems(options.problems))[: options.count]
    prompts = [[tokenizer.bos_id, *tokenizer.encode(str(one.prompt))] for one in problems]
    rl = RlConfig(
        group_size=options.group_size,
        response_length=options.canvas,
        block_length=options.block,
        top_p=1.0,
        judge_cpu_seconds=1,
    )
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    texts: dict[str, list[tuple[RlProblem, str]]] = {}
    for number in range(options.rounds):
        for side in SIDES:
            config = rollout_config(rl, tokenizer, cache=side)
            started = time.perf_counter()
            made = list(
                make_rollouts(
                    sampler.model,
                    prompts,
                    range(len(prompts)),
                    config,
                    seed=0,
                    rows=rl.rollout_rows,
                )
            )
            seconds[side].append(time.perf_counter() - started)
            texts[side] = [
                (
                    problems[one.place],
                    tokenizer.decode(cut_at_eos(row.tolist(), [tokenizer.eos_id])),
                )
                for one in made
                for row in one.tokens_GL
            ]
            print(f"[{number + 1}/{options.rounds}] {side}: {seconds[side][-1]:.2f} s", flush=True)
    grader = Grader(rl)
    for side in SIDES:
        verdicts = [grader.submit(problem, text)[1] for problem, text in texts[side]]
        passed = statistics.fmean(verdict.result().passed for verdict in verdicts)
        median = statistics.median(seconds[side])
        ratio = statistics.median(seconds["none"]) / median
        rate = len(texts[side]) / median
        print(f"{side}: {rate:.1f} responses/s, {ratio:.2f} times no cache, {passed:.1%} pass")
    grader.close()


if __name__ == "__main__":
    main()
