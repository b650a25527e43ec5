"""What the training scripts do at every kind of end, on a real Slurm with two nodes.

A stand-in takes the interpreter's place (slurm_stand_in.sh), so that an end costs no training: what is
tested is the shell's side. Ends of the real program are in test_slurm_pipeline.py. All jobs are in the
queue from the start, since a requeued one waits some seconds while others can run.
"""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import pytest

from tests.system.slurm_cluster import SlurmCluster

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = Path(__file__).with_name("slurm_stand_in.sh")
ONE = ("--nodes=1", "--ntasks-per-node=1")
TWO = ("--nodes=2", "--ntasks-per-node=1")
SMALL = ["--gpus-per-node=8", "--cpus-per-task=1", "--mem=100M", "--time=60", "--signal=B:USR1@60"]
WAITS = 'touch "$folder/ready"; for _ in $(seq 1200); do sleep 0.1; done'


class Job:
    """A submitted job whose program is a stand-in."""

    def __init__(
        self, cluster: SlurmCluster, folder: Path, behaviour: str, *words: str, **settings: str
    ) -> None:
        self.cluster, self.folder = cluster, folder
        (folder / "behaviour.sh").write_text(behaviour)
        own = {"DREAM_PYTHON": str(STAND_IN), "STAND_IN": str(folder), "DREAM_CHECK": "off"}
        pairs = ",".join(f"{k}={v}" for k, v in (own | settings).items())
        self.number = cluster.submit(
            f"--export=ALL,{pairs}", f"--output={folder}/job.log", *SMALL, *(words or ONE),
            "slurm/pretrain.sbatch", "--config", "any.yaml", cwd=ROOT,
        )  # fmt: skip

    def log(self) -> str:
        path = self.folder / "job.log"
        return path.read_text() if path.exists() else ""

    def end(self) -> str:
        """Wait; the job's exit code and signal as Slurm shows them, such as ``2:0``."""
        self.cluster.wait(self.number)
        return self.shown("ExitCode")

    def shown(self, field: str) -> str:
        text = self.cluster.run("scontrol", "show", "job", self.number).stdout
        return next(w.split("=", 1)[1] for w in text.split() if w.startswith(f"{field}="))

    def wait_for(self, path: Path) -> None:
        deadline = time.monotonic() + 120
        while not path.exists():
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.1)


@dataclasses.dataclass(frozen=True)
class Case:
    """A job to be."""

    behaviour: str
    words: tuple[str, ...] = ONE
    settings: dict[str, str] = dataclasses.field(default_factory=dict)


# Rank 0 of the check names its own node, in the first start.
NAMES_A_NODE = """
    [ "$verb" = check-nodes ] && [ "$start" = 0 ] && [ "$SLURM_PROCID" = 0 ] || exit 0
    while [ "$1" != --bad-nodes ]; do shift; done
    echo "$SLURMD_NODENAME" >"$2"
    echo "$SLURMD_NODENAME is slow"
    exit 1
"""
# In the order of the tests: those that wait for a signal hold their node until it comes.
CASES = {
    # What the program does at the signal (save, exit 75) is the stand-in's; see test_slurm_pipeline.py.
    "signal": Case(
        "trap 'save 7; echo \"rank $SLURM_PROCID told\"; exit 75' USR1\n"
        f'if [ "$start" = 0 ]; then {WAITS}; fi',
        (*ONE, "--array=5", "--job-name=a name JobState=FAILED"),
    ),
    "cancelled": Case(f"trap 'save 3; exit 75' TERM; {WAITS}"),
    "stuck": Case(
        '[ "$start" = 0 ] && save 5; echo "Traceback: of start $start"; exit 1',
        settings={"MOST_STARTS": "2"},
    ),
    "restarts": Case('save "$((start + 1))"; kill -9 $$', settings={"DREAM_MAX_RESTARTS": "1"}),
    "port": Case(
        """
        echo "$MASTER_PORT" >>"$folder/$verb"
        case "$(cat "$folder/$verb" | wc -l)" in
            1) echo "server socket failed: EADDRINUSE"; exit 1 ;;
            2) [ "$verb" = check-nodes ] || { save 4; exit 75; } ;;
        esac
        """,
        settings={"DREAM_CHECK": "on"},
    ),
    "bad node": Case(NAMES_A_NODE, settings={"DREAM_CHECK": "on"}),
    "broken node": Case("exit 0", settings={"BREAKS": "1"}),
    "refused": Case(
        """
        [ "$SLURM_PROCID" = 1 ] || sleep 100
        echo "error: data.train[0].weight is -1"
        exit 2
        """,
        TWO,
    ),
    "needed node": Case(NAMES_A_NODE, TWO, {"DREAM_CHECK": "on"}),
    "found": Case(
        """
        {
            echo "nodes $SLURM_NODEID gpus ${CUDA_VISIBLE_DEVICES-all} cpus $SLURM_CPUS_PER_TASK"
            echo "threads $OMP_NUM_THREADS cache $TRITON_CACHE_DIR"
            echo "locked $(ulimit -l) of $(ulimit -H -l) files $(ulimit -n) of $(ulimit -H -n)"
            echo "master $MASTER_ADDR end $((SLURM_JOB_END_TIME - $(date +%s)))"
            echo "place ${RANK-none} ${WORLD_SIZE-none} ${SLURM_PTY_PORT-none}"
        } >"$folder/rank$SLURM_PROCID"
        """,
        ("--nodes=2", "--ntasks-per-node=2"),
        {"DREAM_LOCAL": "{folder}/disk", "RANK": "0", "WORLD_SIZE": "1", "SLURM_PTY_PORT": "9"},
    ),
}


@pytest.fixture(scope="module")
def jobs(cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job]:
    """All cases, submitted."""
    made = {}
    for name, case in CASES.items():
        folder = tmp_path_factory.mktemp(name.replace(" ", "_"))
        settings = {key: value.format(folder=folder) for key, value in case.settings.items()}
        made[name] = Job(cluster, folder, case.behaviour, *case.words, **settings)
    return made


def test_the_time_limit_is_told_to_the_ranks_and_the_job_goes_on(jobs: dict[str, Job]) -> None:
    """Told twice. The job is a task of an array, and its name looks like a field."""
    job = jobs["signal"]
    job.wait_for(job.folder / "ready")
    for _ in range(2):
        job.cluster.run("scancel", "--batch", "--signal=USR1", job.number)
    assert job.end() == "0:0", job.log()
    log = job.log()
    assert log.count("rank 0 told") == 1
    assert "exit code 75 at step 7, put back into the queue (restart 1 of 50)" in log
    assert "start 2, 1 ranks" in log and "from step 7" in log
    assert log.rstrip().endswith("pretrain: done")


def test_a_job_that_a_person_cancels_does_not_come_back(jobs: dict[str, Job]) -> None:
    """Its ranks save at the TERM that scancel sends, and end with 75 like those of a time limit."""
    job = jobs["cancelled"]
    job.wait_for(job.folder / "ready")
    job.cluster.run("scancel", job.number)
    job.end()
    assert job.shown("JobState") == "CANCELLED", job.log()
    assert "exit code 75, not put back into the queue: Slurm is ending" in job.log()
    assert "start 2" not in job.log()


def test_the_same_step_again_and_again_ends_it(jobs: dict[str, Job]) -> None:
    """The bound is the configuration's, here 2; the first start came to a checkpoint."""
    job = jobs["stuck"]
    assert job.end() == "1:0", job.log()
    log = job.log()
    assert [f"of start {n}" in log for n in range(4)] == [True] * 3 + [False]
    assert "2 starts in a row came no further than step 5" in log.splitlines()[-1]
    assert "left out from now on: n0" in log or "left out from now on: n1" in log


def test_the_number_of_restarts_is_bounded(jobs: dict[str, Job]) -> None:
    job = jobs["restarts"]
    assert job.end() == "137:0", job.log()
    assert "rank 0 on n0: Killed" in job.log() or "rank 0 on n1: Killed" in job.log()
    assert "restarted 1 times already" in job.log().splitlines()[-1]


def test_a_taken_port_is_passed_over_once(jobs: dict[str, Job]) -> None:
    """The second try is of the same start; it ends with 75, which is no clash although one is in its log."""
    job = jobs["port"]
    assert job.end() == "0:0", job.log()
    for verb in ("check-nodes", "pretrain"):
        first, second, third = map(int, (job.folder / verb).read_text().split())
        assert first == third == 10_000 + int(job.number) % 20_000 and second == first + 1
    assert "exit code 75 at step 4, put back" in job.log() and "start 3" not in job.log()


def test_a_node_that_the_check_names_is_left_out(jobs: dict[str, Job]) -> None:
    job = jobs["bad node"]
    assert job.end() == "0:0", job.log()
    excluded = job.shown("ExcNodeList")
    assert excluded in ("n0", "n1") and job.shown("NodeList") == {"n0": "n1", "n1": "n0"}[excluded]
    assert f"{excluded} is slow" in job.log()
    assert "nothing was built" in job.log()


def test_a_node_on_which_the_program_does_not_run_is_left_out(jobs: dict[str, Job]) -> None:
    job = jobs["broken node"]
    assert job.end() == "0:0", job.log()
    excluded = job.shown("ExcNodeList")
    assert f"the program ended with code 1 on {excluded}" in job.log()
    assert job.shown("NodeList") == {"n0": "n1", "n1": "n0"}[excluded]


def test_bad_input_is_not_tried_again(jobs: dict[str, Job]) -> None:
    """The rank that is right waits for the other and is ended by Slurm: its 143 does not hide the 2."""
    job = jobs["refused"]
    assert job.end() == "2:0", job.log()
    lines = job.log().splitlines()
    assert "exit code 2, not put back into the queue: bad input" in lines[-1]
    assert "rank 1 on n1: Exited with exit code 2" in lines[-2]
    assert lines[-3] == "rank 1| error: data.train[0].weight is -1"


def test_a_node_that_the_job_cannot_do_without_is_kept(jobs: dict[str, Job]) -> None:
    """The check names n0, but the job needs both nodes: with one left out it would wait for ever."""
    job = jobs["needed node"]
    assert job.end() == "0:0", job.log()
    assert "n0 should be left out, but of partition main 1 nodes would remain" in job.log()
    assert "left out from now on" not in job.log() and "start 2, 2 ranks" in job.log()


def test_what_a_rank_finds(jobs: dict[str, Job]) -> None:
    """All GPUs of the node, its cores, one rank after another on a node, caches on the node's disk."""
    job = jobs["found"]
    assert job.end() == "0:0", job.log()
    for rank in range(4):
        text = (job.folder / f"rank{rank}").read_text()
        # With --gpu-bind=none Slurm 22.05 leaves the variable unset: no GPU is hidden.
        assert f"nodes {rank // 2} gpus all cpus 1\n" in text
        disk = f"{job.folder}/disk/megatron-dream-{os.getuid()}"
        assert f"threads 1 cache {disk}/triton\n" in text
        locked, files = text.splitlines()[2].removeprefix("locked ").split(" files ")
        assert len(set(locked.split(" of "))) == 1 == len(set(files.split(" of "))), text
        assert "master 127.0.0.1 end 3" in text, "an hour is left, which ranks are told"
        assert "place none none none" in text, "the place of the shell that called sbatch"


def test_an_apptainer_image_by_one_variable(cluster: SlurmCluster, tmp_path: Path) -> None:
    """An ``apptainer`` of the test's own writes down how it was called and runs the rest."""
    image = tmp_path / "an image.sif"
    image.touch()
    tool = tmp_path / "bin" / "apptainer"
    tool.parent.mkdir()
    tool.write_text(
        f'#!/bin/bash\necho "$*" >>{tmp_path}/called\n[ "$1" = exec ] || exit 9\n'
        'while [ "${1%.sif}" = "$1" ]; do shift; done\nshift; exec "$@"\n'
    )
    tool.chmod(0o755)
    job = Job(
        cluster, tmp_path, 'echo inside >"$folder/inside"',
        DREAM_CONTAINER=str(image), PATH=f"{tool.parent}:{os.environ['PATH']}",
    )  # fmt: skip
    assert job.end() == "0:0", job.log()
    assert (tmp_path / "inside").exists()
    called = (tmp_path / "called").read_text()
    assert f"exec --nv --bind {ROOT}:{ROOT}," in called and str(image) in called
