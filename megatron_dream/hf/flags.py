"""Flags of the verbs on Hugging Face folders, apart from what they call."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_import_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``import-hf``."""
    parser.add_argument("folder", type=Path, metavar="HF_FOLDER")
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    parser.add_argument("--tp", type=int, default=1, metavar="N")
    parser.add_argument("--pp", type=int, default=1, metavar="N")


def add_export_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``export-hf``."""
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    parser.add_argument("folder", type=Path, metavar="HF_FOLDER")
    parser.add_argument("--tokenizer", type=Path, metavar="PATH")
    parser.add_argument("--dtype", default="auto", choices=("auto", "bfloat16", "float32"))


def add_verify_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``verify-export``."""
    parser.add_argument("folder", type=Path, metavar="HF_FOLDER")
    parser.add_argument("--against", type=Path, required=True, metavar="CHECKPOINT")
