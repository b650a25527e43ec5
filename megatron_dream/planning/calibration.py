"""The planner's shares on one machine, from what ``make gpu-bench`` measured there.

Rates of the device by itself (products, attention, sums between devices) are taken as measured; ``fit``
says what is fitted to the runs. Errors are told before and after, and, since a fit is no prediction, of each
run by the fit to the others.
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
# Bounds of the fit: shares of peaks; seconds beside a product; times what is counted; GiB.
_LEAST_SHARE = 0.01
_SHORTEST, _LONGEST = 1e-7, 0.02
_LEAST_KEPT, _MOST_KEPT = 0.05, 8.0
_LEAST_HELD, _MOST_HELD = 1e-3, 16.0
_KEPT = 0.02  # of the start: two hundredths of an error for a factor of e
_CACHES = 8.0  # times the bandwidth of a CPU's memory that its caches are taken to give at the most
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
    """``gpu`` with the numbers of a step and of memory that suit these runs best.

    Of a step: for each precision among the runs what a layer's product reaches of the best one, what each
    product costs beside, and the share of the memory's bandwidth. Of memory: how much of what is counted
    between the passes lives, and what is always held.
    """
    kinds = sorted({run.job.precision for run in runs})
    start = gpu.reached
    first = [start.matmul] * len(kinds) + [start.fixed_seconds, start.memory]

    def timed(values: Sequence[float]) -> Gpu:
        changed = with_products(gpu, dict(zip(kinds, values, strict=False)))
        reached = dataclasses.replace(
            changed.reached, fixed_seconds=values[-2], memory=min(1.0, values[-1])
        )
        return dataclasses.replace(changed, reached=reached)

    def steps(values: Sequence[float]) -> list[float]:
        now = timed(values)
        return [math.log(run.step(now, now.reached) / run.step_seconds) for run in runs]

    def held(values: Sequence[float]) -> Efficiency:
        return dataclasses.replace(start, activations=values[0], workspace_gib=values[1])

    low = [_LEAST_SHARE] * len(kinds) + [_SHORTEST, _LEAST_SHARE]
    high = [1.0] * len(kinds) + [_LONGEST, 1.0]
    found = timed(_least(steps, first, low, high))
    memory = _least(
        lambda values: [math.log(run.memory(held(values)) / run.allocated) for run in runs],
        [start.activations, start.workspace_gib],
        [_LEAST_KEPT, _LEAST_HELD],
        [_MOST_KEPT, _MOST_HELD],
    )
    own = dataclasses.replace(found.reached, activations=memory[0], workspace_gib=memory[1])
    return dataclasses.replace(found, reached=own)


def with_products(gpu: Gpu, reached: dict[str, float]) -> Gpu:
    """``gpu`` whose best product in each precision is what a layer's product reaches.

    ``Efficiency.matmul`` is one number for all precisions; so it goes into theirs, and is 1 afterwards.
    """
    share = {kind: reached.get(kind, gpu.reached.matmul) for kind in ("fp32", "bf16", "fp8")}
    return dataclasses.replace(
        gpu,
        matmul_share_bf16=gpu.matmul_share_bf16 * share["bf16"],
        matmul_share_fp8=gpu.matmul_share_fp8 * share["fp8"],
        peak_fp32_tflops=gpu.matmul_flops("fp32") / 1e12 * share["fp32"],
        reached=dataclasses.replace(gpu.reached, matmul=1.0),
    )


def _least(
    residuals: Callable[[Sequence[float]], list[float]],
    start: list[float],
    low: list[float],
    high: list[float],
) -> list[float]:
    """Positive values between bounds with the least sum of squares, found by their logarithms.

    A little weight on the start keeps what the runs do not tell apart where it was.
    """
    first = np.log(np.clip(start, low, high))

    def whole(logs: np.ndarray) -> np.ndarray:
        return np.concatenate([residuals([float(v) for v in np.exp(logs)]), _KEPT * (logs - first)])

    bounds = (np.log(low) - 1e-9, np.log(high) + 1e-9)
    found = least_squares(whole, first, bounds=bounds, x_scale=1.0)
    return [float(value) for value in np.clip(np.exp(found.x), low, high)]


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
        fields = {**row["fields"], "model.layer_spec": row["layer_spec"]}
        job = Job.of(from_fields(fields), int(row["gpus"]))
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
    # Small tensors stay in the caches: what memory gives to large ones is a share of what is possible.
    reached = dataclasses.replace(DEFAULT, memory=1 / _CACHES)
    return Gpu(
        name="CPU",
        peak_bf16_tflops=best["bf16"] / 1e12,
        peak_fp32_tflops=best["fp32"] / 1e12,
        matmul_share_bf16=1.0,
        memory_gib=device["memory_bytes"] / GIB,
        memory_gb_s=_CACHES * bandwidth,
        nvlink_gb_s=bandwidth,
        network_gb_s=bandwidth,
        host_gb_s=bandwidth,
        gpus_per_node=1,
        reached=reached,
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
