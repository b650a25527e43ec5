"""The report of results in a real browser: pictures, filter, a phone's width, no error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from megatron_dream.evaluation.results.manifest import read_results
from megatron_dream.evaluation.results.report import report_html
from tests.system.chromium import CHROMIUM, Browser

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "results"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def look_for(browser: Browser, words: str) -> None:
    browser.run(
        f"document.getElementById('words').value = {words!r};"
        "document.getElementById('words').dispatchEvent(new Event('input'))"
    )


def shown(browser: Browser, selector: str) -> list[str]:
    """Texts of the elements that take room."""
    found: list[str] = browser.run(
        f"[...document.querySelectorAll('{selector}')].filter(e => e.offsetHeight > 0)"
        ".map(e => e.textContent)"
    )
    return found


@pytest.mark.parametrize("is_whole", [False, True], ids=["linked", "whole"])
def test_pictures_show_and_the_filter_filters(
    browser: Browser, tmp_path: Path, is_whole: bool
) -> None:
    results = read_results(FOLDER)
    titles = [entry.title for entry in results.entries()]
    page = FOLDER / "report.html"
    if is_whole:
        page = tmp_path / "whole.html"
        page.write_text(report_html(results, embed=True))
    browser.messages.clear()
    browser.open(page.as_uri())
    assert shown(browser, "article h3") == titles
    browser.run("[...document.images].forEach(image => { image.loading = 'eager'; })")
    browser.wait_for("[...document.images].every(image => image.complete)")
    widths = browser.run("[...document.images].map(image => image.naturalWidth)")
    assert len(widths) == sum(len(one.pictures) for one in results.entries()) and min(widths) > 100

    look_for(browser, "PLANNER published b200")
    assert shown(browser, "article h3") == ["Predictions against published runs"]
    assert shown(browser, "main h2") == ["Planner"]
    assert shown(browser, "nav a") == ["Planner", "Predictions against published runs"]
    assert shown(browser, "#count") == [f"1 of {len(titles)}"]
    look_for(browser, "no such word")
    assert shown(browser, "article") == shown(browser, "main h2") == []
    look_for(browser, "")
    assert shown(browser, "article h3") == titles

    browser.run("[...document.querySelectorAll('details')].forEach(part => { part.open = true; })")
    browser.send(
        "Emulation.setDeviceMetricsOverride",
        width=390,
        height=800,
        deviceScaleFactor=1,
        mobile=True,
    )
    browser.wait_for("innerWidth <= 390")
    assert browser.run("document.documentElement.scrollWidth") <= 390
    browser.send("Emulation.clearDeviceMetricsOverride")
    assert browser.messages == []
