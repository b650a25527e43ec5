"""A fork server: shuts itself in, warms up, then forks one process for every program it is asked to run.

Started with a configuration (JSON) and a socket on which requests come with file descriptors. It never reads
what it is handed on: a program's text lies in a file that only the forked process opens, so that no later
program finds an earlier one, or tests, in its memory. The next process is forked and shut in while the
present one runs.

With isolation ``namespaces`` the server is the first process of its own user (if it is not root), PID, mount,
network, IPC and host name namespaces, over a file system of an interpreter's library and nothing else; each
program is the first process of a PID and a mount namespace of its own, so that its end is the end of all
it started. With ``bubblewrap`` the server is begun as the first process in there, and kills all others after
each program; with ``process`` there are only limits and a process group.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
from types import ModuleType
from typing import Any

from . import child, filters, kernel, rehearsal

# What programs import most; the rest they find in the library. Each costs every fork a little.
WARM = {
    "candidate": (
        "array bisect cmath collections.abc copy datetime decimal fractions functools heapq itertools json "
        "math operator queue random re statistics string struct textwrap threading time typing"
    ).split(),
    "tests": (
        "collections.abc copy datetime decimal fractions functools itertools json math random re string "
        "traceback typing unittest"
    ).split(),
}
_DEVICES = ("null", "zero", "random", "urandom")
_KILL = b"kill"


def main() -> None:
    """Serve until the socket closes."""
    config = json.loads(sys.argv[1])
    control = socket.socket(fileno=config["socket"])
    kernel.die_with_parent()
    if os.getppid() == 1 and config["parent"] != 1:
        return  # it died before that
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    role = child.module_of(config["role"])  # before its file is out of reach
    try:
        if config["isolation"] == "namespaces":
            _shut_in(config["binds"], config["hidden"], config["has_users"])
        server = Server(control, config, role)
    except OSError as error:
        control.send(child.refusal_of(error))
        return
    except NotShutIn as error:
        control.send(error.refusal)
        return
    control.send(json.dumps({"ready": True}).encode())
    server.serve()


class NotShutIn(Exception):
    """A forked process could not shut itself in: no fault of a program's.

    Args:
        refusal: what it said.
    """

    def __init__(self, refusal: bytes) -> None:
        self.refusal = refusal or child.refusal_of(
            ChildProcessError("a process ended before it had shut itself in")
        )
        super().__init__(refusal)


def _shut_in(binds: list[str], hidden: list[str], has_users: bool) -> None:
    """Go on as the first process of new namespaces, over a file system of the ``binds`` alone.

    Args:
        binds: folders of the host that are shown, read-only.
        hidden: those in there that are shown empty.
        has_users: there are user ids for programs; else a user namespace is made.
    """
    uid, gid = os.geteuid(), os.getegid()
    flags = kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
    kernel.unshare(flags | kernel.CLONE_NEWPID | (0 if has_users else kernel.CLONE_NEWUSER))
    if not has_users:
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
    empty = kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
    for path in hidden:
        kernel.mount("tmpfs", root + path, "tmpfs", empty, "size=4k,mode=755")
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


def _take_null() -> None:
    """Have this file system's /dev/null in place of the host's, and of where complaints were read."""
    nothing = os.open("/dev/null", os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    os.close(nothing)


class Server:
    """One program at a time: hand it to a process, tell of its end; kill it when told to.

    Args:
        control: where requests come from and ends are told.
        config: see ``engine.Server``.
        role: what its processes do.

    Raises:
        OSError: the kernel refuses what is needed to shut programs in.
        NotShutIn: it refuses that to the first process.
    """

    def __init__(self, control: socket.socket, config: dict[str, Any], role: ModuleType) -> None:
        self._control, self._config = control, config
        self._isolation = config["isolation"]
        self._count = 0
        self._tmp = _state_of_tmp() if self._isolation == "bubblewrap" else None
        self._role = role
        for name in WARM[config["role"]]:
            __import__(name)
        rehearsal.REHEARSALS[config["role"]]()
        refusals = None
        if self._isolation != "process":
            kernel.give_up_gaining()
            filters.for_servers().install()
            refusals = filters.for_programs()
        self._confinement = child.Confinement(
            self._isolation, config["limits"], config["folder"], refusals
        )
        self._confinement.limit_server()
        _take_null()
        gc.collect()
        gc.freeze()  # no page is copied because garbage is collected
        self._ready: tuple[int, socket.socket] | None = self._fork()
        _await(self._ready[1], socket.MSG_PEEK)  # before anybody is told that this works

    def serve(self) -> None:
        """Until nobody asks any more."""
        is_ahead = (
            self._isolation != "bubblewrap"
        )  # there, all other processes are killed after each
        while True:
            message, descriptors = child.receive(self._control)
            if not message:
                return
            if message == _KILL:
                continue  # it has ended already
            try:
                running = self._hand_on(message, descriptors)
            except (OSError, NotShutIn) as error:
                told = error.refusal if isinstance(error, NotShutIn) else child.refusal_of(error)
                self._tell(told)
                continue
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
            if is_ahead:
                with contextlib.suppress(OSError):  # else it is forked, or refused, when needed
                    self._ready = self._fork()
            if not self._wait(running):
                return

    def _hand_on(self, task: bytes, descriptors: list[int]) -> int:
        """Give a task to a process that has shut itself in; the process.

        Raises:
            OSError: none can be forked.
            NotShutIn: it could not.
        """
        running, channel = self._ready or self._fork()
        self._ready = None
        with channel:
            _await(channel)
            socket.send_fds(channel, [task], descriptors)
        return running

    def _tell(self, message: bytes) -> None:
        with contextlib.suppress(OSError):
            self._control.send(message)

    def _fork(self) -> tuple[int, socket.socket]:
        """A process that shuts itself in and waits, and where it says so and gets its task."""
        self._count += 1
        self._confinement.prepare(self._count)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if self._isolation == "namespaces":
            process = kernel.fork_into(kernel.CLONE_NEWPID | kernel.CLONE_NEWNS)
        else:
            process = os.fork()
        if process:
            theirs.close()
            return process, ours
        code = 97
        try:
            os.dup2(theirs.fileno(), child.CHANNEL)
            os.closerange(child.CHANNEL + 1, 1 << 16)
            channel = socket.socket(fileno=child.CHANNEL)
            has_users = self._config["has_users"]
            uid = self._config["uids"] + self._count % 65_536 if has_users else None
            try:
                self._confinement.enter(self._count, uid)
            except Exception as error:
                channel.send(child.refusal_of(error))
            else:
                channel.send(child.SHUT_IN)
                code = child.run(channel, self._role)
        finally:
            os._exit(code)

    def _wait(self, process: int) -> bool:
        """Until the program has ended, by itself or when told to; False where nobody asks any more."""
        ending = os.pidfd_open(process)
        poll = select.poll()
        poll.register(ending, select.POLLIN)
        poll.register(self._control, select.POLLIN)
        goes_on = True
        while True:
            ready = [descriptor for descriptor, _ in poll.poll()]
            if ending in ready:
                break
            goes_on = bool(self._control.recv(4096))
            os.kill(process, signal.SIGKILL)
            poll.unregister(self._control)
        os.close(ending)
        if self._isolation == "process":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)
        _, status, usage = os.wait4(process, 0)
        report = {"status": status, "cpu": usage.ru_utime + usage.ru_stime, "spent": False}
        if self._isolation == "bubblewrap":
            _end_all_others()
            report["spent"] = _state_of_tmp() != self._tmp
        self._tell(json.dumps(report).encode())
        return goes_on


def _await(channel: socket.socket, flags: int = 0) -> None:
    """Until the process at the other end has shut itself in.

    Args:
        channel: of the process.
        flags: of recv(2): whether what it says is left there.

    Raises:
        NotShutIn: it could not.
    """
    said = channel.recv(4096, flags)
    if said != child.SHUT_IN:
        raise NotShutIn(said)


def _state_of_tmp() -> tuple[int, ...] | None:
    """What a program can change of the folder that it shares with the next one; None if files are left.

    Any change of it shows in its ctime, which none can set; time comes in ticks, so the rest is looked at
    as well.
    """
    try:
        found = os.stat("/tmp")
        with os.scandir("/tmp") as left:
            if next(left, None) is not None:
                return None
    except OSError:
        return None
    return found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns, found.st_ctime_ns


def _end_all_others() -> None:
    """As the first process of a PID namespace: end every other one in it."""
    while True:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


if __name__ == "__main__":
    main()
