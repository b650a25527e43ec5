"""How long a model's answers are, by temperature, PAD penalty and canvas: a table and a plot.

The measurement behind the paper's figure 1b, for any exported folder or checkpoint: at temperature 1
without a penalty a model may say PAD too early, or at once. Everything is sampled with the product's own
sampler. An answer passes here where it is the right text; judging programs by their tests is another
stage's.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError
from ..files import atomic_write, write_json
from ..tokenizer.base import Tokenizer
from .generate import Sample, encode_prompts, generate, sampling_config
from .length_figures import Figures, Penalty, figures_of, plot_figures, table_of
from .plots import import_pyplot
from .progress import sample_progress
from .prompts import Prompt, read_prompts
from .sample_command import check_options
from .sampler import Sampler, load_model

DEFAULT_PENALTIES = (0.0, 1.0, 3.0)  # nats


@dataclasses.dataclass(frozen=True)
class Question:
    """A prompt, and what is known of its answer.

    Attributes:
        prompt: what is asked.
        answer: the right text, or None.
        length: tokens of the right answer without its end, or None.
    """

    prompt: Prompt
    answer: str | None
    length: int | None


@dataclasses.dataclass(frozen=True)
class Setting:
    """One combination."""

    temperature: float
    penalty: Penalty
    max_new_tokens: int
    samples: int  # of each prompt

    def options(self) -> dict[str, Any]:
        """Fields of SamplingConfig."""
        return {
            "temperature": self.temperature,
            "max_new_tokens": self.max_new_tokens,
            "num_return_sequences": self.samples,
            **self.penalty.options(),
        }


def analyze_lengths(
    model: Path | str,
    prompts: Path | str,
    output: Path | str,
    *,
    chat: bool = False,
    temperature: Sequence[float] = (0.0, 1.0),
    pad_penalty: Sequence[float] | None = None,
    pad_penalty_factor: Sequence[float] | None = None,
    max_new_tokens: Sequence[int] = (256,),
    samples: int = 1,
    batch_size: int | None = None,
    seed: int = 0,
    quiet: bool = False,
    weights: str | None = None,
    **options: Any,
) -> list[Figures]:
    """Write ``lengths.json``, ``lengths.md`` and ``lengths.png`` into a folder, and print the table.

    Every temperature is combined with every penalty and every canvas. The first two files are written
    anew after each combination, so that a run that is stopped leaves what it has found.

    Args:
        model: exported folder or checkpoint.
        prompts: JSON lines with ``prompt`` or ``messages``, and, where known, ``answer`` (the right text)
            or ``length`` (tokens of the right answer; default: those of ``answer``).
        output: a folder; made if missing.
        chat: a prompt is a user's message.
        temperature: of the sampler, each.
        pad_penalty: nats, each; default 0, 1 and 3, or none beside factors.
        pad_penalty_factor: further penalties, as factors on PAD's weight.
        max_new_tokens: tokens of the canvas, each.
        samples: of each prompt; where nothing is drawn (temperature 0) one, the others being its copies.
        batch_size: prompts that run together.
        seed: prompt k draws from this + k, in every combination.
        quiet: no progress and no table.
        weights: see load_model.
        options: further fields of SamplingConfig, the same in every combination.

    Raises:
        UserError: a model, a line or an option is not what it should be.
    """
    penalties = penalties_of(pad_penalty, pad_penalty_factor)
    options = {"seed": seed, **options}
    settings = settings_of(temperature, penalties, max_new_tokens, samples, options)
    for setting in settings:
        check_options({**options, **setting.options()}, batch_size)
    import_pyplot()  # what is missing is missed before the work
    asked = read_prompts(None, None, Path(prompts), chat)
    if not asked:
        raise ConfigError(f"there is no prompt in {prompts}: give one line or more")
    answers = [answer_of(prompt) for prompt in asked]
    sampler = load_model(model, weights)
    questions = [
        Question(prompt, answer, length_of(sampler.tokenizer, answer, length))
        for prompt, (answer, length) in zip(asked, answers, strict=True)
    ]
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    about = {"model": str(model), "prompts": str(prompts), "num_prompts": len(asked), **options}
    found: list[Figures] = []
    for figures in measure(sampler, questions, settings, options, batch_size, quiet):
        found.append(figures)
        write_json(folder / "lengths.json", {**about, "figures": [f.as_dict() for f in found]})
        with atomic_write(folder / "lengths.md") as stream:
            stream.write(table_of(found))
    plot_figures(found, folder / "lengths.png")
    if not quiet:
        print(table_of(found), end="")
    return found


def penalties_of(nats: Sequence[float] | None, factors: Sequence[float] | None) -> list[Penalty]:
    """The penalties asked for, weakest first, each once."""
    if nats is None:
        nats = () if factors else DEFAULT_PENALTIES
    for factor in factors or ():
        check_options({"pad_penalty_factor": factor})
    found = [Penalty(number) for number in nats] + [Penalty.of_factor(f) for f in factors or ()]
    return sorted(dict.fromkeys(found), key=lambda penalty: penalty.nats)


def settings_of(
    temperatures: Sequence[float],
    penalties: Sequence[Penalty],
    canvases: Sequence[int],
    samples: int,
    options: dict[str, Any],
) -> list[Setting]:
    """All combinations: canvas by canvas, temperature by temperature.

    Raises:
        ConfigError: the number of samples or a canvas is below 1.
    """
    if samples < 1:
        raise ConfigError(f"--samples is {samples}: give a whole number of at least 1.")
    for canvas in canvases:
        if canvas < 1:
            raise ConfigError(f"--max-new-tokens is {canvas}: give a whole number of at least 1.")
    draws_order = (
        options.get("alg_temp", 0) > 0
        or options.get("alg") == "origin"
        or options.get("remask", "none") != "none"
    )
    return [
        Setting(t, penalty, canvas, samples if t > 0 or draws_order else 1)
        for canvas, t, penalty in itertools.product(
            dict.fromkeys(canvases), dict.fromkeys(temperatures), penalties
        )
    ]


def answer_of(prompt: Prompt) -> tuple[str | None, int | None]:
    """The fields ``answer`` and ``length`` of a prompt's line.

    Raises:
        DataError: one of them is no text, or no number of tokens.
    """
    answer, length = prompt.source.get("answer"), prompt.source.get("length")
    if answer is not None and not isinstance(answer, str):
        raise DataError(
            f"{prompt.where}: 'answer' is no text; mend the line or leave the field out"
        )
    if length is not None and (type(length) is not int or length < 0):
        raise DataError(
            f"{prompt.where}: 'length' is {length!r}; give a whole number of tokens or leave it out"
        )
    return answer, length


def length_of(tokenizer: Tokenizer, answer: str | None, length: int | None) -> int | None:
    """Tokens of the right answer: as given, else counted."""
    if length is not None or answer is None:
        return length
    return len(tokenizer.encode(answer))


def measure(
    sampler: Sampler,
    questions: Sequence[Question],
    settings: Sequence[Setting],
    options: dict[str, Any],
    batch_size: int | None = None,
    quiet: bool = False,
) -> Iterator[Figures]:
    """The figures of each setting, as they come.

    Raises:
        DataError: a prompt does not fit the model; found before anything is generated.
    """
    prompts = [question.prompt for question in questions]
    right = [question.length for question in questions]
    configs = [sampling_config(sampler, **{**options, **s.options()}) for s in settings]
    rows = encode_prompts(sampler, prompts, max(configs, key=lambda one: one.max_new_tokens))
    total = sum(setting.samples for setting in settings) * len(questions)
    with sample_progress("sampling", total, quiet=quiet) as count:
        for setting, config in zip(settings, configs, strict=True):
            lengths: list[list[int]] = []
            passed: list[list[bool] | None] = []
            generated = generate(sampler, prompts, rows, config, batch_size)
            for question, made in zip(questions, generated, strict=True):
                lengths.append([sample.num_tokens for sample in made])
                passed.append(marks_of(made, question.answer))
                count(len(made))
            yield figures_of(
                lengths,
                right,
                passed,
                temperature=setting.temperature,
                penalty=setting.penalty,
                max_new_tokens=setting.max_new_tokens,
            )


def marks_of(made: Sequence[Sample], answer: str | None) -> list[bool] | None:
    """Whether each sample is the right text, but for white space around it; None: not known."""
    if answer is None:
        return None
    return [sample.text.strip() == answer.strip() for sample in made]
