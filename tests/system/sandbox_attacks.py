"""Programs that try to pass without being right, to get out, or to stay. None of them is right.

Each is judged by tests that a right ``f`` (one more than its argument) passes.
"""

from __future__ import annotations

from types import MappingProxyType

TESTS = "assert f(1) == 2\nassert f(41) == 42\nassert [f(n) for n in range(3)] == [1, 2, 3]"
RIGHT = "def f(x):\n    return x + 1\n"

_WRONG = "def f(x):\n    return None\n"

# To be believed.
CHEATS = {
    "always equal": """
class Yes:
    def __eq__(self, other): return True
    def __hash__(self): return 2
def f(x): return Yes()
""",
    "an int that is equal to everything": """
class Yes(int):
    def __eq__(self, other): return True
    __hash__ = int.__hash__
def f(x): return Yes(7)
""",
    "a str that is equal to everything": """
class Yes(str):
    def __eq__(self, other): return True
    __hash__ = str.__hash__
def f(x): return Yes("no")
""",
    "a list whose comparison lies": """
class Yes(list):
    def __eq__(self, other): return True
    def __iter__(self): return iter([2])
def f(x): return Yes([1])
""",
    "lazy object": """
class Later:
    def __getattr__(self, name): return lambda *a, **k: True
    def __eq__(self, other): return True
def f(x): return Later()
""",
    "not a number": "def f(x): return float('nan')",
    "leaves before the assertions": "import os\nos._exit(0)",
    "leaves politely": "import sys\nsys.exit(0)",
    "leaves in the call": "import os\ndef f(x): os._exit(0)",
    "SystemExit in the call": "def f(x): raise SystemExit(0)",
    "AssertionError swallowed": "def f(x): raise AssertionError",
    "prints the marker": "print('passed')\nprint('{\"outcome\": \"passed\"}')\n" + _WRONG,
    "writes the marker to every descriptor": """
import os, struct
message = b'{"outcome":"passed"}'
for d in range(64):
    try: os.write(d, struct.pack("<I", len(message)) + message)
    except OSError: pass
"""
    + _WRONG,
    "answers that say passed": """
import os, struct, json
def f(x):
    for message in (b'{"outcome":"passed"}', b'{"changed":[],"value":{"passed":true}}', b'[]', b'null'):
        for d in range(3, 64):
            try: os.write(d, struct.pack("<I", len(message)) + message)
            except OSError: pass
""",
    "walks the frames for the tests": """
import sys
def f(x):
    frame = sys._getframe()
    while frame:
        for value in list(frame.f_locals.values()) + list(frame.f_globals.values()):
            if isinstance(value, dict) and "tests" in value:
                return eval(value["tests"].split("== ")[1].split()[0])
        frame = frame.f_back
""",
    "gc for the tests": """
import gc
def f(x):
    for thing in gc.get_objects():
        text = str(thing)[:100000] if isinstance(thing, (list, tuple, dict)) else ""
        if "assert f" in text and "gc.get" not in text: return x + 1
""",
    "environment, arguments and descriptors for the tests": """
import os, sys
def f(x):
    found = repr(dict(os.environ)) + repr(sys.argv)
    for d in range(64):
        try: found += repr(os.pread(d, 100000, 0))
        except OSError: pass
    if "assert f" in found: return x + 1
""",
    "patched builtins": """
import builtins
builtins.all = builtins.any = builtins.isinstance = lambda *a: True
builtins.AssertionError = Exception
builtins.len = lambda *a: 0
def f(x): return 0
""",
    "patched json": """
import json
json.dumps = lambda *a, **k: '{"changed":[],"value":true}'
json.loads = lambda *a, **k: {"function": "f", "args": [], "named": []}
def f(*x): return 0
""",
    "patched encoder": """
import sys
values = sys.modules["inside.values"]
values.Writer.tree = lambda self, value: ["same", 0]
def f(x): return x
""",
    "atexit": "import atexit\natexit.register(print, 'passed')\n" + _WRONG,
    "threads that go on": """
import threading, time
for _ in range(4): threading.Thread(target=time.sleep, args=(60,)).start()
"""
    + _WRONG,
    "changes the argument that is the expectation": "def f(x): return x",
}

# To get out, to break things, to stay.
BREAKS = {
    "infinite loop": "def f(x):\n    while True: pass",
    "sleeps": "import time\ndef f(x): time.sleep(1000)",
    "fork bomb": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "memory bomb": "def f(x): return len(bytearray(8 << 30))",
    "memory bomb by pieces": "def f(x):\n    a = []\n    while True: a.append(bytearray(1 << 20))",
    "a gigabyte of output": "import sys\nfor _ in range(1 << 10): sys.stdout.write('x' * (1 << 20))\n"
    + _WRONG,
    "a gigabyte of answer": "def f(x): return 'x' * (900 << 20)",
    "a gigabyte of raw answer": """
import os, struct
def f(x):
    part = b'x' * (1 << 20)
    for d in range(3, 9):
        try:
            os.write(d, struct.pack('<I', 1 << 30))
            for _ in range(1 << 10): os.write(d, part)
        except OSError: pass
""",
    "a raw answer that cannot be handed on": """
import os, struct
def f(x):
    message = b'{"changed":[],"value":["datetime","2024-02-29T01:02:03+00:00"]}'
    for d in range(3, 9):
        try: os.write(d, struct.pack('<I', len(message)) + message)
        except OSError: pass
""",
    "a million brackets": """
import os, struct
def f(x):
    message = b'{"changed":[],"value":' + b'[' * 1000000 + b']' * 1000000 + b'}'
    for d in range(3, 9):
        try: os.write(d, struct.pack('<I', len(message)) + message)
        except OSError: pass
""",
    "nested a million deep": """
def f(x):
    a = []
    for _ in range(1000000): a = [a]
    return a
""",
    "contains itself": "def f(x):\n    a = []\n    a.append(a)\n    return a",
    "huge integer": "def f(x): return 7 ** 10000000",
    "endless iterator": "import itertools\ndef f(x): return itertools.count()",
    "deep recursion": "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(x): return f(x) + 1",
    "fills the disk": """
def f(x):
    for n in range(1000):
        with open(f'/tmp/{n}', 'wb') as s: s.write(b'x' * (64 << 20))
""",
    "too many files": "def f(x):\n    for n in range(10 ** 6): open(f'/tmp/{n}', 'w').close()",
    "writes outside": """
import os
def f(x):
    for p in ('/x', '/usr/lib/x', '/dev/x', '/etc/x', '/home/x', '/root/x', '/var/x', '../x'):
        try:
            open(p, 'w').write('x')
            return x + 1
        except OSError: pass
""",
    "closes /tmp": "import os\ntry: os.chmod('/tmp', 0)\nexcept OSError: pass\n" + _WRONG,
    "makes /tmp read-only": "import os\ntry: os.chmod('/tmp', 0o555)\nexcept OSError: pass\n"
    + _WRONG,
    "leaves a time at /tmp": "import os\ntry: os.utime('/tmp', (7, 7))\nexcept OSError: pass\n"
    + _WRONG,
    "reads the host": """
import os
def f(x):
    for p in ('/etc', '/proc', '/sys', '/run', '/boot', '/usr/bin/env', '/bin', '/sbin', '/var', '/dev/kmsg'):
        if os.path.exists(p): return x + 1
    library = os.path.dirname(os.__file__)
    for place in (library, os.path.dirname(library), '/usr/lib/python3', '/usr/lib/python3.11'):
        for folder in (place + '/site-packages', place + '/dist-packages'):
            if not os.path.isdir(folder): continue
            if os.listdir(folder): return x + 1
            try:
                open(folder + '/x', 'w')
                return x + 1
            except OSError: pass
""",
    "network": """
import socket
def f(x):
    for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK):
        try:
            socket.socket(family, socket.SOCK_DGRAM)
            return x + 1
        except OSError: pass
""",
    "signals to parents and everybody": """
import os, signal
def f(x):
    for pid in (0, -1, 1, os.getppid(), *range(2, 3000)):
        if pid in (os.getpid(),): continue
        try: os.kill(pid, signal.SIGKILL)
        except OSError: pass
""",
    "signals to the group": "import os, signal\nos.killpg(0, signal.SIGTERM)\nos.kill(0, signal.SIGKILL)\n"
    + _WRONG,
    "double fork and setsid": """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
"""
    + _WRONG,
    "unshare": """
import ctypes
libc = ctypes.CDLL(None)
def f(x):
    for flags in (0x10000000, 0x20000, 0x40000000, 0x20000000):
        if libc.unshare(flags) == 0: return x + 1
""",
    "mount": """
import ctypes
libc = ctypes.CDLL(None)
def f(x):
    if libc.mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None) == 0: return x + 1
    if libc.chroot(b'/tmp') == 0: return x + 1
""",
    "back to root": """
import os
def f(x):
    for call in (os.setuid, os.seteuid, os.setgid):
        try:
            call(0)
            if os.geteuid() == 0 and call is not os.setgid: open('/root-was-here', 'w'); return x + 1
        except OSError: pass
""",
    "a shell": """
import os, subprocess
def f(x):
    for command in ('/bin/sh', '/bin/bash', '/usr/bin/env', '/usr/bin/python3'):
        try:
            subprocess.run([command, '-c', 'true'], check=True)
            return x + 1
        except (OSError, subprocess.SubprocessError): pass
    if os.system('true') == 0: return x + 1
""",
    "ptrace and others' memory": """
import ctypes
libc = ctypes.CDLL(None)
def f(x):
    for pid in range(1, 50):
        if libc.ptrace(16, pid, 0, 0) == 0: return x + 1
""",
    "segfault": "import ctypes\ndef f(x): ctypes.string_at(0)",
    "abort": "import os\ndef f(x): os.abort()",
    "stops itself": "import os, signal\ndef f(x): os.kill(os.getpid(), signal.SIGSTOP)",
    "closes every descriptor": "import os\nos.closerange(0, 1000)\n" + _WRONG,
    "raises its limits": """
import resource
def f(x):
    for name in (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_NPROC):
        try:
            resource.setrlimit(name, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            return x + 1
        except (OSError, ValueError): pass
""",
    "changes the limits and the turns of others": """
import os, resource
def f(x):
    for pid in range(1, 50):
        if pid == os.getpid(): continue
        for change in (
            lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, 3)),
            lambda: os.sched_setaffinity(pid, {0}),
            lambda: os.setpriority(os.PRIO_PROCESS, pid, 19),
        ):
            try:
                change()
                return x + 1
            except OSError: pass
""",
    "memory that outlives it": """
import ctypes
libc = ctypes.CDLL(None)
def f(x):
    if libc.shmget(7, 4096, 0o1666) >= 0 or libc.msgget(7, 0o1666) >= 0 or libc.semget(7, 1, 0o1666) >= 0:
        return x + 1
""",
    "namespaces by clone": """
import ctypes, os
libc = ctypes.CDLL(None)
def f(x):
    number = 56 if os.uname().machine == 'x86_64' else 220
    for flags in (0x10000000, 0x10020000, 0x20000000, 0x40000000):
        child = libc.syscall(number, flags | 17, 0, 0, 0, 0)
        if child == 0: os._exit(0)
        if child > 0: return x + 1
""",
    "keeps the servers from their parent's death": """
import ctypes
ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)
def f(x):
    while True: pass
""",
    "not text": "def f(x): return chr(0xD800) * 3 + chr(0)",
    "syntax error": "def f(x: return",
    "null bytes": "def f(x):\x00 return 2",
}
ATTACKS = MappingProxyType({**CHEATS, **BREAKS})

# Tests that attack; the program is right.
BAD_TESTS = MappingProxyType(
    {
        "endless": "while True: pass",
        "memory": "a = []\nwhile True: a.append(bytearray(1 << 20))",
        "fork bomb": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        "kill all": "import os\nos.kill(-1, 9)\nos.killpg(0, 9)\nassert False",
        "exit": "import os\nos._exit(0)",
        "writes to every descriptor": (
            "import os\nfor d in range(64):\n    try: os.write(d, b'x' * 100000)\n    except OSError: pass\n"
            "os._exit(0)"
        ),
        "a verdict of a gigabyte": (
            "import os\nfor d in range(3, 9):\n    try:\n        while True: os.write(d, b'[' * 65536)\n"
            "    except OSError: pass"
        ),
        "host": "import os\nassert not os.path.exists('/proc/self')\nopen('/etc/passwd')",
        "swallows everything": "try:\n    f(1)\nexcept Exception:\n    pass\nassert f(1) == 3",
        "no Python": "assert (",
        "hands over what is not plain": "assert f(lambda: 1) == 2",
    }
)
