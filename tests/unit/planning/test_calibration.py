"""Calibration: from runs that a known device would have had, the device is found again."""

import dataclasses
import json

import pytest

from megatron_dream.cli import main
from megatron_dream.config.load import from_fields
from megatron_dream.errors import ConfigError, DataError
from megatron_dream.planning.calibration import Measured, calibrate, fit
from megatron_dream.planning.efficiency import DEFAULT
from megatron_dream.planning.hardware import GIB, GPUS, find_gpu
from megatron_dream.planning.job import Job
from megatron_dream.planning.memory import stage_memory

TRUE = dataclasses.replace(
    GPUS["H100"],
    matmul_share_bf16=0.6,
    reached=dataclasses.replace(
        DEFAULT, matmul=1.0, fixed_seconds=60e-6, memory=0.65, activations=1.2, workspace_gib=1.5
    ),
)


def fields_of(layers, length, micro, hidden=2048):
    return {
        "model.num_layers": layers,
        "model.hidden_size": hidden,
        "model.num_attention_heads": 16,
        "model.num_query_groups": 4,
        "model.ffn_hidden_size": 3 * hidden,
        "model.vocab_size": 32000,
        "data.sequence_length": length,
        "training.micro_batch_size": micro,
        "training.global_batch_size": 16,
        "training.train_steps": 10,
    }


SHAPES = [
    fields_of(8, 2048, 4),
    fields_of(8, 4096, 2),
    fields_of(24, 2048, 1),
    fields_of(24, 4096, 4),
    fields_of(4, 512, 1, hidden=512),
    fields_of(4, 512, 8, hidden=1024),
]


def row(number, fields, true=TRUE):
    """A report's row of a run that went exactly as the model says of ``true``."""
    job = Job.of(from_fields(fields), 1)
    run = Measured(f"train-{number}", job, 1.0, 1.0)
    return {
        "name": run.name,
        "side": "ours",
        "status": "ok",
        "fields": fields,
        "layer_spec": "transformer_engine",
        "precision": "bf16",
        "gpus": 1,
        "step_seconds": run.step(true, true.reached),
        "memory": {"allocated": run.memory(true.reached)},
    }


@pytest.fixture
def report(tmp_path):
    """A file with such rows, one of them out of memory."""

    def write(shapes=SHAPES, **changes):
        found = {
            "kind": "gpu-bench",
            "version": 1,
            "device": {"type": "cuda", "name": "NVIDIA H100 80GB HBM3", "memory_bytes": 79 * GIB},
            "rates": {},
            "rows": [row(number, fields) for number, fields in enumerate(shapes)]
            + [{"name": "train-x", "side": "ours", "status": "out of memory"}],
            **changes,
        }
        path = tmp_path / "gpu_bench.json"
        path.write_text(json.dumps(found))
        return path

    return write


def test_a_known_device_is_found_again(report):
    found = calibrate(report())
    assert len(found.rows) == len(SHAPES)
    for one in found.rows:
        assert abs(one.step_after) < 0.02 and abs(one.memory_after) < 0.02
        assert abs(one.step_left_out) < 0.05 and abs(one.memory_left_out) < 0.05
    assert max(abs(one.step_before) for one in found.rows) > 0.1
    assert found.gpu.matmul_flops("bf16") == pytest.approx(TRUE.matmul_flops("bf16"), rel=0.05)
    assert found.gpu.reached.workspace_gib == pytest.approx(1.5, rel=0.05)
    assert found.gpu.reached.activations == pytest.approx(1.2, rel=0.05)


def test_what_the_factors_of_memory_are_of():
    """Activations and head double with theirs, the states do not; what is held is beside."""
    job = Job.of(from_fields(SHAPES[0]), 1)
    plain = stage_memory(job, 0)
    reached = dataclasses.replace(DEFAULT, activations=2.0, workspace_gib=DEFAULT.workspace_gib + 1)
    other = stage_memory(job, 0, reached)
    for name in ("weights", "gradients", "optimizer"):
        assert getattr(other, name) == getattr(plain, name)
    assert other.activations == 2 * plain.activations > 0 and other.head == 2 * plain.head > 0
    moved = plain.buffers - DEFAULT.workspace_gib * GIB
    assert other.buffers == pytest.approx(2 * moved + (DEFAULT.workspace_gib + 1) * GIB)


def test_left_out_means_left_out(report):
    """A run that went otherwise than all others is missed without it, and fitted half-way with it."""
    path = report()
    found = json.loads(path.read_text())
    found["rows"][3]["step_seconds"] *= 2
    path.write_text(json.dumps(found))
    odd = calibrate(path).rows[3]
    assert odd.step_left_out == pytest.approx(-0.5, abs=0.03)
    assert abs(odd.step_after) < abs(odd.step_left_out)


def test_measured_rates_are_taken(report):
    rates = {
        "best": {"bf16": 500e12, "fp32": 50e12, "fp8": None},
        "attention": [{"forward_flops_per_second": 400e12, "backward_flops_per_second": 300e12}],
        "memory_bytes_per_second": 2.5e12,
    }
    found = calibrate(report(rates=rates)).gpu
    assert found.reached.attention_forward == pytest.approx(400 / 989)
    assert found.matmul_share_bf16 <= 500 / 989
    assert found.matmul_share_fp8 == pytest.approx(GPUS["H100"].matmul_share_fp8 * DEFAULT.matmul)
    assert found.memory_gib == pytest.approx(79)


def test_few_runs_move_little(report):
    """One run cannot tell the constants apart; nothing is said of it left out, and it is met."""
    (one,) = calibrate(report(SHAPES[:1])).rows
    assert one.step_left_out is None and one.memory_left_out is None
    assert abs(one.step_after) < abs(one.step_before)


def test_fp8_runs_leave_bf16s_products(report):
    runs = [
        Measured("a", Job.of(from_fields({**SHAPES[0], "fp8.recipe": "current"}), 1), 0.5, 20e9),
        Measured("b", Job.of(from_fields({**SHAPES[2], "fp8.recipe": "current"}), 1), 0.9, 60e9),
    ]
    assert {run.job.precision for run in runs} == {"fp8"}
    found = fit(runs, GPUS["H100"])
    kept = GPUS["H100"].matmul_share_bf16 * DEFAULT.matmul
    assert found.matmul_share_bf16 == pytest.approx(kept)
    assert found.matmul_share_fp8 < GPUS["H100"].matmul_share_fp8


def test_the_file_is_read_by_plan(report, tmp_path, capsys):
    output = tmp_path / "mine.yaml"
    assert main(["plan", "--calibrate", str(report()), "--output", str(output)]) == 0
    text = capsys.readouterr().out
    assert "| train-0 |" in text and "left out" in text and str(output) in text
    gpu = find_gpu(str(output))
    assert gpu == calibrate(report()).gpu
    config = tmp_path / "run.yaml"
    config.write_text("model: {preset: qwen2.5-coder-0.5b}\ntraining: {train_steps: 10}\n")
    words = ["plan", "--config", str(config), "--gpus", "1", "--json"]
    steps, sizes = [], []
    for name in ("H100", str(output)):
        main([*words, "--gpu", name])
        found = json.loads(capsys.readouterr().out)["plan"]
        steps.append(found["step"]["total"])
        sizes.append(found["memory"][0]["total"])
    assert abs(steps[1] / steps[0] - 1) > 0.1 and sizes[1] > sizes[0] + GIB


def test_json(report, capsys):
    assert main(["plan", "--calibrate", str(report()), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["rows"]) == len(SHAPES) and found["gpu"]["reached"]["matmul"] == 1.0


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"kind": "gpu-check"}, DataError, "no report of make gpu-bench"),
        ({"version": 0}, DataError, "version 1"),
        ({"rows": []}, DataError, "no training run"),
        ({"rows": [{"name": "a", "side": "ours", "status": "ok"}]}, DataError, "the row 'a' lacks"),
        ({"device": {"type": "cuda", "name": "RTX 9090", "memory_bytes": 1}}, ConfigError, "--gpu"),
        ({"device": {"type": "cpu", "name": "CPU", "memory_bytes": 1}}, DataError, "rates"),
    ],
)
def test_what_cannot_be_used_is_refused(report, changes, error, match):
    with pytest.raises(error, match=match):
        calibrate(report(**changes))


def test_unreadable_files(tmp_path):
    with pytest.raises(DataError, match="no such report"):
        calibrate(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as JSON"):
        calibrate(tmp_path / "bad.json")


@pytest.mark.parametrize(
    "more",
    [["--config", "c.yaml"], ["--gpus", "8"], ["--search"], ["--training.micro_batch_size", "2"]],
)
def test_calibrating_takes_no_run(report, capsys, more):
    assert main(["plan", "--calibrate", str(report()), *more]) == 2
    assert "takes --gpu, --output and --json alone" in capsys.readouterr().err


def test_planning_needs_its_three(capsys):
    assert main(["plan", "--gpus", "8"]) == 2
    assert "plan needs --config" in capsys.readouterr().err


def test_a_wrong_ending_is_refused_before_work(report, capsys, tmp_path):
    assert main(["plan", "--calibrate", str(report()), "--output", str(tmp_path / "a.json")]) == 2
    assert ".yaml" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["matmul: 1.5", "memory: 0", "fixed_seconds: -1"])
def test_impossible_shares_are_refused(tmp_path, line):
    path = tmp_path / "mine.yaml"
    sheet = "peak_bf16_tflops: 400\nmemory_gib: 96\nmemory_gb_s: 4000\nnvlink_gb_s: 300\nnetwork_gb_s: 40\n"
    path.write_text(sheet + f"reached: {{{line}}}\n")
    with pytest.raises(ConfigError, match=r"reached\."):
        find_gpu(str(path))
