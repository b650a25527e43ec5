"""The RL demonstration: what unit tests teach a model whose demonstrations carry bad habits; what else could.

    python examples/tiny/rl_demo.py               all runs: three seeds, controls, ablations
    python examples/tiny/rl_demo.py --only grpo-0 one of them, after what it needs

Data, tokenizer and start once (rl_problems.py, rl_start.yaml); then every run from the same start, each
measured on the 500 held-out problems (rl_measure.py). Controls have the time that GRPO took: more of the same
training, training on the demonstrations that pass their tests, on the start's own answers that pass.
Resumable run by run: what has its figures is not run again, and a run goes on from its last checkpoint.
Writes rl_demo.{json,md,png} into --output. Described in docs/rl_demo.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).parent))

import rl_problems  # noqa: E402
import rl_report  # noqa: E402

from megatron_dream.files import atomic_write, write_json  # noqa: E402
from megatron_dream.rl.problems import read_problems  # noqa: E402
from megatron_dream.sandbox import Judge, Limits  # noqa: E402
from megatron_dream.training.status import read_log  # noqa: E402

WORK = Path("work/rl_demo")
RUNS = WORK / "runs"
START = RUNS / "start"
DREAM = [sys.executable, "-m", "megatron_dream"]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
TWO += ["-m", "megatron_dream"]
LIMITS = Limits(cpu=1, wall=10.0)
REJECTION_SAMPLES = 4  # answers of the start to each training problem
CONTINUED_LR = "1.0e-3"


@dataclass(frozen=True)
class Run:
    """One training from the start.

    Attributes:
        name: of its folder and figures; what stands before the last dash is its group.
        stage: ``rl`` or ``sft``.
        options: overrides of the stage's recipe.
        share: of the steps (rl) or of GRPO's time (sft).
        data: name of the prepared answers (sft).
    """

    name: str
    stage: str
    options: tuple[str, ...] = ()
    share: float = 1.0
    data: str = "demonstrations"


def rl_run(name: str, seed: int, *options: str, share: float = 1.0) -> Run:
    """A run of the rl stage."""
    return Run(f"{name}-{seed}", "rl", ("--data.seed", str(seed), *options), share)


ALL = (
    rl_run("grpo", 0),
    Run("continued_sft-0", "sft"),
    Run("passing_demonstrations-0", "sft", data="passing"),
    Run("rejection_sampling-0", "sft", data="rejection"),
    rl_run("shuffled_rewards", 0, "--rl.shuffled_rewards", "true"),
    rl_run("grpo", 1),
    rl_run("grpo", 2),
    rl_run("shuffled_rewards", 1, "--rl.shuffled_rewards", "true"),
    rl_run("shuffled_rewards", 2, "--rl.shuffled_rewards", "true"),
    rl_run("independent_masks", 0, "--rl.masks", "independent", share=1 / 3),
    rl_run("entropy_order", 0, "--rl.alg", "entropy", share=1 / 3),
    rl_run("four_epochs_token_ratio", 0, "--rl.policy_epochs", "4", share=1 / 3),
    rl_run(
        "four_epochs_sequence_ratio", 0, "--rl.policy_epochs", "4", "--rl.ratio", "sequence",
        "--rl.clip_low", "0.02", "--rl.clip_high", "0.028", share=1 / 3,
    ),
    rl_run("no_substitution", 0, "--rl.substitution", "false", share=1 / 3),
    rl_run("grpo_third", 0, share=1 / 3),
)  # fmt: skip


def command(*words: str, launcher: Sequence[str] = DREAM) -> None:
    """Run one command, printed as one can type it.

    Raises:
        SystemExit: it fails.
    """
    shown = [word for word in launcher if word != sys.executable]
    print("$ " + " ".join(["python", *shown, *words]), flush=True)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "1",
    }
    if subprocess.run([*launcher, *words], cwd=ROOT, env=environment).returncode:
        raise SystemExit("That command failed; mend what it says and call this one again.")


def once(done: Path, make: Callable[[], None]) -> None:
    """Do what leaves ``done`` behind, unless it is there."""
    if not (ROOT / done).exists():
        make()


def prepare_answers(name: str) -> None:
    """``NAME.jsonl`` to token files as the start's."""
    command(
        "prepare-sft", "--input", f"{WORK}/{name}.jsonl", "--output-prefix", f"{WORK}/{name}",
        "--tokenizer", f"{WORK}/tokenizer.model", "--template", "none",
        "--skip-rule", "exact_duplicate", "--overwrite",
        *(["--valid-share", "0.03"] if name == "demonstrations" else []),
    )  # fmt: skip


def make_start() -> None:
    """Problems, demonstrations, tokenizer, and the model that learns them."""
    problems = str(Path(rl_problems.__file__).relative_to(ROOT))
    once(
        WORK / "counts.json",
        lambda: command(problems, "--output", str(WORK), launcher=[sys.executable]),
    )
    once(
        WORK / "tokenizer.model",
        lambda: command(
            "tokenizer", "train", "--input", f"{WORK}/text.jsonl", "--vocab-size", "500",
            "--output", f"{WORK}/tokenizer.model",
        ),
    )  # fmt: skip
    once(WORK / "demonstrations.json", lambda: prepare_answers("demonstrations"))
    once(
        WORK / "start.json",
        lambda: (command("sft", "--config", "examples/tiny/rl_start.yaml"), measure("start"))[0],
    )


def measure(name: str, *options: str) -> None:
    """Figures of a run on the held-out problems."""
    command(
        "examples/tiny/rl_measure.py", str(RUNS / name), "--problems", f"{WORK}/heldout.jsonl",
        "--output", f"{WORK}/{name}.json", *options, launcher=[sys.executable],
    )  # fmt: skip


def make_passing() -> None:
    """The demonstrations that pass their problem's tests; every one is judged."""
    with open(ROOT / WORK / "demonstrations.jsonl", encoding="utf-8") as stream:
        shown = [json.loads(line) for line in stream]
    keep_passing("passing", [(line["prompt"], line["response"]) for line in shown])


def make_rejection() -> None:
    """The start's own answers to training problems that pass."""
    answers = WORK / "rejection_answers.jsonl"
    once(
        answers,
        lambda: command(
            "examples/tiny/rl_measure.py", str(START), "--problems", f"{WORK}/train.jsonl",
            "--samples", str(REJECTION_SAMPLES), "--answers", str(answers),
            launcher=[sys.executable],
        ),
    )  # fmt: skip
    prompts = {problem.id: problem.prompt for problem in read_problems(ROOT / WORK / "train.jsonl")}
    kept, calls = [], 0
    with open(ROOT / answers, encoding="utf-8") as stream:
        for line in map(json.loads, stream):
            drawn = line["answers"][1:]  # the first is the greedy one
            calls += len(drawn)
            kept += [(prompts[line["id"]], one["text"]) for one in drawn if one["passed"]]
    write_kept("rejection", kept, calls)


def keep_passing(name: str, pairs: Sequence[tuple[str, str]]) -> None:
    """Judge answers against the tests of their prompt's problem; write those that pass."""
    problems = {problem.prompt: problem for problem in read_problems(ROOT / WORK / "train.jsonl")}
    programs = [
        (rl_problems.unfenced(response), problems[prompt].problem) for prompt, response in pairs
    ]
    with Judge(limits=LIMITS) as judge:
        verdicts = list(judge.verdicts(programs))
    kept = [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict.passed]
    write_kept(name, kept, len(pairs))


def write_kept(name: str, kept: Sequence[tuple[str, str]], calls: int) -> None:
    """Answers for the sft stage, and what was spent on them."""
    with atomic_write(ROOT / WORK / f"{name}.jsonl") as stream:
        for prompt, response in kept:
            stream.write(json.dumps({"prompt": prompt, "response": response}) + "\n")
    write_json(ROOT / WORK / f"{name}_calls.json", {"judged": calls, "kept": len(kept)})
    print(f"{name}: {len(kept)} of {calls} answers pass")
    prepare_answers(name)


def train(run: Run, steps: int) -> None:
    """One run to its end."""
    folder = ["--checkpoint.run_folder", str(RUNS / run.name), "--checkpoint.init_from", str(START)]
    if run.stage == "rl":
        count = str(max(1, round(steps * run.share)))
        words = ["rl", "--config", "examples/tiny/rl.yaml", *run.options]
        command(*words, "--training.train_steps", count, *folder, launcher=TWO)
        return
    makers = {"passing": make_passing, "rejection": make_rejection}
    if run.data in makers:
        once(WORK / f"{run.data}.json", makers[run.data])
    count = str(steps_in(seconds_of("grpo-0"), seconds_of("start") / steps_of("start")))
    command(
        "sft", "--config", "examples/tiny/rl_start.yaml", *run.options, *folder,
        "--data.train", f"[{{prefix: {WORK / run.data}}}]", "--training.train_steps", count,
        "--optimizer.lr", CONTINUED_LR,
    )  # fmt: skip


def steps_in(seconds: float, per_step: float) -> int:
    """Steps that fit, at least one."""
    return max(1, int(seconds / per_step))


def steps_of(name: str) -> int:
    """Steps of a finished run."""
    return len([event for event in read_log(ROOT / RUNS / name) if event["event"] == "step"])


def seconds_of(name: str) -> float:
    """Seconds that a run's steps took."""
    log = read_log(ROOT / RUNS / name)
    return sum(event["seconds"] for event in log if event["event"] == "step")


def main() -> int:
    """Everything that is not done yet, then the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[run.name for run in ALL])
    parser.add_argument("--steps", type=int, default=120, help="of GRPO")
    parser.add_argument("--output", type=Path, default=WORK / "report", help="folder")
    options = parser.parse_args()
    os.chdir(ROOT)
    started = time.monotonic()
    make_start()
    wanted = [run for run in ALL if options.only is None or run.name in options.only]
    if any(run.stage == "sft" for run in wanted) and ALL[0] not in wanted:
        wanted.insert(0, ALL[0])  # whose time they are given
    for number, run in enumerate(wanted, 1):
        minutes = (time.monotonic() - started) / 60
        print(f"[{number}/{len(wanted)}] {run.name}, {minutes:.0f} minutes so far", flush=True)

        def make(run: Run = run) -> None:
            train(run, options.steps)
            measure(run.name)

        once(WORK / f"{run.name}.json", make)
    facts: dict[str, Any] = {"steps": options.steps, "runs": {}}
    for run in ALL:
        if (WORK / f"{run.name}.json").is_file():
            facts["runs"][run.name] = {
                "figures": json.loads((WORK / f"{run.name}.json").read_text()),
                "seconds": seconds_of(run.name),
                "steps": steps_of(run.name),
                "curve": rl_report.curve_of(read_log(RUNS / run.name)),
            }
    facts["start"] = json.loads((WORK / "start.json").read_text())
    facts["demonstrations"] = json.loads((WORK / "counts.json").read_text())
    rl_report.write(facts, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
