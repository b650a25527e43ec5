"""The page in a real browser: it plays, tells of each token, saves a GIF, and runs nothing of a sample."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageSequence

from megatron_dream.evaluation.page import Change, SampleRecord, write_page
from tests.system.chromium import CHROMIUM, Browser

ATTACK = "</script><img src=x onerror=alert(document.title='owned')>"
TOKENS = ["def", " f", "():", "\n", "    ", ATTACK, "\n", "    return", " 1"]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")


def sample(name: str, steps: list[int], **more: Any) -> SampleRecord:
    return SampleRecord(
        prompt_tokens=[ATTACK],
        tokens=TOKENS,
        opened_step=steps,
        confidence=[0.9 - 0.1 * n for n in range(len(TOKENS))],
        text=ATTACK + "".join(TOKENS),
        meta={"name": name},
        **more,
    )


ORDERS = [[4, 3, 2, 8, 1, 0, 7, 6, 5], [0, 1, 2, 3, 4, 5, 6, 7, 11], [8, 7, 6, 5, 4, 3, 2, 1, 0]]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    downloads = tmp_path_factory.mktemp("downloads")
    with Browser(tmp_path_factory.mktemp("profile"), downloads) as browser:
        browser.downloads = downloads  # type: ignore[attr-defined]
        yield browser


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Browser]]:
    """Open a page of samples; whatever the console says of it fails the test."""

    def open_page(*records: SampleRecord, title: str = "t", then: str = "") -> Browser:
        page = tmp_path / "page.html"
        write_page(page, list(records), title)
        browser.messages.clear()
        browser.open("about:blank#")
        browser.open(page.as_uri() + then)
        browser.wait_for("document.getElementById('panels').children.length > 0")
        return browser

    yield open_page
    assert browser.messages == []


def at(browser: Browser, steps: int) -> None:
    """Put the slider there."""
    browser.run(
        f"document.getElementById('slider').value = {steps};"
        "document.getElementById('slider').dispatchEvent(new Event('input'))"
    )


def canvas(browser: Browser, number: int = 0) -> str:
    """What a canvas shows, masks as blocks."""
    text: str = browser.run(f"document.getElementById('canvas-{number}').innerText")
    return text


def tip(browser: Browser) -> str | None:
    """What is told of the token pointed at."""
    found: str | None = browser.run(
        "document.getElementById('tip').hidden ? null : document.getElementById('tip').innerText"
    )
    return found


def test_plays_to_the_end_with_hostile_text(show: Callable[..., Browser]) -> None:
    records = [sample(ATTACK, order) for order in ORDERS[:2]]
    browser = show(*records, title=ATTACK, then="#play")
    browser.wait_for("document.getElementById('panels').dataset.played === 'true'")
    whole = ATTACK + "".join(TOKENS)
    for number in range(2):
        assert canvas(browser, number) == whole
        assert browser.run(f"document.getElementById('final-{number}').textContent") == whole
        assert browser.run(f"document.getElementById('canvas-{number}').dataset.done") == "true"
    assert browser.run("document.images.length") == 0
    assert browser.run("document.title") == ATTACK
    assert browser.run("document.querySelector('h1').textContent") == ATTACK


def test_a_script_that_the_policy_does_not_name_is_refused(
    browser: Browser, tmp_path: Path
) -> None:
    """Errors are noticed, so the check of the console above can fail."""
    page = tmp_path / "page.html"
    write_page(page, [sample("a", ORDERS[0])], title="t")
    page.write_text(page.read_text().replace('"use strict";', '"use strict"; '))
    browser.messages.clear()
    browser.open(page.as_uri())
    browser.wait_for("document.readyState === 'complete'")
    assert any("Content Security Policy" in message for message in browser.messages)
    assert browser.run("document.getElementById('panels').children.length") == 0


def test_samples_stand_side_by_side_in_step(show: Callable[..., Browser]) -> None:
    browser = show(*[sample(f"s{n}", ORDERS[n % 3]) for n in range(5)])
    panels = "[...document.querySelectorAll('.panel')]"
    names = f"{panels}.map(p => p.querySelector('h2').textContent)"
    assert browser.run(names) == ["s0", "s1", "s2"]
    tops = browser.run(f"{panels}.map(p => p.getBoundingClientRect().top)")
    assert len(set(tops)) == 1
    masked = (
        "[...document.querySelectorAll('.canvas')].map(c => c.querySelectorAll('.mask').length)"
    )
    for steps, expected in ((0, [9, 9, 9]), (3, [6, 6, 6]), (9, [0, 1, 0]), (12, [0, 0, 0])):
        at(browser, steps)
        assert browser.run(masked) == expected
    pick = "document.getElementById('picks').children"
    browser.run(f"{pick}[1].click(), {pick}[4].click(), {pick}[0].click()")
    assert browser.run(names) == ["s2", "s4"]
    assert browser.run(f"[...{pick}].map(p => p.getAttribute('aria-pressed'))") == [
        *("false", "false", "true", "false", "true")
    ]
    browser.run(f"{pick}[2].click(), {pick}[4].click()")
    assert browser.run(names) == ["s4"]  # one always stays


def test_mouse_and_keyboard_tell_step_and_confidence(show: Callable[..., Browser]) -> None:
    browser = show(sample("a", ORDERS[0]))
    place = browser.run(
        "(r => [r.left + r.width / 2, r.top + r.height / 2])"
        "(document.querySelectorAll('#canvas-0 span')[2].getBoundingClientRect())"
    )
    assert tip(browser) is None
    browser.move_mouse(*place)
    browser.wait_for("!document.getElementById('tip').hidden")
    assert tip(browser) == 'position 1\nstep 4: " f", confidence 0.800'
    browser.move_mouse(2, 2)
    browser.wait_for("document.getElementById('tip').hidden")
    browser.run("document.getElementById('canvas-0').focus()")
    browser.press("ArrowRight")
    assert tip(browser) == 'position 0\nstep 5: "def", confidence 0.900'
    for _ in range(5):
        browser.press("ArrowRight")
    browser.press("ArrowLeft")
    browser.press("ArrowRight")
    assert str(tip(browser)).startswith("position 5\nstep 1: ")
    at(browser, 0)
    assert tip(browser) == "position 5\nmask"
    browser.press("Escape")
    assert tip(browser) is None


def test_a_gap_opens_between_what_is_given_and_may_change_its_length(
    show: Callable[..., Browser],
) -> None:
    """Position 1 comes in at step 1 (counted from 0), 2 goes out at step 2, 0 is masked again."""
    record = SampleRecord(
        prompt_tokens=["<"],
        tokens=["a", "b", "c", "d"],
        opened_step=[4, 3, 2, -1],
        confidence=[0.5, 0.25, None, None],
        text="<abd>",
        suffix_tokens=[">"],
        inserted_step=[-1, 1, -1, -1],
        removed_step=[-1, -1, 2, -1],
        earlier=[Change(0, 0, "x"), Change(0, 3, None)],
    )
    browser = show(record)
    block = "█"
    expected = [f"<{block * 2}d>", f"<x{block}d>", f"<x{block * 2}d>", f"<x{block}cd>"]
    expected += [f"<{block}bd>", "<abd>"]
    kinds = []
    for steps, text in enumerate(expected):
        at(browser, steps)
        assert canvas(browser) == text, steps
        kinds.append(
            browser.run(
                "[...document.querySelectorAll('#canvas-0 span')].slice(1, 5)"
                ".map(s => s.hidden ? '' : s.className)"
            )
        )
    assert kinds[0] == ["mask", "", "mask", "given"]
    assert kinds[1] == ["token now", "", "mask", "given"]
    assert kinds[2] == ["token", "mask came", "mask", "given"]
    assert kinds[3] == ["token", "mask", "gone", "given"]
    assert kinds[4] == ["mask again", "token now", "", "given"]
    assert kinds[5] == ["token now", "token", "", "given"]
    browser.run("document.getElementById('canvas-0').focus()")
    browser.press("ArrowRight")
    assert tip(browser) == (
        'position 0\nstep 1: "x"\nstep 4: masked again\nstep 5: "a", confidence 0.500'
    )


def saved(browser: Browser, button: str, pattern: str) -> Path:
    """Press a button that saves; returns the file."""
    folder: Path = browser.downloads  # type: ignore[attr-defined]
    for old in folder.iterdir():
        old.unlink()
    browser.run(f"document.getElementById('{button}').click()")
    browser.wait_for(f"!document.getElementById('{button}').disabled")
    end = time.monotonic() + 60
    while not (found := list(folder.glob(pattern))):
        assert time.monotonic() < end, "nothing was saved"
        time.sleep(0.05)
    return found[0]


def save_gif(browser: Browser, num_frames: int) -> Path:
    """Ask for a GIF of so many frames."""
    browser.run(f"document.getElementById('frames').value = {num_frames}")
    return saved(browser, "save", "*.gif")


@pytest.mark.parametrize("num_samples, num_frames", [(1, 10), (3, 4)])
def test_a_gif_of_what_is_shown(
    show: Callable[..., Browser], num_samples: int, num_frames: int
) -> None:
    records = [sample(f"s{n}", ORDERS[n]) for n in range(num_samples)]
    browser = show(*records)
    path = save_gif(browser, num_frames)
    with Image.open(path) as picture:
        assert picture.format == "GIF" and picture.info["loop"] == 0
        frames, delays = [], []
        for frame in ImageSequence.Iterator(picture):
            delays.append(frame.info["duration"])
            frames.append(frame.convert("RGB").copy())
    assert len(frames) == num_frames
    assert len({frame.tobytes() for frame in frames}) == num_frames
    assert delays[-1] == 2500 and all(90 <= delay <= 400 for delay in delays[:-1])
    # masks give way: the area in their colour shrinks from frame to frame
    masks = [sum(near(pixel, (0xE6, 0xE9, 0xF2)) for pixel in frame.getdata()) for frame in frames]
    assert masks == sorted(masks, reverse=True) and masks[0] > 1000 and masks[-1] < masks[0] / 20
    assert frames[0].width > 300 * num_samples


def colours_on_the_page(browser: Browser) -> set[tuple[int, ...]]:
    """Backgrounds, RGB, of the tokens that are open and have a width."""
    texts = browser.run(
        "[...document.querySelectorAll('#canvas-0 span.token')].filter(s => s.textContent !== '\\n')"
        ".map(s => getComputedStyle(s).backgroundColor)"
    )
    return {tuple(int(number) for number in re.findall(r"\d+", text)[:3]) for text in texts}


def test_a_png_of_the_step_that_is_shown(show: Callable[..., Browser]) -> None:
    """The colours of the page, one a step, are in the picture; what opens later is a mask there."""
    browser = show(sample("a", ORDERS[0]))
    browser.run(
        "document.querySelectorAll('.token').forEach(s => { s.style.transition = 'none'; })"
    )
    masks = []
    for steps, visible in ((3, 3), (9, 7)):  # two tokens are ends of lines
        at(browser, steps)
        wanted = colours_on_the_page(browser)
        with Image.open(saved(browser, "picture", "*.png")) as picture:
            assert picture.format == "PNG"
            counts = {colour: n for n, colour in picture.convert("RGB").getcolors(1 << 24)}
            width, height = picture.size
        assert len(wanted) == visible
        # a swatch of the ramp has 8 x 11 points, a token of two letters 16 x 18, letters among them
        assert all(counts.get(colour, 0) > 450 for colour in wanted), (wanted, counts)
        masks.append(counts.get((0xE6, 0xE9, 0xF2), 0))
    assert masks[0] > 1000 and masks[1] == 0
    with Image.open(save_gif(browser, 2)) as frame:
        assert (width, height) == (2 * frame.width, 2 * frame.height)


def near(pixel: tuple[int, ...], colour: tuple[int, ...]) -> bool:
    return all(abs(a - b) < 3 for a, b in zip(pixel, colour, strict=True))


def test_a_gif_is_what_the_page_drew(show: Callable[..., Browser]) -> None:
    """Pixels through palette, LZW with full tables, and changed rectangles, back to what went in."""
    browser = show(sample("a", ORDERS[0]))
    script = """(async () => {
      const size = 300, noise = (seed) => {
        const image = new ImageData(size, size);
        let state = seed;
        for (let i = 0; i < size * size; i += 1) {
          state = (state * 1103515245 + 12345) % 2147483648;
          const level = (state >> 16) & 7;  // 8 greys, one of each bin of the palette
          image.data.set([level * 32, level * 32, level * 32, 255], 4 * i);
        }
        return image;
      };
      const pictures = [noise(1), noise(2), noise(2), noise(3)];
      const blob = await Gif.encode(4, (i) => pictures[i], () => 7, () => {});
      const bytes = Array.from(new Uint8Array(await blob.arrayBuffer()));
      return [bytes, pictures.map((p) => Array.from(p.data).filter((_, i) => i % 4 === 0))];
    })()"""
    data, expected = browser.run(script)
    with Image.open(io.BytesIO(bytes(data))) as picture:
        frames = [frame.convert("L").copy() for frame in ImageSequence.Iterator(picture)]
    assert [list(frame.getdata()) for frame in frames] == expected
