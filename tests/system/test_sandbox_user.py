"""The judge as an ordinary user, without privileges, by a user namespace."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.sandbox_attacks import ATTACKS, RIGHT, TESTS

NOBODY = 65_534
CHOSEN = (
    "always equal",
    "walks the frames for the tests",
    "writes the marker to every descriptor",
    "fork bomb",
    "memory bomb",
    "fills the disk",
    "too many files",
    "namespaces by clone",
    "memory that outlives it",
    "closes /tmp",
    "makes /tmp read-only",
    "leaves a time at /tmp",
    "writes outside",
    "reads the host",
    "network",
    "signals to parents and everybody",
    "changes the limits and the turns of others",
    "double fork and setsid",
    "unshare",
    "mount",
    "a shell",
    "ptrace and others' memory",
)
JUDGING = """
import json, sys
from megatron_dream.sandbox import Judge, Limits, Problem
question = json.load(sys.stdin)
pairs = []
for program, tests, name in question['pairs']:
    pairs.append((program, Problem('x', tests=tests, functions=(name,))))
with Judge(2, Limits(cpu=2, wall=30.0), question['isolation']) as judge:
    print(json.dumps([verdict.outcome.value for verdict in judge.verdicts(pairs)]))
"""


@pytest.fixture(scope="module")
def package(repository_root: Path) -> Iterator[Path]:
    """A folder with the package that everybody can read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(
            repository_root / "megatron_dream/sandbox", folder / "megatron_dream/sandbox"
        )
        shutil.copy(repository_root / "megatron_dream/__init__.py", folder / "megatron_dream")
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        yield folder


def as_user(words: list[str], **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a command as somebody without privileges."""
    if os.geteuid() == 0:
        more |= {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    return subprocess.run(words, capture_output=True, text=True, timeout=300, cwd="/", **more)


@pytest.fixture(scope="module")
def interpreter() -> str:
    """A Python that such a user can read: one below /root is not."""
    for path in (sys.executable, "/usr/bin/python3"):
        try:
            run = as_user([path, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"])
        except OSError:
            continue
        if run.returncode == 0:
            return path
    pytest.skip("needs a Python 3.11 that everybody can read: apt-get install python3")


def asked(
    command: list[str], package: Path, isolation: str, pairs: list[tuple[str, str, str]]
) -> subprocess.CompletedProcess[str]:
    question = json.dumps({"isolation": isolation, "pairs": pairs})
    environment = {"PATH": os.defpath, "PYTHONPATH": str(package)}
    return as_user([*command, "-B", "-c", JUDGING], input=question, env=environment)


def outcomes(
    interpreter: str, package: Path, isolation: str, pairs: list[tuple[str, str, str]]
) -> list[str]:
    if isolation == "bubblewrap" and shutil.which("bwrap") is None:
        pytest.skip("needs bubblewrap: apt-get install bubblewrap")
    run = asked([interpreter], package, isolation, pairs)
    assert run.returncode == 0, run.stderr
    found: list[str] = json.loads(run.stdout)
    return found


ENGINES = pytest.mark.parametrize("isolation", ["namespaces", "bubblewrap"])


@ENGINES
def test_no_attack_passes_and_the_next_program_is_judged(
    interpreter: str, package: Path, isolation: str
) -> None:
    pairs = []
    for name in CHOSEN:
        pairs += [(ATTACKS[name], TESTS, "f"), (RIGHT, TESTS, "f")]
    found = outcomes(interpreter, package, isolation, pairs)
    fooled = [
        name
        for name, outcome in zip(CHOSEN, found[::2], strict=True)
        if outcome in ("passed", "infrastructure")
    ]
    assert fooled == []
    assert set(found[1::2]) == {"passed"}


@ENGINES
def test_human_evals_solutions_pass_and_stubs_do_not(
    interpreter: str, package: Path, isolation: str, shared_data: Path
) -> None:
    with gzip.open(shared_data / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as stream:
        lines = [json.loads(line) for line in stream][::8]
    pairs = []
    for line in lines:
        tests = f"{line['prompt']}    pass\n{line['test']}"
        for body in (line["canonical_solution"], "    return None\n"):
            pairs.append((line["prompt"] + body, tests, line["entry_point"]))
    found = outcomes(interpreter, package, isolation, pairs)
    assert set(found[::2]) == {"passed"} and "passed" not in found[1::2]


@ENGINES
def test_a_root_with_one_user_id_judges_or_is_refused(
    interpreter: str, package: Path, isolation: str
) -> None:
    """``unshare -Ur``: user 0 of a namespace that has no other users to give to programs."""
    inside = ["unshare", "-Ur", interpreter]
    if isolation == "bubblewrap" and shutil.which("bwrap") is None:
        pytest.skip("needs bubblewrap: apt-get install bubblewrap")
    if as_user([*inside, "-c", ""]).returncode != 0:
        pytest.skip("needs namespaces for ordinary users")
    pairs = [(RIGHT, TESTS, "f"), ("def f(x): return x", TESTS, "f"), (RIGHT, TESTS, "f")]
    run = asked(inside, package, isolation, pairs)
    if run.returncode == 0:
        assert json.loads(run.stdout) == ["passed", "failed", "passed"]
    else:
        assert "SandboxUnavailable" in run.stderr


@ENGINES
@pytest.mark.parametrize(
    "change",
    ["os.chmod('/tmp', 0)", "os.chmod('/tmp', 0o555)", "os.utime('/tmp', (7, 7))"],
)
def test_the_next_program_finds_a_tmp_of_its_own(
    interpreter: str, package: Path, isolation: str, change: str
) -> None:
    writes = "with open('/tmp/x', 'w') as stream: stream.write('x')"
    looks = "assert os.stat('/tmp').st_mtime > 7 and os.stat('/tmp').st_mode & 0o777 == 0o777"
    programs = [f"import os\n{change}\n{RIGHT}", f"import os\n{looks}\n{writes}\n{RIGHT}"]
    # Two workers take programs in turns: each gets both.
    pairs = [(program, TESTS, "f") for program in programs for _ in range(2)] * 2
    found = outcomes(interpreter, package, isolation, pairs)
    assert found == ["passed"] * len(pairs)
