"""System calls that are refused, as two seccomp filters: depth behind the namespaces, not instead of them.

A server refuses for good, itself included, what none of its programs needs; a program also loses the two
calls that the server needs to make it. So a program's own filter is small: the kernel translates each.

Numbers of system calls: x86-64, aarch64.
"""

from __future__ import annotations

import ctypes
import os
import struct

_CALLS: dict[str, tuple[int | None, int | None]] = {
    "ptrace": (101, 117),
    "pivot_root": (155, 41),
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
    # Doing to other processes of the same user what they do not get rid of.
    "setpriority": (141, 140),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "ioprio_set": (251, 30),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # Memory and queues that outlive a program in the server's IPC namespace.
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
}
_MOUNT, _CLONE, _CLONE3, _PRLIMIT = (165, 40), (56, 220), (435, 435), (302, 261)
_ARCHITECTURES = {"x86_64": (0, 0xC000_003E), "aarch64": (1, 0xC000_00B7)}
_NAMESPACE_FLAGS = 0x7E02_0080  # every CLONE_NEW...
_EPERM, _ENOSYS = 1, 38
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _GIVE = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF_0000, 0x8000_0000, 0x0005_0000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # places in struct seccomp_data
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2

_Line = tuple[int, int, int, int]
_prctl = ctypes.CDLL(None, use_errno=True).prctl


class Filter:
    """Lines of a BPF program, made ready once and installed by any number of processes."""

    def __init__(self, lines: list[_Line]) -> None:
        code = b"".join(struct.pack("HBBI", *line) for line in lines)
        self._code = ctypes.create_string_buffer(code, len(code))
        header = struct.pack("HxxxxxxQ", len(lines), ctypes.addressof(self._code))
        self._header = ctypes.create_string_buffer(header, len(header))
        zero = ctypes.c_ulong(0)
        pointer = ctypes.c_void_p(ctypes.addressof(self._header))
        mode = ctypes.c_ulong(_SECCOMP_MODE_FILTER)
        self._arguments = (_PR_SET_SECCOMP, mode, pointer, zero, zero)

    def install(self) -> None:
        """On this process and all that it starts, for good; it needs no_new_privs.

        Raises:
            OSError: the kernel has no such filters.
        """
        if _prctl(*self._arguments) < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"seccomp: {os.strerror(number)}")


def _refused(number: int, error: int = _EPERM) -> list[_Line]:
    return [(_EQUAL, 0, 1, number), (_GIVE, 0, 0, _ERRNO | error)]


def _machine() -> tuple[int, int]:
    name = os.uname().machine
    known = _ARCHITECTURES.get(name)
    if known is None:
        raise OSError(_ENOSYS, f"no numbers of system calls are known for {name}")
    return known


def for_servers() -> Filter:
    """What nothing needs.

    Raises:
        OSError: this machine's system calls are not known here.
    """
    column, architecture = _machine()
    lines: list[_Line] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_GIVE, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if column == 0:
        lines += [(_AT_LEAST, 0, 1, 0x4000_0000), (_GIVE, 0, 0, _ERRNO | _EPERM)]  # x32
    for numbers in _CALLS.values():
        number = numbers[column]
        if number is not None:
            lines += _refused(number)
    lines += _refused(_CLONE3[column], _ENOSYS)  # its flags lie in memory; libc falls back to clone
    lines += [
        (_EQUAL, 0, 4, _PRLIMIT[column]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_EQUAL, 1, 0, 0),  # one's own limits
        (_GIVE, 0, 0, _ERRNO | _EPERM),
        (_GIVE, 0, 0, _ALLOW),
        (_GIVE, 0, 0, _ALLOW),
    ]
    return Filter(lines)


def for_programs() -> Filter:
    """Beyond that: mounts, and namespaces by clone.

    Raises:
        OSError: this machine's system calls are not known here.
    """
    column, _ = _machine()
    return Filter(
        [
            (_LOAD, 0, 0, _NUMBER),
            *_refused(_MOUNT[column]),
            (_EQUAL, 0, 3, _CLONE[column]),
            (_LOAD, 0, 0, _FIRST_ARGUMENT),  # its low half
            (_ANY_BIT, 0, 1, _NAMESPACE_FLAGS),
            (_GIVE, 0, 0, _ERRNO | _EPERM),
            (_GIVE, 0, 0, _ALLOW),
        ]
    )
