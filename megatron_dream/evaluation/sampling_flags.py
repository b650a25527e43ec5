"""The sampler's fields as flags of the command line, read off ``SamplingConfig`` itself.

A field that is added there is a flag at once: its type is the flag's, its comment the help, unless
better words stand here. The file is read rather than imported, which would take torch's seconds before
``--help``. Defaults are not here: what is not given is not passed on.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SOURCE = Path(__file__).parents[1] / "sampling" / "sampling_config.py"
_NOT_SET_BY_A_PERSON = {
    "mask_token_id",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "num_tokens",
    "output_history",
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "confidence_from": ("filtered", "raw"),
    "cache": ("none", "prefix", "dual"),
    "border": ("rewritten", "kept"),
    "cuda_graphs": ("auto", "on", "off"),
    "remask": ("none", "remdm"),
    "compat": ("dream-4",),
}
_HELP = {
    "max_new_tokens": "masks appended to each prompt",
    "steps": "steps of the schedule",
    "eps": "time at the end of the last step",
    "alg": "order in which tokens open (docs/sampling.md)",
    "alg_temp": "over 0: positions are drawn, the most confident likelier",
    "temperature": "0: the most probable token; over 0: draw",
    "top_p": "draw from the smallest set more probable than this",
    "top_k": "draw from the N most probable; 0: no limit",
    "pad_penalty": "nats off PAD's logit at the start, fading to 0",
    "pad_penalty_factor": "the same as a factor on PAD's weight",
    "eos_penalty": "the public name: 0 or from 0.1 nats, below it a factor",
    "penalty_after_temperature": "penalty after dividing by temperature",
    "confidence_from": "probabilities drawn from, or at temperature 1 without filter",
    "threshold": "alg threshold: all at least this probable open",
    "factor": "alg factor: bound on (n + 1)(1 - confidence of the n-th)",
    "entropy_bound": "alg entropy_bound: nats",
    "block_length": "fill so many new tokens at a time (default: all; with a cache 32)",
    "cache": "keep keys and values before the block, or on both sides (approximate)",
    "cache_refresh": "steps from one full pass to the next (default: one a block; 1: exact)",
    "border": "with a cache, run the block's left neighbour again or keep it (approximate)",
    "cuda_graphs": "with a cache: a block's pass is replayed as a CUDA graph (auto: on a GPU)",
    "remask": "mask unsure tokens again",
    "num_return_sequences": "samples of each prompt",
    "seed": "prompt k draws from this + k",
    "forbidden_token_ids": "ids that are never drawn",
}


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


def _read_flags(source: str) -> dict[str, SamplingFlag]:
    """The fields of ``SamplingConfig`` in a file, as flags."""
    lines = source.splitlines()
    body = ast.parse(source).body
    found = next(n for n in body if isinstance(n, ast.ClassDef) and n.name == "SamplingConfig")
    flags = {}
    for field in found.body:
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        name = field.target.id
        if name in _NOT_SET_BY_A_PERSON:
            continue
        hint = ast.unparse(field.annotation)
        kind = next(kind for kind in (bool, int, float, str) if kind.__name__ in hint)
        comment = lines[field.lineno - 1].partition("  # ")[2]
        choices = _read_names(body) if name == "alg" else _CHOICES.get(name, ())
        flags[name] = SamplingFlag(kind, _HELP.get(name, comment), choices, "Sequence" in hint)
    return flags


def _read_names(body: list[ast.stmt]) -> tuple[str, ...]:
    """The value of ``ALGORITHMS``."""
    for statement in body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "ALGORITHMS":
            return tuple(ast.literal_eval(statement.value))
    raise AssertionError("sampling_config.py has no ALGORITHMS")


SAMPLING_FLAGS = _read_flags(_SOURCE.read_text(encoding="utf-8"))


def flag_name(field: str) -> str:
    """``top_p`` is given as ``--top-p``."""
    return "--" + field.replace("_", "-")


_SHORT = {"num_return_sequences": "-n"}


def add_sampling_flags(parser: argparse.ArgumentParser, without: Collection[str] = ()) -> None:
    """A flag for every field but ``without``."""
    for field, flag in SAMPLING_FLAGS.items():
        if field in without:
            continue
        # argparse formats help with %
        options: dict[str, Any] = {"help": flag.help.replace("%", "%%")}
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
        names = [_SHORT[field]] if field in _SHORT else []
        parser.add_argument(*names, flag_name(field), **options)


def add_sample_flags(parser: argparse.ArgumentParser) -> None:
    """All of ``megatron-dream sample``."""
    _add_model(parser)
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", metavar="TEXT")
    prompt.add_argument("--prompt-file", type=Path, metavar="F")
    prompt.add_argument(
        "--jsonl", type=Path, metavar="F", help="one object with prompt or messages a line"
    )
    parser.add_argument(
        "--chat", action="store_true", help="a prompt is a user's message to a chat model"
    )
    add_sampling_flags(parser)
    _add_outputs(parser)
    parser.add_argument(
        "--history", type=Path, metavar="F.jsonl", help="what opened when, for megatron-dream order"
    )


def add_order_flags(parser: argparse.ArgumentParser) -> None:
    """All of ``megatron-dream order``."""
    parser.argument_default = argparse.SUPPRESS  # defaults stay in evaluation/order/command.py
    add = parser.add_argument
    add("file", metavar="FILE.jsonl", type=Path, help="written by sample --history")
    add("--output", type=Path, metavar="FOLDER", help="for order.md, order.json and order.png")
    add("--page", type=Path, metavar="F.html", help="a page that plays the decoding")
    add("--any-settings", action="store_true", help="take orders that blocks or a penalty forced")
    add("--seed", type=int, metavar="N", help="of the shuffled null and the interval (0)")


def add_infill_flags(parser: argparse.ArgumentParser) -> None:
    """All of ``megatron-dream infill``."""
    _add_model(parser)
    texts = parser.add_mutually_exclusive_group(required=True)
    texts.add_argument("--prefix", metavar="TEXT", help="text before the gap")
    texts.add_argument("--file", type=Path, metavar="F", help="both texts, and the mark between")
    texts.add_argument(
        "--jsonl", type=Path, metavar="F", help="one object with prefix and suffix a line"
    )
    parser.add_argument("--suffix", metavar="TEXT", help="text after the gap (none)")
    parser.add_argument("--mark", metavar="MARK", help="the gap in --file (<fill>)")
    parser.add_argument("--length", type=int, metavar="N", help="tokens of the gap (32)")
    parser.add_argument(
        "--grow", action="store_true", help="find the gap's length; for models trained to infill"
    )
    parser.add_argument("--masks", type=int, metavar="N", help="with --grow: to begin with (4)")
    parser.add_argument("--max-masks", type=int, metavar="N", help="with --grow: at a time (64)")
    parser.add_argument(
        "--max-expansions", type=int, metavar="N", help="with --grow: growths in all (64)"
    )
    parser.add_argument(
        "--eos-closes-right",
        action=argparse.BooleanOptionalAction,
        help="with --grow: an end token takes the masks right of it with it (yes)",
    )
    add_sampling_flags(parser, without=OF_APPENDED_TOKENS)
    _add_outputs(parser)


def add_chat_flags(parser: argparse.ArgumentParser) -> None:
    """All of ``megatron-dream chat``."""
    _add_model(parser)
    parser.add_argument("--system", metavar="TEXT", help="the system's message (the template's)")
    add_sampling_flags(parser, without=("num_return_sequences",))


def add_analyze_lengths_flags(parser: argparse.ArgumentParser) -> None:
    """All of ``megatron-dream analyze-lengths``."""
    _add_model(parser)
    add = parser.add_argument
    add("--prompts", type=Path, required=True, metavar="F.jsonl", help="prompt or messages a line")
    add("--output", type=Path, required=True, metavar="FOLDER", help="for the table and the plot")
    add("--chat", action="store_true", help="a prompt is a user's message to a chat model")
    add("--temperature", type=float, nargs="+", metavar="T", help="each of them (0 1)")
    add("--pad-penalty", type=float, nargs="+", metavar="X", help="each of them, nats (0 1 3)")
    add("--pad-penalty-factor", type=float, nargs="+", metavar="X", help="and as factors")
    add("--max-new-tokens", type=int, nargs="+", metavar="N", help="each canvas (256)")
    add("--samples", type=int, metavar="K", help="of each prompt; one at temperature 0 (1)")
    add("--batch-size", type=int, metavar="N", help="prompts that run together (8 rows)")
    add("--seed", type=int, metavar="N", help="prompt k draws from this + k (0)")
    add_sampling_flags(parser, without=_OF_LENGTHS)


# given as lists above, or without a meaning beside them
_OF_LENGTHS = (
    "temperature",
    "pad_penalty",
    "pad_penalty_factor",
    "eos_penalty",
    "penalty_after_temperature",
    "max_new_tokens",
    "num_return_sequences",
    "seed",
    "compat",
)
# fields of GapConfig: infill --grow
OF_GROWTH = ("masks", "max_masks", "max_expansions", "eos_closes_right")
# blocks and caches are of the tokens that are appended; a gap has none
OF_APPENDED_TOKENS = (
    "max_new_tokens",
    "block_length",
    "cache",
    "cache_refresh",
    "border",
    "cuda_graphs",
    "suffix_window",
    "early_end",
)


def _add_model(parser: argparse.ArgumentParser) -> None:
    # SUPPRESS: what is not given is not passed on, so defaults stay in one place, the sampler's
    parser.argument_default = argparse.SUPPRESS
    parser.add_argument("model", metavar="MODEL", type=Path, help="exported folder or checkpoint")
    add_weights_flag(parser)


def add_weights_flag(parser: argparse.ArgumentParser) -> None:
    """``--weights``, which belongs to a model rather than to a generation."""
    parser.add_argument(
        "--weights",
        choices=("bf16", "fp8"),
        help="of an exported folder (default: as they lie there)",
    )


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="prompts that run together (8 rows)"
    )
    parser.add_argument("--output", type=Path, metavar="F.jsonl", help="one object a sample")
    parser.add_argument(
        "--page", type=Path, metavar="F.html", help="a page that plays the decoding"
    )


def in_flags(sentence: str) -> str:
    """The sampler's refusal as the person typed it: fields become flags.

    A field is known by its place at the beginning or by an underscore: ``alg`` and ``factor`` are
    also ordinary words.
    """

    def flag(match: re.Match[str]) -> str:
        return flag_name(match[0]) if match[0] in (*SAMPLING_FLAGS, *OF_GROWTH) else match[0]

    return re.sub(r"^[a-z]\w*|\b[a-z]+(?:_[a-z]+)+\b", flag, sentence)
