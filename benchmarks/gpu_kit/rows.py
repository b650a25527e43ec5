"""From results of cases to rows of a report: rates, shares of peaks, ratios."""

from __future__ import annotations

from typing import Any

from megatron_dream.planning.hardware import Gpu

from .aims import AIMS_7B, aim_share
from .flops import token_flops
from .one import OK
from .trainee import config_of


def training_rows(
    results: list[dict[str, Any]], rates: dict[str, Any], gpu: Gpu | None
) -> list[dict[str, Any]]:
    """A row a training case, ours and plain; those that did not end well keep their words.

    Args:
        results: of ``runner.Runner``.
        rates: the result of the case ``rates``.
        gpu: the planner's numbers of the device; None on a CPU, whose peak is what was measured.
    """
    rows = [
        _row(found, rates, gpu)
        for found in results
        if found["name"].startswith(("train-", "plain-"))
    ]
    plain = {row["shape"]: row for row in rows if row["side"] == "plain" and row["status"] == OK}
    for row in rows:
        other = plain.get(row["shape"])
        if row["side"] == "ours" and row["status"] == OK and other:
            row["times_plain"] = row["tokens_per_second"] / other["tokens_per_second"]
            row["memory_of_plain"] = row["memory"]["allocated"] / other["memory"]["allocated"]
            row["same_masks"] = row["first_masked"] == other["first_masked"]
    return rows


def _row(found: dict[str, Any], rates: dict[str, Any], gpu: Gpu | None) -> dict[str, Any]:
    side, size, length, kind = _parts(found["name"])
    precision = "fp8" if kind.startswith("fp8") else kind
    row: dict[str, Any] = {
        "name": found["name"],
        "side": "ours" if side == "train" else "plain",
        "size": size,
        "sequence_length": length,
        "precision": precision,
        "recipe": kind.removeprefix("fp8-") if precision == "fp8" else None,
        # FP8 is compared with the plain side in bf16: it has no FP8.
        "shape": f"{size}-{length}-{'fp32' if kind == 'fp32' else 'bf16'}",
        "gpus": found["processes"],
        "status": found["status"],
        "detail": found.get("detail"),
        "tried": found.get("tried", []),
    }
    if found["status"] != OK:
        return row
    names = (
        "fields step_seconds steps quartiles tokens_per_step masked_per_step first_loss first_masked memory "
        "layer_spec layout compiled data_wait_seconds breakdown clocks"
    ).split()
    row |= {name: found[name] for name in names if name in found}
    row |= _rates(row, rates, gpu)
    return row


def _parts(name: str) -> tuple[str, str, int, str]:
    """(side, size, length, kind) of ``train-7B-20of28-2048-fp8-current``."""
    words = name.split("-")
    place = next(i for i in range(2, len(words)) if words[i].isdecimal())
    return words[0], "-".join(words[1:place]), int(words[place]), "-".join(words[place + 1 :])


def _rates(row: dict[str, Any], rates: dict[str, Any], gpu: Gpu | None) -> dict[str, Any]:
    """Tokens a second, FLOP/s and shares by convention."""
    config = config_of(row["fields"])
    seconds, gpus, length = row["step_seconds"], row["gpus"], row["sequence_length"]
    flops = token_flops(config.model, config.diffusion, length)
    per_gpu = row["tokens_per_step"] / seconds / gpus
    precision = row["precision"]
    measured = (rates.get("best") or {}).get(precision)
    peaks = {"bf16": gpu.peak_bf16_tflops * 1e12, "fp8": gpu.peak_fp8_tflops * 1e12} if gpu else {}
    peak, bf16 = peaks.get(precision), peaks.get("bf16")
    share = per_gpu * flops["ours"] / measured if measured else None
    aim = aim_share(precision, length)
    is_7b = row["size"].split("-")[0] == "7B" and row["side"] == "ours" and gpu is not None
    return {
        "tokens_per_second": row["tokens_per_step"] / seconds,
        "tokens_per_second_per_gpu": per_gpu,
        "useful_tokens_per_second": row["masked_per_step"] / seconds,
        "flops_per_token": flops,
        "tflops_per_gpu": {name: per_gpu * value / 1e12 for name, value in flops.items()},
        "mfu": {name: per_gpu * value / peak for name, value in flops.items()} if peak else {},
        "share_of_bf16_peak": {name: per_gpu * v / bf16 for name, v in flops.items()}
        if bf16
        else {},
        "share_of_measured_rate": share,
        "aim_share": aim if is_7b else None,
        "aim_tokens": AIMS_7B.get((precision, length)) if is_7b and row["size"] == "7B" else None,
        "aim_is_met": share >= aim if is_7b and share is not None and aim is not None else None,
    }
