"""Sets of benchmarks by name, and which of them a kind of model is measured on."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import ConfigError
from ..benchmarks.base import Style
from ..benchmarks.registry import BENCHMARKS
from .published import TABLES
from .settings import LM_EVAL_SHOTS

_EXTRA = {"evalplus": ("humaneval_plus", "mbpp_plus")}
_GROUPS: dict[str, tuple[str, ...]] = {
    "code": ("humaneval", "humaneval_plus", "mbpp", "mbpp_plus"),
    "bigcodebench": tuple(name for name in BENCHMARKS if name.startswith("bigcodebench")),
    "cruxeval": ("cruxeval_input", "cruxeval_output"),
    "infilling": ("infilling_single", "infilling_multi", "infilling_random"),
    "general": tuple(f"lm_eval:{name}" for name in LM_EVAL_SHOTS),
}
SUITES = ("paper", *_GROUPS, *BENCHMARKS)


def suite(name: str, style: Style, tasks: Sequence[str] = ()) -> tuple[str, ...]:
    """The benchmarks of a suite, those of lm-evaluation-harness with ``lm_eval:`` before their names.

    Args:
        name: ``paper``, a group, or a benchmark.
        style: of the model; benchmarks without prompts of this style are not in groups.
        tasks: only these.

    Raises:
        ConfigError: no such suite, or a task that is not in it.
    """
    names = _names(name, style)
    if tasks:
        plain = {full.removeprefix("lm_eval:"): full for full in names}
        unknown = [task for task in tasks if task.removeprefix("lm_eval:") not in plain]
        if unknown:
            raise ConfigError(
                f"--tasks {unknown[0]}: suite {name} has for {style} models {', '.join(plain)}."
            )
        names = tuple(plain[task.removeprefix("lm_eval:")] for task in tasks)
    return names


def _names(name: str, style: Style) -> tuple[str, ...]:
    if name in BENCHMARKS:
        return (name,)
    if name in _GROUPS:
        chosen = _GROUPS[name]
    elif name == "paper":
        rows = (row for table in TABLES if table.style == style for row in table.rows)
        chosen = tuple(full for row in rows for full in _EXTRA.get(row, (row,)))
    else:
        raise ConfigError(f"there is no suite {name!r}; name one of {', '.join(SUITES)}.")
    fitting = tuple(
        full for full in chosen if full.startswith("lm_eval:") or style in BENCHMARKS[full].styles
    )
    if not fitting:
        raise ConfigError(f"suite {name} has nothing for {style} models; give another --style.")
    return fitting
