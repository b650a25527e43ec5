"""Who started this process: torchrun, Slurm's srun, or nobody. The standard library only.

torchrun says so by RANK and WORLD_SIZE, and where both are there they win. srun says so by the
variables of its step. Those of an allocation alone mean nothing: a shell of ``salloc``, a batch script
and ``srun --pty bash`` have some of them too, and a command typed there is one process
(``_is_task_of_a_step``).
"""

from __future__ import annotations

import itertools
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from .errors import LayoutError

FIRST_PORT, NUM_PORTS = (
    10_000,
    20_000,
)  # below 32,768, where Linux begins to hand ports out by itself
_FIRST_SPECIAL_STEP = (
    0xFFFFFFF0  # of Slurm's step ids: batch script, interactive and external steps
)
_STEP = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS")
# What tells a process its place; a child that is to be one process by itself does without.
VARIABLES = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    *_STEP,
)


@dataclass(frozen=True)
class Launch:
    """This process among those that were started together.

    Attributes:
        launcher: ``torchrun`` (or whoever sets its variables), ``srun``, or ``none``.
        rank: of this process, from 0.
        world_size: processes in all.
        local_rank: among those of this node.
        local_world_size: processes of this node.
    """

    launcher: str = "none"
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1


def launched(environment: Mapping[str, str] = os.environ) -> Launch:
    """How this process was started.

    Raises:
        LayoutError: the variables contradict one another.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        launch = Launch(
            "torchrun",
            _number(environment, "RANK"),
            _number(environment, "WORLD_SIZE"),
            _number(environment, "LOCAL_RANK", 0),
            _number(environment, "LOCAL_WORLD_SIZE", 1),
        )
    elif _is_task_of_a_step(environment):
        launch = _of_srun(environment)
    else:
        return Launch()
    if not 0 <= launch.rank < launch.world_size:
        raise LayoutError(
            f"{launch.launcher} says rank {launch.rank} of {launch.world_size} processes; start the "
            f"job again, or unset RANK and WORLD_SIZE where one process is meant."
        )
    return launch


def _is_task_of_a_step(environment: Mapping[str, str]) -> bool:
    """Whether srun started this process as one of several tasks without a terminal."""
    values = [environment.get(name, "") for name in _STEP]
    if not all(value.isdecimal() for value in values):
        return False
    # A step that is started from a shell of `srun --pty` inherits this variable, but no terminal.
    if "SLURM_PTY_PORT" in environment and _has_terminal():
        return False
    return int(values[2]) < _FIRST_SPECIAL_STEP and int(values[3]) > 1


def _has_terminal() -> bool:
    """Whether this process's session has a controlling terminal, wherever its streams lead."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, "" if default is None else str(default))
    if not text.isdecimal():
        raise LayoutError(
            f"the variable {name} is {text!r}, which is no number; unset or correct it."
        )
    return int(text)


def _of_srun(environment: Mapping[str, str]) -> Launch:
    tasks = tasks_per_node(environment.get("SLURM_STEP_TASKS_PER_NODE", "1"))
    node = _number(environment, "SLURM_NODEID", 0)
    if node >= len(tasks):
        raise LayoutError(
            f"Slurm says node {node} of a step whose SLURM_STEP_TASKS_PER_NODE names {len(tasks)} nodes; "
            f"start the ranks with srun in one step."
        )
    return Launch(
        "srun",
        int(environment["SLURM_PROCID"]),
        int(environment["SLURM_STEP_NUM_TASKS"]),
        int(environment["SLURM_LOCALID"]),
        tasks[node],
    )


def tasks_per_node(text: str) -> list[int]:
    """Slurm's ``2(x3),1`` as ``[2, 2, 2, 1]``."""
    counts: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match is None:
            raise LayoutError(f"{text!r} is no list of tasks a node as Slurm writes it.")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def expand_hosts(text: str) -> list[str]:
    """Slurm's ``n[08-10,12],login`` as ``[n08, n09, n10, n12, login]``; several brackets may be in a name.

    Raises:
        LayoutError: it is no such expression.
    """
    if not re.fullmatch(r"(?:[^\[\],\s]|\[[\d,-]+\])+(?:,(?:[^\[\],\s]|\[[\d,-]+\])+)*", text):
        raise LayoutError(f"{text!r} is no list of nodes as Slurm writes it.")
    hosts: list[str] = []
    for item in re.split(r",(?![^\[]*\])", text):
        parts = [
            _numbers(part[1:-1]) if part.startswith("[") else [part]
            for part in re.findall(r"\[[^\]]*\]|[^\[\]]+", item)
        ]
        hosts += ["".join(choice) for choice in itertools.product(*parts)]
    return hosts


def _numbers(text: str) -> list[str]:
    numbers: list[str] = []
    for piece in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", piece)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise LayoutError(f"[{text}] is no range of nodes as Slurm writes it.")
        first, last = match[1], match[2] or match[1]
        numbers += [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
    return numbers


def rendezvous(environment: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """Address and port where rank 0 of an srun step listens.

    MASTER_ADDR and MASTER_PORT win (slurm/lib.sh sets both). Else the step's first node, since srun
    gives it rank 0, and a port that follows from the job's number.

    Raises:
        LayoutError: the node's name does not lead to an address.
    """
    address = environment.get("MASTER_ADDR")
    if address is None:
        nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST", "")
        address = expand_hosts(nodes)[0]
        try:
            socket.getaddrinfo(address, None)
        except OSError:
            raise LayoutError(
                f"the first node's name, {address}, has no address here; set MASTER_ADDR to one."
            ) from None
    if "MASTER_PORT" in environment:
        return address, _number(environment, "MASTER_PORT")
    return address, FIRST_PORT + _number(environment, "SLURM_JOB_ID", 0) % NUM_PORTS


def as_torchrun(launch: Launch, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What torchrun would have set, for torch and all that look for it."""
    address, port = rendezvous(environment)
    return {
        "RANK": str(launch.rank),
        "WORLD_SIZE": str(launch.world_size),
        "LOCAL_RANK": str(launch.local_rank),
        "LOCAL_WORLD_SIZE": str(launch.local_world_size),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
    }
