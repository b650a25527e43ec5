"""What Linux offers to shut a process in, by name: namespaces, mounts, a system call filter.

Standard library only; runs inside the fork servers (server.py) before any foreign code does.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct

CLONE_NEWNS = 0x0002_0000
CLONE_NEWUTS = 0x0400_0000
CLONE_NEWIPC = 0x0800_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
MNT_DETACH = 2

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP = 1, 22
_PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP = 38, 24
_SECCOMP_MODE_FILTER = 2

_libc = ctypes.CDLL(None, use_errno=True)

# Numbers of system calls: x86-64, aarch64.
_CALLS: dict[str, tuple[int | None, int | None]] = {
    "clone": (56, 220),
    "clone3": (435, 435),
    "pivot_root": (155, 41),
    # What nothing that is judged needs; most are refused by namespaces and lost privileges as well.
    "ptrace": (101, 117),
    "mount": (165, 40),
    "umount2": (166, 39),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "init_module": (175, 105),
    "delete_module": (176, 106),
    "acct": (163, 89),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "unshare": (272, 97),
    "setns": (308, 268),
    "chroot": (161, 51),
    "perf_event_open": (298, 241),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "finit_module": (313, 273),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "execveat": (322, 281),
    "pidfd_getfd": (438, 438),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "execve": (59, 221),
    "socket": (41, 198),
    "modify_ldt": (154, None),
    "iopl": (172, None),
    "ioperm": (173, None),
    "personality": (135, 92),
    "syslog": (103, 116),
    "quotactl": (179, 60),
    "lookup_dcookie": (212, 18),
    "vhangup": (153, 58),
}
_ARCHITECTURES = {"x86_64": (0, 0xC000_003E), "aarch64": (1, 0xC000_00B7)}
_NAMESPACE_FLAGS = 0x7E02_0080  # every CLONE_NEW...
_EPERM, _ENOSYS = 1, 38


def check(result: int, what: str) -> int:
    """The result, unless it tells of an error.

    Raises:
        OSError: with ``what`` failed.
    """
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def prctl(option: int, first: int = 0, second: object = 0) -> None:
    """Set something of this process."""
    argument = second if isinstance(second, ctypes.c_void_p) else ctypes.c_ulong(second)  # type: ignore[arg-type]
    check(
        _libc.prctl(option, ctypes.c_ulong(first), argument, ctypes.c_ulong(0), ctypes.c_ulong(0)),
        "prctl",
    )


def die_with_parent() -> None:
    """Be killed when the parent's thread ends."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def unshare(flags: int) -> None:
    """Leave the namespaces that ``flags`` names for new ones."""
    check(_libc.unshare(flags), "unshare")


def write_maps(uid: int, gid: int) -> None:
    """In a new user namespace, be its root; outside that is ``uid`` and ``gid`` as before."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as stream:
            stream.write(text)


def fork_into(flags: int) -> int:
    """fork(2) whose child is in new namespaces; the first process of a new PID namespace."""
    number = 56 if platform.machine() == "x86_64" else 220
    zero = ctypes.c_ulong(0)
    return check(
        _libc.syscall(
            ctypes.c_long(number), ctypes.c_ulong(flags | signal.SIGCHLD), zero, zero, zero, zero
        ),
        "clone",
    )


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """Mount, or change a mount."""
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()
    )
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
    number = _CALLS["pivot_root"][_ARCHITECTURES[platform.machine()][0]]
    assert number is not None
    check(_libc.syscall(ctypes.c_long(number), b".", b"."), "pivot_root")
    check(_libc.umount2(b".", MNT_DETACH), "umount2")
    os.chdir("/")


def drop_privileges(uid: int | None) -> None:
    """Become a user of one's own, or give up all capabilities where there is but one user; for good."""
    for capability in range(64):
        if _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) < 0:
            break
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    header = struct.pack("II", 0x2008_0522, 0)  # version 3, oneself
    check(_libc.capset(header, bytes(24)), "capset")
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def filter_calls() -> bool:
    """Refuse system calls that judged programs have no use for; False where the machine is not known.

    Depth behind the namespaces, not instead of them.
    """
    known = _ARCHITECTURES.get(platform.machine())
    if known is None:
        return False
    column, architecture = known
    load, equal, any_bit, give = 0x20, 0x15, 0x45, 0x06
    allow, kill, errno = 0x7FFF_0000, 0x8000_0000, 0x0005_0000
    program = [
        (load, 0, 0, 4),  # architecture
        (equal, 1, 0, architecture),
        (give, 0, 0, kill),
        (load, 0, 0, 0),  # number of the call
    ]
    if column == 0:
        program += [(0x35, 0, 1, 0x4000_0000), (give, 0, 0, errno | _EPERM)]  # x32
    for name, numbers in _CALLS.items():
        number = numbers[column]
        if number is None or name in ("clone", "clone3"):
            continue
        program += [(equal, 0, 1, number), (give, 0, 0, errno | _EPERM)]
    clone, clone3 = _CALLS["clone"][column], _CALLS["clone3"][column]
    assert clone is not None and clone3 is not None
    program += [
        (equal, 0, 1, clone3),  # its flags lie in memory; libc falls back to clone
        (give, 0, 0, errno | _ENOSYS),
        (equal, 0, 3, clone),
        (load, 0, 0, 16),  # low half of the first argument
        (any_bit, 0, 1, _NAMESPACE_FLAGS & 0xFFFF_FFFF),
        (give, 0, 0, errno | _EPERM),
        (give, 0, 0, allow),
    ]
    code = b"".join(struct.pack("HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(buffer))
    holder = ctypes.create_string_buffer(header, len(header))
    prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.c_void_p(ctypes.addressof(holder)))
    return True
