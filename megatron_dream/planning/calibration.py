"""The planner's shares on one machine, from what ``make gpu-bench`` measured there.

Rates of the device by itself (products, attention, memory) are taken as measured. Two numbers of a step and
two of memory are fitted, as in tests/acceptance/plan_published.py: what a layer's product reaches of the best
one and what each product costs beside; how much lives between the passes and what is always held. Errors are
told before and after, and, since a fit is no prediction, of each row by the fit to the others.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from ..config.load import from_fields
from ..errors import ConfigError, DataError
from .efficiency import DEFAULT, Efficiency
from .hardware import GIB, GPUS, Gpu
from .job import Job
from .memory import worst_stage
from .step_time import step_seconds

KIND, VERSION = "gpu-bench", 1
_SLOWEST, _LONGEST = 0.02, 0.02  # of the fit: least share of a product, most seconds beside it
_MOST_KEPT, _MOST_HELD = 8.0, 16.0  # times what is counted; GiB
_LEAVE_OUT = 4  # rows from which on each is predicted by the others


@dataclass(frozen=True)
class Measured:
    """One training run that was measured."""

    name: str
    job: Job
    step_seconds: float
    allocated: float  # bytes by tensors, on the worst rank

    def step(self, gpu: Gpu, reached: Efficiency) -> float:
        """Predicted seconds."""
        return step_seconds(self.job, gpu, reached).total

    def memory(self, reached: Efficiency) -> float:
        """Predicted bytes."""
        return worst_stage(self.job, reached)[1].allocated


@dataclass(frozen=True)
class RowErrors:
    """Prediction / measurement - 1 of one run; ``left_out``: fitted without it, None with few runs."""

    name: str
    step_measured: float
    step_before: float
    step_after: float
    step_left_out: float | None
    memory_measured: float
    memory_before: float
    memory_after: float
    memory_left_out: float | None


@dataclass(frozen=True)
class Calibration:
    """What was found: the device with its own shares, and errors before and after."""

    gpu: Gpu
    rows: tuple[RowErrors, ...]


def calibrate(report: Path, gpu: Gpu | None = None) -> Calibration:
    """Fit the planner to a report.

    Args:
        report: JSON of ``make gpu-bench``.
        gpu: the data sheet's numbers; None: the table's of the device that the report names.

    Raises:
        DataError: the file is no such report, or has no training run.
        ConfigError: the device is not in the table.
    """
    return calibrate_report(_read(report), str(report), gpu)


def calibrate_report(found: dict[str, Any], where: str, gpu: Gpu | None = None) -> Calibration:
    """``calibrate`` of a report that is read already."""
    runs = [_measured(row, where) for row in found["rows"] if _is_run(row)]
    if not runs:
        raise DataError(
            f"{where}: no training run of this project ended well; run make gpu-bench again."
        )
    sheet = gpu or _sheet(found, where)
    known = measured_shares(found.get("rates", {}), sheet)
    fitted = fit(runs, known)
    names = [run.name for run in runs]
    left_out: dict[str, Gpu] = {}
    if len(runs) >= _LEAVE_OUT:
        left_out = {name: fit([run for run in runs if run.name != name], known) for name in names}
    rows = tuple(_errors(run, sheet, fitted, left_out.get(run.name)) for run in runs)
    return Calibration(dataclasses.replace(fitted, name=f"{sheet.name}, calibrated"), rows)


def measured_shares(rates: dict[str, Any], gpu: Gpu) -> Gpu:
    """``gpu`` with the shares that the device reached by itself, as far as they were measured."""
    best = rates.get("best") or {}
    changes: dict[str, Any] = {}
    for kind, peak in (("bf16", gpu.peak_bf16_tflops), ("fp8", gpu.peak_fp8_tflops)):
        if best.get(kind) and peak:
            changes[f"matmul_share_{kind}"] = min(1.0, best[kind] / 1e12 / peak)
    if best.get("fp32"):
        changes["peak_fp32_tflops"] = best["fp32"] / 1e12
    reached: dict[str, float] = {}
    for way in ("forward", "backward"):
        found = [row[f"{way}_flops_per_second"] for row in rates.get("attention") or ()]
        if found:
            share = sum(found) / len(found) / (gpu.peak_bf16_tflops * 1e12)
            reached[f"attention_{way}"] = min(1.0, share)
    if rates.get("memory_bytes_per_second"):
        reached["memory"] = min(1.0, rates["memory_bytes_per_second"] / (gpu.memory_gb_s * 1e9))
    if rates.get("sum"):
        bandwidth = rates["sum"]["bus_bytes_per_second"] / (gpu.nvlink_gb_s * 1e9)
        reached["nvlink"] = min(1.0, bandwidth)
    changes["reached"] = dataclasses.replace(gpu.reached, **reached)
    return dataclasses.replace(gpu, **changes)


def fit(runs: Sequence[Measured], gpu: Gpu) -> Gpu:
    """``gpu`` with the two numbers of a step and the two of memory that suit these runs best."""
    start = gpu.reached

    def timed(values: Sequence[float]) -> Efficiency:
        return dataclasses.replace(start, matmul=values[0], fixed_seconds=values[1])

    def held(values: Sequence[float]) -> Efficiency:
        return dataclasses.replace(start, activations=values[0], workspace_gib=values[1])

    steps = _least(
        lambda values: [math.log(run.step(gpu, timed(values)) / run.step_seconds) for run in runs],
        [min(start.matmul, 0.9), start.fixed_seconds],
        ([_SLOWEST, 0.0], [1.0, _LONGEST]),
    )
    memory = _least(
        lambda values: [run.memory(held(values)) / run.allocated - 1 for run in runs],
        [start.activations, start.workspace_gib],
        ([0.0, 0.0], [_MOST_KEPT, _MOST_HELD]),
    )
    own = dataclasses.replace(timed(steps), activations=memory[0], workspace_gib=memory[1])
    return dataclasses.replace(gpu, reached=own)


def _least(
    residuals: Callable[[Sequence[float]], list[float]],
    start: list[float],
    bounds: tuple[list[float], list[float]],
) -> list[float]:
    """Values between bounds with the least sum of squares; where one run has two, the nearest to the start.

    A little weight on the start, a hundredth of an error of 100%, keeps what the runs do not tell apart
    where it was.
    """
    scale = np.array([1.0, max(start[1], 1e-6)])
    first = np.array(start) / scale

    def whole(values: np.ndarray) -> np.ndarray:
        kept = 0.01 * (values - first)
        return np.concatenate([residuals(list(values * scale)), kept])

    low, high = (np.array(bound) / scale for bound in bounds)
    inside = np.clip(first, low + 1e-9, high - 1e-9)
    found = least_squares(whole, inside, bounds=(low, high))
    return [float(value) for value in found.x * scale]


def _errors(run: Measured, sheet: Gpu, fitted: Gpu, left_out: Gpu | None) -> RowErrors:
    def step(gpu: Gpu) -> float:
        return run.step(gpu, gpu.reached) / run.step_seconds - 1

    def memory(gpu: Gpu) -> float:
        return run.memory(gpu.reached) / run.allocated - 1

    return RowErrors(
        name=run.name,
        step_measured=run.step_seconds,
        step_before=step(sheet),
        step_after=step(fitted),
        step_left_out=None if left_out is None else step(left_out),
        memory_measured=run.allocated,
        memory_before=memory(sheet),
        memory_after=memory(fitted),
        memory_left_out=None if left_out is None else memory(left_out),
    )


def _is_run(row: dict[str, Any]) -> bool:
    return row.get("side") == "ours" and row.get("status") == "ok"


def _measured(row: dict[str, Any], where: str) -> Measured:
    try:
        fields = {k: v for k, v in row["fields"].items() if not k.startswith("fp8.")}
        fields["model.layer_spec"] = row["layer_spec"]
        precision = "fp8" if row["precision"] == "fp8" else None
        job = Job.of(from_fields(fields), int(row["gpus"]), precision=precision)  # type: ignore[arg-type]
        return Measured(
            row["name"], job, float(row["step_seconds"]), float(row["memory"]["allocated"])
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{where}: the row {row.get('name')!r} lacks or misstates {error}; take a report of this version."
        ) from None


def _sheet(found: dict[str, Any], where: str) -> Gpu:
    """The table's numbers of the report's device; a CPU's are what was measured."""
    device, rates = found["device"], found.get("rates", {})
    if device["type"] == "cpu":
        return _cpu(device, rates, where)
    for key in sorted(GPUS, key=len, reverse=True):
        if all(word in device["name"] for word in key.removesuffix("-80").split("-")):
            return dataclasses.replace(GPUS[key], memory_gib=device["memory_bytes"] / GIB)
    raise ConfigError(
        f"{where} was measured on {device['name']}, which is not in the table ({', '.join(GPUS)}); give "
        "--gpu FILE.yaml with its numbers (docs/planning.md)."
    )


def _cpu(device: dict[str, Any], rates: dict[str, Any], where: str) -> Gpu:
    best = rates.get("best") or {}
    if not best.get("bf16") or not best.get("fp32") or not rates.get("memory_bytes_per_second"):
        raise DataError(f"{where}: the CPU's rates were not measured; run make gpu-bench again.")
    bandwidth = rates["memory_bytes_per_second"] / 1e9
    return Gpu(
        name="CPU",
        peak_bf16_tflops=best["bf16"] / 1e12,
        peak_fp32_tflops=best["fp32"] / 1e12,
        matmul_share_bf16=1.0,
        memory_gib=device["memory_bytes"] / GIB,
        memory_gb_s=bandwidth,
        nvlink_gb_s=bandwidth,
        network_gb_s=bandwidth,
        host_gb_s=bandwidth,
        gpus_per_node=1,
        reached=DEFAULT,
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such report; check the path.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}); give gpu_bench.json.") from None
    is_report = isinstance(found, dict) and found.get("kind") == KIND
    if not is_report or found.get("version") != VERSION:
        raise DataError(
            f"{path} is no report of make gpu-bench, version {VERSION}; give its gpu_bench.json."
        )
    if not {"rows", "device"} <= found.keys():
        raise DataError(f"{path}: rows or device is missing; run make gpu-bench again.")
    return found
