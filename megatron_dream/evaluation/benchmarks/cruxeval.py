"""CRUXEval: what does this program return, and for which input does it return that?

Prompts and what counts are the benchmark's (facebookresearch/cruxeval). Its evaluator runs ``assert
output == answer`` in one process; here the answer is evaluated in the candidate's process and its value
compared beside the tests, so an answer that is equal to everything gains nothing.
"""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from ...sandbox import Problem
from .base import Ask, Benchmark, Json, Task, cut_at_stops, text_field

PROMPTS = Path(__file__).parent / "prompts"
END = "[/ANSWER]"


class CruxEval(Benchmark):
    """Both directions, with and without thinking aloud.

    Attributes:
        asks_input: whether the input is asked for, else the output.
        prompt_file: in ``prompts/``.
        thinks_aloud: whether an answer without its mark is the last line.
    """

    file_names = ("cruxeval",)
    harness_suffix = ".json"
    asks_input: ClassVar[bool]
    prompt_file: ClassVar[str]
    thinks_aloud: ClassVar[bool] = False

    def task(self, record: Json, where: str) -> Task:
        """See the base class."""
        name, code, given, wanted = (
            text_field(record, field, where) for field in ("id", "code", "input", "output")
        )
        template = (PROMPTS / self.prompt_file).read_text(encoding="utf-8")
        prompt = template.replace("{given}", wanted if self.asks_input else given)
        prompt = prompt.replace("{code}", code)
        if self.style == "base":
            ask = Ask(text=prompt)
        else:
            ask = Ask(messages=({"role": "user", "content": prompt},))
        reference = f"f({given})" if self.asks_input else wanted
        problem = Problem(
            name,
            "function",
            tests=f"assert ({wanted}) == answer()",
            functions=("answer",),
            reference=reference,
        )
        return Task(name, ask, problem, record, (END,))

    def answer(self, text: str) -> str:
        """The expression of an answer, as the benchmark cuts it out."""
        if "[ANSWER]" in text:
            text = text.split("[ANSWER]")[1].strip()
            text = cut_at_stops(text, (END,))
        elif self.thinks_aloud:  # no answer is marked: the public recipe takes the last line whole
            return cut_at_stops(text, (END,)).strip().split("\n")[-1].strip()
        if not self.asks_input:
            return (text.split("==")[1] if "==" in text else text).strip()
        text = text.split("==")[0].strip()
        if "assert f" in text:
            text = "f" + text.split("assert f")[1].strip()
        return text

    def program(self, task: Task, answer: str) -> str:
        """The task's function, and the answer as a function of its own."""
        expression = self.answer(answer)
        call = f"f({task.record['input']})"
        is_refused = "f(" not in expression if self.asks_input else call in expression
        program = f"{task.record['code']}\n\ndef answer():\n    return (\n{expression}\n)\n"
        return "" if is_refused or not is_expression(expression) else program

    def harness_lines(self, task: Task, answers: Sequence[str]) -> list[Json]:
        """One object of the evaluator's dictionary."""
        return [{"id": task.id, "generations": [self.answer(answer) for answer in answers]}]

    def harness_text(self, lines: Sequence[Json]) -> str:
        """A dictionary of lists, by the task's name."""
        return json.dumps({line["id"]: line["generations"] for line in lines}, indent=1) + "\n"


def is_expression(text: str) -> bool:
    """Whether it can stand behind ``==`` as a whole: not empty, no tuple without parentheses."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            node = ast.parse(f"0 == {text}", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return not isinstance(node, ast.Tuple)


class CruxEvalOutput(CruxEval):
    """The output, thinking aloud (the paper's)."""

    name, title = "cruxeval_output", "CRUXEval output-CoT"
    asks_input, prompt_file, thinks_aloud = False, "cruxeval_output_cot.txt", True


class CruxEvalInput(CruxEval):
    """An input, thinking aloud (the paper's)."""

    name, title = "cruxeval_input", "CRUXEval input-CoT"
    asks_input, prompt_file, thinks_aloud = True, "cruxeval_input_cot.txt", True


class CruxEvalOutputDirect(CruxEval):
    """The output at once."""

    name, title = "cruxeval_output_direct", "CRUXEval output"
    asks_input, prompt_file = False, "cruxeval_output_direct.txt"


class CruxEvalInputDirect(CruxEval):
    """An input at once."""

    name, title = "cruxeval_input_direct", "CRUXEval input"
    asks_input, prompt_file = True, "cruxeval_input_direct.txt"
