"""The runs of a training cell: the project's own stages as processes, and what their logs say.

A run that was stopped goes on from its last checkpoint, by the stage itself; one that has ended is known by
its figures beside it. FLOPs are counted from the log: of each step the positions that were computed and the
tokens that paid, by the convention of training/throughput.py with the head on the rows that it ran on.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from ... import exit_codes
from ...config.load import load_config
from ...config.schema import RunConfig
from ...errors import StoppedError, UserError
from ...files import write_json
from ...launcher import VARIABLES
from .base import Json, Row

_PARENT_DEATH_SIGNAL = 1  # prctl's PR_SET_PDEATHSIG
_TOLD = 5  # last lines of a failed run's output
_MEASURED = {
    "cross_entropy": "masked_cross_entropy",
    "bound": "bound_per_token",
    "accuracy": "accuracy",
}


def overrides(stage: Json, seed: int, run: Path, start: Path | None) -> list[tuple[str, str]]:
    """Fields in place of the YAML's, as typed on the command line.

    Args:
        stage: with its ``set``.
        seed: of data, masks and initial weights.
        run: its folder.
        start: the run that it begins from.
    """
    fields = {**stage["set"], "data.seed": seed, "training.seed": seed}
    fields["checkpoint.run_folder"] = str(run)
    if start is not None:
        fields["checkpoint.init_from"] = str(start)
    return [(n, v if isinstance(v, str) else json.dumps(v)) for n, v in fields.items()]


def run_stages(fields: Json, folder: Path) -> tuple[list[Row], Path]:
    """Do what is left of a cell's runs.

    Args:
        fields: of the cell.
        folder: its own.

    Returns:
        A row for each validation of the last run, FLOPs of all runs before counted; that run's folder.

    Raises:
        UserError: a run failed; says where its output is.
    """
    before, start = 0.0, None
    for number, stage in enumerate(fields["stages"]):
        run = folder / f"{number}-{stage['stage']}"
        done = run.with_suffix(".json")
        if not done.exists():
            _run(stage, fields, run, start)
            write_json(done, figures(run))
        found = json.loads(done.read_text(encoding="utf-8"))
        rows = [{**one, "flops_total": before + one["flops_total"]} for one in found["points"]]
        before, start = before + found["flops"], run
    assert start is not None, "a cell has a run"
    if not rows:
        raise UserError(f"{start} has no validation in its log; mend what kept it from one.")
    return rows, start


def _run(stage: Json, fields: Json, run: Path, start: Path | None) -> None:
    from ...training.watch.ends import read_end

    words, environment = fields["launch"], dict(os.environ)
    if not words:  # one process by itself, whoever started the sweep
        words = [sys.executable, "-m", "megatron_dream"]
        environment = {n: v for n, v in environment.items() if n not in VARIABLES}
    command = [*words, stage["stage"], "--config", stage["config"]]
    for name, text in overrides(stage, fields["seed"], run, start):
        command += [f"--{name}", text]
    output = run.with_suffix(".out")
    with _alone(run.with_suffix(".lock")) as lock, open(output, "ab") as stream:
        before = read_end(run)
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            pass_fds=(lock.fileno(),),
            env=environment,
            preexec_fn=_end_with_parent(),
        )
        try:
            code = process.wait()
        except BaseException:
            process.terminate()  # it saves, and goes on when the sweep does
            process.wait()
            raise
    if code:
        end = read_end(run)
        raise _why(code, (end or {}) if end != before else {}, output)


def _why(code: int, end: Json, output: Path) -> UserError:
    """What became of a run; ``end``, of its folder, says it where the launcher has codes of its own."""
    if exit_codes.AGAIN in (code, end.get("exit_code")):
        told = end.get("message", "it asks to be run again")
        return StoppedError(
            f"{output}: the run was saved and stopped ({told}); run the sweep again, which goes on from "
            "there."
        )
    lines = output.read_text(encoding="utf-8", errors="replace").splitlines()[-_TOLD:]
    return UserError(
        f"{output}: the run ended with exit code {code}; its last lines: {' / '.join(lines)}. Mend what it "
        "says and run the sweep again, which goes on from there."
    )


def _end_with_parent() -> Callable[[], None]:
    """Has a process told to end when this one is gone, by whatever it was killed."""
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)

    return ask


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[IO[str]]:
    """Wait until no run of a sweep that was killed writes here any more.

    The lock is the run's too: it keeps it while it saves its last checkpoint.
    """
    with open(path, "a") as stream:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield stream


def figures(run: Path) -> Json:
    """What a run's log says: ``points`` of its validations, ``flops`` and ``seconds`` of its steps.

    Raises:
        UserError: the log does not reach the run's last step.
    """
    config: RunConfig = load_config(run / "config.yaml")
    steps, validations = _records(run)
    end = config.training.train_steps
    if max(steps, default=0) < end:
        raise UserError(
            f"{run / 'log.jsonl'} ends before step {end}, though the run's exit code is 0; see to it that "
            "launch gives the run's own exit code, and run the sweep again."
        )
    count = {step: step_flops(config, record) for step, record in steps.items()}
    points: list[Json] = []
    for step, record in sorted(validations.items()):
        measured = {name: record[theirs] for name, theirs in _MEASURED.items()}
        points.append({"step": step, "flops_total": _up_to(count, step), **measured})
    last = max(steps)
    seconds = sum(record.get("seconds_since_record", 0.0) for record in steps.values())
    return {"points": points, "flops": _up_to(count, last), "seconds": round(seconds, 3)}


def step_flops(config: RunConfig, record: Json) -> float:
    """Training FLOPs of a step, forward and backward."""
    from ...training.throughput import flops_per_token

    headless = dataclasses.replace(config.model, vocab_size=0)
    width = record["positions"] // max(record["rows"], 1)
    body = record["positions"] * flops_per_token(headless, config.diffusion, width)
    head = 6.0 * config.model.hidden_size * config.model.vocab_size
    return float(body + head * record["masked_tokens"])


def _up_to(count: dict[int, float], step: int) -> float:
    """FLOPs of the steps up to ``step``; those that were not logged cost what the others did."""
    known = [flops for at, flops in count.items() if at <= step] or list(count.values())
    return sum(known) / len(known) * step


def _records(run: Path) -> tuple[dict[int, Json], dict[int, Json]]:
    """Steps and validations by step; of a step that was done again the last."""
    from ...training.log import read_log

    found: dict[str, dict[int, Json]] = {"step": {}, "validation": {}}
    for record in read_log(run):
        if record["event"] in found:
            found[record["event"]][int(record["step"])] = record
    return found["step"], found["validation"]
