"""The page's HTML: everything a sample holds is data, whatever it says."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_dream.evaluation.page import Change, SampleRecord, render_page, write_page
from megatron_dream.evaluation.terminal import canvas_text

ATTACK = "</script><img src=x onerror=alert(1)>"


class Elements(HTMLParser):
    """Collects tags and the content of the data element."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.tags: list[str] = []
        self.data, self._in_data = "", False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._in_data = ("id", "data") in attributes

    def handle_endtag(self, tag: str) -> None:
        self._in_data = False

    def handle_data(self, data: str) -> None:
        if self._in_data:
            self.data += data


def record(*tokens: str, prompt: str = "p") -> SampleRecord:
    count = len(tokens)
    return SampleRecord([prompt], list(tokens), list(range(count)), [0.5] * count, "".join(tokens))


def parsed(html: str) -> Elements:
    elements = Elements()
    elements.feed(html)
    return elements


def test_an_attack_stays_text() -> None:
    plain = parsed(render_page([record("a")], "title"))
    hostile = parsed(render_page([record(ATTACK, "%DATA%", prompt=ATTACK)], ATTACK))
    assert hostile.tags == plain.tags
    assert json.loads(hostile.data)[0]["tokens"] == [ATTACK, "%DATA%"]


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_any_text_arrives_whole(tokens: list[str]) -> None:
    html = render_page([record(*tokens)], "t")
    assert json.loads(parsed(html).data)[0]["tokens"] == tokens


def test_nothing_is_fetched() -> None:
    html = render_page([record("a")], "t")
    assert "default-src 'none'" in html and "unsafe-inline" not in html
    assert not re.search(r"(?:src|href)=[\"']?https?:", html)


def test_lists_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 tokens, 1 steps"):
        SampleRecord([], ["a", "b"], [0], [0.5], "ab")
    with pytest.raises(ValueError, match="1 tokens and 2 entries of removed_step"):
        SampleRecord([], ["a"], [0], [0.5], "a", removed_step=[-1, -1])
    with pytest.raises(ValueError, match="a position that it has not"):
        SampleRecord([], ["a"], [0], [0.5], "a", earlier=[Change(1, 0, None)])
    with pytest.raises(ValueError, match="at least one sample"):
        write_page(tmp_path / "page.html", [], "t")
    assert not list(tmp_path.iterdir())


def test_terminal_view_shows_masks_and_escapes() -> None:
    sample = SampleRecord(["x"], ["a", "\x1b[2J", "given"], [1, 0, -1], [0.5] * 3, "")
    assert canvas_text(sample, 0).plain == "x░░given"
    assert canvas_text(sample, 1).plain == "x░\\x1b[2Jgiven"
    assert canvas_text(sample).plain == "xa\\x1b[2Jgiven"
    gap = SampleRecord(["x"], ["a", "b"], [1, 0], [0.5] * 2, "", {}, ["y\x07"], [], [-1, 1])
    assert canvas_text(gap, 1).plain == "x░by\\x07" and canvas_text(gap).plain == "xay\\x07"
    styles = [str(span.style) for span in canvas_text(sample).spans]
    assert canvas_text(sample).style == ""  # a style of the whole would dim the colours
    assert styles == ["dim", "bright_red", "bright_blue", "dim"]
