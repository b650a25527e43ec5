"""``megatron-dream eval``: a model through a suite, to a folder of samples, verdicts, scores and tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ... import __version__
from ...errors import ConfigError, DataError
from ...files import atomic_write, sha256_file, write_json
from ...launcher import launched
from ...sandbox import Judging
from ...sandbox.engine import Isolation
from ..benchmarks.base import Benchmark, Style, Task
from ..benchmarks.registry import BENCHMARKS, benchmark
from ..sample_command import check_options
from .evaluators import (
    compare,
    comparison_table,
    is_evalplus_task,
    run_evalplus,
    write_problems,
)
from .models import Model, fingerprint, is_autoregressive, open_model
from .overlay import Overlay
from .records import check_run, read_samples
from .run import Place, generate
from .scores import Estimate, score
from .settings import Settings, published
from .suite import suite as names_of
from .tables import Result, paper_tables, sampler_rows
from .verdicts import JudgeOptions, harness_file, judge_references, judge_samples, write_lines

Json = dict[str, Any]
DEFAULT_BATCH = 8
LIKELIHOOD_BATCH = 32


@dataclass(frozen=True)
class Evaluation:
    """What was asked for; see flags.py."""

    model: Path
    suite: str
    style: Style
    data: Path
    output: Path
    tasks: Sequence[str] = ()
    samples: int = 1
    seed: int = 0
    limit: int | None = None
    batch_size: int = DEFAULT_BATCH
    steps: Sequence[int] = ()
    gap: str = "grow"
    references: bool = False
    mc_num: int = 128
    weights: str | None = None
    evaluators: Path | None = None
    evaluators_open: bool = False
    workers: int | None = None
    isolation: Isolation | None = None
    endpoints: Sequence[str] = ()
    sampling: Json = field(default_factory=dict)

    def settings(self, name: str) -> list[Settings]:
        """The published settings with what was given; one for each number of steps."""
        base = published(name, self.style).with_options(self.sampling)
        base = dataclasses.replace(base, gap=self.gap, num_samples=self.samples, seed=self.seed)
        if not self.steps or self.has_no_steps(name):
            return [base]
        return [base.with_options({"steps": steps}) for steps in self.steps]

    def has_no_steps(self, name: str) -> bool:
        """Whether ``--steps`` has no say: models from left to right, and gaps that grow."""
        return self.goes_left_to_right or (BENCHMARKS[name].is_infilling and self.gap == "grow")

    @property
    def goes_left_to_right(self) -> bool:
        """Whether the model has no steps, but a pass for every token."""
        return (self.model / "config.json").is_file() and is_autoregressive(self.model)

    def judge_options(self) -> JudgeOptions:
        """Of our judge."""
        return JudgeOptions(self.workers, self.isolation, self.endpoints)

    def overlay(self) -> Overlay | None:
        """Where other evaluators are, if they were named."""
        if self.evaluators is None:
            return None
        return Overlay.of(self.evaluators, not self.evaluators_open)


def run_eval(*, model: Path, sampling: Json | None = None, **options: Any) -> int:
    """Measure a model; 0, or 1 where judgements were lost or a reference fails.

    Args:
        model: checkpoint, exported folder, Dream-type or autoregressive Hugging Face folder.
        sampling: fields of SamplingConfig, in place of the published settings.
        options: fields of ``Evaluation``.

    Raises:
        UserError: something is not what it should be; before anything is generated where it can be known.
    """
    wanted = Evaluation(model=model, sampling=sampling or {}, **options)
    _check(wanted)
    names = names_of(wanted.suite, wanted.style, wanted.tasks)
    ours = [name for name in names if not name.startswith("lm_eval:")]
    benchmarks = dict(_benchmarks(wanted, ours))
    if wanted.references:
        return _references(wanted, benchmarks)
    place = _place()
    loaded = _Loaded(wanted.model, wanted.weights)
    results: dict[str, list[Result]] = {}
    for name in ours:
        results[name] = []
        if name not in benchmarks:
            results[name].append(Result(None, note="no problem file"))
            continue
        for settings in wanted.settings(name):
            found = _measure(wanted, benchmarks[name], settings, loaded, place)
            if found is not None:
                results[name].append(found)
    if place.rank > 0:
        return 0
    others = _lm_eval(wanted, [name for name in names if name.startswith("lm_eval:")])
    return _report(wanted, results, others)


class _Loaded:
    """The model, loaded when it is first asked for: a finished evaluation is scored without it."""

    def __init__(self, path: Path, weights: str | None) -> None:
        self.path, self.weights = path, weights
        self._model: Model | None = None

    def model(self) -> Model:
        if self._model is None:
            self._model = open_model(self.path, self.weights)
        return self._model


def _check(wanted: Evaluation) -> None:
    for name in ("samples", "batch_size", "mc_num", "limit"):
        value = getattr(wanted, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} is {value}: give 1 or more.")
    check_options({k: v for k, v in wanted.sampling.items()})


def _place() -> Place:
    launch = launched()
    if launch.world_size == 1:
        return Place()
    from ... import parallel
    from ...config.schema import ParallelConfig

    # the first rank's verdicts take their time, and others have nothing to do meanwhile
    parallel.start(ParallelConfig(distributed_timeout_minutes=24 * 60))
    return Place(launch.rank, launch.world_size, parallel.barrier)


def _benchmarks(
    wanted: Evaluation, names: Sequence[str]
) -> Iterator[tuple[str, tuple[Benchmark, list[Task], Path]]]:
    """Each with its tasks; a suite goes on without a benchmark whose file is not there."""
    must = bool(wanted.tasks) or len(names) == 1
    for name in names:
        kind = benchmark(name, wanted.style)
        try:
            file = kind.file(wanted.data)
        except DataError:
            if must:
                raise
            continue
        yield name, (kind, kind.tasks(wanted.data)[: wanted.limit], file)


def _references(
    wanted: Evaluation, benchmarks: dict[str, tuple[Benchmark, list[Task], Path]]
) -> int:
    """How many of the tasks' own solutions pass."""
    failed = 0
    for name, (kind, tasks, _) in benchmarks.items():
        with wanted.judge_options().start(kind.cpu_seconds) as judge:
            verdicts = judge_references(kind, tasks, judge)
        wrong = {task: verdict for task, verdict in verdicts.items() if not verdict.passed}
        print(f"{name}: {len(verdicts) - len(wrong)} of {len(tasks)} reference solutions pass")
        for task, verdict in list(wrong.items())[:10]:
            print(f"  {task}: {verdict.outcome} {verdict.test} {verdict.detail}")
        if not kind.needs_references:  # those that cannot be judged here are no fault
            failed += len(tasks) - len(verdicts) + len(wrong)
    return int(failed > 0)


def _measure(
    wanted: Evaluation,
    chosen: tuple[Benchmark, list[Task], Path],
    settings: Settings,
    loaded: _Loaded,
    place: Place,
) -> Result | None:
    """Generate, judge and score one benchmark under one setting; None on ranks that only generate."""
    kind, tasks, file = chosen
    steps = None if wanted.has_no_steps(kind.name) else settings.sampling.get("steps")
    folder = wanted.output / kind.name
    if len(wanted.steps) > 1 and not wanted.has_no_steps(kind.name):
        folder = folder / f"steps-{settings.sampling['steps']}"
    folder.mkdir(parents=True, exist_ok=True)
    if place.rank == 0:
        check_run(folder, _identity(wanted, kind, settings, file))
    place.barrier()
    missing = settings.num_samples * len(tasks) - len(read_samples(folder))
    place.barrier()  # nobody writes before all have counted
    if missing > 0:
        generate(loaded.model(), kind.name, tasks, settings, folder, wanted.batch_size, place)
    if place.rank > 0:
        return None
    with wanted.judge_options().start(kind.cpu_seconds) as judge:
        return _judge(wanted, kind, tasks, folder, judge, steps)


def _judge(
    wanted: Evaluation,
    kind: Benchmark,
    tasks: Sequence[Task],
    folder: Path,
    judge: Judging,
    steps: int | None,
) -> Result:
    samples = read_samples(folder)
    judged = judge_samples(kind, tasks, samples, judge)
    write_lines(folder / "verdicts.jsonl", judged.lines)
    exported = harness_file(kind, tasks, samples, folder)
    if judged.unjudged:
        write_json(folder / "unjudged.json", judged.unjudged)
    _compare(wanted, kind, tasks, folder, exported, judged.lines)
    scores = score(judged.lines, len(judged.unjudged))
    if scores is None and judged.lines:
        return Result(None, steps, "no sample could be judged", len(judged.lines))
    if scores is None:
        return Result(None, steps, f"left to its own evaluator: {exported.name}")
    write_json(folder / "scores.json", scores.to_json())
    return Result(scores, steps, num_lost=scores.num_lost)


def _identity(wanted: Evaluation, kind: Benchmark, settings: Settings, file: Path) -> Json:
    """What must be the same for an evaluation to go on."""
    return {
        "benchmark": kind.name,
        "style": kind.style,
        "model": fingerprint(wanted.model),
        "weights": wanted.weights,
        "problems": sha256_file(file),
        "limit": wanted.limit,
        "batch_size": wanted.batch_size,
        "settings": dataclasses.asdict(settings),
        "version": __version__,
    }


def _compare(
    wanted: Evaluation,
    kind: Benchmark,
    tasks: Sequence[Task],
    folder: Path,
    exported: Path,
    lines: list[Json],
) -> None:
    """EvalPlus's verdicts beside ours, where it is there and knows the benchmark."""
    overlay = wanted.overlay()
    has_inputs = kind.name == "humaneval" or all("plus_input" in task.record for task in tasks)
    if overlay is None or not is_evalplus_task(kind.name) or not has_inputs:
        return
    problems = folder / "evalplus_problems.jsonl"
    write_problems([task.record for task in tasks], problems)
    theirs = run_evalplus(
        overlay, kind.name, problems, exported, folder / "evalplus", wanted.workers or 2
    )
    text = comparison_table(kind.title, "EvalPlus", compare(lines, theirs))
    with atomic_write(folder / "evaluators.md") as stream:
        stream.write(text)
    print(text)


def _lm_eval(wanted: Evaluation, names: Sequence[str]) -> dict[str, Estimate]:
    """Scores of lm-evaluation-harness's tasks; those whose data is not there are told and left out."""
    overlay = wanted.overlay()
    if not names or overlay is None:
        return {}
    from .lm_eval_tasks import published_arguments, run_lm_eval

    model = fingerprint(wanted.model)
    found: dict[str, Estimate] = {}
    for full in names:
        task = full.removeprefix("lm_eval:")
        shots, sampling = published_arguments(task)
        arguments = {"mc_num": wanted.mc_num, "seed": wanted.seed, **sampling, **wanted.sampling}
        if wanted.weights is not None:
            arguments["weights"] = wanted.weights
        if sampling and wanted.steps:
            arguments["steps"] = wanted.steps[0]
        # rows of a likelihood are many and short: 32, as published
        batch_size = wanted.batch_size if sampling else max(wanted.batch_size, LIKELIHOOD_BATCH)
        folder = wanted.output / "lm_eval" / task
        folder.mkdir(parents=True, exist_ok=True)
        check_run(folder, _lm_eval_identity(wanted, task, model, shots, batch_size, arguments))
        try:
            found |= run_lm_eval(
                overlay,
                wanted.model,
                [task],
                folder,
                model_args=arguments,
                is_autoregressive=wanted.goes_left_to_right,
                chat=wanted.style == "instruct",
                limit=wanted.limit,
                shots=shots,
                batch_size=batch_size,
            )
        except DataError as error:
            if wanted.tasks or len(names) == 1:
                raise
            print(f"{task} is not measured: {error}")
    return found


def _changes(wanted: Evaluation) -> str:
    """A sentence over tables that do not hold what the paper measured; else nothing."""
    changed: Json = dict(wanted.sampling)
    if wanted.steps:
        changed["steps"] = wanted.steps[0]
    if wanted.gap != "grow":
        changed["gap"] = wanted.gap
    changed |= {k: v for k in ("limit", "weights") if (v := getattr(wanted, k)) is not None}
    if not changed:
        return ""
    told = ", ".join(f"{name} {value}" for name, value in changed.items())
    return f"**Ours are not measured as the paper's**: {told}.\n\n"


def _lm_eval_identity(
    wanted: Evaluation, task: str, model: str, shots: int, batch_size: int, arguments: Json
) -> Json:
    """What lm_eval's cache of answers, which knows texts alone, was made with."""
    return {
        "task": task,
        "style": wanted.style,
        "model": model,
        "shots": shots,
        "arguments": arguments,
        "batch_size": batch_size,
        "limit": wanted.limit,
        "version": __version__,
    }


def _report(
    wanted: Evaluation, results: dict[str, list[Result]], others: dict[str, Estimate]
) -> int:
    """Tables to the folder and the terminal."""
    text = sampler_rows(results) if results else ""
    if wanted.suite == "paper":
        tables = paper_tables(results, wanted.style, others)
        text = f"{_changes(wanted)}{tables}\n### Sampler\n\n{text}"
    else:
        for name, found in others.items():
            low, high = 100 * found.low, 100 * found.high
            text += f"{name}: {100 * found.value:.1f}% ({low:.1f} to {high:.1f})\n"
    with atomic_write(wanted.output / "results.md") as stream:
        stream.write(text)
    print(text)
    lost = sum(result.num_lost for found in results.values() for result in found)
    if lost:
        print(f"{lost} samples could not be judged and are in no score; run the command again.")
    return int(lost > 0)
