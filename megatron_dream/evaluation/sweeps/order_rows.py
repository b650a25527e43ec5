"""What a cell of kind ``order`` is measured by: questions, generation with history, correctness, figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataError
from ...files import write_json
from ...sandbox import Outcome, Problem, ProblemError, problem_of
from ...sandbox.formats import FIELDS, normalised, program_of, value_of
from ...sandbox.problem import helpers_of, read_lines
from ..harness.scores import bootstrap
from ..harness.verdicts import JudgeOptions
from ..order.analysis import Analysis, Null, SampleOrder, analyse
from ..order.classify import LABELS
from ..order.record import OrderRecord, write_history
from ..prompts import Completion
from .base import Json, Row
from .statistics import estimate_columns

if TYPE_CHECKING:
    from ..sampler import Sampler

JUDGE_CPU_SECONDS = 2  # of a program; those asked for here take milliseconds
# columns of the rows, by their names in an analysis
_NULL_COLUMNS = {
    "spearman": "spearman",
    "kendall": "kendall",
    "local@1": "local_ar_ness",
    "global@1": "global_ar_ness",
    "structure first": "structure_first",
    "disorder": "disorder",
}


@dataclass(frozen=True)
class Question:
    """One line of a file of prompts.

    Attributes:
        id: of the line.
        prompt: text after BOS.
        problem: tests (kinds function and stdin); None: there are none.
        wanted: what ``value_of`` gives for a right answer (kind output); None: not of this kind.
        where: for errors.
    """

    id: str
    prompt: str
    problem: Problem | None
    wanted: Any
    where: str


def read_questions(path: Path, limit: int | None = None) -> list[Question]:
    """Lines with ``prompt`` as text; of those that are problems of the rl stage the tests or the answer too.

    Raises:
        DataError: the file is missing or empty, or a line is no such object.
    """
    if not path.is_file():
        raise DataError(f"{path} is no file; name JSON lines with the field prompt.")
    try:
        found = [_question(fields, where) for where, fields in read_lines(path)]
    except ProblemError as error:
        raise DataError(str(error)) from None
    if not found:
        raise DataError(f"{path} is empty; name a file with prompts.")
    return found[:limit]


def _question(fields: Json, where: str) -> Question:
    prompt = fields.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise DataError(f"{where}: field 'prompt' is missing or is no text; write it.")
    tests, answer = fields.get("problem"), fields.get("answer")
    problem = problem_of(tests, f"{where}, field 'problem'") if isinstance(tests, dict) else None
    if isinstance(answer, dict):
        answer = next((answer[name] for name in FIELDS if name in answer), answer)
    wanted = None if answer is None else ("value", normalised(answer))
    return Question(str(fields.get("id", where)), prompt, problem, wanted, where)


def generate_history(
    sampler: Sampler, questions: Sequence[Question], fields: Json, history: Path, texts: Path
) -> None:
    """Sample every prompt and write the answers' texts, then the order in which they were opened."""
    from ..generate import encode_prompts, generate, sampling_config

    copies = fields["samples"]
    config = sampling_config(
        sampler, **fields["settings"], num_return_sequences=copies, seed=fields["seed"]
    )
    prompts = [Completion({"id": q.id, "prompt": q.prompt}, q.where, q.prompt) for q in questions]
    rows = encode_prompts(sampler, prompts, config)
    size = max(1, fields["batch_size"] // copies)
    made = [one for some in generate(sampler, prompts, rows, config, size) for one in some]
    write_json(texts, [sample.text for sample in made])
    write_history(history, sampler, prompts, rows, config, made)


def correctness(
    questions: Sequence[Question], answers: Sequence[str], copies: int, options: JudgeOptions
) -> list[bool | None]:
    """Whether each answer is right; None where a question has neither tests nor an answer.

    Raises:
        DataError: a judgement failed for no fault of the answer.
    """
    asked = [question for question in questions for _ in range(copies)]
    pairs = list(zip(asked, answers, strict=True))
    programs = [_program(question.problem, text) for question, text in pairs]
    judged = [
        (program, question.problem)
        for program, (question, _) in zip(programs, pairs, strict=True)
        if program is not None
    ]
    verdicts = iter(_judged(judged, options))
    marks: list[bool | None] = []
    for program, (question, text) in zip(programs, pairs, strict=True):
        if question.problem is not None:
            marks.append(next(verdicts) if program is not None else False)
        elif question.wanted is not None:
            marks.append(bool(value_of(text) == question.wanted))
        else:
            marks.append(None)
    return marks


def _program(problem: Problem | None, text: str) -> str | None:
    """What is run of an answer; None: there are no tests, or it holds no program."""
    program = None if problem is None else program_of(text)
    if problem is None or program is None:
        return None
    given = helpers_of(problem)
    return f"{given}\n{program}" if given else program


def _judged(programs: Sequence[Any], options: JudgeOptions) -> list[bool]:
    if not programs:
        return []
    with options.start(JUDGE_CPU_SECONDS) as judge:
        verdicts = list(judge.verdicts(programs))
    if any(verdict.outcome is Outcome.INFRASTRUCTURE for verdict in verdicts):
        raise DataError("programs could not be judged for no fault of theirs; run the sweep again.")
    return [verdict.passed for verdict in verdicts]


def rows_of(
    records: Sequence[OrderRecord], marks: Sequence[bool | None], copies: int, seed: int
) -> list[Row]:
    """The model's row, and one of each null on the same texts.

    Estimates are means over prompts, of each prompt the mean over its samples; intervals are from resampling
    prompts. Early structure at equal entropy is over samples (evaluation/order/early.py).

    Raises:
        DataError: no sample has two tokens.
    """
    analysis = analyse(records, seed)
    if not analysis.samples:
        raise DataError(f"{records[0].where}: no sample has two tokens of text; train longer.")
    means = _by_prompt(records, analysis.samples, marks, copies)
    row: Row = {
        "order": "model",
        "prompts": len(records) // copies,
        "samples": copies,
        "skipped": analysis.num_skipped,
    }
    for name, of in means.items():
        row |= estimate_columns(name, bootstrap(list(of.values()), seed))
    row |= _early(analysis)
    row["_prompts"] = json.dumps(means)
    return [row, *map(_null_row, analysis.nulls)]


def _by_prompt(
    records: Sequence[OrderRecord],
    samples: Sequence[SampleOrder],
    marks: Sequence[bool | None],
    copies: int,
) -> dict[str, dict[str, float]]:
    """Of each measure, the mean over a prompt's samples that have it, by the prompt's number."""
    number_of = {record.where: number for number, record in enumerate(records)}
    found = [(number_of[one.record.where], _measured(one)) for one in samples]
    found += [
        (number, {"correct": None if m is None else float(m)}) for number, m in enumerate(marks)
    ]
    values: dict[str, dict[str, list[float]]] = {}
    for number, measured in found:
        for name, value in measured.items():
            if value is not None:
                values.setdefault(name, {}).setdefault(str(number // copies), []).append(value)
    return {
        name: {prompt: float(np.mean(some)) for prompt, some in of.items()}
        for name, of in values.items()
    }


def _measured(one: SampleOrder) -> dict[str, float | None]:
    figures, evidence = one.figures, one.evidence
    found: dict[str, float | None] = {
        "tokens": float(figures.num_tokens),
        "spearman": figures.spearman,
        "kendall": figures.kendall,
        "local_ar_ness": figures.local_ar_ness[1],
        "global_ar_ness": figures.global_ar_ness[1],
        "structure_first": evidence.structure_first,
        "disorder": evidence.disorder,
    }
    if evidence.label is not None:
        for label in LABELS:
            found[f"share_{label.replace('-', '_')}"] = float(evidence.label == label)
    return found


def _early(analysis: Analysis) -> Row:
    early = analysis.early
    names = ("early_structure", "early_structure_low", "early_structure_high")
    values = (None,) * 3 if early is None else (early.matched, early.low, early.high)
    return dict(zip(names, values, strict=True))


def _null_row(null: Null) -> Row:
    """Means of a null; of random order with the range of its shuffles."""
    row: Row = {"order": null.name}
    for theirs, ours in _NULL_COLUMNS.items():
        if theirs in null.means:
            low, high = null.ranges.get(theirs, (None, None))
            row |= {ours: null.means[theirs], f"{ours}_low": low, f"{ours}_high": high}
    return row
