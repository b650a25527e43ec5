"""``megatron-dream pretrain`` as a user types it: training, crash, resume, refusals."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from megatron_dream.checkpoint.metadata import (
    read_metadata,
    resolve_checkpoint,
    verify_files,
    write_metadata,
)
from megatron_dream.tokenizer import load_tokenizer
from megatron_dream.training.provenance import source_commit
from tests.system.checkpoints import assert_equal_checkpoints
from tests.warm import WarmProcess, WarmStarter

Command = Callable[..., Any]


def log_of(run: Path) -> list[dict[str, Any]]:
    """Finished lines of a run's log."""
    path = run / "log.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


@pytest.fixture
def start_run(warm: WarmStarter) -> Iterator[Callable[..., WarmProcess]]:
    """Begin ``pretrain``. What killed runs leave behind, their writers, ends with the test."""
    groups: list[int] = []

    def start(*words: str) -> WarmProcess:
        process = warm.start(
            "megatron_dream", "pretrain", *words, output=os.devnull, errors=os.devnull
        )
        groups.append(process.pid)
        return process

    yield start
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def kill_at(
    start_run: Command, run: Path, event: str, step: int, delay: float, *words: str
) -> None:
    """Start a run; SIGKILL it ``delay`` seconds after its log shows ``event`` of ``step`` or a later one."""
    process = start_run(*words)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if any(entry["event"] == event and entry["step"] >= step for entry in log_of(run)):
            break
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.002)
    time.sleep(delay)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def test_killed_and_resumed_run_is_bit_equal(
    config_file: Path, tmp_path: Path, run_command: Command, start_run: Command
) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    config = str(config_file)
    run_command("pretrain", "--config", config, "--checkpoint.run_folder", str(straight))
    words = ["--config", config, "--checkpoint.run_folder", str(killed)]
    kill_at(start_run, killed, "step", 13, 0, *words)
    assert resolve_checkpoint(killed).name == "step_00000010"
    run_command("pretrain", "--config", config, "--checkpoint.run_folder", str(killed))
    assert_equal_checkpoints(straight, killed)
    by_step = {e["step"]: e["loss"] for e in log_of(straight) if e["event"] == "step"}
    again = {e["step"]: e["loss"] for e in log_of(killed) if e["event"] == "step"}
    assert by_step == again and len(by_step) == 20


def test_two_processes_adapt_an_autoregressive_model(
    config_file: Path, tmp_path: Path, run_command: Command
) -> None:
    ar = str(tmp_path / "ar")
    words = ["pretrain", "--config", str(config_file), "--training.train_steps", "6"]
    words += ["--training.eval_interval", "6"]
    run_command(*words, "--diffusion.objective", "ar", "--checkpoint.run_folder", ar)
    run_command(
        *words, "--checkpoint.init_from", ar, "--parallel.tensor_model_parallel_size", "2",
        processes=2,
    )  # fmt: skip
    log = log_of(tmp_path / "run")
    assert [e["event"] for e in log if e["event"] != "step"][-1] == "end"
    validations = [e for e in log if e["event"] == "validation"]
    assert validations[-1]["rows"] == 64 and 0 < validations[-1]["masked_cross_entropy"] < 7
    status = run_command("status", str(tmp_path / "run")).stdout
    assert "step_00000006" in status


def test_resume_refuses_other_data_and_tokenizer(
    config_file: Path, tmp_path: Path, run_command: Command
) -> None:
    config = str(config_file)
    short = ["pretrain", "--config", config, "--training.train_steps"]
    run_command(*short, "2")
    refused = run_command(*short, "4", "--data.seed", "99", code=2).stderr
    assert "index_hash" in refused and refused.count("\n") == 1
    refused = run_command(*short, "4", "--diffusion.objective", "ar", code=2).stderr
    assert "objective is diffusion there and ar here" in refused
    refused = run_command(*short, "4", "--model.num_layers", "4", code=2).stderr
    assert "model.num_layers is 2 there and 4 here" in refused
    refused = run_command(*short, "4", "--diffusion.t_min", "0.01", code=2).stderr
    assert "diffusion.t_min is 0.001 there and 0.01 here" in refused


def test_a_trial_writes_nothing_into_the_run_folder(
    config_file: Path, tmp_path: Path, run_command: Command
) -> None:
    shown = run_command("pretrain", "--config", str(config_file), "--try-steps", "2").stderr
    assert "world size 1" in shown
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("batch", [2, 16])
def test_resume_with_another_global_batch(
    config_file: Path, tmp_path: Path, run_command: Command, batch: int
) -> None:
    words = ["pretrain", "--config", str(config_file), "--training.global_batch_size"]
    run_command(*words, "8", "--training.train_steps", "3")
    run_command(*words, str(batch), "--training.train_steps", "6")
    steps = [e for e in log_of(tmp_path / "run") if e["event"] == "step"]
    consumed = [8, 16, 24, 24 + batch, 24 + 2 * batch, 24 + 3 * batch]
    assert [e["consumed_samples"] for e in steps] == consumed


def test_skipped_samples_stay_out_of_a_resumed_run(
    config_file: Path, tmp_path: Path, run_command: Command
) -> None:
    """Ordinals 16 to 23 left out: step 3 sees what step 4 of a straight run sees."""
    words = ["pretrain", "--config", str(config_file), "--optimizer.lr", "1e-12"]
    words += ["--checkpoint.run_folder"]
    straight, skipping = tmp_path / "straight", tmp_path / "skipping"
    run_command(*words, str(straight), "--training.train_steps", "5")
    run_command(*words, str(skipping), "--training.train_steps", "2")
    saved = resolve_checkpoint(skipping)
    write_metadata(saved, dataclasses.replace(read_metadata(saved), skipped_ranges=[[16, 24]]))
    run_command(*words, str(skipping), "--training.train_steps", "4")
    expected = [e["masked_tokens"] for e in log_of(straight) if e["event"] == "step"]
    found = [e["masked_tokens"] for e in log_of(skipping) if e["event"] == "step"]
    assert found == expected[:2] + expected[3:] and expected[2] != expected[3]
    assert read_metadata(resolve_checkpoint(skipping)).skipped_ranges == [[16, 24]]


def test_exports_come_without_a_save_interval(
    config_file: Path, token_data: Path, tmp_path: Path, run_command: Command
) -> None:
    run_command(
        "pretrain", "--config", str(config_file), "--training.train_steps", "3",
        "--checkpoint.save_interval", "0", "--checkpoint.export_interval", "2",
        "--training.eval_interval", "2",
    )  # fmt: skip
    exports = tmp_path / "run" / "exports"
    assert [folder.name for folder in exports.iterdir()] == ["step_00000002"]
    folder = exports / "step_00000002"
    assert list(folder.glob("*.safetensors"))
    assert_card_is_of_the_run(folder, tmp_path / "run", token_data)
    assert_tokenizer_is_of_the_run(folder, token_data)


def test_a_failed_export_is_a_fault_and_not_the_end(
    config_file: Path, tmp_path: Path, run_command: Command
) -> None:
    """Something else lies where the export would go; the run says so, and ends well."""
    target = tmp_path / "run" / "exports" / "step_00000002"
    target.mkdir(parents=True)
    (target / "mine").write_text("not an export")
    run_command(
        "pretrain", "--config", str(config_file), "--training.train_steps", "5",
        "--checkpoint.save_interval", "1", "--checkpoint.export_interval", "2",
        "--checkpoint.keep_last", "1", "--checkpoint.keep_every", "3",
    )  # fmt: skip
    faults = [e["message"] for e in log_of(tmp_path / "run") if e["event"] == "fault"]
    assert any(
        "export of step_00000002 failed" in f and "is no earlier export" in f for f in faults
    )
    assert (target / "mine").read_text() == "not an export"
    assert "exists and is no earlier export" in target.with_name(f"{target.name}.log").read_text()
    assert (target.parent / "step_00000004" / "config.json").is_file()
    kept = {path.name for path in (tmp_path / "run" / "checkpoints").glob("step_*")}
    assert kept == {"step_00000003", "step_00000005"}


def test_saves_that_cannot_fit_are_refused_before_the_first_step(
    config_file: Path, tmp_path: Path, run_command: Command
) -> None:
    words = ["pretrain", "--config", str(config_file), "--checkpoint.host_memory_gb", "0.001"]
    refused = run_command(*words, code=2).stderr
    assert "checkpoint.optimizer_format fully_reshardable, which gathers" in refused
    assert "set it to dp_reshardable" in refused and not (tmp_path / "run" / "log.jsonl").exists()


def test_a_deterministic_run_resumes_bit_equal(
    config_file: Path, tmp_path: Path, run_command: Command
) -> None:
    words = ["pretrain", "--config", str(config_file), "--training.train_steps", "4"]
    words += ["--training.deterministic", "true", "--checkpoint.save_interval", "2"]
    words += ["--checkpoint.run_folder"]
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    run_command(*words, str(straight))
    shutil.copytree(straight, resumed)
    (resumed / "checkpoints" / "latest").write_text("step_00000002\n")
    shutil.rmtree(resumed / "checkpoints" / "step_00000004")
    run_command(*words, str(resumed))
    assert_equal_checkpoints(straight, resumed)
    refused = run_command(*words, str(resumed), "--model.hidden_dropout", "0.1", code=2).stderr
    assert "dropout's random state is not saved" in refused


def assert_card_is_of_the_run(folder: Path, run: Path, token_data: Path) -> None:
    """README.md has the numbers of log.jsonl and of the token files."""
    card = (folder / "README.md").read_text(encoding="utf-8")
    for event, name in (("step", "training"), ("validation", "validation")):
        entry = next(e for e in log_of(run) if e["event"] == event and e["step"] == 2)
        values = [entry[n] for n in ("loss", "masked_cross_entropy", "accuracy", "bound_per_token")]
        line = " | ".join(f"{value:.4f}" for value in values)
        assert f"| {name} | 2 | {line} |" in card
    sidecar = json.loads((token_data / "train.json").read_text())
    assert f"| train | 1.0 | {sidecar['documents']:,} | {sidecar['tokens']:,} | unknown |" in card
    assert "| optimizer.lr | 0.001 |" in card and "AutoModel.from_pretrained" in card
    assert (commit := source_commit()) is None or f"| commits | {commit[:40]}" in card
    assert str(run.parent) not in card and str(token_data) not in card


def assert_tokenizer_is_of_the_run(folder: Path, token_data: Path) -> None:
    """A fast tokenizer was made of the SentencePiece model: the same ids, by transformers alone."""
    from transformers import AutoTokenizer

    model = load_tokenizer(token_data / "t.model")
    fast = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    assert fast.is_fast
    names = "added_tokens merges special_tokens_map tokenizer tokenizer_config vocab".split()
    assert set(names) <= {path.stem for path in folder.iterdir()}
    texts = [
        "def f(x):\n\treturn 'na\u0308 \u6f22 \U0001f680'\r\n",
        "  a  \u2581 b ",
        "<|mask|>x\0",
        "",
    ]
    for text in texts:
        assert fast(text)["input_ids"] == model.encode(text, special="as_token")


def kill_during_saves(start_run: Command, config: Path, tmp_path: Path, kills: int) -> None:
    """Kill a run that saves at every step at random moments; what ``latest`` names must be whole."""
    run = tmp_path / "run"
    words = ["--config", str(config), "--checkpoint.save_interval", "1"]
    words += ["--training.train_steps", "4000"]
    moments = random.Random(0)
    last = 0
    for _ in range(kills):
        if moments.random() < 0.3:
            kill_at(start_run, run, "step", last + 1, 0, *words)
        else:
            kill_at(start_run, run, "checkpoint", last + 1, moments.uniform(0.0, 0.4), *words)
        if (run / "checkpoints" / "latest").exists():
            folder = resolve_checkpoint(run)
            metadata = read_metadata(folder)
            assert verify_files(folder, metadata) is None
            assert metadata.step >= last
            last = metadata.step
    assert last > 0


def test_kill_at_any_moment_of_a_save(
    config_file: Path, tmp_path: Path, start_run: Command
) -> None:
    kill_during_saves(start_run, config_file, tmp_path, kills=3)


@pytest.mark.acceptance
def test_kill_at_twenty_moments_of_a_save(
    config_file: Path, tmp_path: Path, start_run: Command
) -> None:
    kill_during_saves(start_run, config_file, tmp_path, kills=20)


def test_an_index_built_beforehand_is_the_one_that_the_run_uses(
    config_file: Path, tmp_path: Path, run_command: Command
) -> None:
    cache = tmp_path / "cache"
    words = ["--config", str(config_file), "--data.cache_folder", str(cache)]
    built = run_command("build-index", *words, "--token-budget", "1M")
    files = {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}
    assert files and built.stdout.splitlines()[-1].rpartition("index ")[2]
    refused = run_command("build-index", *words, "--token-budget", "many", code=2)
    assert "--token-budget must be" in refused.stderr
    run_command("pretrain", *words, "--training.train_steps", "1", "--try-steps", "1")
    after = {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}
    assert all(after[path] == stamp for path, stamp in files.items())


def test_a_later_stream_begins_at_its_first_sample(
    config_file: Path, tmp_path: Path, run_command: Command
) -> None:
    run = tmp_path / "run"
    words = ["--config", str(config_file), "--checkpoint.run_folder", str(run)]
    words += ["--checkpoint.save_interval", "2"]
    run_command("pretrain", *words, "--training.train_steps", "2")
    run_command("pretrain", *words, "--training.train_steps", "4", "--data.new_stream", "1")
    metadata = read_metadata(resolve_checkpoint(run / "checkpoints"))
    batch = metadata.consumed_samples // 2
    assert (metadata.step, metadata.new_stream) == (4, 1)
    assert metadata.consumed_samples == metadata.earlier_samples == 2 * batch > 0
    back = run_command("pretrain", *words, "--training.train_steps", "6", code=2)
    assert "new_stream is 1 there and 0 here" in back.stderr
