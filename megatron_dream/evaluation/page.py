"""One HTML file that plays how a sample came about, token by token.

No network: script and style are inside, allowed by their hashes in a strict content policy, and the
data is JSON that the script reads as text. Nothing of a sample is ever parsed as HTML: ``<``, ``>`` and
``&`` are escaped in the JSON, and the script sets text content only.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..files import atomic_write

_FOLDER = Path(__file__).parent


@dataclass
class SampleRecord:
    """One generation, as the page and the terminal show it.

    Attributes:
        prompt_tokens: text of each token before the canvas.
        tokens: text of each token of the canvas, in order of position.
        opened_step: step at which each token of the canvas appeared; -1: it was given.
        confidence: the algorithm's confidence at that step.
        text: the final text.
        meta: short facts to show beside it.
    """

    prompt_tokens: list[str]
    tokens: list[str]
    opened_step: list[int]
    confidence: list[float]
    text: str
    meta: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse lists that do not belong together."""
        if not len(self.tokens) == len(self.opened_step) == len(self.confidence):
            raise ValueError(
                f"A sample has {len(self.tokens)} tokens, {len(self.opened_step)} steps and "
                f"{len(self.confidence)} confidences; give one of each a position."
            )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _json_for_html(value: object) -> str:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def render_page(samples: Sequence[SampleRecord], title: str) -> str:
    """The page's HTML.

    Args:
        samples: at least one.
        title: of the page.

    Raises:
        ValueError: no sample.
    """
    if not samples:
        raise ValueError("A page needs at least one sample.")
    template = (_FOLDER / "page.html").read_text(encoding="utf-8")
    style = (_FOLDER / "page.css").read_text(encoding="utf-8")
    script = (_FOLDER / "page.js").read_text(encoding="utf-8")
    parts = {
        "%STYLE_HASH%": _hash(style),
        "%SCRIPT_HASH%": _hash(script),
        "%TITLE%": html.escape(title),
        "%STYLE%": style,
        "%SCRIPT%": script,
        "%DATA%": _json_for_html([asdict(sample) for sample in samples]),
    }
    # One pass over the template: what is put in is never searched for marks.
    return re.sub("%[A-Z_]+%", lambda mark: parts[mark[0]], template)


def write_page(path: Path | str, samples: Sequence[SampleRecord], title: str) -> None:
    """Write the page atomically."""
    text = render_page(samples, title)
    with atomic_write(path) as stream:
        stream.write(text)
