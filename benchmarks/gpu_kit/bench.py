"""``make gpu-bench``: speed, memory and where the time goes, unattended on the GPUs that there are.

    python -m benchmarks.gpu_kit.bench [--output docs/results/gpu_bench] [--gpus N] [--budget-minutes M]
        [--only TEXT ...] [--seconds S] [--recipes current delayed blockwise] [--here]

Each case is processes of its own and a file as soon as it ends: out of memory is a row of the table, and a
second call runs what is missing. Without a GPU, or with MEGATRON_DREAM_DEVICE=cpu: tiny shapes on the local
spec. Exit code: 0, or 1 where a case failed, was refused or timed out.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from megatron_dream.errors import UserError
from megatron_dream.files import atomic_write, write_json
from megatron_dream.planning.calibrate_command import as_json, calibration_lines
from megatron_dream.planning.calibration import calibrate_report
from megatron_dream.planning.hardware import Gpu
from megatron_dream.training.provenance import source_commit

from . import machine, one
from .bench_report import page
from .cases import Plan, cpu_cases, gpu_cases, gpu_of
from .kit import add_flags, is_wanted, start
from .rows import training_rows
from .runner import TIMED_OUT

VERSION = 1  # of the report's JSON
BAD = (one.FAILED, one.REFUSED, TIMED_OUT)


def make_report(
    plan: Plan, results: dict[str, dict[str, Any]], facts: dict[str, Any], count: int
) -> dict[str, Any]:
    """Everything that was found."""
    gpu: Gpu | None = gpu_of(facts) if facts["type"] == "cuda" else None
    rates = results.get("rates", {})
    found = list(results.values())
    return {
        "kind": "gpu-bench",
        "version": VERSION,
        "commit": source_commit(),
        "machine": machine.facts(),
        "device": {
            k: v for k, v in facts.items() if k in ("type", "name", "count", "memory_bytes")
        },
        "gpus": count,
        "minutes": sum(one.get("case_seconds", 0) for one in found) / 60,
        "notes": list(plan.notes),
        "rates": rates,
        "rows": training_rows(found, rates, gpu),
        "sampler": [result for result in found if result["name"].startswith("sampler-")],
    }


def add_plan(report: dict[str, Any]) -> None:
    """What ``megatron-dream plan`` says of the same runs, before and after it is corrected by them."""
    try:
        # Through JSON: the same numbers as a reader of the file has.
        found = calibrate_report(json.loads(json.dumps(report)), "this report")
    except UserError as error:
        report["plan"] = {"lines": [f"Not compared: {error}"]}
        return
    report["plan"] = {"lines": list(calibration_lines(found)), **as_json(found)}


def write(report: dict[str, Any], output: Path) -> None:
    """Both files."""
    write_json(output.with_suffix(".json"), report)
    with atomic_write(output.with_suffix(".md")) as stream:
        stream.write(page(report))


def main() -> int:
    """Run what is missing and write the report after each case."""
    options = _options()
    kit = start(options, "gpu_bench")
    if kit.on_gpu:
        plan = gpu_cases(kit.facts, kit.count, options.seconds or 30.0, tuple(options.recipes))
    else:
        plan = cpu_cases(options.seconds or 2.0)
    for note in plan.notes:
        print(note, flush=True)
    results: dict[str, dict[str, Any]] = {}
    for case in plan.cases:
        if is_wanted(options, case.name):
            results[case.name] = kit.runner.run(case)
            write(make_report(plan, results, kit.facts, kit.count), kit.output)
    report = make_report(plan, results, kit.facts, kit.count)
    add_plan(report)
    write(report, kit.output)
    print(f"{kit.output.with_suffix('.md')}: {len(results)} cases", flush=True)
    return int(any(found["status"] in BAD for found in results.values()))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_flags(parser, "gpu_bench", "cases")
    parser.add_argument("--seconds", type=float, help="of a measured window (30; on a CPU 2)")
    parser.add_argument(
        "--recipes",
        nargs="+",
        default=["current", "delayed", "blockwise"],
        help="of FP8; the first for all sizes, the others for the 7B at 4,096",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
