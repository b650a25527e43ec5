"""Flags of ``check-nodes``, apart from what it calls."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_check_nodes_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``check-nodes``; defaults stay in check.py."""
    parser.argument_default = argparse.SUPPRESS
    parser.add_argument("--seconds", type=float, metavar="S", help="of the whole check (300)")
    parser.add_argument("--slow", type=float, metavar="X", help="times the median is slow (1.3)")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="all that was found")
    parser.add_argument(
        "--bad-nodes", type=Path, metavar="FILE", help="names of nodes at fault, if there are any"
    )
