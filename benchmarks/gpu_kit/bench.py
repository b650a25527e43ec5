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
import tempfile
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
from .rows import training_rows
from .runner import ROOT, TIMED_OUT, Case, Runner

VERSION = 1  # of the report's JSON
BAD = (one.FAILED, one.REFUSED, TIMED_OUT)


def device_facts(here: bool) -> dict[str, Any]:
    """The device as torch sees it, asked in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        found = Runner(Path(folder), "", here=here, say=lambda _: None).run(
            Case("device", "rates_job:facts", seconds=180)
        )
    if found["status"] != one.OK:
        raise SystemExit(f"The device cannot be asked: {found['detail']}")
    return found


def default_output(name: str, device: str) -> Path:
    """Without a GPU under a name of its own, so that no report of a GPU is overwritten."""
    return ROOT / "docs" / "results" / (name if device == "cuda" else f"{name}_cpu")


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
    facts = device_facts(options.here)
    count = min(options.gpus or facts["count"], facts["count"])
    if facts["type"] == "cuda":
        plan = gpu_cases(facts, count, options.seconds or 30.0, tuple(options.recipes))
    else:
        plan = cpu_cases(options.seconds or 2.0)
    output = options.output or default_output("gpu_bench", facts["type"])
    output.parent.mkdir(parents=True, exist_ok=True)
    runner = Runner(
        options.folder or ROOT / "runs" / f"{output.name}-{count}",
        source_commit() or "unknown",
        budget_seconds=60 * options.budget_minutes,
        here=options.here,
        say=lambda line: print(line, flush=True),
    )
    for note in plan.notes:
        print(note, flush=True)
    cases = [c for c in plan.cases if not options.only or any(t in c.name for t in options.only)]
    results: dict[str, dict[str, Any]] = {}
    for case in cases:
        results[case.name] = runner.run(case)
        write(make_report(plan, results, facts, count), output)
    report = make_report(plan, results, facts, count)
    add_plan(report)
    write(report, output)
    print(f"{output.with_suffix('.md')}: {len(results)} cases", flush=True)
    return int(any(found["status"] in BAD for found in results.values()))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, metavar="PATH", help="without ending; .md and .json")
    parser.add_argument("--folder", type=Path, help="of single results (runs/gpu_bench-N)")
    parser.add_argument("--gpus", type=int, help="that are used (all)")
    parser.add_argument("--budget-minutes", type=float, default=0, help="0: no bound")
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="cases whose name contains one")
    parser.add_argument("--seconds", type=float, help="of a measured window (30; on a CPU 2)")
    parser.add_argument(
        "--recipes",
        nargs="+",
        default=["current", "delayed", "blockwise"],
        help="of FP8; the first for all sizes, the others for the 7B at 4,096",
    )
    parser.add_argument("--here", action="store_true", help="all cases in this process")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
