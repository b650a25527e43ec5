"""``rl``: from a configuration to a checkpoint trained on rewards that were verified by running programs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from ..config.layout import Layout
from ..config.schema import RunConfig
from ..config.validate import validate
from ..errors import ConfigError, DataError
from ..sandbox import ProblemError
from ..tokenizer.base import Tokenizer
from ..tokenizer.chat import ChatTemplate
from ..training.engine import build_engine, prepare
from ..training.watch.watch import Watch
from .asking import Asked
from .loop import RlLoop
from .problems import RlProblem, read_problems


def rl(config: RunConfig, try_steps: int | None = None) -> int:
    """Train to ``training.train_steps``, from the run folder's last checkpoint if there is one.

    Args:
        config: the run; presets may still be unresolved.
        try_steps: stop after this many steps; nothing is written into the run folder.

    Returns:
        Exit code (exit_codes.py): 0, or 75 where it is to be run again.

    Raises:
        UserError: anything that a person can mend, on every process alike.
    """
    with Watch(config, writes=try_steps is None) as watch:
        loop = open_loop(config, is_trial=try_steps is not None, watch=watch)
        try:
            return loop.train(stop_after=try_steps)
        finally:
            loop.close()


def open_loop(config: RunConfig, *, is_trial: bool = False, watch: Watch | None = None) -> RlLoop:
    """Everything that a run holds, before its first step.

    Args:
        config: the run; presets may still be unresolved.
        is_trial: nothing is written into the run folder.
        watch: over this process; None: nothing is watched.

    Raises:
        UserError: anything that a person can mend, on every process alike.
    """
    watch = watch or Watch()
    validate(config, "rl")
    complete(config)
    stage = config.rl
    tokenizer, layout, ranks = prepare(config, "rl")
    watch.start(ranks)
    check_rl_layout(config, layout)
    problems, words = asked_of(stage.problems, config, tokenizer)
    valid, _ = asked_of(stage.valid, config, tokenizer)
    engine = build_engine(
        config,
        "rl",
        tokenizer,
        layout,
        ranks,
        index_hash=_hash_of(problems),
        variable_lengths=True,
        is_trial=is_trial,
        watch=watch,
    )
    engine.metadata.trained["training data"] = words
    engine.log.say(words)
    return RlLoop(config, layout, ranks, engine, tokenizer, problems, valid)


def check_rl_layout(config: RunConfig, layout: Layout) -> None:
    """Refuse what the stage cannot compute on a layout.

    Raises:
        ConfigError: names the field to change.
    """
    stage = config.rl
    if stage.ratio == "sequence" and stage.prompts_per_step % layout.dp:
        raise ConfigError(
            f"rl.ratio: sequence needs both masks of a response on one rank; make rl.prompts_per_step "
            f"{stage.prompts_per_step} a multiple of DP {layout.dp}"
        )


def complete(config: RunConfig) -> None:
    """Fill in what follows from the section ``rl``: rows of an update, their width, the layer spec."""
    stage = config.rl
    config.training.global_batch_size = 2 * stage.prompts_per_step * stage.group_size
    config.data.sequence_length = stage.max_prompt_length + stage.response_length
    config.model.layer_spec = "local"  # what the sampler takes


def asked_of(
    paths: Sequence[str], config: RunConfig, tokenizer: Tokenizer
) -> tuple[list[Asked], str]:
    """Problems of some files with their prompts' tokens, and one sentence on them.

    Prompts of more than ``rl.max_prompt_length`` tokens are left out.

    Raises:
        DataError: a file has none, or a line is no problem.
    """
    kept: list[Asked] = []
    ids: dict[str, str] = {}
    too_long = 0
    for path in paths:
        if not Path(path).is_file():
            raise DataError(f"{path} does not exist; rl.problems and rl.valid name JSONL files")
        try:
            for problem in read_problems(path):
                if problem.id in ids:
                    raise DataError(
                        f"{path}: problem {problem.id!r} is in {ids[problem.id]} too; ids name problems, so "
                        "rename or remove one"
                    )
                ids[problem.id] = path
                prompt = _prompt_of(problem, config, tokenizer)
                if len(prompt) > config.rl.max_prompt_length:
                    too_long += 1
                else:
                    kept.append(Asked(problem, tuple(prompt)))
        except ProblemError as error:
            raise DataError(str(error)) from None
    if paths and not kept:
        raise DataError(
            f"{', '.join(paths)}: no problem is left ({too_long} prompts are longer than "
            f"rl.max_prompt_length {config.rl.max_prompt_length}); raise it or give others"
        )
    return kept, (
        f"{len(kept)} problems from {len(paths)} files; {too_long} left out, whose prompts are longer than "
        f"{config.rl.max_prompt_length} tokens"
    )


def _prompt_of(problem: RlProblem, config: RunConfig, tokenizer: Tokenizer) -> list[int]:
    """As the sft stage renders prompts (data/sft/rendering.py)."""
    if config.rl.template == "chat":
        return ChatTemplate.dream().encode(tokenizer, problem.messages())
    if not isinstance(problem.prompt, str):
        raise DataError(
            f"problem {problem.id!r}: the prompt is a list of messages, which needs rl.template chat"
        )
    return [tokenizer.bos_id, *tokenizer.encode(problem.prompt)]


def _hash_of(problems: Sequence[Asked]) -> str:
    digest = hashlib.sha256()
    for asked in problems:
        digest.update(f"{asked.problem.to_line()} {asked.prompt}".encode())
    return digest.hexdigest()[:16]
