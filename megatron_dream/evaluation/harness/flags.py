"""Flags of ``megatron-dream eval``; no import that takes time."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..sampling_flags import add_sampling_flags, add_weights_flag

_OWN = ("steps", "num_return_sequences", "seed", "forbidden_token_ids", "compat")


def add_eval_flags(parser: argparse.ArgumentParser) -> None:
    """All of ``megatron-dream eval``."""
    parser.argument_default = argparse.SUPPRESS
    add = parser.add_argument
    add(
        "model", metavar="MODEL", type=Path, help="checkpoint, exported folder, Hugging Face folder"
    )
    add_weights_flag(parser)
    add("--suite", required=True, metavar="NAME", help="paper, a group, or a benchmark")
    add("--style", required=True, choices=("base", "instruct"), help="kind of prompts")
    add("--data", "--problems", type=Path, required=True, dest="data", metavar="FOLDER",
        help="with the benchmarks' own problem files")  # fmt: skip
    add(
        "--output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="samples, verdicts, scores, tables",
    )
    add("--tasks", nargs="+", metavar="NAME", help="of the suite, only these")
    add("--samples", type=int, metavar="N", help="of each task (1)")
    add("--seed", type=int, metavar="N", help="of all draws (0)")
    add("--limit", type=int, metavar="N", help="tasks of each benchmark, the first ones (all)")
    add("--batch-size", type=int, metavar="N", help="samples that run together (8)")
    add(
        "--steps",
        type=int,
        nargs="+",
        metavar="N",
        help="each of them is a row (the published number)",
    )
    add("--gap", metavar="HOW", help="infilling: grow, oracle, or a number of masks (grow)")
    add("--references", action="store_true", help="judge the tasks' own solutions, without a model")
    add("--mc-num", type=int, metavar="N", help="draws of a likelihood (128)")
    add("--evaluators", type=Path, metavar="VENV", help="overlay with evalplus and lm_eval")
    add("--evaluators-open", action="store_true", help="do not shut evaluators in by bubblewrap")
    add("--workers", type=int, metavar="N", help="programs judged at once (one a CPU)")
    add("--isolation", choices=("namespaces", "bubblewrap", "process"), help="as judge has it")
    add("--endpoints", nargs="+", metavar="URL", help="of SandboxFusion, as judge has it")
    add_sampling_flags(parser, without=_OWN)
