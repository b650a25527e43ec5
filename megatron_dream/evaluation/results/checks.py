"""A JSON of ``make acceptance`` as a table."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from ...errors import DataError
from .facts import read_result, short_commit


def checks_table(path: Path) -> str:
    """Markdown: a line a check, with its command, commit and last line.

    Raises:
        DataError: the file is missing, damaged or no such JSON.
    """
    checks = read_result(path)
    lines = [
        "| check | passed | seconds | commit | command | last line |",
        "|---|---|---|---|---|---|",
    ]
    try:
        lines += [_line(name, check) for name, check in checks.items()]
    except (AttributeError, KeyError, TypeError, IndexError):
        raise DataError(f"{path}: not written by make acceptance; run it again.") from None
    return "\n".join(lines) + "\n"


def _line(name: str, check: dict[str, Any]) -> str:
    command = shlex.join(["python", *check["command"]])
    passed = "yes" if check["passed"] else "**no**"
    last = check["last_lines"][-1]
    cells = (name, passed, f"{check['seconds']:.0f}", f"`{short_commit(check['commit'])}`")
    return "| " + " | ".join(_cell(text) for text in (*cells, f"`{command}`", last)) + " |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
