"""The supervisor's end of a fork server: how one is started under each isolation, asked, and ended."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from .outcome import Limits

Isolation = Literal["namespaces", "bubblewrap", "process"]
Role = Literal["candidate", "tests"]
Task = Literal["call", "run", "check"]
START_SECONDS = 30.0
_PACKAGE = Path(__file__).parent / "inside"
_INSIDE = "/judge"  # where bubblewrap shows the package
_BOOTSTRAP = (
    "import sys; sys.path.insert(0, {folder!r}); from inside import server; "
    "del sys.path[0]; server.main()"
)
_ROOTS_CAPABILITIES = ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_KILL")
# Of what bubblewrap says where it may not.
_DENIALS = (
    "No permissions",
    *map(os.strerror, (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOSPC)),
)
_CURE = (
    "Unprivileged namespaces are needed: on Ubuntu 24.04 or later `sysctl -w "
    "kernel.apparmor_restrict_unprivileged_userns=0`, on older Debian `sysctl -w "
    "kernel.unprivileged_userns_clone=1`, in Docker `--security-opt seccomp=unconfined --security-opt "
    "apparmor=unconfined --security-opt systempaths=unconfined`; or a bubblewrap that may make them (Debian "
    "package bubblewrap); or, for programs that you trust, say isolation: process."
)


class SandboxUnavailable(RuntimeError):
    """Programs cannot be shut in here; the message says why, and what to do about namespaces.

    Args:
        reason: what was refused, or went wrong.
        is_denied: the system denies namespaces; else something else is amiss.
    """

    def __init__(self, reason: str, is_denied: bool) -> None:
        self.reason, self.is_denied = reason, is_denied
        cure = f" {_CURE}" if is_denied else ""
        super().__init__(f"Programs cannot be shut in here ({reason}).{cure}")


class ServerLost(RuntimeError):
    """A fork server is gone or does not answer: no fault of the program's."""


def library_paths() -> list[str]:
    """Folders that an interpreter needs after it has started: its library, and shared objects."""
    paths = [sysconfig.get_path("stdlib"), "/lib", "/lib64", "/usr/lib", "/usr/lib64"]
    paths.append(os.path.join(sys.base_prefix, "lib"))
    real: list[str] = []
    for path in paths:
        if os.path.isdir(path) and not any(
            path == kept or path.startswith(f"{kept}/") for kept in real
        ):
            real.append(path)
    return real


def package_folders(libraries: Sequence[str]) -> list[str]:
    """Folders of installed packages below those: what a program is not to read, such as solutions.

    Args:
        libraries: see ``library_paths``.
    """
    found: set[str] = set()
    for library in libraries:
        if os.path.islink(library):  # what it leads to is another of them, or is not shown
            continue
        for pattern in ("", "python*"):
            for name in ("site-packages", "dist-packages"):
                for folder in Path(library).glob(os.path.join(pattern, name)):
                    if folder.is_dir() and not folder.is_symlink():
                        found.add(str(folder))
    return sorted(found)


def _has_users(first: int) -> bool:
    """Whether each program can have a user id of its own: the caller is root, and the ids exist here."""
    if os.geteuid() != 0:
        return False
    return all(
        maps_users(Path(f"/proc/self/{name}").read_text(), first) for name in ("uid_map", "gid_map")
    )


def maps_users(ids: str, first: int) -> bool:
    """Whether a user namespace has all ids of a server's programs.

    Args:
        ids: ``/proc/self/uid_map``: lines of a first id, what it is outside, and how many.
        first: of the 65,536.
    """
    for line in ids.splitlines():
        begin, _, count = map(int, line.split())
        if begin <= first and first + 65_536 <= begin + count:
            return True
    return False


def _bubblewrap(limits: Limits, has_users: bool) -> list[str]:
    """The command before the interpreter's; the same emptiness as server.py makes, and the interpreter.

    The server is the first process in there, so that programs can neither end nor outlive it.
    """
    program = shutil.which("bwrap")
    if program is None:
        raise SandboxUnavailable("there is no bwrap", is_denied=True)
    words = [program, "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    words += ["--as-pid-1", "--die-with-parent", "--hostname", "judge", "--cap-drop", "ALL"]
    if has_users:
        for (
            name
        ) in _ROOTS_CAPABILITIES:  # with which the server gives each program a user of its own
            words += ["--cap-add", name]
    elif os.geteuid() == 0:  # of a user namespace: else bubblewrap makes one without being told
        words += ["--unshare-user"]
    interpreter = os.path.realpath(sys.executable)
    folders = {
        str(parent) for path in (*library_paths(), interpreter) for parent in Path(path).parents
    }
    for folder in [*sorted(folders - {"/"}), "/dev", _INSIDE]:
        words += ["--perms", "0755", "--dir", folder]
    for path in library_paths():
        if os.path.islink(path):
            words += ["--symlink", os.readlink(path), path]
        else:
            words += ["--ro-bind", path, path]
    words += [
        "--ro-bind",
        interpreter,
        interpreter,
        "--ro-bind",
        str(_PACKAGE),
        f"{_INSIDE}/inside",
    ]
    for folder in package_folders(library_paths()):
        words += ["--perms", "0755", "--tmpfs", folder, "--remount-ro", folder]
    for name in ("null", "zero", "random", "urandom"):
        words += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    words += ["--perms", "1777", "--size", str(limits.disk), "--tmpfs", "/tmp"]
    return [*words, "--remount-ro", "/", "--chdir", "/tmp", "--"]


class Server:
    """One fork server.

    Args:
        isolation: see ``Judge``.
        role: what its processes are.
        limits: of each of them.

    Attributes:
        control: the socket of requests and answers.
        process: the server, or what holds it.
        first_user: of the 65,536 user ids that its programs have in turn, where root has so many.

    Raises:
        SandboxUnavailable: it cannot shut itself in.
    """

    def __init__(self, isolation: Isolation, role: Role, limits: Limits) -> None:
        self.first_user = 1_000_000_000 + 65_536 * random.SystemRandom().randrange(15_000)
        has_users = _has_users(self.first_user)
        is_wrapped = isolation == "bubblewrap"
        wrapping = _bubblewrap(limits, has_users) if is_wrapped else []
        interpreter = os.path.realpath(sys.executable) if is_wrapped else sys.executable
        bootstrap = _BOOTSTRAP.format(folder=_INSIDE if is_wrapped else str(_PACKAGE.parent))
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control = ours
        self._folder = (
            tempfile.TemporaryDirectory(prefix="judge-", ignore_cleanup_errors=True)
            if isolation == "process"
            else None
        )
        config = {
            "socket": theirs.fileno(),
            "parent": os.getpid(),
            "isolation": isolation,
            "role": role,
            "limits": vars(limits),
            "binds": library_paths(),
            "hidden": package_folders(library_paths()),
            "uids": self.first_user,
            "has_users": has_users,
            "folder": self._folder.name if self._folder else "",
        }
        command = [*wrapping, interpreter, "-I", "-S", "-B", "-c", bootstrap]
        with theirs:
            self.process = subprocess.Popen(
                [*command, json.dumps(config)],
                env={},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,  # until it is ready
                start_new_session=True,
                close_fds=True,
            )
        try:
            state = self.receive(START_SECONDS)
        except ServerLost as lost:
            complaint = self._complaint() or str(lost)
            is_bubblewraps = complaint.startswith("bwrap: ")
            state = {
                "refused": complaint if is_bubblewraps else f"a server does not start: {complaint}",
                "is_denied": is_bubblewraps and any(word in complaint for word in _DENIALS),
            }
        if "ready" not in state:
            self.close()
            raise SandboxUnavailable(str(state["refused"]), bool(state["is_denied"]))

    def _complaint(self) -> str:
        """The last line that bubblewrap or the server said before it gave up."""
        assert self.process.stderr is not None
        self.process.kill()
        lines = self.process.stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:500] if lines else ""

    def start(self, task: Task, descriptors: Sequence[int]) -> None:
        """Have a process do a task.

        Raises:
            ServerLost: nobody is there.
        """
        self._send(task.encode(), descriptors)

    def kill(self) -> None:
        """End the process, if it has not ended yet.

        Raises:
            ServerLost: nobody is there.
        """
        self._send(b"kill", ())

    def _send(self, message: bytes, descriptors: Sequence[int]) -> None:
        try:
            socket.send_fds(self.control, [message], list(descriptors))
        except OSError as error:
            raise ServerLost(str(error)) from None

    def receive(self, seconds: float) -> dict[str, Any]:
        """The next message.

        Raises:
            ServerLost: none in that time.
        """
        self.control.settimeout(max(0.001, seconds))
        try:
            data = self.control.recv(65_536)
        except OSError as error:
            raise ServerLost(str(error) or type(error).__name__) from None
        if not data:
            raise ServerLost("it has ended")
        message: dict[str, Any] = json.loads(data)
        return message

    def close(self) -> None:
        """End it and all that it started."""
        self.control.close()
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()
        if self._folder is not None:
            self._folder.cleanup()
