"""The page's GIF encoder against a strict decoder, which ends where the end code says."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from megatron_dream.evaluation.page import SampleRecord, write_page
from tests.system.chromium import CHROMIUM, Browser

CLEAR, END = 256, 257
# The first pixels of one row of random greys, and the file as base64.
SCRIPT = """
(async () => {
  const found = [];
  for (const width of WIDTHS) {
    let state = 1;
    const random = () => (state = (state * 48271) % 2147483647) / 2147483647;
    const greys = Array.from({ length: width }, () => 32 * Math.floor(8 * random()));
    const data = greys.flatMap((grey) => [grey, grey, grey, 255]);
    const blob = await Gif.encode(1, () => ({ data, width, height: 1 }), () => 1, () => {});
    const bytes = new Uint8Array(await blob.arrayBuffer());
    found.push({ greys, file: btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join("")) });
  }
  return found;
})()
"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")


def pixels_of(data: bytes) -> list[int]:
    """What the codes stand for, up to END, behind which nothing may stand.

    Raises:
        IndexError: the data ends before END.
    """
    value, have, place = 0, 0, 0
    size, table = 9, [[n] for n in range(END + 1)]
    before: list[int] | None = None
    pixels: list[int] = []
    while True:
        while have < size:
            value |= data[place] << have
            have, place = have + 8, place + 1
        code, value, have = value & ((1 << size) - 1), value >> size, have - size
        if code == END:
            assert place == len(data)
            return pixels
        if code == CLEAR:
            size, table, before = 9, table[: END + 1], None
            continue
        if before is not None and len(table) < 4096:
            known = table[code] if code < len(table) else before
            table.append([*before, known[0]])
        pixels += table[code]
        before = table[code]
        if len(table) == 1 << size and size < 12:
            size += 1


def data_of(gif: bytes) -> tuple[list[int], bytes]:
    """The palette's brightness, and the one frame's codes."""
    palette = [gif[13 + 3 * n] for n in range(256)]
    place = 13 + 768 + 19 + 8  # behind screen, palette, loop and control
    assert gif[place : place + 1] == b","
    place += 10
    assert gif[place] == 8
    place, data = place + 1, b""
    while gif[place]:
        data += gif[place + 1 : place + 1 + gif[place]]
        place += 1 + gif[place]
    assert gif[place:] == b"\0;"
    return palette, data


def test_every_end_is_found(tmp_path: Path) -> None:
    """At 25,687 to 25,689 the end code is one bit longer than those before, and fills its last byte."""
    widths = [*range(1, 20), 3000, *range(25_686, 25_691), 60_000]
    page = tmp_path / "page.html"
    write_page(page, [SampleRecord(["a"], ["b"], [0], [0.9], "ab")], "t")
    with Browser(tmp_path / "profile") as browser:
        browser.open(page.as_uri())
        found = browser.run(SCRIPT.replace("WIDTHS", json.dumps(widths)))
    assert [len(one["greys"]) for one in found] == widths
    for one in found:
        palette, data = data_of(base64.b64decode(one["file"]))
        assert [palette[pixel] for pixel in pixels_of(data)] == one["greys"]
