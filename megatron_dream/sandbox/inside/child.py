"""A forked process: it shuts itself in ahead of time, waits for its program, then runs it.

Until it has its descriptors it runs nothing but this; what it was forked from has never seen a program.
"""

from __future__ import annotations

import array
import json
import os
import random
import resource
import socket
import sys
from types import ModuleType
from typing import Any

from . import frames, kernel
from .filters import Filter

CHANNEL = 3  # the descriptor on which the task comes
SHUT_IN = b"\0"  # what a process says there once it is; else a refusal
_MAX_DESCRIPTORS = 4


def module_of(role: str) -> ModuleType:
    """What answers for a role; a candidate's process never holds the other's code."""
    if role == "candidate":
        from . import candidate

        return candidate
    from . import checker

    return checker


def receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    """One message and the descriptors that came with it; an empty message where there is none any more."""
    room = socket.CMSG_SPACE(_MAX_DESCRIPTORS * 4)
    message, extras, _, _ = channel.recvmsg(4096, room, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, data in extras:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return message, list(descriptors)


def refusal_of(error: Exception) -> bytes:
    """What is told to the supervisor where something is refused that is needed to shut programs in."""
    reason = str(error)
    if isinstance(error, OSError) and error.strerror:
        reason = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    is_denied = isinstance(error, kernel.Denied)
    return json.dumps({"refused": reason[:500], "is_denied": is_denied}).encode()


class Confinement:
    """What every process of a server is put into, worked out once.

    Args:
        isolation: of the server.
        limits: of each program, by name.
        folder: where programs without a file system of their own have one folder each.
        refusals: the programs' filter of system calls; None with isolation ``process``.
    """

    def __init__(
        self, isolation: str, limits: dict[str, Any], folder: str, refusals: Filter | None
    ) -> None:
        self._isolation, self._folder, self._refusals = isolation, folder, refusals
        self._disk = f"size={limits['disk']},nr_inodes=1024,mode=1777"
        self._server_limits = (
            (resource.RLIMIT_AS, limits["memory"]),
            (resource.RLIMIT_FSIZE, limits["disk"]),
            (resource.RLIMIT_NOFILE, 64),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_MEMLOCK, 0),
            (resource.RLIMIT_MSGQUEUE, 0),
        )
        self._limits = (
            (resource.RLIMIT_CPU, limits["cpu"]),
            (resource.RLIMIT_NPROC, limits["processes"]),
        )

    def limit_server(self) -> None:
        """Give the server the limits that it can live with: every process of its own has them then."""
        for name, value in self._server_limits:
            resource.setrlimit(name, (value, value))

    def prepare(self, number: int) -> None:
        """In the server, so that no folder appears after its end: make the next process's folder."""
        if self._isolation == "process":
            os.mkdir(f"{self._folder}/{number}")

    def enter(self, number: int, uid: int | None) -> None:
        """Shut this process in, for good."""
        os.setsid()
        if self._isolation == "namespaces":
            kernel.mount("tmpfs", "/tmp", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, self._disk)
        os.chdir(f"{self._folder}/{number}" if self._isolation == "process" else "/tmp")
        for name, value in self._limits:
            resource.setrlimit(name, (value, value))
        if self._refusals is None:
            kernel.die_with_parent()
        else:
            kernel.drop_privileges(uid)
            self._refusals.install()


def run(channel: socket.socket, role: ModuleType) -> int:
    """Wait for the task, then do it; the exit code."""
    random.seed()
    sys.argv = ["program"]
    task, descriptors = receive(channel)
    if not task:
        return 0
    os.close(CHANNEL)
    text = frames.read_all(descriptors[0])
    os.close(descriptors[0])
    code: int = role.perform(task.decode(), text, descriptors[1:])
    return code
