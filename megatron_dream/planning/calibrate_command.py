"""``megatron-dream plan --calibrate REPORT.json``: the planner's errors on a machine, before and after."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..config.load import to_yaml
from ..errors import ConfigError
from ..files import atomic_write
from .calibration import Calibration, RowErrors, calibrate
from .hardware import GIB, find_gpu


def run_calibration(
    report: Path, *, gpu: str | None = None, output: Path | None = None, as_json_text: bool = False
) -> int:
    """Fit the planner to a report of ``make gpu-bench``, tell the errors, write the device's file.

    Args:
        report: its JSON.
        gpu: name in the table, or a YAML file; None: the device that the report names.
        output: YAML file for ``plan --gpu``; None: nothing is written.
        as_json_text: print JSON instead of text.

    Returns:
        Exit code 0.

    Raises:
        UserError: the report cannot be used.
    """
    if output is not None and output.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"--output {output}: plan --gpu reads .yaml; give such a name.")
    found = calibrate(report, None if gpu is None else find_gpu(gpu))
    if output is not None:
        with atomic_write(output) as stream:
            stream.write(
                f"# {report.name}, by megatron-dream plan --calibrate\n{to_yaml(found.gpu)}"
            )
    if as_json_text:
        print(json.dumps(as_json(found), indent=1))
    else:
        print("\n".join(calibration_lines(found)))
        if output is not None:
            print(f"\nWritten: {output}; plan with --gpu {output}")
    return 0


def calibration_lines(found: Calibration) -> Iterator[str]:
    """The errors of each run and over all, as a table in Markdown; then what was fitted."""
    yield "Errors are predicted / measured - 1. Left out: by the fit to the other runs."
    yield ""
    yield (
        "| run | step s | before | after | left out | allocated GiB | before | after | left out |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in found.rows:
        yield (
            f"| {row.name} | {row.step_measured:.4f} | {row.step_before:+.1%} | {row.step_after:+.1%} | "
            f"{_share(row.step_left_out)} | {row.memory_measured / GIB:.3f} | {row.memory_before:+.1%} | "
            f"{row.memory_after:+.1%} | {_share(row.memory_left_out)} |"
        )
    yield ""
    for words, part in (("Step time", "step"), ("Memory", "memory")):
        told = ", ".join(
            _summary(found.rows, part, when) for when in ("before", "after", "left_out")
        )
        yield f"- {words}, median and largest error without sign: {told}."
    gpu, own = found.gpu, found.gpu.reached
    products = {"fp32": gpu.peak_fp32_tflops, "bf16": gpu.peak_bf16_tflops * gpu.matmul_share_bf16}
    products["fp8"] = gpu.peak_fp8_tflops * gpu.matmul_share_fp8
    told = ", ".join(f"{kind} {value:.3g}" for kind, value in products.items() if value)
    yield (
        f"- Now: a layer's product runs at {told} TFLOP/s and costs {own.fixed_seconds * 1e6:.0f} us beside; "
        f"attention {own.attention_forward:.0%} and {own.attention_backward:.0%} of the peak, elementwise "
        f"{own.memory:.0%} of the memory's bandwidth; {own.activations:.2f} times the counted activations "
        f"live, {own.workspace_gib:.2f} GiB are always held."
    )


def _summary(rows: tuple[RowErrors, ...], part: str, when: str) -> str:
    errors = [abs(e) for row in rows if (e := getattr(row, f"{part}_{when}")) is not None]
    if not errors:
        return f"{when.replace('_', ' ')} not told (too few runs)"
    return f"{when.replace('_', ' ')} {statistics.median(errors):.1%} and {max(errors):.1%}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1%}"


def as_json(found: Calibration) -> dict[str, Any]:
    """The same for a script."""
    return {
        "gpu": dataclasses.asdict(found.gpu),
        "rows": [dataclasses.asdict(row) for row in found.rows],
    }
