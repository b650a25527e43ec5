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
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).parent))

import rl_problems  # noqa: E402
import rl_report  # noqa: E402

from megatron_dream.files import atomic_write, write_json  # noqa: E402
from megatron_dream.rl.problems import read_problems  # noqa: E402
from megatron_dream.sandbox import Judge, Limits, Problem  # noqa: E402
from megatron_dream.training.status import read_log  # noqa: E402

PYTHON = [sys.executable]
DREAM = [sys.executable, "-m", "megatron_dream"]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
TWO += ["-m", "megatron_dream"]
LIMITS = Limits(cpu=1, wall=10.0)
REJECTION_SAMPLES = 4  # answers of the start to each training problem
CONTINUED_LR = "1.0e-3"
PACE_STEPS = 100  # of a control, before it is told how many steps it has


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


@dataclass(frozen=True)
class Demo:
    """All runs in one folder.

    Attributes:
        work: relative to the project's root.
        steps: of GRPO.
        count: held-out problems that a model is measured on.
    """

    work: Path
    steps: int
    count: int

    def folder_of(self, name: str) -> Path:
        """A run's."""
        return self.work / "runs" / name

    def figures_of(self, name: str) -> Path:
        """Where a run's figures are when it is done."""
        return self.work / f"{name}.json"

    def once(self, done: str, make: Callable[[], None]) -> None:
        """Do what leaves the file ``done`` behind, unless it is there."""
        if not (self.work / done).exists():
            make()

    def prepare_answers(self, name: str) -> None:
        """``NAME.jsonl`` to token files as the start's."""
        command(
            "prepare-sft", "--input", f"{self.work}/{name}.jsonl", "--output-prefix",
            f"{self.work}/{name}", "--tokenizer", f"{self.work}/tokenizer.model", "--template", "none",
            "--skip-rule", "exact_duplicate", "--overwrite",
            *(["--valid-share", "0.03"] if name == "demonstrations" else []),
        )  # fmt: skip

    def make_start(self) -> None:
        """Problems, demonstrations, tokenizer, and the model that learns them."""
        work = str(self.work)
        self.once(
            "counts.json",
            lambda: command("examples/tiny/rl_problems.py", "--output", work, launcher=PYTHON),
        )
        self.once(
            "tokenizer.model",
            lambda: command(
                "tokenizer", "train", "--input", f"{work}/text.jsonl", "--vocab-size",
                str(rl_problems.VOCAB_SIZE), "--output", f"{work}/tokenizer.model",
            ),
        )  # fmt: skip
        self.once("demonstrations.json", lambda: self.prepare_answers("demonstrations"))
        valid = f"[{{prefix: {work}/demonstrations_valid}}]"

        def learn() -> None:
            self.sft("start", "demonstrations", "--data.valid", valid)
            self.measure("start")

        self.once("start.json", learn)

    def sft(self, name: str, data: str, *options: str) -> None:
        """One run of the sft stage on some prepared answers."""
        command(
            "sft", "--config", "examples/tiny/rl_start.yaml",
            "--tokenizer.path", f"{self.work}/tokenizer.model",
            "--data.train", f"[{{prefix: {self.work}/{data}}}]",
            "--training.micro_batch_size", "32",
            "--checkpoint.run_folder", str(self.folder_of(name)), *options, launcher=TWO,
        )  # fmt: skip

    def measure(self, name: str) -> None:
        """Figures of a run on the held-out problems."""
        command(
            "examples/tiny/rl_measure.py", str(self.folder_of(name)), "--problems",
            f"{self.work}/heldout.jsonl", "--count", str(self.count), "--output",
            str(self.figures_of(name)), launcher=PYTHON,
        )  # fmt: skip

    def make_passing(self) -> None:
        """The demonstrations that pass their problem's tests; every one is judged."""
        problems = {one.prompt: one.problem for one in read_problems(self.work / "train.jsonl")}
        with open(self.work / "demonstrations.jsonl", encoding="utf-8") as stream:
            shown = [json.loads(line) for line in stream]
        pairs = [(line["prompt"], line["response"]) for line in shown]
        programs = [
            (rl_problems.unfenced(response), cast(Problem, problems[prompt]))
            for prompt, response in pairs
        ]
        with Judge(limits=LIMITS) as judge:
            verdicts = list(judge.verdicts(programs))
        kept = [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict.passed]
        self.write_kept("passing", kept, len(pairs))

    def make_rejection(self) -> None:
        """The start's own answers to training problems that pass."""
        answers = self.work / "rejection_answers.jsonl"
        self.once(
            answers.name,
            lambda: command(
                "examples/tiny/rl_measure.py", str(self.folder_of("start")), "--problems",
                f"{self.work}/train.jsonl", "--samples", str(REJECTION_SAMPLES),
                "--answers", str(answers), launcher=PYTHON,
            ),
        )  # fmt: skip
        prompts = {one.id: str(one.prompt) for one in read_problems(self.work / "train.jsonl")}
        kept, calls = [], 0
        with open(answers, encoding="utf-8") as stream:
            for line in map(json.loads, stream):
                drawn = line["answers"][1:]  # the first is the greedy one
                calls += len(drawn)
                kept += [(prompts[line["id"]], one["text"]) for one in drawn if one["passed"]]
        self.write_kept("rejection", kept, calls)

    def write_kept(self, name: str, kept: Sequence[tuple[str, str]], calls: int) -> None:
        """Answers for the sft stage, and what was spent on them."""
        with atomic_write(self.work / f"{name}.jsonl") as stream:
            for prompt, response in kept:
                stream.write(json.dumps({"prompt": prompt, "response": response}) + "\n")
        write_json(self.work / f"{name}_calls.json", {"judged": calls, "kept": len(kept)})
        print(f"{name}: {len(kept)} of {calls} answers pass")
        self.prepare_answers(name)

    def train(self, run: Run) -> None:
        """One run to its end, and its figures."""
        start = ("--checkpoint.init_from", str(self.folder_of("start")))
        if run.stage == "rl":
            command(
                "rl", "--config", "examples/tiny/rl.yaml", *run.options,
                "--tokenizer.path", f"{self.work}/tokenizer.model",
                "--rl.problems", f"[{self.work}/train.jsonl]",
                "--rl.valid", f"[{self.work}/heldout.jsonl]",
                "--training.train_steps", str(max(1, round(self.steps * run.share))),
                "--checkpoint.run_folder", str(self.folder_of(run.name)), *start, launcher=TWO,
            )  # fmt: skip
        else:
            makers = {"passing": self.make_passing, "rejection": self.make_rejection}
            if run.data in makers:
                self.once(f"{run.data}.json", makers[run.data])
            alike = ("--optimizer.lr", CONTINUED_LR, "--training.eval_interval", "0", *start)
            count = str(self.steps_in_time(run, alike))
            self.sft(run.name, run.data, "--training.train_steps", count, *alike)
        self.measure(run.name)

    def steps_in_time(self, run: Run, options: Sequence[str]) -> int:
        """Steps of a control in the seconds that GRPO took, by the pace of its own first steps.

        A short run of its own just before, since what else the machine does changes the pace; the median,
        since the first step is slow.
        """
        name = f"{run.name}_pace"
        self.sft(name, run.data, "--training.train_steps", str(PACE_STEPS), *options)
        steps = rl_report.steps_in(read_log(self.folder_of(name)))
        pace = statistics.median(event["seconds"] for event in steps)
        return max(1, round(self.seconds_of("grpo-0") / pace))

    def steps_of(self, name: str) -> int:
        """Steps of a finished run."""
        return len(rl_report.steps_in(read_log(self.folder_of(name))))

    def seconds_of(self, name: str) -> float:
        """Seconds that a run's steps took."""
        steps = rl_report.steps_in(read_log(self.folder_of(name)))
        return float(sum(event["seconds"] for event in steps))

    def facts(self) -> dict[str, Any]:
        """Figures of all runs that are done, for the report."""
        found: dict[str, Any] = {"steps": self.steps, "count": self.count, "runs": {}}
        for run in ALL:
            if self.figures_of(run.name).is_file():
                found["runs"][run.name] = {
                    "figures": json.loads(self.figures_of(run.name).read_text()),
                    "seconds": self.seconds_of(run.name),
                    "steps": self.steps_of(run.name),
                    "curve": rl_report.curve_of(read_log(self.folder_of(run.name))),
                }
        for name in ("passing", "rejection"):
            path = self.work / f"{name}_calls.json"
            found[name] = json.loads(path.read_text()) if path.is_file() else None
        found["start"] = json.loads(self.figures_of("start").read_text())
        found["demonstrations"] = json.loads((self.work / "counts.json").read_text())
        return found


def main() -> int:
    """Everything that is not done yet, then the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[run.name for run in ALL])
    parser.add_argument("--steps", type=int, default=120, help="of GRPO")
    parser.add_argument(
        "--count", type=int, default=500, help="held-out problems that are measured"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("work/rl_demo"), help="folder of all runs"
    )
    parser.add_argument("--output", type=Path, help="folder of the report; default: in --work")
    options = parser.parse_args()
    os.chdir(ROOT)
    demo, started = Demo(options.work, options.steps, options.count), time.monotonic()
    demo.make_start()
    wanted = [run for run in ALL if options.only is None or run.name in options.only]
    if any(run.stage == "sft" for run in wanted) and ALL[0] not in wanted:
        wanted.insert(0, ALL[0])  # whose time they are given
    for number, run in enumerate(wanted, 1):
        minutes = (time.monotonic() - started) / 60
        print(f"[{number}/{len(wanted)}] {run.name}, {minutes:.0f} minutes so far", flush=True)
        demo.once(demo.figures_of(run.name).name, functools.partial(demo.train, run))
    rl_report.write(demo.facts(), options.output or options.work / "report")
    return 0


if __name__ == "__main__":
    sys.exit(main())
