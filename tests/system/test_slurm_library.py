"""Functions of the Slurm scripts' library, called one by one; needs bash, not Slurm."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from megatron_dream import exit_codes
from megatron_dream.config.load import to_yaml
from megatron_dream.config.schema import RunConfig
from megatron_dream.launcher import expand_hosts

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


def test_what_agents_end_with_is_what_a_rank_said_before(tmp_path: Path) -> None:
    """Spare agents end badly in a good run; and srun, where it starts nothing, names no task."""
    assert bash(tmp_path, "meaning_of_agents 1") == "1"
    (tmp_path / "srun.err").write_text("srun: error: Unable to create step for job 7\n")
    assert bash(tmp_path, "meaning_of_agents 1", DREAM_SPARE_NODES="1") == "1"
    (tmp_path / "ended").write_text("75\n")
    assert bash(tmp_path, "meaning_of_agents 0") == "75"
    (tmp_path / "ended").write_text("0\n")
    assert bash(tmp_path, "meaning_of_agents 1") == "0"


@pytest.mark.parametrize(
    ("nodes", "ranks", "spare", "said"),
    [("3", "7", "0", "7 on 3 nodes are not"), ("2", "4", "2", "leaves none of 2 nodes")],
)
def test_what_agents_cannot_do_is_refused(
    tmp_path: Path, nodes: str, ranks: str, spare: str, said: str
) -> None:
    code = f"num_ranks={ranks}; check_agents 2>&1"
    assert said in bash(tmp_path, code, SLURM_JOB_NUM_NODES=nodes, DREAM_SPARE_NODES=spare)


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


TORN = """\
case "$1 $2" in
    "show job") echo "JobId=10 ArrayJobId=10 ArrayTaskId=3 JobName=x JobState=FAILED y"
        echo "   JobState=RUNNING Reason=None" ;;
    *) echo "$*" >>"$(dirname "$0")/asked"
       [ "$(wc -l <"$(dirname "$0")/asked")" -gt 2 ] ||
           { echo "scontrol: error: Unable to contact slurm controller (connect failure)"; exit 1; } ;;
esac
"""


def program(tmp_path: Path, name: str, text: str) -> str:
    """A program of the test's own; the PATH on which it is found first."""
    path = tmp_path / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/bash\n{text}")
    path.chmod(0o755)
    return f"{path.parent}:{os.environ['PATH']}"


def test_a_task_of_an_array_is_requeued_alone_and_the_controller_may_be_away(
    tmp_path: Path,
) -> None:
    """The last task of an array has the array's number, which Slurm takes for all of its tasks."""
    path = program(tmp_path, "scontrol", TORN)
    said = bash(
        tmp_path, "shown_field JobState; shown_field ExcNodeList; back_into_the_queue", PATH=path,
        SLURM_ARRAY_JOB_ID="10", SLURM_ARRAY_TASK_ID="3", SLURM_JOB_ID="10",
        DREAM_SLURM_PAUSES="0 0 0",
    )  # fmt: skip
    assert said.splitlines()[0] == "RUNNING" and "put back into the queue" in said
    assert (tmp_path / "bin" / "asked").read_text() == "requeue 10_3\n" * 3


def test_what_slurm_refuses_is_not_asked_again(tmp_path: Path) -> None:
    path = program(
        tmp_path, "scontrol", 'echo "$*" >>"$(dirname "$0")/asked"; echo "no: job is done"; exit 1'
    )
    code = "ask_slurm scontrol requeue 7 2>&1; echo $?"
    assert bash(tmp_path, code, PATH=path) == "no: job is done\n1"
    assert (tmp_path / "bin" / "asked").read_text() == "requeue 7\n"


def test_a_node_without_scontrol_says_what_to_do(tmp_path: Path) -> None:
    code = 'stage=pretrain restart=0; PATH=/nowhere; requeue 75 "step 9" ""'
    said = bash(tmp_path, code)
    assert "exit code 75, not put back into the queue: this node has no scontrol; submit" in said
    assert said.endswith("it goes on from step 9")


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n[08-10,12],login", "n08"), ("n0", "n0"), ("r[1-2]n[0-1].x", "r1n0.x"),
        ("gpu-a3,n[1-2]", "gpu-a3"), ("cn-[0001-0512],cn-0600", "cn-0001"), ("n[7]", "n7"),
    ],
)  # fmt: skip
def test_the_first_of_a_list_of_nodes_needs_no_scontrol(
    tmp_path: Path, nodes: str, first: str
) -> None:
    assert bash(tmp_path, f"first_node '{nodes}'") == first
    assert first == expand_hosts(nodes)[0]


@pytest.mark.parametrize(
    ("variables", "count"),
    [
        ({"SLURM_NTASKS": "5", "SLURM_NTASKS_PER_NODE": "8"}, "5"),
        ({"SLURM_JOB_NUM_NODES": "3", "SLURM_NTASKS_PER_NODE": "8"}, "24"),
        ({"SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS_PER_NODE": "8(x2)"}, "16"),
        ({"SLURM_TASKS_PER_NODE": "8(x11),4", "SLURM_JOB_NUM_NODES": "12"}, "92"),
        ({"SLURM_TASKS_PER_NODE": "2"}, "2"),
        ({}, "1"),
    ],
)
def test_tasks_in_every_form_that_slurm_has(
    tmp_path: Path, variables: dict[str, str], count: str
) -> None:
    assert bash(tmp_path, "num_tasks", **variables) == count


@pytest.mark.parametrize(
    ("numbers", "parts"),
    [
        ([0, 1, 2], ["0/3", "1/3", "2/3"]),
        ([1, 2], ["0/2", "1/2"]),
        ([0, 2, 4, 6], ["0/4", "1/4", "2/4", "3/4"]),
        ([5], ["0/1"]),
        ([1, 2, 9], [None, None, None]),
        ([0, 1, 4], [None, None, None]),
    ],
)
def test_parts_of_an_array(tmp_path: Path, numbers: list[int], parts: list[str | None]) -> None:
    """Every part is somebody's, or the array is refused: 0, 1, 4 has a stride of 2 by its ends alone."""
    whole = {"MIN": numbers[0], "MAX": numbers[-1], "COUNT": len(numbers)}
    told = {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in whole.items()}
    said = [
        bash(tmp_path, "part_of_array 2>&1", SLURM_ARRAY_TASK_ID=str(number), **told)
        for number in numbers
    ]
    if None not in parts:
        assert said == parts
    else:
        assert any("are no range; give sbatch --array=0-2" in one for one in said)


def test_a_heterogeneous_job_is_refused(tmp_path: Path) -> None:
    said = bash(tmp_path, "load_settings 2>&1", DREAM_PYTHON="/bin/bash", SLURM_HET_SIZE="2")
    assert "heterogeneous job of 2 components" in said


def test_greetings_of_a_site_are_not_run(tmp_path: Path) -> None:
    code = (
        "single() { echo 'Welcome (v2); touch broken'; echo \"export A_B='x y'  # why (a)\"; }; python=p\n"
        'run_folder=r; set_environment; echo "$A_B"'
    )
    assert bash(tmp_path, code) == "x y"


def test_the_end_is_told_to_ranks_that_cannot_ask(tmp_path: Path) -> None:
    code = 'tell_end_time; echo "${SLURM_JOB_END_TIME:-none}"'
    path = program(tmp_path, "squeue", "echo 2023-11-14T22:14:20")
    assert bash(tmp_path, code, PATH=path, TZ="UTC") == "1700000060"
    assert bash(tmp_path, code, PATH=path, SLURM_JOB_END_TIME="7") == "7"
    for answer in ("NONE", "N/A", ""):
        path = program(tmp_path, "squeue", f"echo {answer}")
        assert bash(tmp_path, code, PATH=path) == "none"


def test_a_signal_that_comes_while_nothing_runs_starts_nothing(tmp_path: Path) -> None:
    """Between two steps of a start: bash runs the trap, and there is no child to tell."""
    code = """
        DREAM_LAUNCH=srun python=p run_folder=r step_before=0
        first_address() { kill -USR1 $$; echo localhost; }
        set_environment() { :; }
        _ranks_by_srun() { echo started; }
        launch_ranks x; echo "code $?"
    """
    said = bash(tmp_path, code)
    assert said.endswith("code 75") and "started" not in said, said


def test_a_signal_that_comes_while_a_child_begins_is_told_to_it(tmp_path: Path) -> None:
    code = """
        begin() { trap 'echo told; exit 9' USR1; for _ in $(seq 100); do sleep 0.1; done; }
        stop_asked=1
        run_waiting begin; echo "code $?"
    """
    assert bash(tmp_path, code) == "told\ncode 9"


def test_a_second_job_in_one_run_folder_is_refused(tmp_path: Path) -> None:
    path = program(tmp_path, "squeue", '[ "$5" = 76 ] && echo "76 main pretrain R"')
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "job").write_text("76\n")
    code = 'run_folder="$PWD" stage=pretrain restart=0 num_ranks=1 SLURM_JOB_NODELIST=n0; begin_attempt 2>&1'
    assert "job 76 trains in" in bash(tmp_path, code, PATH=path)
    (tmp_path / "slurm" / "job").write_text("75\n")
    assert "start 1, 1 ranks on n0" in bash(tmp_path, code, PATH=path)
    assert (tmp_path / "slurm" / "job").read_text() == "77\n"


@pytest.mark.parametrize(("bound", "is_stopped"), [(3, True), (4, False), (0, False)])
def test_one_bound_of_starts_without_progress(tmp_path: Path, bound: int, is_stopped: bool) -> None:
    """The run's own; 0 is none."""
    (tmp_path / "attempts.tsv").write_text(ATTEMPTS)
    text = "checkpoint:\n  run_folder: run\nparallel:\n  pipeline_model_parallel_size: 1\n"
    (tmp_path / "c.yaml").write_text(f"{text}watch:\n  max_starts_without_progress: {bound}\n")
    code = (
        'single() { cat "$DREAM_LOGS/c.yaml"; }; last_step() { echo 5; }; requeue() { echo again; }\n'
        'stage=pretrain num_ranks=1 restart=3 step_before=5 state="$DREAM_LOGS" python=python\n'
        'read_configuration; (end_attempt 1 2>&1); cut -f 5 "$state/attempts.tsv" | tail -n 1'
    )
    said = bash(tmp_path, code)
    assert said.endswith("1") and ("came no further than step 5" in said) == is_stopped
    assert ("again" in said) != is_stopped


def test_a_field_of_the_resolved_configuration(tmp_path: Path) -> None:
    text = "model:\n  run_folder: no\ncheckpoint:\n  init_from: null\n  run_folder: 'a ''b'': c'\n"
    (tmp_path / "c.yaml").write_text(text)
    assert bash(tmp_path, 'field checkpoint run_folder <"$DREAM_LOGS/c.yaml"') == "a 'b': c"
    assert bash(tmp_path, 'field training run_folder <"$DREAM_LOGS/c.yaml"') == ""


@pytest.mark.parametrize(
    "name",
    [
        "runs/a b",
        "runs/" + "many words " * 15 + "end",
        "it's: #1 [x]",
        "- 'a'",
        "~/r",
        "7",
    ],
)
def test_a_run_folder_of_any_name_is_read_off_the_configuration(tmp_path: Path, name: str) -> None:
    config = RunConfig()
    config.checkpoint.run_folder = name
    (tmp_path / "c.yaml").write_text(to_yaml(config), encoding="utf-8")
    assert bash(tmp_path, 'field checkpoint run_folder <"$DREAM_LOGS/c.yaml"') == name
    assert bash(tmp_path, 'field watch max_starts_without_progress <"$DREAM_LOGS/c.yaml"') == "3"


def test_a_run_folder_that_the_script_cannot_name_is_refused(tmp_path: Path) -> None:
    for name, said in (("", "run_folder is empty"), ("läufe", "characters other than ASCII")):
        config = RunConfig()
        config.checkpoint.run_folder = name
        (tmp_path / "c.yaml").write_text(to_yaml(config), encoding="utf-8")
        code = 'single() { cat "$DREAM_LOGS/c.yaml"; }; stage=sft python=p; read_configuration 2>&1'
        assert said in bash(tmp_path, code)


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


def test_a_clash_is_of_the_start_that_ended_and_nothing_else(tmp_path: Path) -> None:
    """Lines of an earlier start, other codes, a signal, a run that came further: no clash."""
    log = tmp_path / "rank-00000.log"
    log.write_text("name: EADDRINUSE\n" + "much else, which fills the pipe\n" * 10_000)
    start = 'run_folder="$DREAM_LOGS" step_before=0; '
    taken = "&& echo taken || echo no"
    assert bash(tmp_path, f"{start} _port_was_taken 1 0 {taken}") == "taken"
    assert bash(tmp_path, f"{start} _port_was_taken 1 1 {taken}") == "no"
    assert bash(tmp_path, f"{start} _port_was_taken 75 0 {taken}") == "no"
    assert bash(tmp_path, f"{start} stop_asked=1; _port_was_taken 1 0 {taken}") == "no"
    assert bash(tmp_path, f"{start} step_before=-1; _port_was_taken 1 0 {taken}") == "no"


def test_what_is_set_already_wins_over_the_site(tmp_path: Path) -> None:
    (tmp_path / "site.env").write_text(': "${DREAM_CHECK:=off}"\n: "${DREAM_TAIL:=7}"\n')
    code = "load_settings; bash -c 'echo \"$DREAM_CHECK $DREAM_TAIL\"'"
    shell = "/bin/bash"
    assert bash(tmp_path, code, DREAM_PYTHON=shell) == "off 7"
    assert bash(tmp_path, code, DREAM_PYTHON=shell, DREAM_CHECK="on") == "on 7"


def test_pyxis_gets_the_image_as_options_of_srun(tmp_path: Path) -> None:
    code = "srun() { printf '%s\\n' \"$@\"; }; load_settings; step --nodes=2 -- python3 x"
    words = bash(
        ROOT, code, DREAM_CONTAINER="reg.example#img:1", DREAM_MOUNTS="/data:/data",
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


def test_a_pipeline_called_inside_a_job_hands_nothing_of_it_on(tmp_path: Path) -> None:
    path = program(tmp_path, "sbatch", 'env >"$(dirname "$0")/given"; echo 12')
    (tmp_path / "stages.sh").write_text("stage tokenizer tokenizer.sbatch -- --input x\n")
    inside = {"SLURM_JOB_ID": "7", "SLURM_MEM_PER_CPU": "100", "SLURM_CPU_BIND": "none"}
    done = subprocess.run(
        [str(ROOT / "slurm" / "pipeline.sh"), "stages.sh"], cwd=tmp_path, capture_output=True,
        text=True, env=inside | {"PATH": path, "SLURM_CONF": "/etc/s.conf", "HOME": "/root"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    given = (tmp_path / "bin" / "given").read_text().splitlines()
    assert [line for line in given if line.startswith("SLURM_")] == ["SLURM_CONF=/etc/s.conf"]


def test_no_script_looks_for_the_library_beside_itself() -> None:
    for path in (ROOT / "slurm").glob("*.sbatch"):
        assert "BASH_SOURCE" not in path.read_text(), path.name
