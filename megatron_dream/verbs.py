"""What each verb of the command line does: a handler that calls one function, its flags, a line of help.

A handler imports what it calls, so that ``--help`` and ``doctor`` start at once and an absent optional
package matters only to the verb that needs it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from megatron_dream.cluster import flags as cluster_flags
from megatron_dream.data import flags as data_flags
from megatron_dream.errors import ConfigError
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


def tokenizer_train(options: argparse.Namespace) -> None:
    """Handler of ``tokenizer train``, the one verb of two words."""
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
