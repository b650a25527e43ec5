"""Flags of ``megatron-dream sweep``; no import that takes time."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_sweep_flags(parser: argparse.ArgumentParser) -> None:
    """All of ``megatron-dream sweep``."""
    parser.argument_default = argparse.SUPPRESS  # defaults stay in command.py
    add = parser.add_argument
    add("file", metavar="FILE.yaml", type=Path, help="what is measured (docs/sweeps.md)")
    add("--output", type=Path, metavar="FOLDER", help="cells and report (sweeps/NAME)")
    add("--shard", metavar="I/N", help="every N-th cell from the I-th on (1/1)")
    add("--list", action="store_true", help="print the cells, measure nothing")
    add("--report", action="store_true", help="report the cells that are there, measure nothing")
