"""What ``gpu-check`` and ``gpu-bench`` have in common: flags, the device, where a report goes, the runner."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_dream.training.provenance import source_commit

from . import one
from .runner import ROOT, Case, Runner


@dataclass(frozen=True)
class Kit:
    """What a command of the kit begins with.

    Attributes:
        facts: of the device, as torch sees it.
        count: devices that are used.
        output: the report, without ending; its folder exists.
        runner: of cases.
    """

    facts: dict[str, Any]
    count: int
    output: Path
    runner: Runner

    @property
    def on_gpu(self) -> bool:
        """Whether the device is one."""
        return bool(self.facts["type"] == "cuda")


def add_flags(parser: argparse.ArgumentParser, name: str, what: str) -> None:
    """The flags of both; ``what`` are the rows of the report."""
    parser.add_argument("--output", type=Path, metavar="PATH", help="without ending; .md and .json")
    parser.add_argument("--folder", type=Path, help=f"of single results (runs/{name}-N)")
    parser.add_argument("--gpus", type=int, help="that are used (all)")
    parser.add_argument("--budget-minutes", type=float, default=0, help="0: no bound")
    parser.add_argument("--only", nargs="+", metavar="TEXT", help=f"{what} whose name contains one")
    parser.add_argument("--here", action="store_true", help="all cases in this process")


def start(options: argparse.Namespace, name: str) -> Kit:
    """Ask the device, choose the report's place, make the runner."""
    facts = device_facts(options.here)
    count = min(options.gpus or facts["count"], facts["count"])
    output = options.output or default_output(name, facts["type"])
    output.parent.mkdir(parents=True, exist_ok=True)
    runner = Runner(
        options.folder or ROOT / "runs" / f"{output.name}-{count}",
        source_commit() or "unknown",
        budget_seconds=60 * options.budget_minutes,
        here=options.here,
        say=lambda line: print(line, flush=True),
    )
    return Kit(facts, count, output, runner)


def is_wanted(options: argparse.Namespace, name: str) -> bool:
    """Whether ``--only`` leaves it in."""
    return not options.only or any(text in name for text in options.only)


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
