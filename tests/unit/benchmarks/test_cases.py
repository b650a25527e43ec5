"""What gpu-bench runs, by device; rows and page of its report."""

import pytest

from benchmarks.gpu_kit.bench_report import page
from benchmarks.gpu_kit.cases import TOKENS_PER_GPU, cpu_cases, fits, gpu_cases, gpu_of
from benchmarks.gpu_kit.rows import _parts, training_rows
from megatron_dream.planning.hardware import GIB


def facts(name="NVIDIA H100 80GB HBM3", gib=79.1, capability=(9, 0), engine=True):
    return {
        "type": "cuda",
        "name": name,
        "memory_bytes": int(gib * GIB),
        "capability": list(capability),
        "has_transformer_engine": engine,
    }


RECIPES = ("current", "delayed")


def test_eight_h100s_hold_the_whole_7b():
    plan = gpu_cases(facts(), 8, 30.0, RECIPES)
    names = [case.name for case in plan.cases]
    assert len(set(names)) == len(names)
    for size in ("7B", "1.5B", "0.5B"):
        for length in (2048, 4096):
            for kind in ("bf16", "fp8-current"):
                assert f"train-{size}-{length}-{kind}" in names
            assert f"plain-{size}-{length}-bf16" in names
    assert "train-7B-4096-fp8-delayed" in names and "train-7B-TP2-4096-bf16" in names
    assert names[0] == "rates" and not plan.notes


def test_one_gpu_has_as_many_layers_of_the_7b_as_fit_and_says_so():
    plan = gpu_cases(facts(), 1, 30.0, RECIPES)
    cut = [case for case in plan.cases if case.name.startswith("train-7B-")]
    assert cut and all("of28" in case.name for case in cut)
    assert any("of its 28 layers" in note for note in plan.notes)
    larger = gpu_cases(facts("NVIDIA H200", 139.8), 1, 30.0, RECIPES)
    layers = [
        next(c for c in p.cases if "7B" in c.name and c.name.startswith("train")).arguments[
            "fields"
        ]["model.num_layers"]
        for p in (plan, larger)
    ]
    assert 0 < layers[0] < layers[1] <= 28


def test_attempts_begin_where_the_plan_says_it_fits():
    plan = gpu_cases(facts(), 1, 30.0, RECIPES)
    gpu = gpu_of(facts())
    for case in plan.cases:
        if not case.name.startswith("train-"):
            continue
        sizes = [attempt["training.micro_batch_size"] for attempt in case.attempts]
        assert sizes == sorted(sizes, reverse=True) and sizes[-1] == 1
        assert case.attempts[-1]["training.recompute"] == "full"
        fields = case.arguments["fields"]
        rows = fields["training.global_batch_size"]
        assert rows * fields["data.sequence_length"] == TOKENS_PER_GPU * case.processes
        assert all(rows % (size * case.processes) == 0 for size in sizes)
        if len(sizes) > 2:
            assert fits({**fields, **case.attempts[0]}, case.processes, gpu)


def test_without_fp8_it_is_left_out_and_said():
    for other in (facts(capability=(8, 0)), facts(engine=False)):
        plan = gpu_cases(other, 1, 30.0, RECIPES)
        assert not any("fp8" in case.name for case in plan.cases)
        assert any("FP8 is left out" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("train-7B-20of28-2048-fp8-current", ("train", "7B-20of28", 2048, "fp8-current")),
        ("plain-0.5B-4096-bf16", ("plain", "0.5B", 4096, "bf16")),
        ("train-7B-TP2-4096-bf16", ("train", "7B-TP2", 4096, "bf16")),
        ("train-2M-64-fp32", ("train", "2M", 64, "fp32")),
    ],
)
def test_names_are_read_back(name, parts):
    assert _parts(name) == parts


def results(plan, seconds=2.0):
    """Results as a node would give them: plain twice as slow, one case out of memory."""
    found = []
    for case in plan.cases:
        if not case.name.startswith(("train-", "plain-")):
            continue
        tokens = case.arguments["fields"]["training.global_batch_size"]
        tokens *= case.arguments["fields"]["data.sequence_length"]
        one = {"name": case.name, "status": "ok", "processes": case.processes, "tried": []}
        one |= {
            "fields": case.arguments["fields"],
            "tokens_per_step": tokens,
            "masked_per_step": tokens / 2,
        }
        one |= {
            "step_seconds": seconds * (2 if case.name.startswith("plain") else 1),
            "first_loss": 11.9,
        }
        one |= {
            "first_masked": 7,
            "memory": {"allocated": 60 * GIB},
            "layer_spec": "transformer_engine",
        }
        found.append(one)
    found[-1] = {
        "name": found[-1]["name"],
        "processes": 1,
        "status": "out of memory",
        "detail": "80 GB",
    }
    return found


def test_rows_have_ratios_and_aims():
    plan = gpu_cases(facts(), 8, 30.0, RECIPES)
    gpu, rates = gpu_of(facts()), {"best": {"bf16": 790e12, "fp8": 1400e12}}
    rows = {row["name"]: row for row in training_rows(results(plan), rates, gpu)}
    ours = rows["train-7B-2048-bf16"]
    assert ours["tokens_per_second_per_gpu"] == pytest.approx(TOKENS_PER_GPU / 2)
    assert ours["times_plain"] == pytest.approx(2.0) and ours["same_masks"]
    assert ours["useful_tokens_per_second"] == pytest.approx(ours["tokens_per_second"] / 2)
    assert ours["mfu"]["megatron_lm"] > ours["mfu"]["ours"] > ours["mfu"]["ours"] / 2
    # 16,384 tokens a second are more than the aim of 10,300, and the share says the same.
    assert ours["aim_tokens"] == 10_300 and ours["aim_is_met"]
    assert ours["share_of_measured_rate"] / ours["aim_share"] == pytest.approx(
        16384 / 10300 * GPU_BEST / 790e12, rel=1e-6
    )
    fp8 = rows["train-7B-2048-fp8-current"]
    assert fp8["times_plain"] == pytest.approx(2.0) and not fp8["aim_is_met"]
    small = rows["train-0.5B-2048-bf16"]
    assert small["aim_share"] is None and small["aim_is_met"] is None


GPU_BEST = 989e12 * 0.803


def test_the_page_has_every_row_and_its_end():
    plan = gpu_cases(facts(), 8, 30.0, RECIPES)
    gpu, rates = gpu_of(facts()), {"status": "failed", "detail": "broken"}
    rows = training_rows(results(plan), rates, gpu)
    text = page(
        {
            "machine": {"date": "today"},
            "gpus": 8,
            "device": {"name": "H100"},
            "commit": "abc",
            "minutes": 3.0,
            "notes": ["a note"],
            "rates": rates,
            "rows": rows,
            "sampler": [{"name": "sampler-7B-rows1", "status": "timed out", "detail": "late"}],
        }
    )
    for row in rows:
        assert row["name"] in text
    assert "**out of memory** 80 GB" in text and "**timed out**" in text and "a note" in text
    assert "Not measured: broken" in text and "not comparable" in text
    widths = [
        line.count("|") for line in text.splitlines() if line.startswith(("| train", "| plain"))
    ]
    assert widths


def test_the_cpus_half_is_small_and_local():
    plan = cpu_cases(1.0)
    for case in plan.cases:
        assert case.processes == 1
        fields = case.arguments.get("fields", {})
        assert fields.get("model.layer_spec", "local") == "local"
    assert {c.name.split("-")[0] for c in plan.cases} == {"rates", "train", "plain", "sampler"}
