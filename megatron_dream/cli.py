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
from typing import TYPE_CHECKING, Any, NoReturn

from megatron_dream import __version__, exit_codes
from megatron_dream.cluster import flags as cluster_flags
from megatron_dream.data import flags as data_flags
from megatron_dream.errors import ConfigError, UserError
from megatron_dream.evaluation import sampling_flags
from megatron_dream.evaluation.harness import flags as eval_flags
from megatron_dream.evaluation.sweeps import flags as sweep_flags
from megatron_dream.hf import flags as hf_flags
from megatron_dream.planning import flags as planning_flags
from megatron_dream.rl import flags as rl_flags
from megatron_dream.serving import flags as serving_flags
from megatron_dream.training import flags as training_flags

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
    data_flags.add_train_tokenizer_flags(train)
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


def _fill_doctor(parser: argparse.ArgumentParser) -> None:
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


def _plan(options: argparse.Namespace) -> int:
    from megatron_dream.planning.verb import plan

    return plan(_given(options), options.overrides)


def _status(options: argparse.Namespace) -> None:
    from megatron_dream.training.status import run_status

    run_status(options.run)


def _check_nodes(options: argparse.Namespace) -> int:
    from megatron_dream.cluster.check import check_nodes

    return check_nodes(**_given(options))


def _import_hf(options: argparse.Namespace) -> None:
    from megatron_dream.hf import import_hf

    import_hf(options.folder, options.checkpoint, tp=options.tp, pp=options.pp)
    if int(os.environ.get("RANK", "0")) == 0:
        print(
            f"{options.checkpoint}: imported from {options.folder}, TP {options.tp} PP {options.pp}"
        )


def _export_hf(options: argparse.Namespace) -> None:
    from megatron_dream.hf import export_hf

    export_hf(options.checkpoint, options.folder, tokenizer=options.tokenizer, dtype=options.dtype)


def _verify_export(options: argparse.Namespace) -> int | None:
    from megatron_dream.hf import verify_export

    return verify_export(options.folder, options.against)


def _reshard(options: argparse.Namespace) -> None:
    from megatron_dream.training.reshard import reshard

    reshard(options.checkpoint, options.out, tp=options.tp, pp=options.pp)


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


def _eval(options: argparse.Namespace) -> int:
    from megatron_dream.evaluation.harness.command import run_eval

    given = _given(options)
    sampling = {name: given.pop(name) for name in sampling_flags.SAMPLING_FLAGS if name in given}
    for name in ("seed", "steps"):  # of the evaluation, not of one call of the sampler
        if name in sampling:
            given[name] = sampling.pop(name)
    return run_eval(**given, sampling=sampling)


def _sweep(options: argparse.Namespace) -> int:
    from megatron_dream.evaluation.sweeps.command import run_sweep

    return run_sweep(**_given(options))


def _curate(options: argparse.Namespace) -> None:
    from megatron_dream.rl.curation import curate

    curate(**_given(options))


def _serve(options: argparse.Namespace) -> None:
    from megatron_dream.serving.command import run_serve

    run_serve(**_given(options))


VERBS: dict[str, tuple[Handler, Callable[[argparse.ArgumentParser], None], str]] = {
    "doctor": (_doctor, _fill_doctor, "show what is installed and what it enables"),
    "preprocess": (
        _preprocess,
        data_flags.add_preprocess_flags,
        "turn text into .bin/.idx token files",
    ),
    "find-duplicates": (
        _find_duplicates,
        data_flags.add_find_duplicates_flags,
        "list documents that are copies of earlier ones",
    ),
    "plan-data": (
        _plan_data,
        data_flags.add_plan_data_flags,
        "tell what a mixture takes, write a run's blend",
    ),
    "prepare-sft": (
        _prepare_sft,
        data_flags.add_prepare_sft_flags,
        "turn prompts and responses into token files",
    ),
    "prepare-infill": (
        _prepare_infill,
        data_flags.add_prepare_infill_flags,
        "turn texts into data that infilling is trained on",
    ),
    "build-index": (
        _build_index,
        training_flags.add_build_index_flags,
        "build a run's data indices beforehand",
    ),
    "pretrain": (_pretrain, training_flags.add_train_flags, "train, objective ar or diffusion"),
    "sft": (_sft, training_flags.add_train_flags, "fine-tune on answers or for infilling"),
    "rl": (
        _rl,
        training_flags.add_train_flags,
        "train on problems whose answers are judged by running them",
    ),
    "analyze-padding": (
        _analyze_padding,
        data_flags.add_analyze_padding_flags,
        "tell what share of sft's compute is PAD, by way of truncation",
    ),
    "analyze-lengths": (
        _analyze_lengths,
        sampling_flags.add_analyze_lengths_flags,
        "tell how long a model's answers are, by temperature, penalty and canvas",
    ),
    "plan": (
        _plan,
        planning_flags.add_plan_flags,
        "tell memory, time and cost of a run before it is queued",
    ),
    "status": (
        _status,
        training_flags.add_status_flags,
        "show step, time left, last checkpoint and fault of a run",
    ),
    "check-nodes": (
        _check_nodes,
        cluster_flags.add_check_nodes_flags,
        "name slow or broken nodes of a job",
    ),
    "import-hf": (
        _import_hf,
        hf_flags.add_import_flags,
        "turn a Hugging Face folder into a checkpoint",
    ),
    "export-hf": (
        _export_hf,
        hf_flags.add_export_flags,
        "turn a checkpoint into a Hugging Face folder",
    ),
    "verify-export": (
        _verify_export,
        hf_flags.add_verify_flags,
        "compare an export with its checkpoint",
    ),
    "reshard": (
        _reshard,
        training_flags.add_reshard_flags,
        "rewrite a checkpoint for other TP and PP",
    ),
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
    "sweep": (
        _sweep,
        sweep_flags.add_sweep_flags,
        "measure many settings of one thing, and tell what differs",
    ),
    "judge": (_judge, rl_flags.add_judge_flags, "run programs against tests, shut in"),
    "curate": (_curate, rl_flags.add_curate_flags, "choose the problems that rl is trained on"),
    "serve": (
        _serve,
        serving_flags.add_serve_flags,
        "answer over HTTP as OpenAI does, with a page to watch",
    ),
}
