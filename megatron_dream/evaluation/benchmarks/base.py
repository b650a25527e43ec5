"""What a benchmark is: tasks from its own files, prompts, and a program to judge for each answer.

Where it sits: ``harness/`` deals the tasks to ranks, asks a model, and hands programs to the judge.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from ...errors import DataError
from ...sandbox import Problem
from .files import find_file, read_records

Json = dict[str, Any]
Style = Literal["base", "instruct"]


@dataclass(frozen=True)
class Ask:
    """What a model is given for a task; one of three kinds.

    Attributes:
        text: to go on with (base models), after BOS.
        messages: to answer by the chat template (instruct models).
        prefill: the beginning of the answer, which stands after the template's generation prompt.
        gap: prefix and suffix of what is to be filled.
    """

    text: str | None = None
    messages: tuple[dict[str, str], ...] = ()
    prefill: str = ""
    gap: tuple[str, str] | None = None


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        id: its name in the benchmark's files and in the samples.
        ask: for the model.
        problem: tests for our judge; None: it cannot judge this task, ``unjudged`` says why.
        record: the line it was read from.
        stops: texts that end the answer.
        unjudged: why there is no problem.
    """

    id: str
    ask: Ask
    problem: Problem | None
    record: Json = field(repr=False, default_factory=dict)
    stops: tuple[str, ...] = ()
    unjudged: str = ""


class Benchmark(ABC):
    """A benchmark.

    Attributes:
        name: on the command line and in file names.
        title: in tables.
        file_names: of its problems, in the order in which they are looked for.
        styles: kinds of models that it has prompts for.
        is_infilling: whether gaps are to be filled.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    file_names: ClassVar[tuple[str, ...]]
    styles: ClassVar[tuple[Style, ...]] = ("base", "instruct")
    is_infilling: ClassVar[bool] = False
    cpu_seconds: ClassVar[int] = 10  # of one program with all its tests
    needs_references: ClassVar[bool] = False  # tasks whose own reference fails here are left out
    is_fenced: ClassVar[bool] = False  # base models, too, give their program in a fence

    def __init__(self, style: Style) -> None:
        """Choose the kind of prompts.

        Raises:
            DataError: the benchmark has none of this kind.
        """
        if style not in self.styles:
            raise DataError(
                f"{self.name} has no prompts for {style} models; give --style {self.styles[0]}."
            )
        self.style = style

    def file(self, folder: Path) -> Path:
        """The file with its problems.

        Raises:
            DataError: none of its names is there.
        """
        return find_file(folder, self.file_names, self.name)

    def tasks(self, folder: Path) -> list[Task]:
        """All tasks, in the file's order.

        Raises:
            DataError: no file, or a line that is not of the benchmark's format.
        """
        path = self.file(folder)
        tasks = [
            self.task(record, f"{path}, record {number}")
            for number, record in enumerate(read_records(path), 1)
            if self.is_asked(record)
        ]
        seen: set[str] = set()
        for task in tasks:
            if task.id in seen:
                raise DataError(f"{path}: task {task.id!r} is there twice; keep one.")
            seen.add(task.id)
        if not tasks:
            raise DataError(f"{path}: no task of {self.name} is in it; check the file.")
        return tasks

    def is_asked(self, record: Json) -> bool:
        """Whether a record is one of the benchmark's tasks."""
        return True

    @abstractmethod
    def task(self, record: Json, where: str) -> Task:
        """The task of a record.

        Raises:
            DataError: a field is missing or of another type.
        """

    @abstractmethod
    def program(self, task: Task, answer: str) -> str:
        """What is judged of an answer, which is cut at ``task.stops`` already; empty: it holds none."""

    @abstractmethod
    def harness_lines(self, task: Task, answers: Sequence[str]) -> list[Json]:
        """The samples of a task as the benchmark's own evaluator reads them."""

    harness_suffix: ClassVar[str] = ".jsonl"

    def harness_text(self, lines: Sequence[Json]) -> str:
        """The file of all tasks' ``harness_lines``."""
        return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def text_field(record: Json, name: str, where: str) -> str:
    """A string of a record.

    Raises:
        DataError: it is missing or no string.
    """
    value = record.get(name)
    if not isinstance(value, str):
        raise DataError(
            f"{where}: field {name!r} is missing or no text; give the benchmark's file."
        )
    return value


def cut_at_stops(text: str, stops: Sequence[str]) -> str:
    """``text`` before the first of ``stops``."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text
