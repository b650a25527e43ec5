"""Harnesses from the package index, offline, on local files of the real formats; our judge beside EvalPlus's.

    python tests/acceptance/harnesses.py --overlay VENV [--data FOLDER] [--variants 500] [--limit 20]

1. Canonical solutions of HumanEval, CRUXEval and HumanEval-infilling by the way that answers go.
2. Broken variants of HumanEval's solutions: our judge and EvalPlus's evaluator, every difference told.
3. lm_eval with our model class on a tiny export: generation from the three files, two runs alike.
4. An evaluation killed three times ends as one that was not, and no sample is made twice.
"""

from __future__ import annotations

import argparse
import collections
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from megatron_dream.evaluation.benchmarks.registry import benchmark  # noqa: E402
from megatron_dream.evaluation.harness.evaluators import (  # noqa: E402
    Comparison,
    Difference,
    compare,
    run_evalplus,
    write_problems,
)
from megatron_dream.evaluation.harness.lm_eval_tasks import (  # noqa: E402
    run_lm_eval,
    write_choice_task,
    write_local_tasks,
)
from megatron_dream.evaluation.harness.overlay import Overlay  # noqa: E402
from megatron_dream.evaluation.harness.verdicts import (  # noqa: E402
    JudgeOptions,
    judge_references,
    write_lines,
)
from megatron_dream.files import atomic_write  # noqa: E402
from tests.acceptance.broken_solutions import broken  # noqa: E402
from tests.system.tiny_export import make_tiny_export  # noqa: E402

CPU_SECONDS = 3  # of a broken variant, many of which never end
FILES = ("humaneval", "cruxeval_input", "cruxeval_output", "infilling_single")
# What the evaluators are known to do otherwise. A difference that none of these tells is a failure.
FIND_ZERO = (
    "evalplus 0.3.1 leaves the loop at find_zero without counting the input, so that no solution of "
    "HumanEval/32 passes, the canonical one neither"
)
ASSERTS_TRUTH = (
    "HumanEval's own test asserts truth (`assert candidate(...)`, `assert not ...`), so that None passes "
    "for False and text for True; EvalPlus compares with the reference's answer"
)


def origin(overlay: Overlay, options: argparse.Namespace) -> list[str]:
    """By which command, on which commit, with which versions."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    code = "import importlib.metadata as m; print(m.version('evalplus'), m.version('lm_eval'))"
    done = subprocess.run([overlay.python, "-c", code], capture_output=True, text=True, check=True)
    evalplus, lm_eval = done.stdout.split()
    return [
        f"`python tests/acceptance/harnesses.py --variants {options.variants} --limit {options.limit}` on "
        f"commit {commit or 'unknown'}, {time.strftime('%Y-%m-%d')}, evalplus {evalplus}, lm_eval {lm_eval}."
    ]


def canonical(data: Path, workers: int) -> tuple[list[str], bool]:
    """How many reference solutions pass."""
    lines, is_whole = [], True
    for name in FILES:
        kind = benchmark(name, "base")
        tasks = kind.tasks(data)
        with JudgeOptions(workers).start(kind.cpu_seconds) as judge:
            verdicts = judge_references(kind, tasks, judge)
        passed = sum(verdict.passed for verdict in verdicts.values())
        is_whole &= passed == len(tasks)
        lines.append(f"| {kind.title} | {passed} of {len(tasks)} |")
    return ["| benchmark | canonical solutions that pass |", "|---|---|", *lines], is_whole


def disagreements(
    overlay: Overlay, data: Path, folder: Path, count: int, workers: int
) -> tuple[Comparison, dict[str, int], list[tuple[Difference, str, str]]]:
    """Our verdicts and EvalPlus's on broken variants and the canonical solutions.

    Returns:
        The comparison; variants by kind; each difference with the program and why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kind = benchmark("humaneval", "base")
    tasks = kind.tasks(data)
    chosen = broken([task.record for task in tasks], count)
    # EvalPlus asks for a sample of every task: the canonical one is each task's first
    programs = [
        (t.id, "canonical", t.record["prompt"] + t.record["canonical_solution"]) for t in tasks
    ]
    programs += chosen
    numbers: collections.Counter[str] = collections.Counter()
    samples, by_task = [], {task.id: task for task in tasks}
    for task_id, _, program in programs:
        samples.append({"task_id": task_id, "sample_index": numbers[task_id], "solution": program})
        numbers[task_id] += 1
    write_lines(folder / "solutions.jsonl", samples)
    write_problems([task.record for task in tasks], folder / "problems.jsonl")
    with JudgeOptions(workers).start(CPU_SECONDS) as judge:
        verdicts = list(
            judge.verdicts((program, by_task[name].problem) for name, _, program in programs)
        )
    lines = [
        {**sample, "passed": verdict.passed, "outcome": verdict.outcome.value, "test": verdict.test,
         "detail": verdict.detail}
        for sample, verdict in zip(samples, verdicts, strict=True)
    ]  # fmt: skip
    theirs = run_evalplus(
        overlay,
        "humaneval",
        folder / "problems.jsonl",
        folder / "solutions.jsonl",
        folder / "evalplus",
        workers,
    )
    compared = compare(lines, theirs)
    source = {(s["task_id"], s["sample_index"]): s["solution"] for s in samples}
    told = [
        (found, source[found.task_id, found.sample_index], explanation(found))
        for found in compared.differences
    ]
    return compared, dict(collections.Counter(kind for _, kind, _ in chosen)), told


def explanation(found: Difference) -> str:
    """Why both say different things; empty: not known."""
    if found.task_id == "HumanEval/32" and found.theirs != "pass":
        return FIND_ZERO
    return EXPLAINED.get((found.task_id, found.ours == "passed"), "")


# Looked at one by one: (task, whether ours passed).
EXPLAINED: dict[tuple[str, bool], str] = {
    ("HumanEval/52", True): ASSERTS_TRUTH,
}


def sanitising(overlay: Overlay, folder: Path) -> str:
    """Our way of taking programs out of answers beside EvalPlus's own, which runs in the overlay."""
    folder.mkdir(parents=True, exist_ok=True)
    tests = ROOT / "tests/unit/evaluation/benchmarks/test_extract.py"
    said = overlay.run(
        [
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-k",
            "evalplus",
            "--rootdir",
            str(ROOT),
            str(tests),
        ],
        folder,
        {"PYTHONPATH": str(ROOT)},
        shuts_in=False,
    )
    if "skipped" in said:
        raise SystemExit("evalplus is not in the overlay; install requirements/evaluation.txt")
    return f"Sanitised as EvalPlus does: {said.strip().splitlines()[-1]}."


def harness(overlay: Overlay, data: Path, folder: Path, limit: int) -> list[str]:
    """lm_eval on a tiny export, twice; a table of its scores.

    Raises:
        SystemExit: the two runs differ.
    """
    export = make_tiny_export(folder / "model" / "export")
    tasks = [*write_local_tasks(folder / "tasks", data), write_choice_task(folder / "tasks", data)]
    arguments = {
        "max_new_tokens": 16,
        "steps": 8,
        "temperature": 0.2,
        "top_p": 0.9,
        "gap": "8",
        "mc_num": 16,
        "seed": 3,
    }
    runs = []
    for number in range(2):
        runs.append(
            run_lm_eval(overlay, export, tasks, folder / f"run{number}", include=folder / "tasks",
                        model_args=arguments, limit=limit)
        )  # fmt: skip
    answers = [logged(folder / f"run{number}") for number in range(2)]
    if answers[0] != answers[1] or not answers[0] or runs[0] != runs[1]:
        raise SystemExit("two runs of lm_eval with one seed differ")
    rows = [f"| {name} | {found.value:.3f} |" for name, found in runs[0].items()]
    head = [
        f"{len(answers[0])} answers in each of two runs, alike.",
        "",
        "| task | pass@1 |",
        "|---|---|",
    ]
    return [*head, *rows]


def logged(folder: Path) -> dict[str, str]:
    """The answers that lm_eval logged, by task and document."""
    found = {}
    for path in sorted(folder.glob("**/samples_*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            sample = json.loads(line)
            name = path.name.rpartition("_")[0]
            found[f"{name}/{sample['doc_id']}"] = json.dumps(sample["resps"])
    return found


def killed(data: Path, folder: Path, limit: int) -> list[str]:
    """An evaluation that is killed three times beside one that is not.

    Raises:
        SystemExit: they differ, or a sample was made twice.
    """
    export = folder / "model" / "export"
    command = [
        sys.executable, "-m", "megatron_dream", "eval", str(export), "--suite", "humaneval",
        "--style", "base", "--data", str(data), "--max-new-tokens", "24", "--limit", str(limit),
        "--samples", "2",
        "--batch-size", "4", "--seed", "5", "--output",
    ]  # fmt: skip
    whole, broken_off = folder / "whole", folder / "killed"
    subprocess.run([*command, str(whole)], cwd=ROOT, check=True, capture_output=True)
    counts = []
    for number in range(3):
        process = subprocess.Popen([*command, str(broken_off)], cwd=ROOT, stderr=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL)  # fmt: skip
        wanted = (number + 1) * limit // 2
        while process.poll() is None and lines_in(broken_off) < wanted:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        counts.append(lines_in(broken_off))
    subprocess.run([*command, str(broken_off)], cwd=ROOT, check=True, capture_output=True)
    results = [final(whole), final(broken_off)]
    if results[0] != results[1] or lines_in(broken_off) != 2 * limit:
        raise SystemExit("a killed evaluation did not end as one that was not")
    told = ", ".join(map(str, counts))
    return [
        f"Killed after {told} of {2 * limit} samples: the same samples, verdicts and pass@1; none twice."
    ]


def lines_in(folder: Path) -> int:
    """Samples on disk."""
    files = folder.glob("humaneval/samples.[0-9]*.jsonl")
    return sum(path.read_bytes().count(b"\n") for path in files)


def final(folder: Path) -> tuple[list[dict[str, object]], object]:
    """What must be equal: all but how long it took."""
    text = (folder / "humaneval" / "verdicts.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        del line["seconds"]
    scores = json.loads((folder / "humaneval" / "scores.json").read_text(encoding="utf-8"))
    return lines, scores["pass_at"]


def report(options: argparse.Namespace, folder: Path) -> tuple[str, bool]:
    """All four, as Markdown, and whether everything is as it should be."""
    overlay = Overlay.of(options.overlay)
    table, is_whole = canonical(options.data, options.workers)
    parts = ["# Harnesses", "", *origin(overlay, options), "", *table, ""]
    compared, kinds, told = disagreements(
        overlay, options.data, folder / "variants", options.variants, options.workers
    )
    made = ", ".join(f"{kind} {number}" for kind, number in sorted(kinds.items()))
    unexplained = [found for found, _, why in told if not why]
    parts += [
        f"Broken variants: {sum(kinds.values())} ({made}), and {compared.num_samples - sum(kinds.values())} "
        f"canonical solutions. Our judge and EvalPlus's evaluator agree on {compared.num_agreed} of "
        f"{compared.num_samples}; passed by ours {compared.num_passed_ours}, by EvalPlus "
        f"{compared.num_passed_theirs}; {len(told)} differences, {len(unexplained)} unexplained.",
        "",
    ]
    if told:
        parts += [
            "| task | sample | ours | EvalPlus | what our judge says | why |",
            "|---|---|---|---|---|---|",
        ]
        for found, program, why in told:
            cells = (found.task_id, found.sample_index, found.ours, found.theirs,
                     found.detail.replace("|", "\\|")[:120], why or "NOT EXPLAINED")  # fmt: skip
            parts.append("| " + " | ".join(map(str, cells)) + " |")
            if not why:
                print(f"--- {found}\n{program}\n")
        parts.append("")
    parts += [sanitising(overlay, folder / "sanitising"), ""]
    parts += [
        "## lm_eval",
        "",
        *harness(overlay, options.data, folder / "lm_eval", options.limit),
        "",
    ]
    parts += ["## Killed", "", *killed(options.data, folder / "lm_eval", options.limit), ""]
    return "\n".join(parts), is_whole and not unexplained


def main() -> int:
    """Write the report; 1 if something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--overlay", type=Path, default=ROOT / ".venv-evaluation", help="environment"
    )
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder")
    parser.add_argument("--variants", type=int, default=500)
    parser.add_argument("--limit", type=int, default=20, help="documents of each task for lm_eval")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results" / "harnesses.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="harnesses-") as folder:
        text, is_right = report(options, Path(folder))
    with atomic_write(options.output) as stream:
        stream.write(text)
    print(text)
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
