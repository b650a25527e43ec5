"""The sampler's fields as flags of the command line: one table, read by parser and errors.

Imports nothing heavy, so that ``--help`` starts at once: the names of the algorithms stand here once
more, and ``tests/unit/evaluation/test_sampling_flags.py`` holds all equal to ``SamplingConfig``.
Defaults are not here: what is not given is not passed on.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SamplingFlag:
    """One field.

    Attributes:
        kind: type of the value; bool: a flag without value that sets True.
        help: one line.
        choices: the only values; empty: any.
        is_list: one or more values.
    """

    kind: type
    help: str
    choices: tuple[str, ...] = ()
    is_list: bool = False


ALGORITHMS = (
    "origin",
    "maskgit_plus",
    "topk_margin",
    "entropy",
    "entropy_bound",
    "threshold",
    "factor",
)

SAMPLING_FLAGS: dict[str, SamplingFlag] = {
    "max_new_tokens": SamplingFlag(int, "masks appended to each prompt"),
    "steps": SamplingFlag(int, "steps of the schedule"),
    "eps": SamplingFlag(float, "time at the end of the last step"),
    "alg": SamplingFlag(str, "order in which tokens open (docs/sampling.md)", ALGORITHMS),
    "alg_temp": SamplingFlag(float, "over 0: positions are drawn, the most confident likelier"),
    "temperature": SamplingFlag(float, "0: the most probable token; over 0: draw"),
    "top_p": SamplingFlag(float, "draw from the smallest set more probable than this"),
    "top_k": SamplingFlag(int, "draw from the N most probable; 0: no limit"),
    "pad_penalty": SamplingFlag(float, "nats off PAD's logit at the start, fading to 0"),
    "pad_penalty_factor": SamplingFlag(float, "the same as a factor on PAD's weight"),
    "eos_penalty": SamplingFlag(float, "the public name: 0 or from 0.1 nats, below it a factor"),
    "penalty_after_temperature": SamplingFlag(bool, "penalty after dividing by temperature"),
    "confidence_from": SamplingFlag(
        str, "probabilities drawn from, or at temperature 1 without filter", ("filtered", "raw")
    ),
    "threshold": SamplingFlag(float, "alg threshold: all at least this probable open"),
    "factor": SamplingFlag(float, "alg factor: bound on (n + 1)(1 - confidence of the n-th)"),
    "entropy_bound": SamplingFlag(float, "alg entropy_bound: nats"),
    "num_return_sequences": SamplingFlag(int, "samples of each prompt"),
    "seed": SamplingFlag(int, "prompt k draws from this + k"),
    "forbidden_token_ids": SamplingFlag(int, "ids that are never drawn", is_list=True),
    "compat": SamplingFlag(str, "defaults of public Dream under transformers 4", ("dream-4",)),
}


def flag_name(field: str) -> str:
    """``top_p`` is given as ``--top-p``."""
    return "--" + field.replace("_", "-")


def add_sampling_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for every field of the table."""
    for field, flag in SAMPLING_FLAGS.items():
        options: dict[str, Any] = {"help": flag.help}
        if flag.kind is bool:
            options["action"] = "store_true"
        else:
            options["type"] = flag.kind
        if flag.choices:
            options["choices"] = flag.choices
        elif flag.kind is not bool:
            options["metavar"] = "N" if flag.kind is int else "X"
        if flag.is_list:
            options["nargs"] = "+"
        parser.add_argument(flag_name(field), **options)


def in_flags(sentence: str) -> str:
    """The sampler's refusal as the person typed it: fields become flags.

    A field is known by its place at the beginning or by an underscore: ``alg`` and ``factor`` are
    also ordinary words.
    """

    def flag(match: re.Match[str]) -> str:
        return flag_name(match[0]) if match[0] in SAMPLING_FLAGS else match[0]

    return re.sub(r"^[a-z]\w*|\b[a-z]+(?:_[a-z]+)+\b", flag, sentence)
