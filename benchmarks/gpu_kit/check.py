"""``make gpu-check``: whether the GPU path computes what the CPU path computes, unattended, in minutes.

    python -m benchmarks.gpu_kit.check [--output docs/results/gpu_check] [--gpus N] [--budget-minutes M]
        [--only TEXT ...] [--steps S] [--here]

Each case is processes of its own; a second call runs what is missing. Without a GPU, or with
MEGATRON_DREAM_DEVICE=cpu: the local spec's half at tiny size; what needs a GPU is listed as skipped. Exit
code: 0, or 1 where a check failed or could not be run to its end.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from megatron_dream.files import atomic_write, write_json
from megatron_dream.training.provenance import source_commit

from . import machine
from .bench_report import machine_lines
from .checks import LAYOUT_BOUNDS, Check, layout_checks, noise_checks, shape
from .kit import add_flags, is_wanted, start
from .one import OK, SKIPPED
from .runner import Case, Runner

RECIPES = ("delayed", "current", "blockwise", "mxfp8")
TE = {"model.layer_spec": "transformer_engine"}


def gpu_checks(count: int, steps: int) -> list[Check]:
    """Of a node with GPUs."""
    local = shape(is_gpu=True, spec="local", precision="fp32")
    bf16 = shape(is_gpu=True, spec="transformer_engine", precision="bf16")
    lows: dict[str, dict[str, Any]] = {f"fp8-{r}": {"fp8.recipe": r} for r in RECIPES}
    lows["fp8-current, ends in bf16"] = {
        "fp8.recipe": "current",
        "fp8.first_layers_bf16": 1,
        "fp8.last_layers_bf16": 1,
    }
    return [
        *_spec_checks(local),
        *noise_checks(bf16, "bf16", lows, steps, 300.0),
        *_checkpoint_checks(bf16),
        _sampler_check("bf16"),
        *layout_checks(count, local, "local fp32", LAYOUT_BOUNDS["fp32"]),
        *layout_checks(count, bf16, "Transformer Engine bf16", LAYOUT_BOUNDS["bf16"]),
        *_ring_checks(count, bf16),
        _single("tests/gpu", "tests of tests/gpu that failed", "check_jobs:pytest_gpu", 900.0),
    ]


def _spec_checks(local: dict[str, Any]) -> list[Check]:
    te = {"fields": local, "other": TE}
    return [
        # Transformer Engine multiplies fp32 with TF32 (10 bits of mantissa).
        _single(
            "Transformer Engine against local, fp32",
            "loss and gradients of one batch, relatively; Transformer Engine's fp32 products are TF32",
            "check_jobs:two_sides",
            **te,
            bound=5e-3,
        ),
        _single(
            "Transformer Engine against local, bf16",
            "distance of its bf16 gradients from fp32's over that of the local spec's",
            "check_jobs:low_precision",
            **te,
            bound=1.5,
        ),
        _single(
            "Transformer Engine against local, bf16, documents",
            "the same with four documents a row: THD against a mask",
            "check_jobs:low_precision",
            fields={**local, "data.document_masks": True},
            other=TE,
            bound=1.5,
            documents=4,
        ),
    ]


def _checkpoint_checks(bf16: dict[str, Any]) -> list[Check]:
    why = "losses after coming back against going on, relatively; atomics in attention's backward pass"
    found = []
    for name, changes in (
        ("local bf16", {"model.layer_spec": "local"}),
        ("Transformer Engine bf16", {}),
        ("fp8-delayed", {"fp8.recipe": "delayed"}),
        ("fp8-current", {"fp8.recipe": "current"}),
    ):
        fields = {**bf16, **changes}
        arguments = {"fields": fields, "before": 3, "after": 3, "bound": 2e-3}
        found.append(
            _single(f"checkpoint round trip, {name}", why, "check_jobs:round_trip", **arguments)
        )
    return found


def _ring_checks(count: int, bf16: dict[str, Any]) -> list[Check]:
    """Context parallelism by passing keys and values round a ring."""
    ring = {**bf16, "parallel.cp_comm_type": "p2p"}
    return layout_checks(
        count, ring, "Transformer Engine bf16 ring", LAYOUT_BOUNDS["bf16"], ["CP2"]
    )


def _sampler_check(precision: str) -> Check:
    fields = shape(is_gpu=True, spec="local", precision="bf16")
    return _single(
        "sampler: CUDA graphs against plain calls",
        "share of equal tokens; the same kernels on the same numbers",
        "sampler_job:graphs_against_eager",
        fields=fields,
        precision=precision,
        new=128,
    )


def cpu_checks(steps: int) -> list[Check]:
    """The local spec's half, on two processes at the most; what needs a GPU is skipped by name."""
    local = shape(is_gpu=False, spec="local", precision="fp32")
    recomputed = {"training.recompute": "full"}
    bf16 = {"bf16": {"training.precision": "bf16"}}
    return [
        _single(
            "Transformer Engine against local, fp32",
            "as on a GPU",
            "check_jobs:two_sides",
            fields=local,
            other=TE,
            bound=5e-3,
        ),
        _single(
            "recomputation against none, local fp32",
            "loss and gradients of one batch, relatively; the same operations again",
            "check_jobs:two_sides",
            fields=local,
            other=recomputed,
            bound=1e-6,
        ),
        *noise_checks(local, "fp32", bf16, steps, 300.0),
        *noise_checks(
            local, "fp32", {"fp8-current": {"fp8.recipe": "current", **TE}}, steps, 300.0
        ),
        _single(
            "checkpoint round trip, local fp32",
            "losses after coming back against going on, relatively",
            "check_jobs:round_trip",
            fields=local,
            before=2,
            after=2,
            bound=1e-6,
        ),
        _single(
            "sampler: exact against full recomputation",
            "share of equal tokens",
            "sampler_job:exact_against_recomputation",
            fields=local,
            precision="fp32",
            new=32,
        ),
        _single(
            "sampler: CUDA graphs against plain calls",
            "as on a GPU",
            "sampler_job:graphs_against_eager",
            fields=local,
            precision="fp32",
            new=32,
        ),
        *layout_checks(
            2, local, "local fp32", LAYOUT_BOUNDS["cpu"], ["TP2 SP", "PP2", "CP2", "DP2"]
        ),
    ]


def _single(name: str, why: str, job: str, seconds: float = 300.0, **arguments: Any) -> Check:
    case = "".join(letter if letter.isalnum() else "-" for letter in name).replace("--", "-")
    return Check(name, why, (Case(case.strip("-"), job, arguments, seconds=seconds),))


def page(report: dict[str, Any]) -> str:
    """Markdown of a report."""
    lines = ["# gpu-check", ""]
    lines += [
        f"Made by `make gpu-check` on {report['machine']['date']}, {report['gpus']} x "
        f"{report['device']['name']}, commit {report['commit']}.",
        "",
        report["verdict"],
        "",
        "| check | figure | bound | | seconds |",
        "|---|---|---|---|---|",
        *map(_line, report["checks"]),
        "",
        "What the figures are:",
        "",
        *dict.fromkeys(f"- {row['name'].split(',')[0]}: {row['why']}." for row in report["checks"]),
        "",
        *machine_lines(report["machine"]),
        "",
    ]
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> str:
    if row["status"] != OK:
        why = str(row.get("reason") or "").strip().splitlines()
        return f"| {row['name']} | - | - | {row['status']}: {why[-1][:160] if why else ''} | - |"
    verdict = "passed" if row["passed"] else "**FAILED**"
    return f"| {row['name']} | {row['figure']:.3g} | {row['bound']:.3g} | {verdict} | {row['seconds']:.0f} |"


def verdict_of(rows: list[dict[str, Any]], expected: int) -> tuple[str, bool]:
    """(a sentence, whether nothing is wrong)."""
    passed = sum(bool(row.get("passed")) for row in rows)
    skipped = sum(row["status"] == SKIPPED for row in rows)
    bad = [row["name"] for row in rows if not row.get("passed") and row["status"] != SKIPPED]
    words = f"{passed} passed, {len(bad)} failed or not ended, {skipped} skipped, of {expected}."
    return words + (f" Not right: {'; '.join(bad)}." if bad else ""), not bad and passed > 0


def _rows(checks: list[Check], runner: Runner) -> Iterator[dict[str, Any]]:
    results: dict[str, dict[str, Any]] = {}
    for check in checks:
        for case in check.cases:
            if case.name not in results:
                results[case.name] = runner.run(case)
            if results[case.name]["status"] != OK:
                break  # what the others would be compared with is absent
        own = tuple(case for case in check.cases if case.name in results)
        yield Check(check.name, check.why, own, check.judge).verdict(results)


def main() -> int:
    """Run what is missing and write the report after each check."""
    options = _options()
    kit = start(options, "gpu_check")
    every = gpu_checks(kit.count, options.steps) if kit.on_gpu else cpu_checks(options.steps)
    checks = [check for check in every if is_wanted(options, check.name)]
    rows: list[dict[str, Any]] = []
    sentence, is_right = "Nothing ran.", False
    for row in _rows(checks, kit.runner):
        rows.append(row)
        sentence, is_right = verdict_of(rows, len(checks))
        report = {
            "kind": "gpu-check",
            "version": 1,
            "commit": source_commit(),
            "machine": machine.facts(),
            "device": {k: v for k, v in kit.facts.items() if k in ("type", "name", "count")},
            "gpus": kit.count,
            "verdict": sentence,
            "checks": rows,
        }
        write_json(kit.output.with_suffix(".json"), report)
        with atomic_write(kit.output.with_suffix(".md")) as stream:
            stream.write(page(report))
    print(f"{kit.output.with_suffix('.md')}: {sentence}", flush=True)
    return 0 if is_right else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_flags(parser, "gpu_check", "checks")
    parser.add_argument(
        "--steps", type=int, default=200, help="of the runs whose noise is compared"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
