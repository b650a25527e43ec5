"""The page in a real browser: it plays to the end, shows the final code, and runs nothing of a sample."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from megatron_dream.evaluation.page import SampleRecord, write_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ATTACK = "</script><img src=x onerror=alert(document.title='owned')>"
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--enable-logging=stderr --virtual-time-budget=60000 --dump-dom"
).split()

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")


def open_page(page: Path, profile: Path) -> tuple[str, list[str]]:
    """The DOM after the page played, and what the console said."""
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", f"{page.as_uri()}#play"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    console = [line for line in result.stderr.splitlines() if "CONSOLE" in line]
    return result.stdout, console


def text_of(dom: str, element: str) -> str:
    """Text content of the element with this id."""
    inner = re.search(rf'<pre id="{element}"[^>]*>(.*?)</pre>', dom, re.DOTALL)
    assert inner, f"{element} is not in the page"
    return html.unescape(re.sub(r"<[^>]*>", "", inner[1]))


def test_plays_to_the_end_with_hostile_text(tmp_path: Path) -> None:
    tokens = ["def", " f", "():", "\n", "    ", ATTACK, "\n", "    return", " 1"]
    sample = SampleRecord(
        prompt_tokens=[ATTACK],
        tokens=tokens,
        opened_step=[4, 3, 2, 8, 1, 0, 7, 6, 5],
        confidence=[0.9] * len(tokens),
        text=ATTACK + "".join(tokens),
        meta={"function": ATTACK},
    )
    page = tmp_path / "page.html"
    write_page(page, [sample, sample], title=ATTACK)
    dom, console = open_page(page, tmp_path / "profile")
    assert console == []
    canvas = re.search(r'<pre id="canvas"[^>]*>', dom)
    assert canvas and 'data-played="true"' in canvas[0] and 'data-done="true"' in canvas[0]
    assert text_of(dom, "canvas") == ATTACK + "".join(tokens)
    assert text_of(dom, "final") == ATTACK + "".join(tokens)
    assert "<img" not in re.sub(r"<script.*?</script>", "", dom, flags=re.DOTALL)
    assert "<title>owned" not in dom


def test_console_errors_are_noticed(tmp_path: Path) -> None:
    """The check above can fail: a page whose script is not the one the policy names is refused."""
    page = tmp_path / "page.html"
    write_page(page, [SampleRecord([], ["a"], [0], [1.0], "a")], title="t")
    page.write_text(page.read_text().replace('"use strict";', '"use strict"; '))
    dom, console = open_page(page, tmp_path / "profile")
    assert any("Content Security Policy" in line for line in console)
    assert "data-played" not in dom
