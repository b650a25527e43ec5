"""What is added to a question so that its answer has the format that counts; words of ours."""

from __future__ import annotations

from collections.abc import Sequence

_FENCE = "Answer with the whole program in one fenced block that begins with ```python."
_DEFINE = "Write Python that defines"
_SCRIPT = (
    "Write a Python program that reads standard input and prints the answer to standard output."
)


def ask_for_functions(
    question: str, functions: Sequence[str], declarations: Sequence[str] = ()
) -> str:
    """A question whose answer is a program with these functions."""
    names = " and ".join(f"`{name}`" for name in functions)
    told = [line for line in declarations if line and line not in question]
    shape = "\n\n```python\n" + "\n".join(told) + "\n```\n\n" if told else " "
    return f"{question.rstrip()}\n\n{_DEFINE} {names}.{shape}{_FENCE}"


def ask_for_script(question: str) -> str:
    """A question whose answer is a program on standard input and output."""
    return f"{question.rstrip()}\n\n{_SCRIPT} {_FENCE}"


def ask_for_fence(question: str) -> str:
    """A question that says already what to write, but not how to set it off."""
    return question if "```" in question else f"{question.rstrip()}\n\n{_FENCE}"


def with_starter(question: str, starter: str) -> str:
    """A question and the code to begin with."""
    if not starter.strip():
        return question
    return f"{question.rstrip()}\n\nBegin with this code:\n\n```python\n{starter.strip()}\n```"


def question_of(prompt: str) -> str:
    """A prompt without what was added here: that would make any two prompts alike."""
    if not prompt.endswith(_FENCE):
        return prompt
    places = [prompt.rfind(f"\n\n{added}") for added in (_DEFINE, _SCRIPT, _FENCE)]
    return prompt[: min(place for place in places if place >= 0)]
