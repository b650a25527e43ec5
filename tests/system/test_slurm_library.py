"""Functions of the Slurm scripts' library, called one by one; needs bash, not Slurm."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from megatron_dream import exit_codes

ROOT = Path(__file__).resolve().parents[2]
# What srun 22.05 wrote in jobs of four tasks on two nodes.
KILLED = """\
srun: error: n1: task 3: Killed
srun: launch/slurm: _step_signal: Terminating StepId=2.0
slurmstepd-n0: error: *** STEP 2.0 ON n0 CANCELLED AT 2026-11-22T10:45:58 ***
srun: error: n1: task 2: Terminated
srun: error: n0: task 0: Exited with exit code 143
srun: error: n0: task 1: Terminated
srun: Force Terminated StepId=2.0
"""
SAVED = """\
srun: error: n0: tasks 0-1: Exited with exit code 75
srun: launch/slurm: _step_signal: Terminating StepId=2.2
srun: error: n1: tasks 2-3: Exited with exit code 75
"""
REFUSED = """\
srun: error: n1: task 2: Exited with exit code 2
srun: launch/slurm: _step_signal: Terminating StepId=2.1
srun: error: n0: tasks 0-1: Terminated
srun: error: n1: task 3: Terminated
"""
# A peer saw the connection break before srun heard of the process that was killed.
PEER_FIRST = """\
srun: error: n0: tasks 0-1: Exited with exit code 1
srun: error: n1: task 3: Segmentation fault (core dumped)
srun: error: n1: task 2: Terminated
"""
TERMINATED = "srun: error: n0: tasks 0-3: Terminated\n"


def bash(tmp_path: Path, code: str, **variables: str) -> str:
    """Run ``code`` after the library of training jobs; its output."""
    environment = {
        "PATH": os.environ["PATH"],
        "DREAM_ROOT": str(ROOT),
        "DREAM_LOGS": str(tmp_path),
        "SLURM_JOB_ID": "77",
        "DREAM_SITE": str(tmp_path / "site.env"),
        **variables,
    }
    script = f'. "$DREAM_ROOT/slurm/lib.sh"; . "$DREAM_ROOT/slurm/lib_train.sh"; {code}'
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert not done.stderr, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("text", "code", "rank"),
    [
        (KILLED, "137", "n1 3 Killed"),
        (SAVED, "75", "n0 0-1 Exited with exit code 75"),
        (REFUSED, "2", "n1 2 Exited with exit code 2"),
        (PEER_FIRST, "137", "n1 3 Segmentation fault (core dumped)"),
        (TERMINATED, "143", ""),
        ("srun: error: Node failure on n1\n", "143", ""),
    ],
)
def test_the_fault_that_others_follow_from(tmp_path: Path, text: str, code: str, rank: str) -> None:
    (tmp_path / "srun.err").write_text(text)
    assert bash(tmp_path, "meaning 143") == code
    assert bash(tmp_path, "first_fault") == rank
    assert bash(tmp_path, "meaning 0") == "0"


HANG = """\
srun: error: n0: tasks 0-1: Exited with exit code 80
srun: launch/slurm: _step_signal: Terminating StepId=2.0
srun: error: n1: task 2: Exited with exit code 80
srun: error: n1: task 3: Terminated
"""


def test_a_hang_is_told_and_no_node_is_blamed(tmp_path: Path) -> None:
    (tmp_path / "srun.err").write_text(HANG)
    assert bash(tmp_path, "meaning 143") == str(exit_codes.HANG)
    assert "logs of all ranks are in" in bash(tmp_path, "show_hang")
    (tmp_path / "rank-00002.log").write_text(
        "step 1\n\nHANG: rank 2 is in data\n  rank 3 is dead\n"
    )
    said = bash(tmp_path, "show_hang")
    assert "rank-00002.log tells it:\nHANG: rank 2 is in data\n  rank 3 is dead" in said
    assert not (tmp_path / "failed").exists()


@pytest.mark.parametrize(
    ("text", "count"),
    [(KILLED, "4"), (SAVED, "4"), ("srun: error: n[0-4]: tasks 0-2,5,7-8: Killed", "6")],
)
def test_tasks_are_counted_however_srun_groups_them(tmp_path: Path, text: str, count: str) -> None:
    (tmp_path / "srun.err").write_text(text)
    assert bash(tmp_path, "num_failed_tasks") == count


def test_agents_that_were_spare_do_not_spoil_a_run(tmp_path: Path) -> None:
    (tmp_path / "srun.err").write_text("srun: error: n3: task 3: Exited with exit code 1\n")
    assert bash(tmp_path, "meaning_of_agents 1", DREAM_SPARE_NODES="1") == "0"
    assert bash(tmp_path, "meaning_of_agents 1") == "1"
    (tmp_path / "rank-00003.log").write_text("  exitcode  : 2 (pid: 4711)\n")
    assert bash(tmp_path, "meaning_of_agents 1") == "2"


ATTEMPTS = """\
76	0	0	0	1	n1
77	0	0	5	137	n1
77	1	5	5	1	n2
77	2	5	5	1	n2
"""


def test_starts_without_progress_and_the_node_that_failed_twice(tmp_path: Path) -> None:
    """Line 1 is of another job, line 2 came from step 0 to step 5."""
    (tmp_path / "attempts.tsv").write_text(ATTEMPTS)
    assert bash(tmp_path, 'state="$DREAM_LOGS"; num_stuck; bad_nodes') == "2\nn2"
    (tmp_path / "attempts.tsv").write_text(ATTEMPTS + "77\t3\t5\t9\t75\t-\n")
    assert bash(tmp_path, 'state="$DREAM_LOGS"; num_stuck; bad_nodes') == "0"


@pytest.mark.parametrize(
    ("bound", "site", "is_stopped"),
    [(3, "", True), (4, "", False), (0, "", False), (4, "3", True), (3, "0", False)],
)
def test_one_bound_of_starts_without_progress(
    tmp_path: Path, bound: int, site: str, is_stopped: bool
) -> None:
    """The run's own, unless the site sets another; 0 is none."""
    (tmp_path / "attempts.tsv").write_text(ATTEMPTS)
    text = "checkpoint:\n  run_folder: run\nparallel:\n  pipeline_model_parallel_size: 1\n"
    (tmp_path / "c.yaml").write_text(f"{text}watch:\n  max_starts_without_progress: {bound}\n")
    code = (
        'single() { cat "$DREAM_LOGS/c.yaml"; }; last_step() { echo 5; }; requeue() { echo again; }\n'
        'stage=pretrain num_ranks=1 restart=3 step_before=5 state="$DREAM_LOGS" python=python\n'
        'read_configuration; (end_attempt 1 2>&1); cut -f 5 "$state/attempts.tsv" | tail -n 1'
    )
    said = bash(tmp_path, code, **({"DREAM_MAX_STUCK": site} if site else {}))
    assert said.endswith("1") and ("came no further than step 5" in said) == is_stopped
    assert ("again" in said) != is_stopped


def test_a_field_of_the_resolved_configuration(tmp_path: Path) -> None:
    text = "model:\n  run_folder: no\ncheckpoint:\n  init_from: null\n  run_folder: 'a ''b'': c'\n"
    (tmp_path / "c.yaml").write_text(text)
    assert bash(tmp_path, 'field checkpoint run_folder <"$DREAM_LOGS/c.yaml"') == "a 'b': c"
    assert bash(tmp_path, 'field training run_folder <"$DREAM_LOGS/c.yaml"') == ""


def test_a_port_that_something_listens_at_is_passed_over(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code = f". ./slurm_lib; free_port {port - 10_000}"  # ports of the system lie above ours
        (tmp_path / "slurm_lib").write_text(
            (ROOT / "slurm" / "lib.sh").read_text().replace("% 20000", "% 60000")
        )
        assert int(bash(tmp_path, code, SLURM_JOB_ID="0")) > port
    assert bash(tmp_path, "free_port 3") == str(10_000 + 80)
    assert bash(tmp_path, "free_port", SLURM_JOB_ID="19999") == "29999"


def test_what_is_set_already_wins_over_the_site(tmp_path: Path) -> None:
    (tmp_path / "site.env").write_text(': "${DREAM_CHECK:=off}"\n: "${DREAM_TAIL:=7}"\n')
    code = "load_settings; bash -c 'echo \"$DREAM_CHECK $DREAM_TAIL\"'"
    shell = "/bin/bash"
    assert bash(tmp_path, code, DREAM_PYTHON=shell) == "off 7"
    assert bash(tmp_path, code, DREAM_PYTHON=shell, DREAM_CHECK="on") == "on 7"


def test_pyxis_gets_the_image_as_options_of_srun(tmp_path: Path) -> None:
    code = "srun() { printf '%s\\n' \"$@\"; }; load_settings; step --nodes=2 -- python3 x"
    words = bash(
        tmp_path, code, DREAM_CONTAINER="reg.example#img:1", DREAM_MOUNTS="/data:/data",
        SLURM_CPUS_PER_TASK="12", SLURM_GPUS_PER_NODE="8", DREAM_LOCAL="/local",
    ).splitlines()  # fmt: skip
    assert words[:3] == ["--cpus-per-task=12", "--gpu-bind=none", "--nodes=2"]
    assert "--container-image=reg.example#img:1" in words
    assert f"--container-mounts={ROOT}:{ROOT},/local:/local,/data:/data" in words
    assert words[-3:] == [str(ROOT / "slurm" / "rank.sh"), "python3", "x"]


def test_threads_of_a_rank_are_its_cores_but_not_too_many(tmp_path: Path) -> None:
    code = 'load_settings; echo "$OMP_NUM_THREADS"'
    own = {"DREAM_PYTHON": "/bin/bash"}
    assert bash(tmp_path, code, **own, SLURM_CPUS_PER_TASK="12") == "8"
    assert bash(tmp_path, code, **own, SLURM_CPUS_PER_TASK="3") == "3"
    assert bash(tmp_path, code, **own, SLURM_CPUS_PER_TASK="3", OMP_NUM_THREADS="1") == "1"


def test_every_training_script_asks_slurm_for_what_it_needs() -> None:
    """What would be noticed on a large cluster only."""
    for name in ("pretrain", "sft", "rl"):
        lines = (ROOT / "slurm" / f"{name}.sbatch").read_text().splitlines()
        asked = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")}
        assert {
            "--signal=B:USR1@600", "--requeue", "--open-mode=append", "--exclusive", "--mem=0",
            "--distribution=block", "--ntasks-per-node=8", "--gpus-per-node=8",
        } <= asked  # fmt: skip
        assert lines[-1] == f'train {name} "$@"'


def test_no_script_looks_for_the_library_beside_itself() -> None:
    for path in (ROOT / "slurm").glob("*.sbatch"):
        assert "BASH_SOURCE" not in path.read_text(), path.name
