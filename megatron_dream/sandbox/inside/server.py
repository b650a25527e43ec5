"""A fork server: shuts itself in, warms up, then forks one process for every program it is asked to run.

Started with a configuration (JSON) and a socket on which requests come with file descriptors. It never reads
what it is handed on: a program's text lies in a file that only the forked process opens, so that no later
program finds an earlier one, or tests, in its memory.

With isolation ``namespaces`` the server is the first process of its own user (if it is not root), PID, mount,
network, IPC and host name namespaces, over a file system of an interpreter's library and nothing else; each
program is the first process of a PID and a mount namespace of its own, so that its end is the end of all
it started. With ``process`` there are only limits and a process group.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import random
import resource
import select
import signal
import socket
import sys
import tempfile
from typing import Any

from . import candidate, checker, frames, kernel

WARM = (
    "abc array ast base64 bisect calendar cmath collections collections.abc contextlib copy csv dataclasses "
    "datetime decimal enum fractions functools hashlib heapq inspect io itertools json math numbers operator "
    "queue random re statistics string struct textwrap threading time traceback types typing unittest "
    "uuid zlib"
).split()
_DEVICES = ("null", "zero", "random", "urandom")


def main() -> None:
    """Serve until the socket closes."""
    config = json.loads(sys.argv[1])
    control = socket.socket(fileno=config["socket"])
    kernel.die_with_parent()
    if os.getppid() == 1 and config["parent"] != 1:
        return  # it died before that
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    is_root = os.geteuid() == 0
    if config["isolation"] == "namespaces":
        try:
            _shut_in(config["binds"])
        except OSError as error:
            control.send(json.dumps({"refused": str(error)}).encode())
            return
    for name in WARM:
        with contextlib.suppress(ImportError):
            __import__(name)
    control.send(json.dumps({"ready": True}).encode())
    _serve(control, config, is_root)


def _shut_in(binds: list[str]) -> None:
    """Go on as the first process of new namespaces, over a file system of the ``binds`` alone."""
    uid, gid = os.geteuid(), os.getegid()
    flags = kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
    kernel.unshare(flags | kernel.CLONE_NEWPID | (kernel.CLONE_NEWUSER if uid else 0))
    if uid:
        kernel.write_maps(uid, gid)
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        os._exit(0)
    kernel.die_with_parent()
    socket.sethostname("judge")
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    root = "/tmp" if os.path.isdir("/tmp") else "/var"
    descriptors = {path: os.open(path, os.O_PATH) for path in binds}
    devices = {name: os.open(f"/dev/{name}", os.O_PATH) for name in _DEVICES}
    kernel.mount("tmpfs", root, "tmpfs", kernel.MS_NOSUID, "size=1m,mode=755")
    for path, descriptor in descriptors.items():
        if os.path.islink(path):
            continue
        os.makedirs(root + path, exist_ok=True)
        kernel.bind_read_only(f"/proc/self/fd/{descriptor}", root + path)
    os.mkdir(f"{root}/dev")
    for name, descriptor in devices.items():
        os.close(os.open(f"{root}/dev/{name}", os.O_CREAT | os.O_WRONLY, 0o600))
        kernel.mount(f"/proc/self/fd/{descriptor}", f"{root}/dev/{name}", "", kernel.MS_BIND)
    os.makedirs(f"{root}/tmp", exist_ok=True)
    for descriptor in (*descriptors.values(), *devices.values()):
        os.close(descriptor)
    kernel.enter_root(root)
    kernel.mount(
        "", "/", "", kernel.MS_BIND | kernel.MS_REMOUNT | kernel.MS_RDONLY | kernel.MS_NOSUID
    )


def _serve(control: socket.socket, config: dict[str, Any], is_root: bool) -> None:
    """One program at a time: fork it, tell of its end; kill it when told to."""
    count = 0
    while True:
        message, descriptors = _receive(control)
        if not message:
            return
        request = json.loads(message)
        if "kill" in request:
            continue  # it has ended already
        count += 1
        uid = config["uids"] + count % 65_536 if is_root else None
        child = _fork(config, request, descriptors, uid)
        for descriptor in descriptors:
            os.close(descriptor)
        if not _wait(control, child, config["isolation"]):
            return


def _receive(control: socket.socket) -> tuple[bytes, list[int]]:
    room = socket.CMSG_SPACE(8 * 4)
    message, extras, _, _ = control.recvmsg(65_536, room)
    descriptors = array.array("i")
    for level, kind, data in extras:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return message, list(descriptors)


def _wait(control: socket.socket, child: int, isolation: str) -> bool:
    """Until the program has ended, by itself or because it is told to; False where nobody asks any more."""
    ending = os.pidfd_open(child)
    poll = select.poll()
    poll.register(ending, select.POLLIN)
    poll.register(control, select.POLLIN)
    goes_on = True
    while True:
        ready = [descriptor for descriptor, _ in poll.poll()]
        if ending in ready:
            break
        message = control.recv(65_536)
        goes_on = bool(message)
        os.kill(child, signal.SIGKILL)
        poll.unregister(control)
    if isolation == "process":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    os.close(ending)
    while True:  # children of a child whose group is its own
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                break
        except ChildProcessError:
            break
    report = {"status": status, "cpu": usage.ru_utime + usage.ru_stime}
    with contextlib.suppress(OSError):
        control.send(json.dumps(report).encode())
    return goes_on


def _fork(
    config: dict[str, Any], request: dict[str, Any], descriptors: list[int], uid: int | None
) -> int:
    if config["isolation"] == "namespaces":
        child = kernel.fork_into(kernel.CLONE_NEWPID | kernel.CLONE_NEWNS)
    else:
        child = os.fork()
    if child:
        return child
    code = 97
    try:
        code = _be(config, request, descriptors, uid)
    finally:
        os._exit(code)


def _be(
    config: dict[str, Any], request: dict[str, Any], descriptors: list[int], uid: int | None
) -> int:
    """In the new process: close everything, lose everything, then do what is asked."""
    limits = request["limits"]
    os.setsid()
    if config["isolation"] == "namespaces":
        options = f"size={limits['disk']},nr_inodes=1024,mode=1777"
        kernel.mount("tmpfs", "/tmp", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)
        os.chdir("/tmp")
    else:
        os.chdir(tempfile.mkdtemp(dir=config["folder"]))
    nothing = os.open("/dev/null", os.O_RDWR)
    role = request["role"]
    # Moved out of the way first, so that none is overwritten.
    high = [_moved(descriptor, 64) for descriptor in descriptors]
    streams = (high[1], high[2], nothing) if role == "run" else (nothing,) * 3
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    kept = [3 + n for n in range(len(high))]
    for number, descriptor in zip(kept, high, strict=True):
        os.dup2(descriptor, number, inheritable=False)
    os.closerange(3 + len(kept), 1 << 16)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    for name, value in (
        ("CPU", limits["cpu"]),
        ("AS", limits["memory"]),
        ("NPROC", limits["processes"]),
        ("FSIZE", limits["disk"]),
        ("NOFILE", 64),
        ("CORE", 0),
        ("MEMLOCK", 0),
        ("MSGQUEUE", 0),
    ):
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    if config["isolation"] == "namespaces":
        kernel.drop_privileges(uid)
        kernel.filter_calls()
    else:
        kernel.die_with_parent()
    random.seed()
    text = frames.read_all(kept[0])
    os.close(kept[0])
    sys.argv = ["program"]
    if role == "run":
        for number in kept[1:]:
            os.close(number)
        return candidate.run_script(text.decode("utf-8", "surrogateescape"))
    if role == "call":
        candidate.answer_calls(text.decode("utf-8", "surrogateescape"), kept[1], kept[2])
        return 0
    verdict = checker.check(json.loads(text), kept[1], kept[2])
    frames.write_frame(kept[3], json.dumps(verdict).encode())
    return 0


def _moved(descriptor: int, lowest: int) -> int:
    import fcntl

    return fcntl.fcntl(descriptor, fcntl.F_DUPFD, lowest)


if __name__ == "__main__":
    main()
