"""Preprocessing over real MPI ranks and as tasks of a Slurm script: the same bytes for any number."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MPIRUN = shutil.which(
    "mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
)
needs_mpi = pytest.mark.skipif(
    MPIRUN is None and os.environ.get("CI") != "true",
    reason="no mpirun: pip install 'megatron-dream[mpi]'",
)
TOOL = [sys.executable, str(ROOT / "tools" / "preprocess_data.py")]


@pytest.fixture(scope="module")
def corpus(token_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records in some fourteen shards, a bad one among them."""
    path = tmp_path_factory.mktemp("mpi") / "c.jsonl"
    lines = (token_data / "train.jsonl").read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines[:30], "broken", *lines[30:]]) + "\n", encoding="utf-8")
    return path


def arguments(token_data: Path, corpus: Path, prefix: Path) -> list[str]:
    words = ["--input", str(corpus), "--output-prefix", str(prefix), "--append-eod"]
    words += ["--tokenizer-model", str(token_data / "t.model"), "--shard-mb", "0.1"]
    return [*words, "--max-rejects", "0.1"]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}


def outputs(prefix: Path) -> list[bytes]:
    whole = Path(f"{prefix}_text_document")
    return [Path(f"{whole}{end}").read_bytes() for end in (".bin", ".idx", ".rejects.jsonl")]


@pytest.fixture(scope="module")
def expected(
    token_data: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[bytes]:
    prefix = tmp_path_factory.mktemp("one") / "out"
    words = [*TOOL, *arguments(token_data, corpus, prefix)]
    subprocess.run(words, env=environment(), check=True, timeout=120)
    return outputs(prefix)


@needs_mpi
@pytest.mark.parametrize("ranks", [2, 4])
def test_bytes_do_not_depend_on_the_ranks(
    token_data: Path, corpus: Path, expected: list[bytes], tmp_path: Path, ranks: int
) -> None:
    assert MPIRUN is not None
    words = [
        MPIRUN,
        "-n",
        str(ranks),
        *TOOL,
        "--mpi",
        *arguments(token_data, corpus, tmp_path / "o"),
    ]
    done = subprocess.run(
        words, env=environment(), capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert outputs(tmp_path / "o") == expected
    counts = [line for line in done.stdout.splitlines() if line.startswith("rank ")]
    assert len(counts) == ranks
    shards = sum(int(line.split()[2]) for line in counts)
    assert shards == len(json.loads((tmp_path / "o_text_document.json").read_text())["ranges"])


@needs_mpi
def test_killed_ranks_go_on_with_another_number(
    token_data: Path, corpus: Path, expected: list[bytes], tmp_path: Path
) -> None:
    assert MPIRUN is not None
    own = arguments(token_data, corpus, tmp_path / "o")
    words = [MPIRUN, "-n", "2", *TOOL, "--mpi", *own]
    process = subprocess.Popen(
        words, env=environment(), start_new_session=True, stdout=subprocess.DEVNULL
    )
    parts = tmp_path / "o_text_document.parts"
    while len(list(parts.glob("0*.json"))) < 3:
        assert process.poll() is None
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run([*TOOL, *own], env=environment(), check=True, timeout=240)
    assert outputs(tmp_path / "o") == expected


@needs_mpi
def test_an_error_of_one_rank_ends_all(token_data: Path, corpus: Path, tmp_path: Path) -> None:
    assert MPIRUN is not None
    own = [*arguments(token_data, corpus, tmp_path / "o"), "--json-keys", "absent"]
    done = subprocess.run(
        [MPIRUN, "-n", "2", *TOOL, "--mpi", *own],
        env=environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "absent" in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.count("error: ") == 1


@needs_mpi
def test_singletons_of_a_wrong_launcher_are_refused(
    token_data: Path, corpus: Path, tmp_path: Path
) -> None:
    own = arguments(token_data, corpus, tmp_path / "o")
    done = subprocess.run(
        [*TOOL, "--mpi", *own], env={**environment(), "SLURM_STEP_NUM_TASKS": "4"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "SLURM_STEP_NUM_TASKS says that 4 processes were started" in done.stderr
    assert not list(tmp_path.iterdir())


@needs_mpi
@pytest.mark.parametrize("method", ["exact", "near"])
def test_duplicates_are_the_same_with_one_and_four_ranks(
    corpus: Path, tmp_path: Path, method: str
) -> None:
    lines = corpus.read_text(encoding="utf-8").splitlines()
    again = tmp_path / "again.jsonl"
    again.write_text("\n".join([*lines, *lines[10:40]]) + "\n", encoding="utf-8")
    lists = []
    for ranks in (1, 4):
        output = tmp_path / f"list_{ranks}"
        words = ["-m", "megatron_dream", "find-duplicates", "--input", str(again), "--mpi"]
        words += ["--output", str(output), "--method", method, "--shard-mb", "0.1"]
        command = [str(MPIRUN), "-n", str(ranks), sys.executable, *words]
        subprocess.run(command, env=environment(), check=True, timeout=300)
        lists.append((output / "ids.bin").read_bytes())
    assert lists[0] == lists[1] and len(lists[0]) >= 29 * 16
