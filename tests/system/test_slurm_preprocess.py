"""The sbatch scripts of preprocessing on a real Slurm controller with two nodes."""

from __future__ import annotations

import json
from pathlib import Path

from tests.system.slurm_cluster import SlurmCluster

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--cpus-per-task=1", "--mem=100M", "--time=5"]


def arguments(token_data: Path, prefix: Path) -> list[str]:
    words = ["--input", str(token_data / "train.jsonl"), "--output-prefix", str(prefix)]
    words += ["--tokenizer-model", str(token_data / "t.model"), "--append-eod"]
    return [*words, "--shard-mb", "0.1"]


def outputs(prefix: Path) -> list[bytes]:
    return [Path(f"{prefix}_text_document{end}").read_bytes() for end in (".bin", ".idx")]


def same_as_preprocess(token_data: Path, prefix: Path) -> None:
    """What ``token_data`` was made with, in one process."""
    expected = [(token_data / f"train{end}").read_bytes() for end in (".bin", ".idx")]
    assert outputs(prefix) == expected


def log_of(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.glob("*.log")))


def test_ranks_on_two_nodes(cluster: SlurmCluster, token_data: Path, tmp_path: Path) -> None:
    log = ["--output", str(tmp_path / "job.log")]
    job = cluster.submit(
        "--nodes=2", *SMALL, *log, "slurm/preprocess.sbatch", *arguments(token_data, tmp_path / "o"),
        cwd=ROOT,
    )  # fmt: skip
    cluster.wait(job)
    assert "rank 1: " in log_of(tmp_path), log_of(tmp_path)
    same_as_preprocess(token_data, tmp_path / "o")


def test_a_job_array_and_its_merge(cluster: SlurmCluster, token_data: Path, tmp_path: Path) -> None:
    script = ["slurm/preprocess_array.sbatch", *arguments(token_data, tmp_path / "o")]
    log = ["--output", str(tmp_path / "%A_%a.log")]
    array = cluster.submit("--array=0-2", *SMALL, *log, *script, cwd=ROOT)
    last = cluster.submit(f"--dependency=afterok:{array}", *SMALL, *log, *script, cwd=ROOT)
    cluster.wait(last)
    assert "run the command without --part" in log_of(tmp_path), log_of(tmp_path)
    same_as_preprocess(token_data, tmp_path / "o")
    sidecar = json.loads(Path(f"{tmp_path}/o_text_document.json").read_text())
    assert len(sidecar["ranges"]) > 3


def test_a_submission_without_arguments(cluster: SlurmCluster, tmp_path: Path) -> None:
    job = cluster.submit(
        "--nodes=1",
        *SMALL,
        "--output",
        str(tmp_path / "job.log"),
        "slurm/preprocess.sbatch",
        cwd=ROOT,
    )
    cluster.wait(job)
    assert "No arguments" in log_of(tmp_path)
