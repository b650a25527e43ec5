"""A sampling cell's rows from its judged samples: scores, lengths, cost, order, and best of n."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ... import __version__
from ...files import sha256_file
from ...sampling.sampling_config import SamplingConfig
from ...sandbox import Outcome
from ..benchmarks.base import Benchmark, Task, cut_at_stops
from ..harness.models import fingerprint, is_autoregressive
from ..harness.scores import Scores, bootstrap, pass_at_k, score
from ..harness.settings import Settings
from ..harness.verdicts import Judged
from .base import Cell, Json, Row
from .choosing import majority_score, program_key
from .sampling_cells import DRAWN
from .statistics import estimate_columns

_IDS = {"mask_token_id": 0, "pad_token_id": 0, "eos_token_id": 0}
ByTask = dict[str, list[Json]]


def goes_left_to_right(path: str) -> bool:
    """Whether the model of a folder does."""
    return (Path(path) / "config.json").is_file() and is_autoregressive(Path(path))


def settings_of(fields: Json) -> Settings:
    """How a cell's answers are made; one sample a task where nothing is drawn."""
    sampling, samples = dict(fields["settings"]), int(fields["samples"])
    if goes_left_to_right(fields["path"]):
        sampling = {name: value for name, value in sampling.items() if name in DRAWN}
    if not _draws(sampling):
        samples = 1
    return Settings(sampling, fields["gap"], samples, fields["seed"])


def _draws(sampling: Mapping[str, Any]) -> bool:
    """Whether two samples of a task can differ."""
    config = SamplingConfig(**{**_IDS, **sampling}).resolved()
    draws_order = config.alg_temp > 0 or config.alg == "origin" or config.remask != "none"
    return bool(config.temperature) or draws_order


def identity(fields: Json, problems: Path) -> Json:
    """What must be the same for a cell that was killed to go on."""
    return {
        "cell": json.loads(json.dumps(fields)),
        "model": fingerprint(Path(fields["path"])),
        "problems": sha256_file(problems),
        "version": __version__,
    }


def rows_of(cell: Cell, kind: Benchmark, tasks: Sequence[Task], judged: Judged) -> list[Row]:
    """The cell's row, and one for each way and number of best of n."""
    scores = score(judged.lines, len(judged.unjudged))
    assert scores is not None  # measure refuses a cell without judged samples
    by_task: ByTask = {}
    for line in judged.lines:
        by_task.setdefault(line["task_id"], []).append(line)
    known = _used(cell.fields)
    row = {**cell.columns, **known, **_main(cell, scores, by_task)}
    rows = [row]
    for n in cell.fields["best_of"]:
        rows += _best_of(n, row, known, cell, kind, tasks, by_task)
    return rows


def _used(fields: Json) -> Row:
    """The settings that were used, defaults written out; empty where one has no say."""
    sampling = settings_of(fields).sampling
    config = SamplingConfig(**{**_IDS, **sampling}).resolved()
    temperature, nats = float(config.temperature or 0.0), config.pad_nats
    told: Row = {"temperature": temperature}
    if goes_left_to_right(fields["path"]):
        return {**told, "max_new_tokens": config.max_new_tokens}
    if "max_new_tokens" not in sampling:  # gaps
        return told
    drawn = nats if config.penalty_after_temperature or not nats else None
    if drawn is None and temperature > 0:
        drawn = nats / temperature
    return {
        **told,
        "steps": config.steps,
        "max_new_tokens": config.max_new_tokens,
        "block_length": config.block_length,
        "pad_nats": nats,
        "pad_nats_drawn": drawn,
    }


def _main(cell: Cell, scores: Scores, by_task: ByTask) -> Row:
    of_tasks = {f"pass@{k}": _pass_at(by_task, k) for k in cell.fields["k"]}
    of_tasks["score"] = _pass_at(by_task, 1)
    row: Row = {"tasks": scores.num_tasks, "samples": max(map(len, by_task.values()))}
    for name, values in of_tasks.items():
        row |= estimate_columns(name, bootstrap(list(values.values())))
    row["best_of"] = None
    row |= _lengths(by_task, settings_of(cell.fields).sampling.get("max_new_tokens"))
    row |= {
        "passes": scores.passes,
        "tokens_per_pass": scores.tokens_per_pass,
        "flops": scores.flops,
        "seconds": scores.seconds,
        "local_ar_ness": scores.local_ar_ness,
        "global_ar_ness": scores.global_ar_ness,
    }
    for outcome in Outcome:
        if outcome is not Outcome.INFRASTRUCTURE:
            row[f"outcome_{outcome.value}"] = scores.outcomes.get(outcome.value, 0)
    row["_tasks"] = json.dumps(of_tasks)
    return row


def _pass_at(by_task: ByTask, k: int) -> dict[str, float]:
    """pass@k of each task; where nothing is drawn, all k answers are the one that was made."""
    found = {}
    for task, lines in by_task.items():
        passed = sum(bool(line["passed"]) for line in lines)
        found[task] = pass_at_k(len(lines), passed, k if len(lines) > 1 else 1)
    return found


def _lengths(by_task: ByTask, canvas: int | None) -> Row:
    """Mean tokens, and the shares of answers that fill the canvas and that end at once."""

    def over_tasks(name: str, values: Any) -> Row:
        means = [sum(map(values, lines)) / len(lines) for lines in by_task.values()]
        return dict(estimate_columns(name, bootstrap(means)))

    row = over_tasks("tokens", lambda line: line["num_tokens"])
    if canvas is not None:
        row |= over_tasks("share_full", lambda line: line["num_tokens"] >= canvas)
    return row | over_tasks("share_empty", lambda line: line["num_tokens"] == 0)


def _best_of(
    n: int,
    row: Row,
    known: Row,
    cell: Cell,
    kind: Benchmark,
    tasks: Sequence[Task],
    by_task: ByTask,
) -> list[Row]:
    """Of n answers one is chosen: by the tests, and by the majority of equal programs."""
    stops = {task.id: (task, task.stops) for task in tasks}
    n = min(n, min(map(len, by_task.values())))  # one answer where nothing is drawn
    by_tests = {task: pass_at_k(len(lines), sum(bool(line["passed"]) for line in lines), n)
                for task, lines in by_task.items()}  # fmt: skip
    by_majority = {}
    for name, lines in by_task.items():
        task, cuts = stops[name]
        programs = [kind.program(task, cut_at_stops(line["answer"], cuts)) for line in lines]
        keys = [program_key(program) for program in programs]
        passed = [bool(line["passed"]) for line in lines]
        by_majority[name] = majority_score(keys, passed, n, name)
    rows = []
    for how, values in (("tests", by_tests), ("majority", by_majority)):
        arm = f"{cell.columns['arm']}, best of n by {how}"
        # axes with labels have the arm's, too
        named = {k: arm if v == cell.columns["arm"] else v for k, v in cell.columns.items()}
        told: Row = {**named, **known}
        told |= {"tasks": row["tasks"], "samples": row["samples"], "best_of": n}
        told |= estimate_columns("score", bootstrap(list(values.values())))
        for name in ("passes", "flops", "seconds"):
            told[name] = n * float(row[name] or 0.0)
        told["_tasks"] = json.dumps({"score": values})
        rows.append(told)
    return rows
