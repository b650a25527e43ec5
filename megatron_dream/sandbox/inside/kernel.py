"""What Linux offers to shut a process in, by name: namespaces, mounts, privileges.

Standard library only; runs inside the fork servers (server.py) before any foreign code does.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import struct
from collections.abc import Iterator

CLONE_NEWNS = 0x0002_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
MNT_DETACH = 2

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP = 1, 38, 24

_libc = ctypes.CDLL(None, use_errno=True)

# Numbers of clone and pivot_root.
_NUMBERS = {"x86_64": (56, 155), "aarch64": (220, 41)}
_MACHINE = os.uname().machine
_ZEROS = (ctypes.c_ulong(0),) * 4
_NO_CAPABILITIES = (struct.pack("II", 0x2008_0522, 0), bytes(24))  # version 3, oneself


_DENIALS = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOSPC)


class Denied(OSError):
    """The system does not let this user make namespaces or mount in them."""


@contextlib.contextmanager
def _denying() -> Iterator[None]:
    """What is refused in here is refused to all namespaces; not so what goes wrong for other reasons."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DENIALS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        raise Denied(error.errno, f"{where}{error.strerror}") from None


def check(result: int, what: str) -> int:
    """The result, unless it tells of an error.

    Raises:
        OSError: with ``what`` failed.
    """
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def prctl(option: int, argument: int) -> None:
    """Set something of this process."""
    zero = ctypes.c_ulong(0)
    check(_libc.prctl(option, ctypes.c_ulong(argument), zero, zero, zero), "prctl")


def die_with_parent() -> None:
    """Be killed when the parent's thread ends."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def unshare(flags: int) -> None:
    """Leave the namespaces that ``flags`` names for new ones.

    Raises:
        Denied: it may not.
        OSError: it cannot.
    """
    with _denying():
        check(_libc.unshare(flags), "unshare")


def write_maps(uid: int, gid: int) -> None:
    """In a new user namespace, be its root; outside that is ``uid`` and ``gid`` as before.

    Raises:
        Denied: it may not; AppArmor refuses here, not when the namespace is made.
        OSError: it cannot.
    """
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with _denying(), open(f"/proc/self/{name}", "w") as stream:
            stream.write(text)


def fork_into(flags: int) -> int:
    """fork(2) whose child is in new namespaces; the first process of a new PID namespace.

    Raises:
        Denied: it may not.
        OSError: it cannot, or the machine's system calls are not known here.
    """
    number = _number(0)
    with _denying():
        return check(
            _libc.syscall(number, ctypes.c_ulong(flags | signal.SIGCHLD), *_ZEROS), "clone"
        )


def _number(column: int) -> ctypes.c_long:
    numbers = _NUMBERS.get(_MACHINE)
    if numbers is None:
        raise OSError(38, f"no numbers of system calls are known for {_MACHINE}")
    return ctypes.c_long(numbers[column])


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """Mount, or change a mount.

    Raises:
        Denied: it may not.
        OSError: it cannot.
    """
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()
    )
    with _denying():
        check(result, f"mount {source} at {target}")


def bind_read_only(source: str, target: str) -> None:
    """Show a folder or file of the host, read-only, without devices and set-user-id."""
    mount(source, target, "", MS_BIND)
    kept = os.statvfs(target).f_flag & (MS_NOEXEC | 0x400 | 0x800 | 0x1000)  # and times of access
    times = {
        0x400: 1 << 10,
        0x800: 1 << 11,
        0x1000: 1 << 21,
    }  # ST_ to MS_: no, none of folders, relative
    flags = kept & MS_NOEXEC
    for bit, flag in times.items():
        flags |= flag if kept & bit else 0
    mount(source, target, "", MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | flags)


def enter_root(folder: str) -> None:
    """Make a folder the root; nothing of the old one can be reached."""
    os.chdir(folder)
    check(_libc.syscall(_number(1), b".", b"."), "pivot_root")
    check(_libc.umount2(b".", MNT_DETACH), "umount2")
    os.chdir("/")


def give_up_gaining() -> None:
    """No program that this process or one below it starts has more privileges than it; for good."""
    for capability in range(64):
        if _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) < 0:
            break
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def drop_privileges(uid: int | None) -> None:
    """Become a user of one's own, or give up all capabilities where there is but one user; for good."""
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    check(_libc.capset(*_NO_CAPABILITIES), "capset")
