"""``make gpu-check`` and ``make gpu-bench`` without a GPU: the kit's own half, cut short."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.system.conftest import Command
from tests.warm import WarmStarter


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kit")


def call(
    warm: WarmStarter, folder: Path, name: str, *words: str, code: int = 0
) -> tuple[Any, str, str]:
    """(JSON, page, what was printed) of ``python -m benchmarks.gpu_kit.NAME``."""
    output = folder / name
    done = warm.run(
        f"benchmarks.gpu_kit.{name}", "--output", str(output), "--folder", str(folder / f"{name}-cases"),
        *words,
    )  # fmt: skip
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return (
        json.loads(output.with_suffix(".json").read_text()),
        output.with_suffix(".md").read_text(),
        done.stdout,
    )


def test_gpu_check(warm: WarmStarter, folder: Path) -> None:
    """Two sides in one process, a low precision, what is skipped, and two processes that meet."""
    words = (
        "--here",
        "--steps",
        "12",
        "--only",
        "Engine",
        "recomputation",
        "bf16",
        "graphs",
        "DP2",
    )
    report, page, _ = call(warm, folder, "check", *words)
    rows = {row["name"]: row for row in report["checks"]}
    passed = {name for name, row in rows.items() if row.get("passed")}
    assert passed == {
        "recomputation against none, local fp32",
        "sampler: exact against full recomputation",
        "bf16 against fp32",
        "layout DP2, local fp32",
    }
    skipped = [row for row in rows.values() if row["status"] == "skipped"]
    assert len(skipped) == len(rows) - len(passed) == 2
    assert all(row["reason"].startswith("needs ") for row in skipped)
    # Another precision and another number of processes are other sums: not the same numbers to the bit.
    assert rows["bf16 against fp32"]["figure"] > 0
    assert rows["layout DP2, local fp32"]["figure"] < 1e-5
    assert "4 passed, 0 failed or not ended, 2 skipped" in page
    assert all(name in page for name in rows) and "megatron-core" in page


def test_gpu_bench_and_the_plan(warm: WarmStarter, folder: Path, run_command: Command) -> None:
    """Rates, both sides of training, the sampler; a second call runs nothing; the planner learns from it."""
    words = ("--here", "--seconds", "0.4", "--only", "rates", "2M-64", "sampler")
    report, page, _ = call(warm, folder, "bench", *words)
    rows = {row["name"]: row for row in report["rows"]}
    assert set(rows) == {"train-2M-64-fp32", "train-2M-64-bf16", "plain-2M-64-fp32"}
    ours, plain = rows["train-2M-64-fp32"], rows["plain-2M-64-fp32"]
    assert ours["same_masks"] and ours["tokens_per_step"] == plain["tokens_per_step"] == 512
    assert ours["first_loss"] == pytest.approx(plain["first_loss"], rel=0.05)
    assert ours["times_plain"] == pytest.approx(
        ours["tokens_per_second"] / plain["tokens_per_second"]
    )
    for row in rows.values():
        parts = row["breakdown"]
        assert sum(parts["seconds"].values()) == pytest.approx(parts["window_seconds"])
        for part in ("attention", "products", "head", "optimizer", "data"):
            assert parts["seconds"][part] > 0, (row["name"], part)
        assert row["memory"]["allocated"] > 0 and row["useful_tokens_per_second"] > 0
    assert {run["cache"] for run in report["sampler"][0]["runs"]} == {"none", "prefix", "dual"}
    assert "claim nothing about a GPU" in page
    assert "## The plan against these runs" in page and len(report["plan"]["rows"]) == 2

    again, _, printed = call(warm, folder, "bench", *words)
    assert printed.count("known from an earlier call") == 5
    assert again["rows"] == report["rows"]

    path = folder / "cpu.yaml"
    told = run_command(
        "plan", "--calibrate", str(folder / "bench.json"), "--output", str(path)
    ).stdout
    assert "train-2M-64-bf16" in told and path.is_file()
