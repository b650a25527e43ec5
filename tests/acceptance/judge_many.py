"""Ten thousand programs through one judge: nothing is left of them, and nothing grows.

    python tests/acceptance/judge_many.py [--data FOLDER] [--programs 10000]

HumanEval's canonical solutions in turn, every third program one that fails and would like to leave something:
a process in a session of its own, threads, files, an end by signal, too much memory, time or output.
Solutions must pass, the others must not, and none may be infrastructure. Counted after the first 500 and at
the end, for the supervisor and each server: descriptors, memory, mounts, and every process below. In the end
no process may be left, and no descriptor.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from megatron_dream.sandbox import Judge, Limits, Outcome, Problem, problem_of  # noqa: E402

LIMITS = Limits(cpu=2, wall=60.0)
WARM = 500  # programs, after which nothing may grow
GROWTH = {"supervisor": 8 << 20, "server": 2 << 20}  # bytes
FAILING = (
    "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\n    os._exit(0)\n",
    "import threading, time\nfor _ in range(3): threading.Thread(target=time.sleep, args=(600,)).start()\n",
    "for n in range(50): open(f'/tmp/{n}', 'w').write('x' * 10000)\n",
    "import os\nos.kill(os.getpid(), 9)\nos._exit(1)\n",
    "import os\nr = [os.pipe() for _ in range(20)]\n",
    "import os, mmap\nm = mmap.mmap(-1, 32 << 20)\nm.write(b'x' * (32 << 20))\n",
    "print('x' * 1000000)\n",
    "raise SystemExit(0)\n",
    "this is no Python\n",
)
RARE = ("while True: pass\n", "x = bytearray(8 << 30)\n", "import time\ntime.sleep(0.3)\n")


@dataclass(frozen=True)
class State:
    """Of one process: descriptors, resident bytes, mounts that it sees."""

    descriptors: int
    memory: int
    mounts: int


def state_of(process: psutil.Process) -> State:
    """Of a process that is there."""
    mounts = Path(f"/proc/{process.pid}/mountinfo").read_text().count("\n")
    return State(process.num_fds(), process.memory_info().rss, mounts)


def states(workers: int, others: set[psutil.Process]) -> dict[str, State]:
    """The supervisor's, and each server's.

    Args:
        workers: of the judge.
        others: processes below this one that are not the judge's.

    Raises:
        SystemExit: a process is there that should not be.
    """
    us = psutil.Process()
    found = {"supervisor": state_of(us)}
    expected = set()
    for number, outer in enumerate(sorted(set(us.children()) - others, key=lambda p: p.pid)):
        (server,) = outer.children()
        (waiting,) = server.children()
        expected |= {outer.pid, server.pid, waiting.pid}
        found[f"server {number}"] = state_of(server)
    below = set(us.children(recursive=True)) - others
    odd = [p for p in below if p.pid not in expected or p.status() == psutil.STATUS_ZOMBIE]
    if odd or len(found) != 1 + 2 * workers:
        raise SystemExit(f"{len(found) - 1} servers, and processes that should not be there: {odd}")
    return found


def programs(data: Path, count: int) -> Iterator[tuple[str, Problem, bool]]:
    """Programs, and whether they are right."""
    with gzip.open(data / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as stream:
        lines = [json.loads(line) for line in stream]
    for number in range(count):
        line = lines[number % len(lines)]
        problem = problem_of(line, line["task_id"])
        stub = line["prompt"] + "    return None\n"
        if number % 300 == 299:
            yield RARE[number // 300 % len(RARE)] + stub, problem, False
        elif number % 3 == 2:
            yield FAILING[number // 3 % len(FAILING)] + stub, problem, False
        else:
            yield line["prompt"] + line["canonical_solution"], problem, True


def judge_many(data: Path, count: int, workers: int = 2) -> list[str]:
    """Judge them; one line for everything that is not as it should be."""
    us, wrong, started = psutil.Process(), [], time.monotonic()
    before, others = us.num_fds(), set(us.children(recursive=True))
    given = list(programs(data, count))
    with Judge(workers, LIMITS) as judge:
        done = 0
        for part in (given[:WARM], given[WARM:]):
            verdicts = judge.verdicts((program, problem) for program, problem, _ in part)
            for (_, problem, is_right), verdict in zip(part, verdicts, strict=True):
                done += 1
                if verdict.passed != is_right or verdict.outcome is Outcome.INFRASTRUCTURE:
                    wrong.append(f"program {done} ({problem.task_id}): {verdict}")
                if done % 1000 == 0:
                    print(f"{done} of {count}, {time.monotonic() - started:.0f} s", flush=True)
            if done == WARM:
                early = states(workers, others)
        late = states(workers, others)
    for name, state in late.items():
        print(f"{name}: after {WARM} {early[name]}, after {count} {state}")
        if state.descriptors != early[name].descriptors or state.mounts != early[name].mounts:
            wrong.append(f"{name}: descriptors or mounts have changed")
        if state.memory > early[name].memory + GROWTH[name.split()[0]]:
            wrong.append(f"{name}: its memory has grown")
    if left := set(us.children(recursive=True)) - others:
        wrong.append(f"left behind: {left}")
    if us.num_fds() != before:
        wrong.append(f"descriptors: {before} before, {us.num_fds()} at the end")
    return wrong


def main() -> int:
    """Print what is wrong; 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder")
    parser.add_argument("--programs", type=int, default=10_000)
    options = parser.parse_args()
    wrong = judge_many(options.data, options.programs)
    print("\n".join(wrong[:20]) or f"{options.programs} programs, nothing left, nothing grown")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
