"""Every sbatch script with the real programs, in a pipeline on two nodes; then a rank is killed.

One tiny run of each stage: they cost a start of the interpreter each, and little more.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.system.checkpoints import assert_equal_checkpoints
from tests.system.slurm_cluster import SlurmCluster
from tests.webhook import SECRET

ROOT = Path(__file__).resolve().parents[2]
PIPELINE = ROOT / "slurm" / "pipeline.sh"
STEPS = 20
SMALL = "--cpus-per-task=1 --mem=100M --time=60"
TRAIN = (
    "--cpus-per-task=1 --time=60 --signal=B:USR1@60 --ntasks-per-node=1 --output={folder}/%x.log"
)
STAGES = """
state="{folder}/state"
one=({small} --output={folder}/%x.log)
parts=({small} --array=0-1 --output={folder}/%x-%a.log)
train=({train})
stage tokenizer tokenizer.sbatch "${{one[@]}}" -- \\
    --input {folder}/train.jsonl --vocab-size 600 --output {folder}/t.model
stage train_data preprocess_array.sbatch "${{parts[@]}}" -- \\
    --input {folder}/train.jsonl --output-prefix {folder}/train --append-eod \\
    --tokenizer-model {folder}/t.model
stage valid_data preprocess.sbatch after=tokenizer --nodes=2 "${{one[@]}}" -- \\
    --input {folder}/valid.jsonl --output-prefix {folder}/valid --append-eod \\
    --tokenizer-model {folder}/t.model
stage index build_index.sbatch after=train_data,valid_data "${{one[@]}}" -- --config {folder}/pretrain.yaml
stage pretrain pretrain.sbatch --nodes=2 "${{train[@]}}" -- --config {folder}/pretrain.yaml
stage answers command.sbatch after=tokenizer "${{one[@]}}" -- prepare-sft --input {folder}/answers.jsonl \\
    --output-prefix {folder}/answers --tokenizer {folder}/t.model --template none \\
    --skip-rule exact_duplicate repetition
stage sft sft.sbatch after=answers,pretrain --nodes=1 "${{train[@]}}" -- --config {folder}/sft.yaml
stage rl rl.sbatch --nodes=1 "${{train[@]}}" -- --config {folder}/rl.yaml
stage export export.sbatch "${{one[@]}}" -- {folder}/rl {folder}/exported --tokenizer {folder}/t.model
stage evaluate evaluate.sbatch "${{one[@]}}" --gpus-per-node=1 --ntasks-per-node=1 -- \\
    {folder}/exported --suite humaneval --style base --data {folder} --output {folder}/evaluated \\
    --max-new-tokens 8 --steps 2
"""


def write_configs(folder: Path) -> None:
    """One model, three stages; everything else is the smallest that the stage takes."""
    base: dict[str, Any] = {
        "model": {
            "num_layers": 2,
            "hidden_size": 64,
            "num_attention_heads": 4,
            "num_query_groups": 2,
            "ffn_hidden_size": 128,
            "tie_word_embeddings": True,
        },
        "tokenizer": {"path": str(folder / "t.model")},
        "logging": {"plain_interval_seconds": 1.0},
    }
    tiny = {"micro_batch_size": 2, "precision": "fp32"}
    rows = {"num_workers": 0, "cache_folder": str(folder / "cache"), "sequence_length": 64}

    def write(name: str, **sections: Any) -> None:
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(base | sections))

    write(
        "pretrain",
        data=rows
        | {
            "train": [{"prefix": f"{folder}/train_text_document"}],
            "valid": [{"prefix": f"{folder}/valid_text_document"}],
        },
        training=tiny | {"train_steps": STEPS, "global_batch_size": 4, "eval_samples": 64},
        checkpoint={"run_folder": str(folder / "pretrain"), "save_interval": 4},
    )
    write(
        "sft",
        data=rows | {"train": [{"prefix": str(folder / "answers")}]},
        training=tiny | {"train_steps": 2, "global_batch_size": 2},
        checkpoint={"run_folder": str(folder / "sft"), "init_from": str(folder / "pretrain")},
    )
    write(
        "rl",
        rl={
            "problems": [str(folder / "rl.jsonl")],
            "template": "none",
            "prompts_per_step": 2,
            "group_size": 2,
            "max_prompt_length": 12,
            "response_length": 8,
            "block_length": 0,
            "cache": "none",
        },
        training=tiny | {"train_steps": 1},
        checkpoint={"run_folder": str(folder / "rl"), "init_from": str(folder / "sft")},
    )


def write_data(folder: Path) -> None:
    sources = sorted(Path(os.__file__).parent.glob("*.py"))[:30]
    texts = [{"text": file.read_text(encoding="utf-8", errors="replace")} for file in sources]
    answers = [{"prompt": f"add {n % 6}", "response": f"return {n}"} for n in range(24)]
    problem = {"task_id": "1", "prompt": "def f(x):\n", "entry_point": "f", "test": "assert f(1)"}
    files = {
        "train.jsonl": texts[:25],
        "valid.jsonl": texts[25:],
        "answers.jsonl": answers,
        "HumanEval.jsonl": [problem],
        "rl.jsonl": [
            {"id": str(n), "kind": "function", "prompt": f"add {n}", "problem": problem}
            for n in range(4)
        ],
    }
    for name, records in files.items():
        (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))


def run_pipeline(
    cluster: SlurmCluster, folder: Path, *words: str, **settings: str
) -> subprocess.CompletedProcess[str]:
    environment = cluster.environment | {"DREAM_VERIFY": "off", "DREAM_CHECK": "off"} | settings
    environment["DREAM_PIPELINE_STATE"] = str(folder / "state")
    return subprocess.run(
        [str(PIPELINE), str(folder / "stages.sh"), *words],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def logs_of(folder: Path) -> str:
    return "\n".join(f"== {p.name}\n{p.read_text()}" for p in sorted(folder.glob("*.log")))


def jobs_of(folder: Path) -> dict[str, str]:
    """Job number of each stage, as the pipeline keeps them."""
    files = sorted((folder / "state").glob("*.job"))
    return {file.stem: file.read_text().split()[0] for file in files}


@pytest.fixture(scope="module")
def piped(cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pipeline that has run to its end, and what it printed in ``shown``."""
    folder = tmp_path_factory.mktemp("pipe")
    write_configs(folder)
    write_data(folder)
    train = TRAIN.format(folder=folder)
    (folder / "stages.sh").write_text(STAGES.format(folder=folder, small=SMALL, train=train))
    done = run_pipeline(cluster, folder)
    assert done.returncode == 0, done.stderr
    (folder / "shown").write_text(done.stdout)
    for job in jobs_of(folder).values():
        cluster.wait(job, seconds=500)
    return folder


def test_every_stage_ends_well_and_after_those_it_needs(piped: Path, cluster: SlurmCluster) -> None:
    assert (piped / "evaluated" / "humaneval" / "verdicts.jsonl").is_file(), logs_of(piped)
    times: dict[str, dict[str, str]] = {}
    for name, number in jobs_of(piped).items():
        words = cluster.run("scontrol", "show", "job", number).stdout.split()
        times[name] = dict(word.split("=", 1) for word in words if "=" in word)
        assert times[name]["JobState"] == "COMPLETED", f"{name}\n{logs_of(piped)}"
    needs = [
        ("tokenizer", "train_data"), ("train_data", "index"), ("valid_data", "index"),
        ("index", "pretrain"), ("pretrain", "sft"), ("answers", "sft"), ("sft", "rl"),
        ("rl", "export"), ("export", "evaluate"),
    ]  # fmt: skip
    for first, then in needs:
        assert times[first]["EndTime"] <= times[then]["StartTime"], (first, then)


def test_the_graph_names_every_job(piped: Path) -> None:
    shown = (piped / "shown").read_text()
    for name, number in jobs_of(piped).items():
        assert f"{name} " in shown and f"job {number}" in shown
    assert ", after the array " in shown and ", also after " in shown


def test_what_is_complete_is_not_submitted_again(piped: Path, cluster: SlurmCluster) -> None:
    again = run_pipeline(cluster, piped)
    assert again.stdout.count("complete") == len(jobs_of(piped)), again.stdout
    config = piped / "sft.yaml"
    before = config.read_text()
    config.write_text(before.replace("train_steps: 2", "train_steps: 3"))
    planned = run_pipeline(cluster, piped, "--dry-run").stdout
    config.write_text(before)
    lines = [line for line in planned.splitlines() if " = sbatch " in line]
    assert [line.split()[0] for line in lines] == ["$sft", "$rl", "$export", "$evaluate"]
    assert "afterok:" not in lines[0] and "afterok:\\$sft" in lines[1]


def test_parts_of_a_pipeline(piped: Path, cluster: SlurmCluster) -> None:
    words = ["--dry-run", "--again", "--from", "valid_data", "--to", "pretrain"]
    planned = run_pipeline(cluster, piped, *words).stdout.splitlines()
    names = [line.split()[0] for line in planned if " = sbatch " in line]
    assert names == ["$valid_data", "$index", "$pretrain"]


def ranks_of(job: str) -> dict[int, int]:
    """Process of each rank of a job that trains, by what srun told it."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            text = (folder / "environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        values = dict(word.split("=", 1) for word in text.split("\0") if "=" in word)
        if values.get("SLURM_JOB_ID") == job and b"pretrain" in words and b"-m" in words:
            if values.get("DREAM_LOGS") and values.get("SLURM_PROCID", "").isdecimal():
                found[int(values["SLURM_PROCID"])] = int(folder.name)
    return found


def wait_for_step(run: Path, step: int, log: Path) -> None:
    """Until the run's last checkpoint is of ``step`` or later."""
    latest = run / "checkpoints" / "latest"
    deadline = time.monotonic() + 200
    while not latest.exists() or int(latest.read_text().rpartition("_")[2]) < step:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def test_a_killed_rank_then_a_signal_and_the_job_goes_on_by_itself(
    piped: Path, cluster: SlurmCluster, tmp_path: Path
) -> None:
    """Its parameters are those of the pipeline's run, which nobody disturbed.

    Its data are copies on the nodes' disk, which the undisturbed run did not have: indices and identity
    are those of the sources. The nodes are checked before, with the real check. No secret of the
    environment is in any file.
    """
    run, log = tmp_path / "run", tmp_path / "job.log"
    settings = {"DREAM_CHECK": "on", "DREAM_CHECK_SLOW": "1000", "DREAM_STAGE": f"{tmp_path}/disk"}
    settings |= {"WANDB_API_KEY": SECRET, "HF_TOKEN": SECRET}
    job = cluster.submit(
        "--export=ALL," + ",".join(f"{k}={v}" for k, v in settings.items()), "--nodes=2",
        *TRAIN.format(folder=tmp_path).split(), f"--output={log}", "slurm/pretrain.sbatch",
        "--config", f"{piped}/pretrain.yaml", "--checkpoint.run_folder", str(run), cwd=ROOT,
    )  # fmt: skip
    wait_for_step(run, 4, log)
    os.kill(ranks_of(job)[1], signal.SIGKILL)
    wait_for_step(run, 12, log)
    cluster.run("scancel", "--batch", "--signal=USR1", job)
    cluster.wait(job, seconds=300)
    text = log.read_text()
    assert "rank 1 on n1: Killed" in text, text
    assert "exit code 137 at step 4, put back into the queue (restart 1 of 50)" in text
    assert "exit code 75 at step 1" in text and "start 3, 2 ranks" in text
    assert "after the signal" not in text, "the ranks did not end by themselves with code 75"
    assert text.rstrip().endswith("pretrain: done")
    assert "check of 2 nodes, 2 ranks" in text and "sum of a pair" in text
    assert "6 of 6 files copied" in text and "0 of 6 files copied" in text
    assert (run / "config.yaml").read_text().count(f"prefix: {tmp_path}/disk/") == 2
    assert_equal_checkpoints(piped / "pretrain", run)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]
