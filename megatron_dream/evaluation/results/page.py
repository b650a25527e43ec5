"""docs/results.md: what was measured, for a reader of the repository."""

from __future__ import annotations

import re

from .entries import NOT_RECORDED, Entry
from .manifest import REPORT, Results

_MADE = "<!-- Written by `make results` from results/index.yaml; change that file. -->"


def anchor(title: str) -> str:
    """The fragment that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def results_page(results: Results) -> str:
    """The page, for a place beside the folder of results."""
    folder = results.folder.name
    parts = [f"# {results.title}", _MADE, results.about.strip()]
    parts.append(f"The same with all tables, to be filtered: [{REPORT}]({folder}/{REPORT}).")
    parts.append("\n".join(f"- [{one.title}](#{anchor(one.title)})" for one in results.sections))
    for section in results.sections:
        parts += [f"## {section.title}", section.about.strip()]
        if not section.entries:
            parts.append("Nothing is measured yet.")
        for entry in section.entries:
            parts += _entry(entry, folder)
    return "\n\n".join(part for part in parts if part) + "\n"


def _entry(entry: Entry, folder: str) -> list[str]:
    parts = [f"### {entry.title}", entry.shows.strip()]
    parts += [f"**Missed:** {miss}" for miss in entry.misses]
    if entry.limits:
        parts.append(f"What this does not say: {entry.limits.strip()}")
    parts.append(f"```\n{entry.command.strip()}\n```")
    parts += [f"![{one.alt.replace(']', ')')}]({folder}/{one.file})" for one in entry.pictures]
    parts.append(_facts(entry, folder))
    return parts


def _facts(entry: Entry, folder: str) -> str:
    named = {"commit": entry.commit, "day": entry.date, "machine": entry.machine}
    facts = [
        value if name != "commit" and value != NOT_RECORDED else f"{name} {value}"
        for name, value in named.items()
    ]
    text = "; ".join(fact.strip().rstrip(".") for fact in (*facts, entry.conditions) if fact)
    links = [f"[{name}]({folder}/{name})" for name in entry.all_files]
    if entry.log:
        links.append(f"[log](log.md#{anchor(entry.log)})")
    if entry.stated_in != "log.md":
        links.append(f"[{entry.stated_in}]({entry.stated_in})")
    return f"{text[0].upper()}{text[1:]}." + (f" {' · '.join(links)}" if links else "")
