"""The quickstart's rehearsal as a newcomer types it: killed, called again, called a third time.

In a folder of its own that holds a copy of examples/ beside a link to the package.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_dream.cli import build_parser

ROOT = Path(__file__).resolve().parents[2]
STAGE = re.compile(r"^\[(\d+)/(\d+)\] (.+?)(: done before)?$", re.MULTILINE)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / "megatron_dream").symlink_to(ROOT / "megatron_dream")
    return tmp_path


def start(project: Path, log: Path) -> subprocess.Popen[bytes]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    with open(log, "wb") as stream:
        return subprocess.Popen(
            [sys.executable, "examples/tiny/quickstart.py", "--rehearse"],
            cwd=project,
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def finish(project: Path, log: Path) -> str:
    process = start(project, log)
    code = process.wait(timeout=900)
    text = log.read_text(encoding="utf-8", errors="replace")
    assert code == 0, text[-3000:]
    return text


def stages_of(text: str) -> dict[str, bool]:
    """Whether each stage was done before, by name."""
    found = {name: bool(before) for _, _, name, before in STAGE.findall(text)}
    assert len(found) == int(STAGE.findall(text)[0][1])
    return found


def test_killed_and_called_again(project: Path) -> None:
    killed = start(project, project / "killed.log")
    deadline = time.monotonic() + 600
    while b"autoregressive model" not in (project / "killed.log").read_bytes():
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(3)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()

    text = finish(project, project / "again.log")
    done_before = stages_of(text)
    assert done_before.pop("corpus") and done_before.pop("tokenizer") and done_before.pop("tokens")
    assert not any(done_before.values())
    check_results(project, text)
    check_commands(text)

    started = time.monotonic()
    third = finish(project, project / "third.log")
    assert all(stages_of(third).values()) and time.monotonic() - started < 60
    check_results(project, third)


def check_results(project: Path, text: str) -> None:
    for label in ("page", "exported folder", "runs"):
        (path,) = re.findall(rf"^{label} +(/.+)$", text, re.MULTILINE)
        assert Path(path).exists()
    assert "nats per masked token" in text
    for page in ("first-page.html", "page.html"):
        assert "completion" in (project / "work" / "quickstart" / page).read_text(encoding="utf-8")
    for name in ("answers", "infilling"):
        folder = project / "work" / "quickstart"
        assert (folder / f"{name}.html").stat().st_size > 10_000
        lines = (folder / f"{name}-samples.jsonl").read_text(encoding="utf-8").splitlines()
        assert len(lines) == 2 and all(json.loads(line)["num_forward"] > 0 for line in lines)
    assert (project / "work/quickstart/export-longer/modeling_dream.py").is_file()
    assert "RL is left out" in text or "of the RL demonstration solved" in text


def check_commands(text: str) -> None:
    """What is printed can be typed: the verbs exist, and so do the scripts."""
    commands = [shlex.split(line) for line in re.findall(r"^  \$ (.+)$", text, re.MULTILINE)]
    assert len(commands) >= 8
    verbs = build_parser()[1]
    for variable, *words in commands:
        assert variable.startswith("OMP_NUM_THREADS=")
        if words[0] == "python":
            assert (ROOT / words[1]).is_file()
            continue
        name = "megatron-dream" if words[0] == "megatron-dream" else "megatron_dream"
        after = words[words.index(name) + 1 :]
        assert after[0] in verbs or " ".join(after[:2]) in verbs
