"""The command line: parses, calls one function, no logic.

What the verbs call: verbs.py. Exit codes: exit_codes.py.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import select
import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn

from megatron_dream import __version__, exit_codes
from megatron_dream.data import flags as data_flags
from megatron_dream.errors import ConfigError, UserError
from megatron_dream.verbs import VERBS, tokenizer_train

PROGRAM = "megatron-dream"
_STANDALONE = ("megatron_dream.diffusion", "megatron_dream.sampling", "megatron_dream.sandbox")
_PATH_ERRORS = (
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)
_RANK_VARIABLES = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")
_OVERRIDE = re.compile(r"--([A-Za-z_]\w*(?:\.\w+)+)(?:=(.*))?", re.DOTALL)


class _Parser(argparse.ArgumentParser):
    """argparse that reports like every other error of ours."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        argv: words after the program's name; None takes the process's own.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        options = _parse(words)
        code = options.handler(options)
        return code if type(code) is int else 0
    except UserError as error:
        _report(error)
        return error.exit_code
    except ValueError as error:
        # sampling imports nothing of the package, so its refusals are ValueErrors of one sentence
        if not _is_refusal(error):
            raise
        _report(error)
        return exit_codes.BAD_INPUT
    except _PATH_ERRORS as error:
        _report(UserError(f"{error.filename}: {error.strerror}; check the path and its rights."))
        return exit_codes.BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return exit_codes.INTERRUPTED
    except BrokenPipeError:
        if not _has_lost_its_reader(sys.stdout.fileno()):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # as `| head` leaves it
        return exit_codes.DONE


def _has_lost_its_reader(descriptor: int) -> bool:
    """Whether it is a pipe that nobody reads from any more."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _report(error: Exception) -> None:
    """Print an error; one that every rank of a launch has alike is printed by rank 0 alone."""
    rank = next((os.environ[name] for name in _RANK_VARIABLES if name in os.environ), "0")
    # Over MPI a rank's own error travels to rank 0, and rank 0's to all (data/preprocessing/mpi.py).
    if rank != "0" and (isinstance(error, ConfigError) or "--mpi" in sys.argv):
        return
    who = "" if rank == "0" else f"rank {rank}: "
    print(f"error: {who}{error}", file=sys.stderr)


def _is_refusal(error: ValueError) -> bool:
    """Whether a module that stands alone raised the error, rather than a bug elsewhere."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = trace.tb_frame.f_globals.get("__name__", "") if trace else ""
    return module.startswith(_STANDALONE)


def _parse(words: list[str]) -> argparse.Namespace:
    parser, leaves = build_parser()
    names_verb = bool(words) and not words[0].startswith("-")
    leaf = _leaf(words, leaves) if names_verb else parser
    overrides: list[tuple[str, str]] = []
    if leaf is not None and leaf.get_default("takes_overrides"):
        words, overrides = split_overrides(words)
    if leaf is not None:
        _refuse_unknown_flags(words, leaf)
    options = parser.parse_args(words)
    options.overrides = overrides
    return options


def split_overrides(words: Iterable[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Take ``--section.field value`` and ``--section.field=value`` out of a command line.

    Returns:
        The other words, and the pairs of dotted path and text, both in order.

    Raises:
        ConfigError: a field stands without a value.
    """
    rest: list[str] = []
    overrides: list[tuple[str, str]] = []
    iterator = iter(words)
    for word in iterator:
        match = _OVERRIDE.fullmatch(word)
        if match is None:
            rest.append(word)
            continue
        name, value = match.groups()
        value = next(iterator, None) if value is None else value
        if value is None or (value.startswith("--") and " " not in value):
            raise ConfigError(f"--{name}: the value is missing; write --{name} VALUE.")
        overrides.append((name, value))
    return rest, overrides


def _leaf(words: list[str], leaves: dict[str, _Parser]) -> _Parser | None:
    """Parser of the verb that ``words`` begin with; None where a group is asked for help."""
    verb = words[0]
    group = [name for name in leaves if name.startswith(f"{verb} ")]
    if group:
        if len(words) == 1 or words[1].startswith("-"):
            return None
        verb = f"{verb} {words[1]}"
    if verb in leaves:
        return leaves[verb]
    guess = difflib.get_close_matches(verb, leaves, n=1, cutoff=0.0)[0]
    raise ConfigError(f"{verb!r} is not a command; the nearest one is {PROGRAM} {guess}.")


def _refuse_unknown_flags(words: list[str], leaf: _Parser) -> None:
    known = [flag for flag in leaf._option_string_actions if flag.startswith("--")]
    for word in words:
        flag = word.split("=", 1)[0]
        if not flag.startswith("--") or flag == "--" or " " in flag or flag in known:
            continue
        guess = difflib.get_close_matches(flag, known, n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"{flag} is not a flag of {leaf.prog}; the nearest one is {guess} (text that begins "
            "with -- is given as --flag=text)."
        )


def build_parser() -> tuple[_Parser, dict[str, _Parser]]:
    """The whole command line, and the parser of each verb by name."""
    parser = _Parser(prog=PROGRAM, description="From raw text to a diffusion language model.")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)
    leaves: dict[str, _Parser] = {}
    for name, (handler, fill, help_text) in VERBS.items():
        leaves[name] = _add_verb(verbs, name, help_text)
        fill(leaves[name])
        leaves[name].set_defaults(handler=handler)
    tokenizer = verbs.add_parser("tokenizer", help="train a tokenizer", allow_abbrev=False)
    inner = tokenizer.add_subparsers(metavar="COMMAND", required=True)
    train = _add_verb(inner, "train", "train a SentencePiece BPE tokenizer with byte fallback")
    data_flags.add_train_tokenizer_flags(train)
    train.set_defaults(handler=tokenizer_train)
    leaves["tokenizer train"] = train
    return parser, leaves


def _add_verb(verbs: argparse._SubParsersAction[_Parser], name: str, text: str) -> _Parser:
    return verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
