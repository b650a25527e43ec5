"""Markdown of a result as HTML: tables, text and code, as they stand in its file."""

from __future__ import annotations

from functools import cache
from typing import Any

from ...errors import MissingDependencyError

_LEVELS_DOWN = 2  # a result's "##" stands below the entry's <h3>


def figures_html(text: str) -> str:
    """HTML of a Markdown text.

    Left out: its title, which the entry has, and its pictures, which the entry shows. HTML in it is shown as
    text, and links other than https are text too. A table scrolls by itself, so that the rest fits a phone.

    Raises:
        MissingDependencyError: markdown-it-py is not installed.
    """
    parser = _parser()
    tokens: list[Any] = parser.parse(text)
    if tokens and tokens[0].type == "heading_open" and tokens[0].tag == "h1":
        tokens = tokens[3:]
    for number, token in enumerate(tokens):
        if token.type.startswith("heading_"):
            token.tag = f"h{min(6, int(token.tag[1]) + _LEVELS_DOWN)}"
        elif token.type == "inline":
            token.children = [one for one in token.children if one.type != "image"]
            _without_local_links(token.children)
            is_alone = tokens[number - 1].type == "paragraph_open"
            if is_alone and not token.children:
                tokens[number - 1].hidden = tokens[number + 1].hidden = True
    html: str = parser.renderer.render(tokens, parser.options, {})
    scrolling = '<div class="table" tabindex="0"><table>'
    return html.replace("<table>", scrolling).replace("</table>", "</table></div>")


def _without_local_links(tokens: list[Any]) -> None:
    """A link that is right where the text lies is wrong in the page: keep what it shows."""
    for token in tokens:
        if token.type == "link_open" and not str(token.attrs.get("href", "")).startswith("https:"):
            token.attrs = {}


@cache
def _parser() -> Any:
    try:
        from markdown_it import MarkdownIt
    except ImportError:
        raise MissingDependencyError(
            "the page of results needs markdown-it-py, which is not installed: pip install markdown-it-py."
        ) from None
    return MarkdownIt("commonmark", {"html": False}).enable("table")
