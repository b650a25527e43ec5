"""Other people's evaluators on our samples, and where they and our judge disagree."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...files import atomic_write
from .overlay import ROOT, Overlay

Json = dict[str, Any]
_DATASETS = {"humaneval": "humaneval", "humaneval_plus": "humaneval", "mbpp_plus": "mbpp"}
_OVERRIDE = {"humaneval": "HUMANEVAL_OVERRIDE_PATH", "mbpp": "MBPP_OVERRIDE_PATH"}


@dataclass(frozen=True)
class Difference:
    """A sample of which they and we say different things.

    Attributes:
        task_id: of it.
        sample_index: among the task's.
        ours: our judge's outcome.
        detail: of ours.
        theirs: the evaluator's status.
    """

    task_id: str
    sample_index: int
    ours: str
    detail: str
    theirs: str


@dataclass(frozen=True)
class Comparison:
    """Of all samples that both judged."""

    num_samples: int
    num_passed_ours: int
    num_passed_theirs: int
    differences: tuple[Difference, ...]

    @property
    def num_agreed(self) -> int:
        """Samples of which both say the same."""
        return self.num_samples - len(self.differences)


def is_evalplus_task(benchmark: str) -> bool:
    """Whether EvalPlus evaluates this benchmark from our files."""
    return benchmark in _DATASETS


def run_evalplus(
    overlay: Overlay, benchmark: str, problems: Path, samples: Path, folder: Path, workers: int = 2
) -> dict[tuple[str, int], str]:
    """EvalPlus's verdicts.

    Args:
        overlay: where evalplus is installed.
        benchmark: ``humaneval`` (HumanEval's own file; base inputs), ``humaneval_plus``, ``mbpp_plus``.
        problems: the tasks that have samples, and no others: EvalPlus asks for a sample of each.
        samples: its JSON lines, ``task_id`` and ``solution``.
        folder: to write to.
        workers: processes.

    Returns:
        ``pass``, ``fail`` or ``timeout`` by task and sample; for plus benchmarks of both sets of inputs.

    Raises:
        DataError: it failed, or its answer is not what 0.3.1 writes.
    """
    dataset = _DATASETS[benchmark]
    is_base = benchmark == "humaneval"
    folder.mkdir(parents=True, exist_ok=True)
    tasks, given = folder / "problems.jsonl", folder / "samples.jsonl"
    tasks.write_bytes(problems.read_bytes())  # it may see this folder alone
    given.write_bytes(samples.read_bytes())
    if is_base:
        converted = folder / "humaneval_inputs.jsonl"
        module = f"{__package__}.record_inputs"
        overlay.run(
            ["-m", module, str(tasks.absolute()), str(converted.absolute())],
            folder,
            {"PYTHONPATH": str(ROOT)},
        )
        tasks = converted
    results = folder / "samples_eval_results.json"
    results.unlink(missing_ok=True)  # EvalPlus would print the old ones
    arguments = ["-m", "evalplus.evaluate", "--dataset", dataset, "--samples", str(given.absolute()),
                 "--parallel", str(workers)]  # fmt: skip
    if is_base:
        arguments.append("--base_only")
    overlay.run(arguments, folder, {_OVERRIDE[dataset]: str(tasks.absolute())})
    return read_evalplus(results, is_base)


def read_evalplus(path: Path, is_base: bool) -> dict[tuple[str, int], str]:
    """The verdicts in EvalPlus's file of results.

    Raises:
        DataError: it is not what 0.3.1 writes.
    """
    found: dict[tuple[str, int], str] = {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for task_id, results in content["eval"].items():
            for index, result in enumerate(results):
                statuses = [result["base_status"]] + ([] if is_base else [result["plus_status"]])
                wrong = [status for status in statuses if status != "pass"]
                found[task_id, index] = wrong[0] if wrong else "pass"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: no results of evalplus 0.3.1 ({error!r}).") from None
    return found


def compare(ours: Iterable[Json], theirs: dict[tuple[str, int], str]) -> Comparison:
    """Our verdicts beside another evaluator's; samples that one of both did not judge are left out."""
    differences, total, passed_ours, passed_theirs = [], 0, 0, 0
    for line in ours:
        status = theirs.get((line["task_id"], line["sample_index"]))
        if status is None:
            continue
        total += 1
        passed_ours += line["passed"]
        passed_theirs += status == "pass"
        if line["passed"] != (status == "pass"):
            told = " ".join(filter(None, (line["test"], line["detail"])))
            differences.append(
                Difference(line["task_id"], line["sample_index"], line["outcome"], told, status)
            )
    return Comparison(total, passed_ours, passed_theirs, tuple(differences))


def comparison_table(name: str, evaluator: str, comparison: Comparison) -> str:
    """A paragraph and, where they differ, a table, as Markdown."""
    text = (
        f"### {name}: our judge and {evaluator}\n\n{comparison.num_agreed} of {comparison.num_samples} "
        f"samples alike; passed by ours {comparison.num_passed_ours}, by {evaluator} "
        f"{comparison.num_passed_theirs}.\n"
    )
    if not comparison.differences:
        return text
    rows = [
        f"| {d.task_id} | {d.sample_index} | {d.ours} | {d.theirs} | {_cell(d.detail)} |"
        for d in comparison.differences
    ]
    head = (
        f"\n| task | sample | ours | {evaluator} | what our judge says |\n|---|---|---|---|---|\n"
    )
    return text + head + "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")[:160]


def write_problems(records: Sequence[Json], path: Path) -> None:
    """The records of some tasks, as JSON lines."""
    with atomic_write(path) as stream:
        stream.writelines(json.dumps(record) + "\n" for record in records)
