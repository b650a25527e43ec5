"""The HTML report: every measurement with its command, pictures and tables; a filter; no other host.

Style and script are inside, allowed by their hashes in a strict content policy; Markdown is rendered
without HTML of its own. Pictures are either linked, for the page that lies beside them in the
repository (pictures inside would put all of them into the history again with every figure that
changes), or inside as data, for a single file to be mailed.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from html import escape
from pathlib import Path

from ...errors import DataError
from .entries import Entry, Picture, Section
from .figures import figures_html
from .manifest import Results
from .page import anchor

_FOLDER = Path(__file__).parent
_KINDS = {".png": "image/png", ".svg": "image/svg+xml"}
_Source = Callable[[str], str]  # of a picture's file: what stands in src


def report_html(results: Results, *, embed: bool = False) -> str:
    """The page.

    Args:
        results: what is told.
        embed: pictures inside and no links to files; else the page belongs into the folder of results.

    Raises:
        DataError: a picture cannot be read, or is of a kind that browsers do not show.
    """
    style, script = (
        (_FOLDER / name).read_text(encoding="utf-8") for name in ("report.css", "report.js")
    )
    # a page opened from disk has no origin that 'self' would match, hence file:
    images = "data:" if embed else "'self' file:"

    def source(name: str) -> str:
        return _data(results.folder / name) if embed else escape(name)

    body = "\n".join(_section(section, results, source, embed) for section in results.sections)
    parts = {
        "%POLICY%": f"default-src 'none'; img-src {images}; style-src {_hash(style)}; "
        f"script-src {_hash(script)}",
        "%TITLE%": escape(results.title),
        "%STYLE%": style,
        "%HEADING%": escape(results.title),
        "%ABOUT%": figures_html(results.about),
        "%CONTENTS%": _contents(results),
        "%BODY%": body,
        "%SCRIPT%": script,
    }
    template = (_FOLDER / "report.html").read_text(encoding="utf-8")
    return re.sub("%[A-Z]+%", lambda mark: parts[mark[0]], template)


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _data(path: Path) -> str:
    if path.suffix not in _KINDS:
        raise DataError(f"{path}: pictures are {', '.join(_KINDS)}; write it as one of them.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore it.") from None
    return f"data:{_KINDS[path.suffix]};base64,{base64.b64encode(content).decode()}"


def _contents(results: Results) -> str:
    items = []
    for section in results.sections:
        inner = "".join(f"<li>{_link(entry.title)}</li>" for entry in section.entries)
        items.append(
            f"<li>{_link(section.title)}" + (f"<ol>{inner}</ol>" if inner else "") + "</li>"
        )
    return "\n".join(items)


def _link(title: str) -> str:
    return f'<a href="#{escape(anchor(title))}">{escape(title)}</a>'


def _section(section: Section, results: Results, source: _Source, embed: bool) -> str:
    entries = [_entry(entry, results, source, embed) for entry in section.entries]
    about = f"<p>{escape(section.about)}</p>" if section.about else ""
    nothing = "" if entries else "<p>Nothing is measured yet.</p>"
    return (
        f'<section id="{escape(anchor(section.title))}"><h2>{escape(section.title)}</h2>{about}{nothing}\n'
        + "\n".join(entries)
        + "\n</section>"
    )


def _entry(entry: Entry, results: Results, source: _Source, embed: bool) -> str:
    limits = f"<p><b>What this does not say.</b> {escape(entry.limits)}</p>" if entry.limits else ""
    parts = [
        f"<h3>{escape(entry.title)}</h3>",
        f"<p>{escape(entry.shows)}</p>",
        *(f'<p class="miss"><b>Missed.</b> {escape(miss)}</p>' for miss in entry.misses),
        limits,
        f'<div class="command"><pre><code>{escape(entry.command.strip())}</code></pre>'
        '<button type="button" hidden>Copy</button></div>',
        _facts(entry, embed),
        *(_picture(picture, source) for picture in entry.pictures),
        *(
            f"<details><summary>All figures: {escape(name)}</summary>\n{figures_html(text)}</details>"
            for name, text in results.figures(entry)
        ),
    ]
    title = escape(anchor(entry.title))
    return f'<article id="{title}">' + "\n".join(part for part in parts if part) + "</article>"


def _picture(picture: Picture, source: _Source) -> str:
    return (
        f'<figure><img loading="lazy" src="{source(picture.file)}" alt="{escape(picture.alt)}">'
        f"<figcaption>{escape(picture.alt)}</figcaption></figure>"
    )


def _facts(entry: Entry, embed: bool) -> str:
    facts = {
        "Commit": f"<code>{escape(entry.commit)}</code>",
        "Measured": escape(entry.date),
        "Machine": escape(entry.machine),
        "Conditions": escape(entry.conditions),
        "Files": ", ".join(_file(name, embed) for name in entry.all_files),
        "Told in": _pages(entry, embed),
    }
    told = (f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items() if value)
    return f"<dl>{''.join(told)}</dl>"


def _file(name: str, embed: bool) -> str:
    return escape(name) if embed else f'<a href="{escape(name)}">{escape(name)}</a>'


def _pages(entry: Entry, embed: bool) -> str:
    """The pages of docs/ that the entry is taken from."""
    pages = []
    if entry.log:
        pages.append((f"log, {entry.log}", f"../log.md#{anchor(entry.log)}"))
    if entry.stated_in != "log.md":
        pages.append((f"docs/{entry.stated_in}", f"../{entry.stated_in}"))
    return ", ".join(
        escape(shown) if embed else f'<a href="{escape(target)}">{escape(shown)}</a>'
        for shown, target in pages
    )
