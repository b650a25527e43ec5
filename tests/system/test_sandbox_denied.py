"""The judge where the system refuses namespaces, as Docker's default and Ubuntu's AppArmor do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROBLEM = {"task_id": "one", "entry_point": "f", "test": "assert f(1) == 2\n", "prompt": ""}
SAMPLES = [
    {"task_id": "one", "program": "def f(x): return x + 1"},
    {"task_id": "one", "program": "def f(x): return x"},
]
# A filter of system calls, inherited by all that is started. What is refused is said in bits: 1 unshare,
# 2 clone with flags of namespaces, 4 mount.
DENYING = """
import os, sys
from megatron_dream.sandbox.inside import filters, kernel
bits, lines = int(sys.argv[1]), [(0x20, 0, 0, 0)]
column = filters._ARCHITECTURES[os.uname().machine][0]
allow, refuse = (6, 0, 0, 0x7FFF0000), (6, 0, 0, 0x00050001)
if bits & 1: lines += [(0x15, 0, 1, filters._CALLS['unshare'][column]), refuse]
if bits & 4: lines += [(0x15, 0, 1, filters._MOUNT[column]), refuse]
if bits & 2:
    lines += [(0x15, 0, 1, filters._CLONE3[column]), (6, 0, 0, 0x00050026)]
    lines += [(0x15, 0, 3, filters._CLONE[column]), (0x20, 0, 0, 16), (0x45, 0, 1, 0x7E020000), refuse]
kernel.prctl(38, 1)
filters.Filter([*lines, allow]).install()
os.execv(sys.executable, [sys.executable, '-m', 'megatron_dream', *sys.argv[2:]])
"""
DOCKER = 1 | 2 | 4
HAS_BUBBLEWRAP = shutil.which("bwrap") is not None


def judge(root: Path, folder: Path, refused: int, *words: str) -> subprocess.CompletedProcess[str]:
    """``megatron-dream judge`` where some system calls are refused; its output is r.jsonl in the folder."""
    (folder / "p.jsonl").write_text(json.dumps(PROBLEM))
    (folder / "s.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in SAMPLES))
    arguments = ["judge", "--workers", "1"]
    for name, letter in (("problems", "p"), ("samples", "s"), ("output", "r")):
        arguments += [f"--{name}", str(folder / f"{letter}.jsonl")]
    return subprocess.run(
        [sys.executable, "-c", DENYING, str(refused), *arguments, *words],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def passed(folder: Path) -> list[bool]:
    lines = (folder / "r.jsonl").read_text().splitlines()
    return [json.loads(line)["passed"] for line in lines]


@pytest.mark.parametrize("isolation", [(), ("--isolation", "namespaces")])
def test_it_refuses_in_one_sentence_with_the_cure(
    repository_root: Path, tmp_path: Path, isolation: tuple[str, ...]
) -> None:
    run = judge(repository_root, tmp_path, DOCKER, *isolation)
    assert run.returncode == 2, run
    (line,) = run.stderr.strip().splitlines()
    assert "Programs cannot be shut in here (unshare: Operation not permitted)" in line
    for cure in ("sysctl -w kernel.", "--security-opt seccomp=unconfined", "isolation: process"):
        assert cure in line
    assert not (tmp_path / "r.jsonl").exists()


def test_process_isolation_works_there(repository_root: Path, tmp_path: Path) -> None:
    run = judge(repository_root, tmp_path, DOCKER, "--isolation", "process")
    assert run.returncode == 0, run
    assert passed(tmp_path) == [True, False]


@pytest.mark.skipif(not HAS_BUBBLEWRAP, reason="needs bubblewrap: apt-get install bubblewrap")
def test_bubblewrap_is_used_where_it_works_and_we_say_so(
    repository_root: Path, tmp_path: Path
) -> None:
    """It makes its namespaces by clone, our servers make theirs by unshare: only that is refused here."""
    run = judge(repository_root, tmp_path, 1)
    assert run.returncode == 0, run
    assert (
        "Namespaces are refused (unshare: Operation not permitted); bubblewrap is used"
        in run.stdout
    )
    assert passed(tmp_path) == [True, False]


@pytest.mark.skipif(not HAS_BUBBLEWRAP, reason="needs bubblewrap: apt-get install bubblewrap")
def test_bubblewrap_that_fails_is_refused_with_what_it_said(
    repository_root: Path, tmp_path: Path
) -> None:
    run = judge(repository_root, tmp_path, DOCKER, "--isolation", "bubblewrap")
    assert run.returncode == 2, run
    assert "(bwrap: " in run.stderr and "Operation not permitted" in run.stderr


@pytest.mark.parametrize(("refused", "what"), [(2, "clone"), (4, "mount")])
def test_what_only_later_calls_refuse_is_told_as_well(
    repository_root: Path, tmp_path: Path, refused: int, what: str
) -> None:
    run = judge(repository_root, tmp_path, refused, "--isolation", "namespaces")
    assert run.returncode == 2, run
    (line,) = run.stderr.strip().splitlines()
    assert f"({what}" in line and "Operation not permitted" in line and "sysctl -w" in line
