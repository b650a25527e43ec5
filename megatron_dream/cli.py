"""The command line: parses, calls one function, no logic.

Each handler imports what it calls, so that ``--help`` and ``doctor`` start at once and an absent
optional package matters only to the verb that needs it. Exit codes: exit_codes.py.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import select
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from megatron_dream import __version__, exit_codes
from megatron_dream.data import flags
from megatron_dream.errors import ConfigError, UserError
from megatron_dream.evaluation import sampling_flags
from megatron_dream.evaluation.harness import flags as eval_flags

if TYPE_CHECKING:
    from megatron_dream.config.schema import RunConfig

Handler = Callable[[argparse.Namespace], int | None]

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
    _fill_tokenizer_train(train)
    train.set_defaults(handler=_tokenizer_train)
    leaves["tokenizer train"] = train
    return parser, leaves


def _add_verb(verbs: argparse._SubParsersAction[_Parser], name: str, text: str) -> _Parser:
    return verbs.add_parser(name, help=text, description=text, allow_abbrev=False)


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """A verb's flags by name, without what the parser adds."""
    return {
        k: v
        for k, v in vars(options).items()
        if k not in ("handler", "overrides", "takes_overrides")
    }


def _doctor(options: argparse.Namespace) -> int:
    from megatron_dream.doctor import run_doctor

    return run_doctor(as_json=options.json)


def _fill_doctor(parser: _Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _tokenizer_train(options: argparse.Namespace) -> None:
    from megatron_dream.tokenizer.train import train_sentencepiece

    train_sentencepiece(
        options.input,
        vocab_size=options.vocab_size,
        output=options.output,
        json_key=options.json_key,
        suffixes=options.suffixes,
    )


def _fill_tokenizer_train(parser: _Parser) -> None:
    parser.add_argument("--input", type=Path, nargs="+", required=True, metavar="PATH")
    parser.add_argument("--vocab-size", type=int, required=True, metavar="N")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.model")
    parser.add_argument("--json-key", default="text", help="field that holds the text (text)")
    parser.add_argument(
        "--suffixes",
        nargs="+",
        default=[".py"],
        metavar="SUFFIX",
        help="which files of a folder count (.py), such as .jsonl .jsonl.zst",
    )


def _preprocess(options: argparse.Namespace) -> None:
    from megatron_dream.data.mixture.preprocess_recipe import preprocess_command

    preprocess_command(**_given(options))


def _find_duplicates(options: argparse.Namespace) -> None:
    from megatron_dream.data.duplicates.command import run_find_duplicates

    run_find_duplicates(**_given(options))


def _plan_data(options: argparse.Namespace) -> None:
    from megatron_dream.data.mixture.plan_command import plan_data

    plan_data(**_given(options))


def _prepare_sft(options: argparse.Namespace) -> None:
    from megatron_dream.data.sft.prepare import prepare_sft

    prepare_sft(**_given(options))


def _prepare_infill(options: argparse.Namespace) -> None:
    from megatron_dream.data.infilling.prepare import prepare_infill

    prepare_infill(**_given(options))


def _pretrain(options: argparse.Namespace) -> int | None:
    if (config := _run_config(options)) is None:
        return 0
    if options.dry_run is not None:
        return _rehearse(options, config, "pretrain")
    from megatron_dream.training.run import pretrain

    return pretrain(config, try_steps=options.try_steps)


def _sft(options: argparse.Namespace) -> int | None:
    if (config := _run_config(options)) is None:
        return 0
    if options.dry_run is not None:
        return _rehearse(options, config, "sft")
    from megatron_dream.training.run import sft

    return sft(config, try_steps=options.try_steps)


def _rl(options: argparse.Namespace) -> int | None:
    if (config := _run_config(options)) is None:
        return 0
    if options.dry_run is not None:
        return _rehearse(options, config, "rl")
    from megatron_dream.rl.run import rl

    return rl(config, try_steps=options.try_steps)


def _rehearse(options: argparse.Namespace, config: RunConfig, stage: str) -> int:
    from megatron_dream.rehearsal.command import run_rehearsal

    return run_rehearsal(
        config,
        stage,
        options.dry_run,
        gpus_per_node=8 if options.gpus_per_node is None else options.gpus_per_node,
        with_files=not options.without_files,
        as_json=options.json,
    )


def _run_config(options: argparse.Namespace) -> RunConfig | None:
    """A training verb's configuration; None where it was only to be shown."""
    from megatron_dream.config.load import load_config, to_yaml

    config: RunConfig = load_config(options.config, options.overrides)
    if options.dry_run is None and (options.gpus_per_node or options.without_files or options.json):
        raise ConfigError(
            "--gpus-per-node, --without-files and --json are of a rehearsal; add --dry-run N or leave "
            "them out."
        )
    if not options.print_config:
        return config
    print(to_yaml(config), end="")
    return None


def _fill_train(parser: _Parser) -> None:
    parser.set_defaults(takes_overrides=True)
    parser.epilog = "Any field of the configuration: --section.field VALUE (docs/configuration.md)."
    parser.add_argument("--config", type=Path, required=True, metavar="FILE.yaml")
    parser.add_argument(
        "--dry-run",
        type=int,
        metavar="N",
        help="rehearse the job for N GPUs in this process, without one: check all, start nothing",
    )
    parser.add_argument("--gpus-per-node", type=int, metavar="N", help="in a rehearsal (8)")
    parser.add_argument(
        "--without-files",
        action="store_true",
        help="in a rehearsal: tokenizer, data and checkpoints lie elsewhere",
    )
    parser.add_argument("--json", action="store_true", help="print a rehearsal as JSON")
    parser.add_argument(
        "--try-steps", type=int, metavar="N", help="run N steps, write nothing into the run folder"
    )
    parser.add_argument("--print-config", action="store_true", help="print it resolved, and stop")


def _analyze_padding(options: argparse.Namespace) -> None:
    from megatron_dream.evaluation.padding import analyze_padding

    analyze_padding(**_given(options))


def _analyze_lengths(options: argparse.Namespace) -> None:
    from megatron_dream.evaluation.lengths import analyze_lengths

    analyze_lengths(**_given(options))


def _build_index(options: argparse.Namespace) -> int:
    from megatron_dream.config.load import load_config
    from megatron_dream.training.run import build_index

    return build_index(load_config(options.config, options.overrides), options.token_budget)


def _fill_build_index(parser: _Parser) -> None:
    parser.set_defaults(takes_overrides=True)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE.yaml")
    parser.add_argument(
        "--token-budget",
        metavar="N",
        help="tokens to plan for, such as 322e9 or 322B (default: those of the run's steps)",
    )


def _plan(options: argparse.Namespace) -> int:
    from megatron_dream.planning.command import run_plan

    return run_plan(**_given(options), overrides=options.overrides)


def _fill_plan(parser: _Parser) -> None:
    # SUPPRESS: defaults stay in planning/command.py
    parser.argument_default = argparse.SUPPRESS
    parser.set_defaults(takes_overrides=True)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE.yaml")
    parser.add_argument("--gpus", type=int, required=True, metavar="N")
    parser.add_argument(
        "--gpu",
        required=True,
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


def _status(options: argparse.Namespace) -> None:
    from megatron_dream.training.status import run_status

    run_status(options.run)


def _check_nodes(options: argparse.Namespace) -> int:
    from megatron_dream.cluster.check import check_nodes

    return check_nodes(**_given(options))


def _fill_check_nodes(parser: _Parser) -> None:
    parser.argument_default = argparse.SUPPRESS  # defaults stay in cluster/check.py
    parser.add_argument("--seconds", type=float, metavar="S", help="of the whole check (300)")
    parser.add_argument("--slow", type=float, metavar="X", help="times the median is slow (1.3)")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="all that was found")
    parser.add_argument(
        "--bad-nodes", type=Path, metavar="FILE", help="names of nodes at fault, if there are any"
    )


def _fill_status(parser: _Parser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's folder")


def _import_hf(options: argparse.Namespace) -> None:
    from megatron_dream.hf import import_hf

    import_hf(options.folder, options.checkpoint, tp=options.tp, pp=options.pp)
    if int(os.environ.get("RANK", "0")) == 0:
        print(
            f"{options.checkpoint}: imported from {options.folder}, TP {options.tp} PP {options.pp}"
        )


def _fill_import_hf(parser: _Parser) -> None:
    parser.add_argument("folder", type=Path, metavar="HF_FOLDER")
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    parser.add_argument("--tp", type=int, default=1, metavar="N")
    parser.add_argument("--pp", type=int, default=1, metavar="N")


def _export_hf(options: argparse.Namespace) -> None:
    from megatron_dream.hf import export_hf

    export_hf(options.checkpoint, options.folder, tokenizer=options.tokenizer, dtype=options.dtype)


def _fill_export_hf(parser: _Parser) -> None:
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    parser.add_argument("folder", type=Path, metavar="HF_FOLDER")
    parser.add_argument("--tokenizer", type=Path, metavar="PATH")
    parser.add_argument("--dtype", default="auto", choices=("auto", "bfloat16", "float32"))


def _verify_export(options: argparse.Namespace) -> int | None:
    from megatron_dream.hf import verify_export

    return verify_export(options.folder, options.against)


def _fill_verify_export(parser: _Parser) -> None:
    parser.add_argument("folder", type=Path, metavar="HF_FOLDER")
    parser.add_argument("--against", type=Path, required=True, metavar="CHECKPOINT")


def _reshard(options: argparse.Namespace) -> None:
    from megatron_dream.training.reshard import reshard

    reshard(options.checkpoint, options.out, tp=options.tp, pp=options.pp)


def _fill_reshard(parser: _Parser) -> None:
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--tp", type=int, required=True, metavar="N")
    parser.add_argument("--pp", type=int, required=True, metavar="N")


def _sample(options: argparse.Namespace) -> None:
    from megatron_dream.evaluation.sample_command import run_sample

    run_sample(**_given(options))


def _order(options: argparse.Namespace) -> None:
    from megatron_dream.evaluation.order.command import run_order

    run_order(**_given(options))


def _infill(options: argparse.Namespace) -> None:
    from megatron_dream.evaluation.sample_command import run_infill

    run_infill(**_given(options))


def _chat(options: argparse.Namespace) -> None:
    from megatron_dream.evaluation.chat_command import run_chat

    run_chat(**_given(options))


def _judge(options: argparse.Namespace) -> int:
    from megatron_dream.evaluation.judge_command import judge_files
    from megatron_dream.sandbox import Outcome

    return int(judge_files(**_given(options))[Outcome.INFRASTRUCTURE] > 0)


def _fill_judge(parser: _Parser) -> None:
    parser.argument_default = argparse.SUPPRESS
    parser.add_argument(
        "--problems", type=Path, required=True, metavar="P.jsonl", help="with tests"
    )
    parser.add_argument("--samples", type=Path, required=True, metavar="S.jsonl", help="programs")
    parser.add_argument("--output", type=Path, required=True, metavar="R.jsonl", help="verdicts")
    parser.add_argument("--workers", type=int, metavar="N", help="programs at once (one a CPU)")
    _add_places(parser)


def _add_places(parser: _Parser) -> None:
    """Where judged programs run."""
    parser.add_argument(
        "--isolation",
        choices=("namespaces", "bubblewrap", "process"),
        help="process: limits only, for programs that are trusted (namespaces, else bubblewrap)",
    )
    parser.add_argument(
        "--endpoints", nargs="+", metavar="URL", help="of SandboxFusion, to judge there instead"
    )


def _eval(options: argparse.Namespace) -> int:
    from megatron_dream.evaluation.harness.command import run_eval

    given = _given(options)
    sampling = {name: given.pop(name) for name in sampling_flags.SAMPLING_FLAGS if name in given}
    for name in ("seed", "steps"):  # of the evaluation, not of one call of the sampler
        if name in sampling:
            given[name] = sampling.pop(name)
    return run_eval(**given, sampling=sampling)


def _curate(options: argparse.Namespace) -> None:
    from megatron_dream.rl.curation import curate

    curate(**_given(options))


def _fill_curate(parser: _Parser) -> None:
    # SUPPRESS: defaults stay in rl/curation/command.py
    parser.argument_default = argparse.SUPPRESS
    parser.add_argument(
        "--input",
        nargs="+",
        required=True,
        metavar="SCHEMA:PATH",
        help="kodcode, deepcoder, guru or own, and JSON Lines, Parquet or folders of them",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--min-tests", type=int, metavar="N", help="of a problem (5)")
    parser.add_argument("--similarity", type=float, metavar="C", help="cosine of a copy (0.85)")
    parser.add_argument(
        "--embeddings", type=Path, metavar="FOLDER", help="of a sentence encoder: all-MiniLM-L6-v2"
    )
    parser.add_argument(
        "--difficulty",
        type=Path,
        metavar="MODEL_OR_FILE",
        help="any causal model's folder, an exported folder, a checkpoint, or a file of pass rates",
    )
    for flag, text in (
        ("--candidates", "for each prompt (8)"),
        ("--max-new-tokens", "of a candidate (768)"),
        ("--candidate-batch", "prompts at once (4)"),
        ("--max-problems", "at most so many in the end (all)"),
        ("--seed", "of the candidates (0)"),
        ("--workers", "programs judged at once (one a CPU)"),
        ("--judge-cpu-seconds", "of each process of a judged program (5)"),
    ):
        parser.add_argument(flag, type=int, metavar="N", help=text)
    parser.add_argument(
        "--judge-wall-seconds", type=float, metavar="S", help="of a judged program in all (15)"
    )
    parser.add_argument("--temperature", type=float, metavar="T", help="of the candidates (1.0)")
    parser.add_argument(
        "--drop-unsolved", action="store_true", help="drop what no candidate solves as well"
    )
    parser.add_argument(
        "--balance", metavar="SHARES", help="of the kinds, such as function=1,stdin=1,output=1"
    )
    _add_places(parser)


def _serve(options: argparse.Namespace) -> None:
    from megatron_dream.serving.command import run_serve

    run_serve(**_given(options))


def _fill_serve(parser: _Parser) -> None:
    # SUPPRESS: defaults stay in serving/command.py and serving/limits.py
    parser.argument_default = argparse.SUPPRESS
    parser.add_argument("model", metavar="MODEL", type=Path, help="exported folder or checkpoint")
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


VERBS: dict[str, tuple[Handler, Callable[[_Parser], None], str]] = {
    "doctor": (_doctor, _fill_doctor, "show what is installed and what it enables"),
    "preprocess": (_preprocess, flags.add_preprocess_flags, "turn text into .bin/.idx token files"),
    "find-duplicates": (
        _find_duplicates,
        flags.add_find_duplicates_flags,
        "list documents that are copies of earlier ones",
    ),
    "plan-data": (
        _plan_data,
        flags.add_plan_data_flags,
        "tell what a mixture takes, write a run's blend",
    ),
    "prepare-sft": (
        _prepare_sft,
        flags.add_prepare_sft_flags,
        "turn prompts and responses into token files",
    ),
    "prepare-infill": (
        _prepare_infill,
        flags.add_prepare_infill_flags,
        "turn texts into data that infilling is trained on",
    ),
    "build-index": (_build_index, _fill_build_index, "build a run's data indices beforehand"),
    "pretrain": (_pretrain, _fill_train, "train, objective ar or diffusion"),
    "sft": (_sft, _fill_train, "fine-tune on answers or for infilling"),
    "rl": (_rl, _fill_train, "train on problems whose answers are judged by running them"),
    "analyze-padding": (
        _analyze_padding,
        flags.add_analyze_padding_flags,
        "tell what share of sft's compute is PAD, by way of truncation",
    ),
    "analyze-lengths": (
        _analyze_lengths,
        sampling_flags.add_analyze_lengths_flags,
        "tell how long a model's answers are, by temperature, penalty and canvas",
    ),
    "plan": (_plan, _fill_plan, "tell memory, time and cost of a run before it is queued"),
    "status": (_status, _fill_status, "show step, time left, last checkpoint and fault of a run"),
    "check-nodes": (_check_nodes, _fill_check_nodes, "name slow or broken nodes of a job"),
    "import-hf": (_import_hf, _fill_import_hf, "turn a Hugging Face folder into a checkpoint"),
    "export-hf": (_export_hf, _fill_export_hf, "turn a checkpoint into a Hugging Face folder"),
    "verify-export": (_verify_export, _fill_verify_export, "compare an export with its checkpoint"),
    "reshard": (_reshard, _fill_reshard, "rewrite a checkpoint for other TP and PP"),
    "sample": (
        _sample,
        sampling_flags.add_sample_flags,
        "complete prompts, and show the order of the tokens",
    ),
    "order": (
        _order,
        sampling_flags.add_order_flags,
        "tell in which order samples were generated",
    ),
    "infill": (_infill, sampling_flags.add_infill_flags, "fill the gap between two texts"),
    "chat": (_chat, sampling_flags.add_chat_flags, "talk with a model in the terminal"),
    "eval": (_eval, eval_flags.add_eval_flags, "measure a model on benchmarks, as the paper does"),
    "judge": (_judge, _fill_judge, "run programs against tests, shut in"),
    "curate": (_curate, _fill_curate, "choose the problems that rl is trained on"),
    "serve": (_serve, _fill_serve, "answer over HTTP as OpenAI does, with a page to watch"),
}
