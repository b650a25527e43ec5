"""What checks say of figures: each verdict can fail."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.gpu_kit import check
from benchmarks.gpu_kit.check_jobs import distance, outcomes_of
from benchmarks.gpu_kit.checks import (
    Check,
    layout_checks,
    layouts,
    noise,
    noise_checks,
    shape,
    windows,
)
from benchmarks.gpu_kit.runner import Case
from benchmarks.gpu_kit.trainee import config_of
from megatron_dream.config.layout import resolve_layout


def falling(shift=0.0, steps=200):
    return [5.0 * 0.99**step + shift for step in range(steps)]


def test_low_precision_within_the_noise_of_seeds():
    seeds = [falling(), falling(0.05), falling(-0.05)]
    inside = noise(falling(0.02), seeds[0], seeds)
    assert inside["passed"] and inside["figure"] == pytest.approx(0.2)
    assert inside["detail"]["bias"] == pytest.approx(0.02)
    outside = noise(falling(0.2), seeds[0], seeds)
    assert not outside["passed"] and outside["figure"] == pytest.approx(2.0)


def test_a_late_divergence_is_not_hidden_by_the_rest():
    seeds = [falling(), falling(0.05), falling(-0.05)]
    late = falling()[:180] + falling(0.5)[180:]
    assert not noise(late, seeds[0], seeds)["passed"]


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=100), st.integers(1, 30))
def test_windows_cover_what_is_whole(values, size):
    found = windows(values, size)
    assert len(found) == max(1, len(values) // size) and min(values) - 1e-9 <= min(found)
    assert max(found) <= max(values) + 1e-9


def run(losses, norms=(1.0, 1.0)):
    return {"status": "ok", "runs": {"0": {"losses": losses, "gradient_norms": list(norms)}}}


@pytest.mark.parametrize(
    ("found", "passes"),
    [
        (run([2.0, 1.0]), True),
        (run([2.0, 1.0 + 5e-5]), False),
        (run([2.0, 1.0], (1.0, 1.1)), False),
    ],
)
def test_a_layout_against_one_process(found, passes):
    (tp2,) = layout_checks(2, {}, "kind", 1e-5, ["TP2"])
    one, case = tp2.cases
    results = {
        one.name: {**run([2.0, 1.0]), "name": one.name},
        case.name: {**found, "name": case.name},
    }
    assert tp2.verdict(results)["passed"] is passes


def test_a_case_that_did_not_end_well_is_no_pass():
    case = Case("a", "x:y")
    row = Check("a", "why", (case,)).verdict({"a": {"status": "timed out", "detail": "late"}})
    assert row["status"] == "timed out" and not row.get("passed")
    assert check.verdict_of([row], 1) == (
        "0 passed, 1 failed or not ended, 0 skipped, of 1. Not right: a.",
        False,
    )


def test_nothing_but_skips_is_no_pass():
    rows = [{"name": "a", "status": "skipped"}]
    assert not check.verdict_of(rows, 1)[1]
    assert check.verdict_of([*rows, {"name": "b", "status": "ok", "passed": True}], 2)[1]


def test_gradients_that_differ_in_one_parameter_are_named():
    import torch

    expected = {"loss": 2.0, "gradients": {"a": torch.ones(100), "b": torch.ones(1)}}
    found = {"loss": 2.0, "gradients": {"a": torch.ones(100), "b": torch.zeros(1)}}
    apart = distance(found, expected)
    assert apart["worst"] == {"name": "b", "difference": 1.0}
    assert apart["gradients"] == pytest.approx((1 / 101) ** 0.5)
    with pytest.raises(ValueError, match="other parameters"):
        distance({"loss": 2.0, "gradients": {}}, expected)


def test_every_check_of_a_node_has_a_name_of_its_own_and_a_legal_layout():
    for count in (1, 2, 4, 8):
        checks = check.gpu_checks(count, 200)
        assert len({c.name for c in checks}) == len(checks)
        cases = {case.name: case for c in checks for case in c.cases}
        assert all(case == cases[case.name] for c in checks for case in c.cases)
        assert all("/" not in name and " " not in name for name in cases)
        for case in cases.values():
            if fields := case.arguments.get("fields"):
                resolve_layout(config_of(fields), case.processes)
    assert not layouts(1) and len(layouts(8)) > len(layouts(4)) > len(layouts(2)) > 0


def test_the_cpus_half_skips_what_needs_a_gpu_by_name():
    names = [c.name for c in check.cpu_checks(200)]
    assert any("Transformer Engine" in name for name in names)
    assert any("CUDA graphs" in name for name in names) and any("layout" in name for name in names)


def test_three_seeds_serve_all_low_precisions():
    made = noise_checks(shape(is_gpu=True, spec="local", precision="bf16"), "bf16",
                        {"a": {}, "b": {}}, 200, 60.0)  # fmt: skip
    assert made[0].cases[0] is made[1].cases[0] and made[0].cases[0].arguments["seeds"] == [0, 1, 2]


def test_pytests_report():
    xml = """<testsuites><testsuite><testcase classname="t" name="a"/><testcase classname="t" name="b">
    <failure message="no"/></testcase><testcase classname="t" name="c"><skipped message="needs two"/>
    </testcase>    </testsuite></testsuites>"""
    assert outcomes_of(xml) == {
        "t::a": ("passed", ""),
        "t::b": ("failure", "no"),
        "t::c": ("skipped", "needs two"),
    }
