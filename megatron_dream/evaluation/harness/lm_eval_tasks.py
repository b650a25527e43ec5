"""lm-evaluation-harness's tasks: its own over the hub's data, and code tasks over local files.

Its own code tasks load a metric from the hub and run programs in its process. Those written here read a
file from disk and are judged by our judge, so that the harness needs no network and runs nothing itself.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ...errors import DataError
from ...sandbox import Judging
from ..benchmarks.base import Benchmark, Task, cut_at_stops
from ..benchmarks.registry import benchmark
from .overlay import ROOT, Overlay
from .scores import Estimate
from .settings import LM_EVAL_SAMPLING, LM_EVAL_SHOTS
from .verdicts import JudgeOptions

Json = dict[str, Any]
LOCAL = ("humaneval", "cruxeval_output", "cruxeval_input", "infilling_single")
_GAP = "<|megatron_dream_gap|>"  # lm_eval_model.GAP, which only the overlay can import
_METRICS = ("acc_norm,none", "acc,none", "exact_match,flexible-extract", "exact_match,none",
            "math_verify,none", "pass@1,none")  # fmt: skip


def write_local_tasks(folder: Path, data: Path, names: Sequence[str] = LOCAL) -> list[str]:
    """Write a task file for each benchmark; the tasks' names for ``--tasks``.

    Args:
        folder: for ``--include_path``.
        data: with the benchmarks' files.
        names: of benchmarks.

    Raises:
        DataError: a benchmark's file is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in names:
        kind = benchmark(name, "base")
        task = f"{name}_local"
        prepared = folder / f"{task}.jsonl"
        with open(prepared, "w", encoding="utf-8") as stream:
            for one in kind.tasks(data):
                stream.write(json.dumps({"context": _context(one), "task_id": one.id}) + "\n")
        text = yaml.safe_dump(_task(task, prepared))
        # PyYAML writes a function's tag only for a class of its own
        module = folder / f"{task}_metric.py"
        module.write_text(_METRIC.format(name=name, data=str(data.absolute())), encoding="utf-8")
        text += f"process_results: !function {module.stem}.process_results\n"
        (folder / f"{task}.yaml").write_text(text, encoding="utf-8")
        written.append(task)
    return written


CHOICES = 4


def write_choice_task(folder: Path, data: Path) -> str:
    """Write a task of choices from CRUXEval: a program's output among those of the next ones; its name.

    Likelihoods of local files, where lm_eval's own tasks of choices need the hub's data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = "cruxeval_choice_local"
    prepared = folder / f"{name}.jsonl"
    records = [task.record for task in benchmark("cruxeval_output", "base").tasks(data)]
    with open(prepared, "w", encoding="utf-8") as stream:
        for number, record in enumerate(records):
            others = [records[(number + k) % len(records)]["output"] for k in range(CHOICES)]
            label = number % CHOICES
            others[0], others[label] = others[label], others[0]  # no place is right more often
            line = {
                "code": record["code"],
                "given": record["input"],
                "choices": others,
                "label": label,
            }
            stream.write(json.dumps(line) + "\n")
    task = _task(name, prepared) | {
        "output_type": "multiple_choice",
        "doc_to_text": "{{code}}\nassert f({{given}}) ==",
        "doc_to_choice": "choices",
        "doc_to_target": "label",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    del task["generation_kwargs"]
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    return name


_METRIC = '''"""The verdict on one answer, by our judge."""

from megatron_dream.evaluation.harness.lm_eval_tasks import passed


def process_results(doc, results):
    """One document's score."""
    return {{"pass@1": passed({name!r}, {data!r}, doc["task_id"], results[0])}}
'''


def _context(task: Task) -> str:
    if task.ask.gap is not None:
        return _GAP.join(task.ask.gap)
    assert task.ask.text is not None
    return task.ask.text


def _task(name: str, prepared: Path) -> Json:
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(prepared.absolute())}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{task_id}}",
        "generation_kwargs": {"until": [], "do_sample": False},
        "metric_list": [{"metric": "pass@1", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }


@functools.cache
def _opened(name: str, data: str) -> tuple[Benchmark, dict[str, Task], Judging]:
    kind = benchmark(name, "base")
    tasks = {task.id: task for task in kind.tasks(Path(data))}
    return kind, tasks, JudgeOptions(workers=1).start(kind.cpu_seconds)


def passed(name: str, data: str, task_id: str, answer: str) -> float:
    """1.0 where an answer passes its task's tests. Called by the task files, in the overlay.

    Raises:
        DataError: the judgement failed for no fault of the answer's.
    """
    kind, tasks, judge = _opened(name, data)
    task = tasks[task_id]
    program = kind.program(task, cut_at_stops(answer, task.stops))
    if not program or task.problem is None:
        return 0.0
    verdict = judge.submit(program, task.problem).result()
    if verdict.outcome == "infrastructure":
        raise DataError(
            f"{task_id}: its answer could not be judged ({verdict.detail}); run it again."
        )
    return float(verdict.passed)


def run_lm_eval(
    overlay: Overlay,
    model: Path,
    tasks: Sequence[str],
    folder: Path,
    *,
    include: Path | None = None,
    model_args: Json | None = None,
    is_autoregressive: bool = False,
    chat: bool = False,
    limit: int | None = None,
    shots: int | None = None,
    batch_size: int = 32,
    environment: dict[str, str] | None = None,
) -> dict[str, Estimate]:
    """Scores of lm_eval's tasks, each with its standard error's interval of 95%.

    Args:
        overlay: where lm_eval is installed.
        model: a checkpoint or a folder.
        tasks: of one number of shots and one sampling.
        folder: to write to; a killed run goes on from its cache there.
        include: folder with further tasks.
        model_args: of our model class.
        is_autoregressive: measure by lm_eval's own class for such models.
        chat: contexts by the chat template.
        limit: documents of each task.
        shots: None: the task's own.
        batch_size: rows, or answers, that run together; without it lm_eval says 1.
        environment: further variables.

    Raises:
        DataError: lm_eval failed, such as for data that is not in the hub's cache.
    """
    folder.mkdir(parents=True, exist_ok=True)
    given = {"pretrained": str(model.absolute()), **(model_args or {})}
    if is_autoregressive:
        given = {"pretrained": str(model.absolute())}
    arguments = [
        "-m", f"{__package__}.lm_eval_run", "run",
        "--model", "hf" if is_autoregressive else "megatron_dream",
        "--model_args", ",".join(f"{name}={value}" for name, value in given.items()),
        "--tasks", ",".join(tasks),
        "--batch_size", str(batch_size),
        "--output_path", str((folder / "results.json").absolute()),
        "--use_cache", str((folder / "answers").absolute()),
        "--log_samples",
    ]  # fmt: skip
    if include is not None:
        arguments += ["--include_path", str(include.absolute())]
    if chat:
        arguments.append("--apply_chat_template")
    if limit is not None:
        arguments += ["--limit", str(limit)]
    if shots is not None:
        arguments += ["--num_fewshot", str(shots)]
    for old in folder.glob("**/results_*.json"):
        old.unlink()
    # it runs the model, on its device; answers are judged by our judge, shut in there
    overlay.run(
        arguments,
        folder,
        {"PYTHONPATH": str(ROOT), **(environment or {})},
        shuts_in=False,
    )
    return read_results(folder, tasks)


def read_results(folder: Path, tasks: Sequence[str]) -> dict[str, Estimate]:
    """What lm_eval wrote last.

    Raises:
        DataError: there are no results, or not of these tasks.
    """
    files = sorted(folder.glob("**/results_*.json"))
    if not files:
        raise DataError(f"{folder}: lm_eval has written no results; see what it said.")
    content = json.loads(files[-1].read_text(encoding="utf-8"))
    found = {}
    for task in tasks:
        scores = content.get("results", {}).get(task, {})
        metric = next((name for name in _METRICS if name in scores), None)
        if metric is None:
            raise DataError(f"{files[-1]}: no score of {task} that is known ({', '.join(scores)}).")
        value, error = float(scores[metric]), scores.get(metric.replace(",", "_stderr,"))
        half = 1.96 * float(error) if isinstance(error, (int, float)) else float("nan")
        found[task] = Estimate(value, value - half, value + half)
    return found


def published_arguments(task: str) -> tuple[int, Json]:
    """Shots of a task, and its sampling where it generates (SPEC 7 and 9)."""
    return LM_EVAL_SHOTS[task], dict(LM_EVAL_SAMPLING.get(task, {}))
