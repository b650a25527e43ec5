"""The pages that are made of a folder of results."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from megatron_dream.evaluation.results.command import main
from megatron_dream.evaluation.results.figures import figures_html
from megatron_dream.evaluation.results.manifest import read_results
from megatron_dream.evaluation.results.page import results_page
from megatron_dream.evaluation.results.report import report_html
from tests.unit.evaluation.results.results_folder import PIXEL, add_sweep, make_folder


class Tags(HTMLParser):
    """Tags of a page with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def of(self, tag: str, attribute: str) -> list[str | None]:
        return [
            found[attribute] for name, found in self.found if name == tag and attribute in found
        ]


def test_the_page_says_command_commit_and_miss(tmp_path: Path) -> None:
    page = results_page(read_results(make_folder(tmp_path)))
    assert (
        "### Speed & size\n\nTwice as fast <b>indeed</b>.\n\n**Missed:** Size: 3 (aim 2)." in page
    )
    assert "```\npython benchmarks/speed.py\n```" in page
    assert "![speed by size](results/a.png)" in page
    assert "Commit 0123456, 0123456+changes; 2026-01-02; 2 cores." in page
    assert "[a.md](results/a.md)" in page and "[log](log.md#2026-01-02-a-day)" in page
    assert "## Sweeps\n\nNothing is measured yet." in page


def test_the_linked_report_links_and_the_whole_one_holds(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    add_sweep(folder, "s")
    whole = tmp_path / "new" / "whole.html"
    assert main(["--folder", str(folder), "--whole", str(whole)], Path("nowhere")) == 0
    linked, mailed = Tags((folder / "report.html").read_text()), Tags(whole.read_text())
    assert linked.of("img", "src") == ["a.png", "sweeps/s.png", "sweeps/s_2.png"]
    data = "data:image/png;base64," + base64.b64encode(PIXEL).decode()
    assert mailed.of("img", "src") == [data] * 3
    for page in (linked, mailed):
        assert all(page.of("img", "alt")) and len(page.of("img", "alt")) == 3
        assert not page.of("script", "src") and not page.of("link", "href")
        ids = {identity for _, found in page.found if (identity := found.get("id"))}
        inside = {str(href)[1:] for href in page.of("a", "href") if str(href).startswith("#")}
        assert inside == {"training", "speed--size", "sweeps", "sweep-s"} and inside <= ids
    assert all(str(href).startswith("#") for href in mailed.of("a", "href"))
    for href in linked.of("a", "href"):
        target = str(href).partition("#")[0]
        assert not target or (folder / target).exists(), href


def test_text_of_a_result_is_never_markup(tmp_path: Path) -> None:
    page = report_html(read_results(make_folder(tmp_path)))
    assert "Twice as fast &lt;b&gt;indeed&lt;/b&gt;." in page and "&lt;i&gt;2&lt;/i&gt;" in page
    assert not {"b", "i"} & {tag for tag, _ in Tags(page).found} - {"b"}
    assert "<h4>Part</h4>" in page and "<h1>Title" not in page
    assert "<a>other</a>" in page  # a link that is right beside a.md only


def test_the_policy_allows_what_is_there_alone(tmp_path: Path) -> None:
    page = report_html(read_results(make_folder(tmp_path)))
    for tag in ("style", "script"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in page


ALLOWED = set(
    "a blockquote br code div em h3 h4 h5 h6 hr li ol p pre strong table tbody td th thead tr ul".split()
)


@example("<img src=x onerror=alert(1)>")
@example("[a](javascript:alert(1)) <http://a.b> ![c](d.png)")
@given(
    st.text(max_size=80) | st.text(alphabet="<>[]()!#*|`-\n ahref:javascript/&\"'=", max_size=120)
)
def test_no_text_becomes_a_tag_or_a_local_link(text: str) -> None:
    page = Tags(figures_html("before\n\n" + text))
    for tag, found in page.found:
        assert tag in ALLOWED
        assert not [name for name in found if name.startswith("on") or name == "src"]
        assert str(found.get("href", "https:")).startswith("https:")
