"""The list of ``make gpu-check``: what must hold, by which cases, within which bound and why."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from .one import OK
from .runner import Case

Results = dict[str, dict[str, Any]]
WINDOW = 20  # steps that a loss is averaged over before it is compared
# Differences of sums in another order, through five updates: fp32 on a CPU, on a GPU; bf16.
LAYOUT_BOUNDS = {"cpu": 1e-5, "fp32": 1e-4, "bf16": 2e-2}


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        name: of the check.
        why: what the figure is, and where the bound comes from.
        cases: that it needs; a case may serve several checks.
        judge: from their results to figure, bound, passed and detail; None: the one case says so itself.
    """

    name: str
    why: str
    cases: tuple[Case, ...]
    judge: Callable[[Results], dict[str, Any]] | None = None

    def verdict(self, results: Results) -> dict[str, Any]:
        """Its row; the status of the first case that did not end well otherwise."""
        row: dict[str, Any] = {"name": self.name, "why": self.why}
        own = [results[case.name] for case in self.cases]
        for found in own:
            if found["status"] != OK:
                return {**row, "status": found["status"], "reason": found.get("detail")}
        told = self.judge({f["name"]: f for f in own}) if self.judge else own[0]
        names = ("figure", "bound", "passed", "detail")
        seconds = sum(found.get("case_seconds", 0) for found in own)
        return {**row, "status": OK, "seconds": seconds, **{n: told.get(n) for n in names}}


def noise(
    low: Sequence[float], same: Sequence[float], others: Sequence[Sequence[float]]
) -> dict[str, Any]:
    """Losses in low precision against those of the same seed, in units of the noise between seeds.

    Args:
        low: losses by step.
        same: of the reference with the same weights, tokens and noise.
        others: of all reference seeds.

    Returns:
        The largest difference of window means over the root mean square, over windows, of the range between
        seeds; ``bias`` is the mean difference of the second half.
    """
    apart = [a - b for a, b in zip(windows(low), windows(same), strict=True)]
    means = [windows(other) for other in others]
    ranges = [max(values) - min(values) for values in zip(*means, strict=True)]
    unit = statistics.fmean(r * r for r in ranges) ** 0.5
    half = apart[len(apart) // 2 :]
    figure = max(map(abs, apart)) / unit
    return {
        "figure": figure,
        "bound": 1.0,
        "passed": figure <= 1.0,
        "detail": {
            "noise_between_seeds": unit,
            "bias": statistics.fmean(half),
            "differences": apart,
            "ranges": ranges,
            "last": {"low": windows(low)[-1], "references": [values[-1] for values in means]},
        },
    }


def windows(values: Sequence[float], size: int = WINDOW) -> list[float]:
    """Means of consecutive windows; a rest that is shorter is left out, unless it is all."""
    size = min(size, len(values))
    count = len(values) // size
    return [statistics.fmean(values[i * size : (i + 1) * size]) for i in range(count)]


def _noise_of(low: str, reference: str, results: Results) -> dict[str, Any]:
    runs = results[reference]["runs"]
    same, every = runs["0"]["losses"], [run["losses"] for run in runs.values()]
    return noise(results[low]["runs"]["0"]["losses"], same, every)


def _equal_runs(name: str, reference: str, bound: float, results: Results) -> dict[str, Any]:
    """Losses and gradient norms of every step, relatively."""
    found, expected = (results[n]["runs"]["0"] for n in (name, reference))
    apart = {
        kind: max(abs(a / b - 1) for a, b in zip(found[kind], expected[kind], strict=True))
        for kind in ("losses", "gradient_norms")
    }
    figure = max(apart.values())
    return {"figure": figure, "bound": bound, "passed": figure <= bound, "detail": apart}


def shape(*, is_gpu: bool, spec: str, precision: str) -> dict[str, Any]:
    """A small model whose sizes every FP8 recipe and every layout of eight can cut."""
    layers, hidden, ffn, vocab, length, rows = (
        (8, 512, 1408, 2048, 512, 32) if is_gpu else (4, 32, 64, 101, 32, 8)
    )
    heads = 8 if is_gpu else 4
    return {
        "model.num_layers": layers,
        "model.hidden_size": hidden,
        "model.num_attention_heads": heads,
        "model.num_query_groups": heads // 2,
        "model.ffn_hidden_size": ffn,
        "model.vocab_size": vocab,
        "model.layer_spec": spec,
        # The default init would hide faults behind a nearly linear model.
        "model.init_method_std": 0.05 if is_gpu else 0.2,
        "data.sequence_length": length,
        "training.precision": precision,
        "training.global_batch_size": rows,
        "training.micro_batch_size": 8 if is_gpu else 1,
        "training.train_steps": 400,
        "optimizer.lr": 1e-3,
        "optimizer.lr_warmup_fraction": 0.05,
    }


def layouts(count: int) -> dict[str, tuple[int, dict[str, Any]]]:
    """(processes, fields) of the layouts that ``count`` devices allow, by name."""
    tp, pp, cp = (
        f"parallel.{n}_parallel_size" for n in ("tensor_model", "pipeline_model", "context")
    )
    sp, vp = "parallel.sequence_parallel", "parallel.virtual_pipeline_model_parallel_size"
    overlap = {"parallel.overlap_grad_reduce": True, "parallel.overlap_param_gather": True}
    every = {
        "TP2": (2, {tp: 2}),
        "TP2 SP": (2, {tp: 2, sp: True}),
        "PP2": (2, {pp: 2}),
        "CP2": (2, {cp: 2}),
        "DP2": (2, {}),
        "DP2 overlapped": (2, overlap),
        "PP2 VP2": (2, {pp: 2, vp: 2}),
        "TP2 PP2": (4, {tp: 2, pp: 2}),
        "TP2 SP CP2": (4, {tp: 2, sp: True, cp: 2}),
        "PP2 CP2": (4, {pp: 2, cp: 2}),
        "DP4": (4, {}),
        "TP2 PP2 CP2": (8, {tp: 2, pp: 2, cp: 2}),
        "TP2 SP PP2 DP2": (8, {tp: 2, sp: True, pp: 2}),
        "TP4 DP2": (8, {tp: 4}),
    }
    return {name: value for name, value in every.items() if value[0] <= count}


def layout_checks(
    count: int, fields: dict[str, Any], kind: str, bound: float, names: Sequence[str] | None = None
) -> list[Check]:
    """Each layout against one process: L is one sum over the global batch, whoever holds its parts."""
    steps = 5
    one = Case(
        f"layout-{kind}-one".replace(" ", "-"),
        "check_jobs:losses",
        {"fields": fields, "steps": steps},
    )
    found = []
    for name, (processes, changes) in layouts(count).items():
        if names is not None and name not in names:
            continue
        case = Case(
            f"layout-{kind}-{name}".replace(" ", "-"),
            "check_jobs:losses",
            {"fields": {**fields, **changes}, "steps": steps},
            processes,
        )
        why = (
            f"losses and gradient norms of {steps} updates against one process, relatively; the sums are the "
            "same in another order"
        )
        judge = partial(_equal_runs, case.name, one.name, bound)
        found.append(Check(f"layout {name}, {kind}", why, (one, case), judge))
    return found


def noise_checks(
    base: dict[str, Any],
    reference: str,
    lows: dict[str, dict[str, Any]],
    steps: int,
    seconds: float,
) -> list[Check]:
    """Each low precision against three seeds of the reference."""
    seeds = Case(
        f"noise-{reference}",
        "check_jobs:losses",
        {"fields": base, "steps": steps, "seeds": [0, 1, 2]},
        seconds=3 * seconds,
    )
    found = []
    for name, changes in lows.items():
        case = Case(
            f"noise-{name}".replace(", ", "-").replace(" ", "-"),
            "check_jobs:losses",
            {"fields": {**base, **changes}, "steps": steps},
            seconds=seconds,
        )
        why = (
            f"losses of {steps} steps, means of {WINDOW}: the largest difference from {reference} of "
            f"the same seed, in units of the range between three {reference} seeds"
        )
        judge = partial(_noise_of, case.name, seeds.name)
        found.append(Check(f"{name} against {reference}", why, (seeds, case), judge))
    return found
