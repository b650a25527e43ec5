"""Flags of ``serve``, apart from what it calls."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..evaluation.sampling_flags import add_weights_flag


def add_serve_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``serve``; defaults stay in command.py and limits.py."""
    parser.argument_default = argparse.SUPPRESS
    parser.add_argument("model", metavar="MODEL", type=Path, help="exported folder or checkpoint")
    add_weights_flag(parser)
    parser.add_argument("--port", type=int, metavar="N", help="8000; 0: any free one")
    parser.add_argument("--host", metavar="H", help="address to listen at (127.0.0.1)")
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="the key clients must send")
    parser.add_argument(
        "--insecure", action="store_true", help="other machines may ask without a key"
    )
    parser.add_argument(
        "--allow-host", nargs="+", metavar="NAME", help="further names of this server"
    )
    parser.add_argument("--model-name", metavar="NAME", help="default: the folder's name")
    parser.add_argument("--grace", type=float, metavar="S", help="seconds to drain (30)")
    for flag, text in (
        ("--max-batch", "rows denoised together (16)"),
        ("--max-batch-tokens", "rows times columns of a batch (32768)"),
        ("--max-queue", "requests open at once (128)"),
        ("--max-body-bytes", "of a request (1048576)"),
        ("--max-prompt-tokens", "of a prompt (4096)"),
        ("--max-tokens", "new tokens of a choice (1024)"),
        ("--max-steps", "of a schedule (1024)"),
        ("--max-choices", "prompts times n of a request (16)"),
    ):
        parser.add_argument(flag, type=int, metavar="N", help=text)
    parser.add_argument("--max-seconds", type=float, metavar="S", help="of a request (300)")
    parser.add_argument(
        "--batch-wait", type=float, metavar="S", help="seconds that a batch waits for rows (0.005)"
    )
