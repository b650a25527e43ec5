"""The canvas in a terminal: masks as soft blocks, tokens coloured by the step they opened at."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from .page import SampleRecord

_RAMP = ("bright_blue", "cyan", "green", "yellow", "bright_red")


def canvas_text(sample: SampleRecord, steps_done: int | None = None) -> Text:
    """The canvas after ``steps_done`` steps as coloured text; None: finished.

    Control characters of a token are shown by their escapes: a model's output must not steer the
    terminal.
    """
    last = max([0, *sample.opened_step])
    done = last + 1 if steps_done is None else steps_done
    text = Text()  # a style given here would dim all that follows
    text.append("".join(map(printable, sample.prompt_tokens)), style="dim")
    removed = sample.removed_step or [-1] * len(sample.tokens)
    for token, step, gone in zip(sample.tokens, sample.opened_step, removed, strict=True):
        if 0 <= gone < done:
            continue
        if step >= done:
            text.append("░", style="dim")
        elif step < 0:
            text.append(printable(token), style="dim")
        else:
            text.append(printable(token), style=_colour(step, last))
    text.append("".join(map(printable, sample.suffix_tokens)), style="dim")
    return text


def open_canvas_text(
    tokens: Sequence[str | None], opened_step: Sequence[int], last_step: int
) -> Text:
    """A canvas on its way: None is a mask, colour tells the step that a token opened at.

    Args:
        tokens: text of each position.
        opened_step: of each; of masks it is not asked.
        last_step: of the whole generation.
    """
    text = Text()
    for token, step in zip(tokens, opened_step, strict=True):
        if token is None:
            text.append("░", style="dim")
        else:
            text.append(printable(token), style=_colour(step, last_step))
    return text


def _colour(step: int, last_step: int) -> str:
    return _RAMP[min(max(step, 0) * (len(_RAMP) - 1) // max(1, last_step), len(_RAMP) - 1)]


def printable(token: str) -> str:
    """``token`` with its control characters as escapes."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in token)


def print_sample(sample: SampleRecord, console: Console | None = None) -> None:
    """Print the finished canvas with its colours, under its name where it has one."""
    console = console or Console()
    if "name" in sample.meta:
        console.rule(Text(printable(sample.meta["name"])), align="left")
    console.print(canvas_text(sample))
