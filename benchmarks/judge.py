"""Programs judged per second: ours against a fresh interpreter each, and against human-eval's way.

    python benchmarks/judge.py --data FOLDER [--rounds 3]      about two minutes on 2 cores

The programs are HumanEval's canonical solutions, from FOLDER/HumanEval.jsonl.gz; every side must pass
all of them. ``fresh interpreter`` starts ``python`` for each program with its tests behind it, under the
same limits. ``human-eval`` is what its execution.py does, written anew: for each program a
multiprocessing.Manager and a forked process that runs program and tests with a timer, from as many threads
as there are CPUs. Neither of the two shuts anything in. Sides in turns, medians; CPU milliseconds a program
(of all processes) beside, which say more than the rate where other work runs on the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import multiprocessing
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from megatron_dream.sandbox import Judge, Limits, problem_of  # noqa: E402

AIMS = {"fresh interpreter": 5.0, "human-eval": 10.0}
LIMITS = Limits()


def whole(line: dict[str, Any]) -> str:
    """Solution and tests in one program."""
    return f"{line['prompt']}{line['canonical_solution']}\n{line['test']}\ncheck({line['entry_point']})\n"


def _limited() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (LIMITS.cpu, LIMITS.cpu))
    resource.setrlimit(resource.RLIMIT_AS, (LIMITS.memory, LIMITS.memory))


def fresh(line: dict[str, Any]) -> bool:
    """One interpreter for one program."""
    run = subprocess.run(
        [sys.executable, "-I", "-"],
        input=whole(line).encode(),
        preexec_fn=_limited,
        timeout=LIMITS.wall,
        capture_output=True,
    )
    return run.returncode == 0


def _execute(program: str, result: Any) -> None:
    def late(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, LIMITS.wall)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(program, {})
        result.append("passed")
    except BaseException as error:
        result.append(f"failed: {error}")


def human_eval(line: dict[str, Any]) -> bool:
    """A manager and a process for one program."""
    with multiprocessing.get_context("fork").Manager() as manager:
        result = manager.list()
        process = multiprocessing.get_context("fork").Process(
            target=_execute, args=(whole(line), result)
        )
        process.start()
        process.join(LIMITS.wall + 1)
        return list(result) == ["passed"]


def cpu_seconds() -> float:
    """Of this process, all below it, and those that have ended."""
    us, total = psutil.Process(), 0.0
    for process in [us, *us.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])  # user, system, and both of children
    return total


def main() -> int:
    """Print programs a second and the ratios; 1 where an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--times", type=int, default=3, help="that ours judges all programs in a round"
    )
    options = parser.parse_args()
    with gzip.open(options.data / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as stream:
        lines = [json.loads(line) for line in stream]
    workers = len(os.sched_getaffinity(0))
    pairs = [
        (line["prompt"] + line["canonical_solution"], problem_of(line, line["task_id"]))
        for line in lines
    ]
    with Judge(workers, LIMITS) as judge, ThreadPoolExecutor(workers) as threads:
        sides: dict[str, tuple[int, Callable[[], int]]] = {
            "ours": (
                options.times,
                lambda: sum(v.passed for v in judge.verdicts(pairs * options.times)),
            ),
            "fresh interpreter": (1, lambda: sum(threads.map(fresh, lines))),
            "human-eval": (1, lambda: sum(threads.map(human_eval, lines))),
        }
        rates: dict[str, list[float]] = {name: [] for name in sides}
        costs: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(options.rounds):
            for name, (times, side) in sides.items():
                started, spent = time.perf_counter(), cpu_seconds()
                passed = side()
                seconds = time.perf_counter() - started
                rates[name].append(times * len(lines) / seconds)
                costs[name].append((cpu_seconds() - spent) / (times * len(lines)) * 1000)
                print(
                    f"[{number + 1}/{options.rounds}] {name}: {rates[name][-1]:.1f} programs/s, "
                    f"{costs[name][-1]:.1f} ms of CPU each",
                    flush=True,
                )
                if passed != times * len(lines):
                    raise SystemExit(f"{name}: {passed} of {times * len(lines)} passed")
    ours = statistics.median(rates["ours"])
    cost = statistics.median(costs["ours"])
    print(f"ours: {ours:.1f} programs/s, {cost:.1f} ms of CPU each, {workers} at once")
    is_met = True
    for name, aim in AIMS.items():
        ratio = ours / statistics.median(rates[name])
        is_met &= ratio >= aim
        verdict = "met" if ratio >= aim else "MISSED"
        by_cpu = statistics.median(costs[name]) / cost
        print(f"against {name}: {ratio:.1f} times, {by_cpu:.1f} by CPU (aim {aim:g}: {verdict})")
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
