"""What servers do before their first fork."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from megatron_dream.sandbox.inside import filters, rehearsal

TRYING = """
import ctypes, json, os, resource, sys
from megatron_dream.sandbox.inside import filters, kernel
kernel.prctl(38, 1)
filters.for_servers().install()
if sys.argv[1] == "program":
    filters.for_programs().install()
libc = ctypes.CDLL(None, use_errno=True)
column = filters._machine()[0]
def error(number, *arguments):
    ctypes.set_errno(0)
    return ctypes.get_errno() if libc.syscall(number, *arguments) < 0 else 0
limit = ctypes.create_string_buffer(16)
print(json.dumps({
    "unshare": error(filters._CALLS["unshare"][column], 0),
    "shmget": error(filters._CALLS["shmget"][column], 7, 4096, 0o1600),
    "clone3": error(435, 0, 0),
    "mount": error(filters._MOUNT[column], 0, 0, 0, 0, 0),
    "clone": error(filters._CLONE[column], 0x10000000 | 0x200, 0, 0, 0, 0),
    "own limit": error(filters._PRLIMIT[column], 0, 7, 0, limit),
    "another's limit": error(filters._PRLIMIT[column], os.getppid(), 7, 0, limit),
}))
"""


@pytest.mark.parametrize("who", ["server", "program"])
def test_what_filters_refuse(who: str) -> None:
    """What is let through the kernel refuses for other reasons: EFAULT a null pointer, EINVAL the flags."""
    run = subprocess.run([sys.executable, "-c", TRYING, who], capture_output=True, text=True)
    found = json.loads(run.stdout)
    assert found["own limit"] == 0 and found["clone3"] == 38
    refused = {name for name, error in found.items() if error == 1}
    always = {"unshare", "shmget", "another's limit"}
    assert refused == (always if who == "server" else always | {"mount", "clone"})


def test_an_unknown_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "_ARCHITECTURES", {})
    with pytest.raises(OSError, match="no numbers of system calls are known"):
        filters.for_programs()


@pytest.mark.parametrize("role", ["candidate", "tests"])
def test_a_rehearsal_leaves_nothing(role: str) -> None:
    modules, descriptors = set(sys.modules), os.listdir("/proc/self/fd")
    rehearsal.REHEARSALS[role]()
    assert "solution" not in set(sys.modules) - modules
    assert os.listdir("/proc/self/fd") == descriptors
