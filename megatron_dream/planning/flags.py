"""Flags of ``plan``, apart from what it calls."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_plan_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``plan``; defaults stay in command.py."""
    parser.argument_default = argparse.SUPPRESS
    parser.set_defaults(takes_overrides=True)
    parser.add_argument("--config", type=Path, metavar="FILE.yaml")
    parser.add_argument("--gpus", type=int, metavar="N")
    parser.add_argument(
        "--gpu",
        metavar="NAME",
        help="H100, H100-PCIe, H200, A100-80, B200, or a YAML file of a GPU's numbers",
    )
    parser.add_argument(
        "--search", action="store_true", dest="do_search", help="rank all legal layouts"
    )
    parser.add_argument("--top", type=int, metavar="N", help="layouts to show (12)")
    parser.add_argument(
        "--precision", choices=("bf16", "fp8"), help="in place of the configuration's"
    )
    parser.add_argument(
        "--token-budget", metavar="N", help="such as 322B (default: those of the run's steps)"
    )
    parser.add_argument(
        "--stage", choices=("pretrain", "sft"), help="what the run is for (pretrain)"
    )
    parser.add_argument("--html", type=Path, metavar="F.html", help="write a page")
    parser.add_argument(
        "--json", action="store_true", dest="as_json_text", help="print JSON instead of text"
    )
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="REPORT.json",
        help="fit the model to a report of make gpu-bench, tell errors before and after",
    )
    parser.add_argument(
        "--output", type=Path, metavar="F.yaml", help="with --calibrate: a file for --gpu"
    )
