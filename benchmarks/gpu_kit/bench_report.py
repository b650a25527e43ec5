"""The page of ``make gpu-bench``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from megatron_dream.planning.hardware import GIB

from . import kernels
from .aims import ANCHORS
from .flops import CONVENTIONS, WORDS
from .one import OK


def page(report: dict[str, Any]) -> str:
    """Markdown of a report."""
    lines = ["# gpu-bench", "", *_head(report), "", *_rates(report["rates"]), ""]
    lines += ["## Training", "", *_training(report["rows"]), "", *_aims(report), ""]
    lines += ["## Where a step goes", "", *_breakdowns(report["rows"]), ""]
    lines += ["## Sampler", "", *_sampler(report["sampler"]), ""]
    if "plan" in report:
        lines += ["## The plan against these runs", "", *report["plan"]["lines"], ""]
    return "\n".join(lines)


def machine_lines(machine: dict[str, Any]) -> Iterator[str]:
    """The machine as a table."""
    yield "| machine | |"
    yield "|---|---|"
    for name, value in machine.items():
        yield f"| {name} | {value} |"


def _head(report: dict[str, Any]) -> Iterator[str]:
    yield (
        f"Made by `make gpu-bench` on {report['machine']['date']}, {report['gpus']} x "
        f"{report['device']['name']}, commit {report['commit']}; the cases took "
        f"{report['minutes']:.0f} minutes."
    )
    yield ""
    yield from (f"- {note}" for note in report["notes"])
    yield ""
    yield from machine_lines(report["machine"])


def _rates(rates: dict[str, Any]) -> Iterator[str]:
    yield "## What the device reaches by itself"
    yield ""
    if rates.get("status") != OK:
        yield f"Not measured: {rates.get('detail', rates.get('status'))}"
        return
    yield "| | T FLOP/s | shape |"
    yield "|---|---|---|"
    for kind, found in rates["products"].items():
        if found:
            best = max(found, key=lambda row: row["flops_per_second"])
            yield f"| best product, {kind} | {best['flops_per_second'] / 1e12:.3f} | {best['shape']} |"
    for found in rates["attention"]:
        forward, backward = found["forward_flops_per_second"], found["backward_flops_per_second"]
        yield (
            f"| attention, bf16, forward and backward | {forward / 1e12:.3f}, {backward / 1e12:.3f} | "
            f"{found['shape']} |"
        )
    yield ""
    yield (
        f"Memory {rates['memory_bytes_per_second'] / 1e9:,.0f} GB/s (two reads, one write); the smallest "
        f"operation {rates['launch_seconds'] * 1e6:.1f} us."
    )
    if rates.get("sum"):
        yield f"All-reduce of 256 MB: bus bandwidth {rates['sum']['bus_bytes_per_second'] / 1e9:,.0f} GB/s."


def _training(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield (
        "Tokens are positions of rows, useful ones are masked. MFU is of the data sheet's dense peak in the "
        "row's precision; the last share is of the best product measured above, by our convention. Plain: "
        "transformers, torch.compile where it says so, FlashAttention, AdamW, fp32 weights under bf16 "
        "autocast, the same rows and masks."
    )
    yield ""
    yield from (f"- {name}: {WORDS[name]}." for name in CONVENTIONS)
    yield ""
    shares = " | ".join(f"MFU {name}" for name in CONVENTIONS)
    yield (
        f"| case | micro | step s | tokens/s/GPU | useful/s | {shares} | of measured | peak GiB | "
        "x plain | loss |"
    )
    yield "|" + "---|" * (9 + len(CONVENTIONS) + 1)
    for row in rows:
        yield _training_line(row)


def _training_line(row: dict[str, Any]) -> str:
    side = "" if row["side"] == "ours" else "plain "
    if row["status"] != OK:
        why = str(row["detail"] or "").strip().splitlines()
        return (
            f"| {side}{row['name']} | **{row['status']}** {why[-1][:120] if why else ''} |"
            + " |" * 12
        )
    tries = f" ({len(row['tried'])} larger: out of memory)" if row["tried"] else ""
    micro = row["fields"].get("training.micro_batch_size", 1)
    again = " recomputed" if row["fields"].get("training.recompute") == "full" else ""
    mfu = " | ".join(_percent(row["mfu"].get(name)) for name in CONVENTIONS)
    times = row.get("times_plain")
    name = row["name"] + (", compiled" if row.get("compiled") else "")
    return (
        f"| {name} | {micro}{again}{tries} | {row['step_seconds']:.4f} | "
        f"{row['tokens_per_second_per_gpu']:,.0f} | {row['useful_tokens_per_second']:,.0f} | {mfu} | "
        f"{_percent(row['share_of_measured_rate'])} | {row['memory']['allocated'] / GIB:.2f} | "
        f"{'' if times is None else f'{times:.2f}'} | {row['first_loss']:.3f} |"
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _aims(report: dict[str, Any]) -> Iterator[str]:
    yield "### Aims and anchors"
    yield ""
    rows = [row for row in report["rows"] if row.get("aim_share") is not None]
    if rows:
        yield "| case | tokens/s/GPU | aim (H100) | share of measured product | aim | |"
        yield "|---|---|---|---|---|---|"
    for row in rows:
        aim = f"{row['aim_tokens']:,}" if row["aim_tokens"] else "-"
        verdict = {True: "met", False: "MISSED", None: "not comparable"}[row["aim_is_met"]]
        yield (
            f"| {row['name']} | {row['tokens_per_second_per_gpu']:,.0f} | {aim} | "
            f"{_percent(row['share_of_measured_rate'])} | {row['aim_share']:.1%} | {verdict} |"
        )
    if not rows:
        yield "No case of the 7B's shape ran, so that no aim can be compared."
    yield ""
    yield "Published, beside this report's best row in the same precision by the same convention:"
    yield ""
    yield "| run | precision | convention | tokens/s/GPU | of the bf16 peak | here, of the bf16 peak |"
    yield "|---|---|---|---|---|---|"
    for anchor in ANCHORS:
        low, high = anchor.shares
        share = f"{low:.0%}" if low == high else f"{low:.0%} to {high:.0%}"
        tokens = f"{anchor.tokens:,}" if anchor.tokens else "-"
        yield (
            f"| {anchor.name} | {anchor.precision} | {anchor.convention} | {tokens} | {share} | "
            f"{_best(report['rows'], anchor.precision, anchor.convention)} |"
        )


def _best(rows: list[dict[str, Any]], precision: str, convention: str) -> str:
    found = [
        (row["share_of_bf16_peak"][convention], row["name"])
        for row in rows
        if row["side"] == "ours" and row["precision"] == precision and row.get("share_of_bf16_peak")
    ]
    if not found:
        return "-"
    share, name = max(found)
    return f"{share:.1%} ({name})"


def _breakdowns(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield from (f"- {part}: {words}." for part, words in kernels.WORDS.items())
    yield ""
    yield "Shares of a step under the profiler, which slows what is launched in small pieces."
    yield ""
    yield "| case | " + " | ".join(kernels.PARTS) + " | profiled / timed |"
    yield "|---|" + "---|" * (len(kernels.PARTS) + 1)
    for row in rows:
        parts = row.get("breakdown")
        if row["status"] == OK and parts:
            shares = " | ".join(_percent(parts["shares"][part]) for part in kernels.PARTS)
            slower = parts["window_seconds"] / parts["steps"] / row["step_seconds"]
            yield f"| {row['name']} | {shares} | {slower:.2f} |"


def _sampler(results: list[dict[str, Any]]) -> Iterator[str]:
    yield "| case | new | rows | cache | CUDA graphs | steps | tokens/s |"
    yield "|---|---|---|---|---|---|---|"
    for found in results:
        if found["status"] != OK:
            yield f"| {found['name']} | **{found['status']}** {found.get('detail', '')} | | | | | |"
            continue
        for run in found["runs"]:
            graphs = run["cuda_graphs"] or "-"
            yield (
                f"| {found['name']}, {found['precision']} | {found['new']} | {found['rows']} | "
                f"{run['cache']} | {graphs} | {run['steps']} | {run['tokens_per_second']:,.1f} |"
            )
