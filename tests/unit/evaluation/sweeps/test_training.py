"""Training sweeps: what is refused, what a cell runs, what a kill leaves, what is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from megatron_dream.config.load import load_config
from megatron_dream.errors import ConfigError, StoppedError, UserError
from megatron_dream.evaluation.sweeps.base import Row
from megatron_dream.evaluation.sweeps.command import run_sweep
from megatron_dream.evaluation.sweeps.store import Store
from megatron_dream.evaluation.sweeps.training import TrainingSweep
from megatron_dream.evaluation.sweeps.training_run import figures, run_stages, step_flops
from megatron_dream.evaluation.sweeps.training_summary import summary
from megatron_dream.evaluation.sweeps.training_text import paragraph
from megatron_dream.training.throughput import flops_per_token

STUB = [sys.executable, str(Path(__file__).with_name("training_stub.py"))]
CONFIG = """
model: {preset: tiny}
tokenizer: {path: tokenizer.model}
data: {train: [{prefix: train}], valid: [{prefix: valid}], sequence_length: 16}
training: {train_steps: 4, eval_interval: 2, precision: fp32}
"""


def given(folder: Path, **more: Any) -> dict[str, Any]:
    (folder / "run.yaml").write_text(CONFIG)
    fields: dict[str, Any] = {
        "stage": "sft",
        "config": str(folder / "run.yaml"),
        "arms": [
            {"label": "a", "set": {"diffusion.cart_p": 0.1}},
            {"label": "b", "set": {"diffusion.cart_p": 0.4}},
        ],
        "axes": [{"field": "optimizer.lr", "values": [1e-3, 2e-3]}],
        "seeds": [0, 1],
        "launch": STUB,
        "compare_to": "a",
    }
    return {name: value for name, value in (fields | more).items() if value is not None}


def sweep(folder: Path, **more: Any) -> TrainingSweep:
    return TrainingSweep.parse(given(folder, **more), folder / "sweep.yaml")


def test_cells_are_arms_by_axes_by_seeds(tmp_path: Path) -> None:
    cells = sweep(tmp_path).cells()
    assert len({cell.key for cell in cells}) == len(cells) == 8
    assert cells[0].columns == {"arm": "a", "lr": 1e-3, "seed": 0}
    assert cells[-1].fields["stages"][0]["set"] == {"diffusion.cart_p": 0.4, "optimizer.lr": 2e-3}
    before = {cell.key for cell in cells}
    same = sweep(tmp_path)
    Path(same.given.config).write_text(CONFIG.replace("train_steps: 4", "train_steps: 6"))
    assert before.isdisjoint(cell.key for cell in same.cells())


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"compare_to": "c"}, "nearest one is"),
        ({"arms": [{"label": "a", "compare_to": "c"}]}, "nearest one is"),
        ({"seeds": [1, 1]}, "seeds"),
        ({"seeds": [-1]}, "0 or more"),
        ({"arms": [{"label": "a"}, {"label": "a"}]}, "names of their own"),
        ({"axes": [{"field": "optimizer.lr", "values": []}]}, "no values"),
        ({"axes": [{"field": "optimizer.lr", "values": [[1]]}]}, "plain value"),
        ({"axes": [{"field": "optimizer.lr", "values": [1], "label": "seed"}]}, "label of its own"),
        ({"axes": [{"filed": "optimizer.lr"}]}, "field"),
        ({"set": {"data.seed": 3}}, "data.seed"),
        ({"config": None}, "config is missing"),
        ({"sedes": [1]}, "seeds"),
        ({"measure": "loss"}, "measure"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, more: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        sweep(tmp_path, **more)


LATER = [{"stage": "sft", "config": "run.yaml"}, {"stage": "sft", "config": "run.yaml"}]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"stage": "rl"}, "stage 'rl'"),
        ({"config": "gone.yaml"}, "no such configuration"),
        ({"set": {"optimizer.rl": 1}}, "optimizer.lr"),
        ({"set": {"training.eval_interval": 0}}, "nothing would be measured"),
        ({"axes": [{"field": "data.sequence_length", "values": [16, 24]}]}, "not of the same"),
        ({"axes": [{"field": "diffusion.t_min", "values": [0.1, 0.2]}]}, "diffusion.t_min"),
        (
            {
                "axes": [{"field": "training.global_batch_size", "values": [2, 4]}],
                "set": {"sft.truncation": "random"},
            },
            "training.global_batch_size is 4 in",
        ),
        (
            {
                "set": {"diffusion.objective": "ar"},
                "answers": {"benchmark": "humaneval", "style": "instruct", "data": "."},
            },
            "diffusion.objective ar",
        ),
        (
            {"arms": [{"label": "a", "stages": LATER}], "set": {"checkpoint.init_from": "x"}},
            "later",
        ),
        (
            {
                "arms": [{"label": "a", "set": {"diffusion.shift": False}}],
                "answers": {"benchmark": "humaneval", "style": "instruct", "data": "."},
            },
            "not sampled",
        ),
    ],
)
def test_what_a_stage_would_refuse_is_refused_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: Any, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        sweep(tmp_path, **more).cells()


def test_how_training_draws_may_be_compared(tmp_path: Path) -> None:
    """Held-out rows and masks do not depend on it (data/build.py)."""
    axes = [
        {"field": "diffusion.complementary", "values": [False, True]},
        {"field": "data.new_stream", "values": [0, 1]},
        {"field": "training.global_batch_size", "values": [2, 4]},
    ]
    whole = {"sft.truncation": "off", "sft.pad": "none"}
    assert len(sweep(tmp_path, axes=axes, set=whole).cells()) == 32
    grouped = {"sft.truncation": "random", "sft.truncation_group_size": 8}
    assert len(sweep(tmp_path, axes=axes[2:], set=grouped).cells()) == 8
    rows = {"field": "data.random_length", "values": [0.0, 0.5]}
    assert len(sweep(tmp_path, axes=[rows, axes[2]], stage="pretrain").cells()) == 16


def test_a_sweep_from_cells_to_words(tmp_path: Path) -> None:
    kind = sweep(tmp_path)
    store = Store(tmp_path / "out", kind, kind.cells())
    for cell in store.cells:
        store.measure(cell)
    rows = [row for cell in store.cells for row in store.read(cell).rows]  # type: ignore[union-attr]
    assert len(rows) == 16 and not list(tmp_path.rglob("checkpoints"))
    told = kind.summary(rows)
    last = [row for row in told if row["is_last"] == "yes"]
    assert [row["cross_entropy"] for row in last] == pytest.approx([0.355, 0.355, 0.655, 0.655])
    best = [row for row in last if row["is_best"] == "yes"]
    assert [row["final_cross_entropy_minus_baseline"] for row in best] == [None, pytest.approx(0.3)]
    words = kind.paragraph(told)
    assert "2 seeds" in words and "b (lr 0.001) at 0.655" in words
    assert "0.3 above (0.3 to 0.3)" in words and "equal total FLOPs" not in words
    assert "Whole training costs each arm" in words and "more" not in words


def test_the_table_holds_rows_that_are_plotted_and_the_csv_all(tmp_path: Path) -> None:
    common = {"title": "t", "question": "q", "kind": "training"}
    plot = {"x": "step", "y": "best_cross_entropy", "series": "arm"}
    (tmp_path / "s.yaml").write_text(json.dumps(given(tmp_path) | common | {"plot": plot}))
    assert run_sweep(tmp_path / "s.yaml", output=tmp_path / "out", quiet=True) == 0
    table = (tmp_path / "out" / "s.md").read_text()
    lines = [line for line in table.splitlines() if line.startswith(("| a ", "| b "))]
    assert len(lines) == 4 and not any(
        "| - |" in line for line in lines
    )  # two steps at the best rate
    assert len((tmp_path / "out" / "s_summary.csv").read_text().splitlines()) == 1 + 8


def two_stages(folder: Path) -> dict[str, Any]:
    config = given(folder)["config"]
    stages = [
        {"stage": name, "config": config, "set": {"diffusion.cart_p": 0.2}}
        for name in ("pretrain", "sft")
    ]
    return {"stages": stages, "seed": 1, "launch": STUB}


def test_a_failed_run_goes_on_and_a_finished_one_is_not_repeated(tmp_path: Path) -> None:
    fields = two_stages(tmp_path)
    whole = tmp_path / "whole"
    whole.mkdir()
    rows, last = run_stages(fields, whole)
    assert last == whole / "1-sft"
    calls = (whole / "calls.txt").read_text().splitlines()
    assert calls == ["pretrain -", f"sft {whole / '0-pretrain'}"]
    first = json.loads((whole / "0-pretrain.json").read_text())
    assert [row["flops_total"] for row in rows] == [1.5 * first["flops"], 2 * first["flops"]]

    broken = tmp_path / "broken"
    broken.mkdir()
    run_stages({**fields, "stages": fields["stages"][:1]}, broken)
    (broken / "fail").touch()
    with pytest.raises(UserError, match="exit code 3.*no room left"):
        run_stages(fields, broken)
    again, _ = run_stages(fields, broken)
    assert again == rows  # steps that were done twice count once
    assert [line.split()[0] for line in (broken / "calls.txt").read_text().splitlines()] == [
        "pretrain", "sft", "sft",
    ]  # fmt: skip


@pytest.mark.parametrize("code", [75, 1])
def test_a_run_that_asks_to_be_run_again(tmp_path: Path, code: int) -> None:
    """A job's time limit is nobody's fault; torchrun ends with 1 whatever its processes say."""
    tell = (
        f'mkdir -p {tmp_path}/0-pretrain; echo \'{{"exit_code": 75, "message": "SIGTERM came"}}\''
    )
    tell += f" > {tmp_path}/0-pretrain/end.json; exit {code}"
    with pytest.raises(StoppedError, match="SIGTERM came.*run the sweep again") as caught:
        run_stages(two_stages(tmp_path) | {"launch": ["sh", "-c", tell]}, tmp_path)
    assert caught.value.exit_code == 75
    broken = {"launch": ["sh", "-c", "exit 1"]}  # before it could say anything
    with pytest.raises(UserError, match="exit code 1") as other:
        run_stages(two_stages(tmp_path) | broken, tmp_path)
    assert other.value.exit_code == 2


def test_a_launcher_that_hides_how_a_run_ended(tmp_path: Path) -> None:
    """Half a run is no run, whatever the exit code says."""
    (tmp_path / "fail").touch()
    (tmp_path / "hush").touch()
    with pytest.raises(UserError, match="ends before step 4"):
        run_stages(two_stages(tmp_path), tmp_path)
    assert len(run_stages(two_stages(tmp_path), tmp_path)[0]) == 2


def test_a_run_without_a_launcher_is_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank of something else, or a port that two shards would share, is not handed on."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    tell = "import os, sys; print(sorted(set(os.environ) & {'RANK', 'WORLD_SIZE', 'MASTER_PORT'}))"
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} -c "{tell}; sys.exit(3)"\n')
    (tmp_path / "python").chmod(0o755)
    launched = two_stages(tmp_path) | {"launch": [str(tmp_path / "python")]}
    for folder, fields, words in (
        ("own", launched, "'MASTER_PORT'"),
        ("none", launched | {"launch": []}, r"\[\]"),
    ):
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        (tmp_path / folder).mkdir()
        with pytest.raises(UserError, match=f"last lines: .*{words}"):
            run_stages(fields, tmp_path / folder)


def test_a_killed_sweep_leaves_no_run_behind(tmp_path: Path) -> None:
    fields = two_stages(tmp_path)
    (tmp_path / "wait").touch()
    code = (
        "import json, sys; from pathlib import Path\n"
        "from megatron_dream.evaluation.sweeps.training_run import run_stages\n"
        "run_stages(json.loads(sys.argv[1]), Path(sys.argv[2]))\n"
    )
    command = [sys.executable, "-c", code, json.dumps(fields), str(tmp_path)]
    process = subprocess.Popen(command, env={**os.environ})
    await_file(tmp_path / "started", process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (tmp_path / "wait").unlink()
    rows, _ = run_stages(fields, tmp_path)  # waits for what is still saving
    assert (tmp_path / "ended").exists() and len(rows) == 2


def await_file(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def test_flops_are_those_of_the_steps_that_made_the_model(tmp_path: Path) -> None:
    run_stages({**two_stages(tmp_path), "stages": two_stages(tmp_path)["stages"][:1]}, tmp_path)
    run = tmp_path / "0-pretrain"
    found = figures(run)
    config = load_config(run / "config.yaml")
    record = {"positions": 30, "rows": 3, "masked_tokens": 12}
    a_step = step_flops(config, record)
    assert found["flops"] == 4 * a_step
    assert [point["flops_total"] for point in found["points"]] == [2 * a_step, 4 * a_step]
    # where the head runs on the expected share it is the run's own count
    expected = 30 * flops_per_token(config.model, config.diffusion, 10)
    share = (1 + config.diffusion.t_min) / 2
    assert step_flops(config, {**record, "masked_tokens": 30 * share}) == pytest.approx(expected)
    config.diffusion.objective = "ar"
    attention = 12.0 * config.model.num_layers * config.model.hidden_size * 10
    assert a_step - step_flops(config, record) == pytest.approx(30 * attention / 2)


BASE = dict.fromkeys(("base", "dear", "late", "other"), "base")


def made(arm: str, lr: float, seed: int, curve: list[tuple[float, float]]) -> list[Row]:
    return [
        {"arm": arm, "lr": lr, "seed": seed, "step": step, "flops_total": flops,
         "cross_entropy": value, "bound": 2 * value, "accuracy": 0.5}
        for step, (flops, value) in enumerate(curve, 1)
    ]  # fmt: skip


def test_arms_are_compared_at_their_best_and_at_equal_flops() -> None:
    rows: list[Row] = []
    for seed in range(5):
        noise = 0.5 * seed  # common to the arms: pairs do not see it
        rows += made("base", 1.0, seed, [(100.0, 3 + noise), (400.0, 1 + noise)])
        rows += made("base", 2.0, seed, [(100.0, 4 + noise), (400.0, 2 + noise)])
        own = 0.01 * (-1) ** seed
        rows += made("dear", 1.0, seed, [(400.0, 1.5 + noise), (1600.0, 0.5 + noise + own)])
        rows += made("late", 1.0, seed, [(500.0, 1 + noise), (600.0, 1 + noise + 10 * own)])
    told = summary(rows, ["lr"], BASE)
    best = {row["arm"]: row for row in told if row["is_best"] == row["is_last"] == "yes"}
    assert best["base"]["lr"] == 1.0 and best["base"]["cross_entropy"] == 2.0
    dear = best["dear"]
    assert dear["final_cross_entropy_minus_baseline"] == pytest.approx(-0.498)
    assert float(str(dear["final_cross_entropy_minus_baseline_high"])) < -0.45
    assert dear["flops_compared"] == 400.0
    assert dear["cross_entropy_at_equal_flops_minus_baseline"] == pytest.approx(0.5)
    assert best["late"]["cross_entropy_at_equal_flops"] is None
    words = paragraph(told, ["lr"], "base")
    assert "late (lr 1) at 2.02 (1.03 to 3.01), no difference shown" in words.replace(
        "2.02", "2.02"
    )
    assert "dear 2.5" in words and "late has no validation as early" in words
    assert "0.5 above (0.5 to 0.5)" in words


def test_between_validations_it_is_straight_over_the_logarithm() -> None:
    rows = made("base", 1.0, 0, [(100.0, 3.0), (400.0, 1.0)])
    rows += made("other", 1.0, 0, [(200.0, 4.0), (800.0, 2.0)])
    last = [row for row in summary(rows, ["lr"], BASE) if row["is_last"] == "yes"]
    assert last[1]["cross_entropy_at_equal_flops"] == pytest.approx(3.0)
    assert last[1]["cross_entropy_low"] is None  # one seed
    assert "without an interval" in paragraph(summary(rows, ["lr"], BASE), ["lr"], "base")


@pytest.mark.parametrize("rates", [(1.0, 2.0), (1.0, 2.0, 3.0)])
def test_a_best_value_at_the_edge_is_said(rates: tuple[float, ...]) -> None:
    rows = [row for lr in rates for seed in (0, 1)
            for row in made("base", lr, seed, [(1.0, lr + seed)])]  # fmt: skip
    assert "a better one may lie beyond" in paragraph(summary(rows, ["lr"], BASE), ["lr"], "base")


def test_costs_that_hardly_differ_are_told() -> None:
    rows = [row for seed in (0, 1) for arm, flops in (("base", 1000.0), ("other", 1006.0))
            for row in made(arm, 1.0, seed, [(flops, 1.0 + seed)])]  # fmt: skip
    words = paragraph(summary(rows, ["lr"], BASE), ["lr"], "base")
    assert "costs each arm 1,000 FLOPs, or at most 0.6% more." in words


def test_an_arm_may_have_a_baseline_of_its_own() -> None:
    rows = [row for seed in (0, 1, 2) for arm, value in (("base", 1.0), ("other", 2.0), ("late", 3.5))
            for row in made(arm, 1.0, seed, [(1.0, value + seed)])]  # fmt: skip
    told = summary(rows, ["lr"], BASE | {"late": "other"})
    words = paragraph(told, ["lr"], "base")
    assert "1 above (1 to 1); late" in words and "1.5 above (1.5 to 1.5), against other" in words
