"""What single checks run: two sides in one process, a run of losses, a checkpoint, pytest."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from megatron_dream import device, parallel
from megatron_dream.training.features import why_no_fp8

from .runner import ROOT
from .skip import SkipCase
from .trainee import Trainee

# Transformer Engine fuses norms into the layer behind them; a parameter has one name here.
_FUSED = {
    "self_attention.linear_qkv.layer_norm_": "input_layernorm.",
    "mlp.linear_fc1.layer_norm_": "pre_mlp_layernorm.",
}


def need(fields: dict[str, Any]) -> None:
    """Skip what cannot run on this device.

    Raises:
        SkipCase: Transformer Engine, or a GPU that has the FP8 recipe, is absent.
    """
    recipe = fields.get("fp8.recipe", "none")
    if fields.get("model.layer_spec") == "transformer_engine" or recipe != "none":
        if not device.has_transformer_engine():
            raise SkipCase("needs Transformer Engine on a GPU: pip install 'megatron-dream[te]'")
    capability = device.compute_capability()
    if recipe != "none" and capability is not None:
        if reason := why_no_fp8(recipe, capability, device.cuda_version()):
            raise SkipCase(reason)


def gradients(fields: dict[str, Any], documents: int = 1) -> dict[str, Any]:
    """Loss and gradients, by global name, of one global batch of one process."""
    from megatron_dream.checkpoint.state import unwrap
    from megatron_dream.model.initialize import global_parameters

    trainee = Trainee(fields, documents=documents)
    loss = trainee.forward_backward().loss
    found = {}
    for chunk in trainee.model:
        for name, parameter in global_parameters(unwrap(chunk)):
            for fused, plain in _FUSED.items():
                name = name.replace(fused, plain)
            found[name] = parameter.main_grad.detach().float().cpu().clone()
    trainee.close()
    return {"loss": loss, "gradients": found}


def distance(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    """Relative differences: of the loss, of all gradients together, of the worst parameter's."""
    if found["gradients"].keys() != expected["gradients"].keys():
        other = sorted(found["gradients"].keys() ^ expected["gradients"].keys())
        raise ValueError(f"the two sides have other parameters: {other[:6]}")
    whole = sum(float(g.double().square().sum()) for g in expected["gradients"].values())
    apart, worst = 0.0, ("", 0.0)
    for name, gradient in expected["gradients"].items():
        square = float((found["gradients"][name] - gradient).double().square().sum())
        apart += square
        own = float(gradient.double().square().sum())
        worst = max(worst, (name, (square / own) ** 0.5 if own else 0.0), key=lambda pair: pair[1])
    return {
        "loss": abs(found["loss"] / expected["loss"] - 1),
        "gradients": (apart / whole) ** 0.5,
        "worst": {"name": worst[0], "difference": worst[1]},
    }


def two_sides(
    fields: dict[str, Any], other: dict[str, Any], *, bound: float, documents: int = 1
) -> dict[str, Any]:
    """Gradients of one side against another's: the relative difference of all together."""
    need({**fields, **other})
    expected = gradients(fields, documents)
    found = distance(gradients({**fields, **other}, documents), expected)
    figure = max(found["loss"], found["gradients"])
    return {"figure": figure, "bound": bound, "passed": figure <= bound, "detail": found}


def low_precision(
    fields: dict[str, Any], other: dict[str, Any], *, bound: float, documents: int = 1
) -> dict[str, Any]:
    """Rounding of ``other`` in bf16 against that of ``fields`` in bf16: both against fp32.

    How far bf16 is from fp32 depends on the model; that another implementation is no farther does not.
    """
    need({**fields, **other})
    low = {**fields, "training.precision": "bf16"}
    exact = gradients({**fields, "training.precision": "fp32"}, documents)
    known = distance(gradients(low, documents), exact)
    found = distance(gradients({**low, **other}, documents), exact)
    figure = found["gradients"] / known["gradients"]
    detail = {"of_the_reference": known, "of_the_other": found}
    return {"figure": figure, "bound": bound, "passed": figure <= bound, "detail": detail}


def losses(
    fields: dict[str, Any], *, steps: int, seeds: list[int] | None = None, documents: int = 1
) -> dict[str, Any]:
    """Losses and gradient norms of a run a seed; the seed is of weights, tokens and noise."""
    need(fields)
    runs = {}
    for seed in seeds or [0]:
        trainee = Trainee({**fields, "training.seed": 1234 + seed}, seed=seed, documents=documents)
        answers = [trainee.step() for _ in range(steps)]
        trainee.close()
        runs[str(seed)] = {
            "losses": [report.loss for report, _ in answers],
            "gradient_norms": [norm for _, norm in answers],
        }
    return {"runs": runs}


def round_trip(fields: dict[str, Any], *, before: int, after: int, bound: float) -> dict[str, Any]:
    """Losses after a save against those of a new model that loads it."""
    need(fields)
    from megatron_dream.checkpoint.load import load_training_state
    from megatron_dream.checkpoint.save import CheckpointWriter, step_folder

    with tempfile.TemporaryDirectory() as folder:
        first = Trainee(fields)
        for _ in range(before):
            first.step()
        writer = CheckpointWriter(folder, first.ranks)
        writer.save(
            step_folder(before),
            first.model,
            _metadata(first, before),
            optimizer=first.optimizer,
            scheduler=first.scheduler,
        )
        expected = [first.step()[0].loss for _ in range(after)]
        first.close()
        second = Trainee(fields)
        load_training_state(folder, second.model, second.optimizer, second.scheduler, second.ranks)
        second.open(before)
        found = [second.step()[0].loss for _ in range(after)]
        second.close()
    figure = max(abs(a / b - 1) for a, b in zip(found, expected, strict=True))
    detail = {"went_on": expected, "came_back": found}
    return {"figure": figure, "bound": bound, "passed": figure <= bound, "detail": detail}


def _metadata(trainee: Trainee, step: int) -> Any:
    from megatron_dream.checkpoint.metadata import CheckpointMetadata

    layout = trainee.layout
    return CheckpointMetadata(
        model=dataclasses.asdict(trainee.config.model),
        step=step,
        consumed_samples=step * layout.global_batch_size,
        has_optimizer=True,
        optimizer_format="fully_reshardable",
        layout={name: getattr(layout, name) for name in ("tp", "pp", "vp", "cp", "dp")},
        trained={"recipe": dataclasses.asdict(trainee.config)},
    )


def pytest_gpu() -> dict[str, Any]:
    """The tests of tests/gpu, each by its outcome."""
    parallel.stop()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        words = [
            sys.executable,
            "-m",
            "pytest",
            "tests/gpu",
            "-m",
            "gpu",
            "-q",
            "-p",
            "no:cacheprovider",
        ]
        done = subprocess.run(
            [*words, f"--junitxml={report}"], cwd=ROOT, capture_output=True, text=True
        )
        if not report.exists():
            raise RuntimeError(
                f"pytest wrote no report:\n{done.stdout[-1500:]}{done.stderr[-500:]}"
            )
        outcomes = outcomes_of(report.read_text(encoding="utf-8"))
    failed = sum(outcome not in ("passed", "skipped") for outcome, _ in outcomes.values())
    ran = sum(outcome != "skipped" for outcome, _ in outcomes.values())
    if not ran:
        reasons = sorted({why for _, why in outcomes.values()})
        raise SkipCase(f"needs a GPU: {len(outcomes)} tests skipped ({'; '.join(reasons)[:200]})")
    return {"figure": failed, "bound": 0, "passed": failed == 0, "detail": outcomes}


def outcomes_of(xml: str) -> dict[str, tuple[str, str]]:
    """(outcome, why) of each test in pytest's JUnit report."""
    found = {}
    for case in ElementTree.fromstring(xml).iter("testcase"):
        outcome, why = "passed", ""
        for kind in ("failure", "error", "skipped"):
            node = case.find(kind)
            if node is not None:
                outcome, why = kind, (node.get("message") or "")[:300]
                break
        found[f"{case.get('classname')}::{case.get('name')}"] = (outcome, why)
    return found
