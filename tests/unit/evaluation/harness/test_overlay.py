"""Commands of another environment: shut in, offline, their failures told; HumanEval's inputs for EvalPlus."""

import shutil
import sys
from pathlib import Path

import pytest

from megatron_dream.errors import ConfigError, DataError, MissingDependencyError
from megatron_dream.evaluation.harness import overlay as overlay_module
from megatron_dream.evaluation.harness.overlay import Overlay, bubblewrap
from megatron_dream.evaluation.harness.record_inputs import as_plus

OPEN = Overlay(Path(sys.executable), shuts_in=False)
NEEDS_BUBBLEWRAP = pytest.mark.skipif(not shutil.which("bwrap"), reason="needs bubblewrap")


def test_a_command_gets_a_home_of_its_own_and_no_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    code = (
        "import os; print(os.environ['HOME'], os.environ['HF_HUB_OFFLINE'], 'RANK' in os.environ)"
    )
    assert OPEN.run(["-c", code], tmp_path).split() == [str(tmp_path), "1", "False"]


def test_a_command_that_is_not_shut_in_reads_the_users_hub_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    code = "import os; print(os.environ['HF_HOME'])"
    assert OPEN.run(["-c", code], tmp_path).strip() == "/somewhere/huggingface"
    monkeypatch.setenv("HF_HOME", "/said")
    assert OPEN.run(["-c", code], tmp_path).strip() == "/said"


def test_failures_are_told_with_their_last_words(tmp_path):
    with pytest.raises(DataError, match=r"exit code 3: [\s\S]*it went wrong"):
        OPEN.run(
            ["-c", "import sys; print('it went wrong', file=sys.stderr); sys.exit(3)"], tmp_path
        )
    with pytest.raises(DataError, match="did not end within 1 s"):
        OPEN.run(["-c", "import time; time.sleep(60)"], tmp_path, timeout=1)


@NEEDS_BUBBLEWRAP
def test_a_shut_in_command_writes_to_one_folder_and_has_no_network(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    code = (
        "import pathlib, socket\n"
        f"pathlib.Path({str(inside)!r}, 'made').write_text('x')\n"
        f"for place in ({str(outside)!r}, {str(Path.home())!r}):\n"
        "    try:\n"
        "        pathlib.Path(place, 'made').write_text('x')\n"
        "        print('wrote', place)\n"
        "    except OSError:\n"
        "        pass\n"
        "print(len(socket.if_nameindex()))\n"
    )
    said = Overlay(Path(sys.executable)).run(["-c", code], inside)
    assert said.split() == ["1"]  # lo
    assert (inside / "made").is_file() and not list(outside.iterdir())


def test_without_bubblewrap_evaluators_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(overlay_module.shutil, "which", lambda name: None)
    with pytest.raises(MissingDependencyError, match="--evaluators-open"):
        bubblewrap(tmp_path)


def test_a_folder_that_is_no_environment_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no virtual environment"):
        Overlay.of(tmp_path)
    assert OPEN.has("json") and not OPEN.has("no_such_module_here")


def test_inputs_are_those_that_the_tests_give():
    record = {
        "task_id": "HumanEval/0",
        "prompt": "def grow(xs):\n",
        "entry_point": "grow",
        "canonical_solution": "    xs.append(1)\n    return xs\n",
        "test": "def check(candidate):\n    xs = [0]\n    assert candidate(xs) == [0, 1]\n"
        "    assert candidate(xs) == [0, 1, 1]\n",
    }
    assert as_plus(record)["base_input"] == [[[0]], [[0, 1]]]
    with pytest.raises(DataError, match="fails its own tests"):
        as_plus({**record, "canonical_solution": "    return xs\n"})
    with pytest.raises(DataError, match="call nothing"):
        as_plus({**record, "test": "def check(candidate):\n    pass\n"})
