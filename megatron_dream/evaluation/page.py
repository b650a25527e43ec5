"""One HTML file that plays how samples came about, token by token, side by side.

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


@dataclass(frozen=True)
class Change:
    """Something that happened to a position of the canvas before its last opening.

    Attributes:
        position: of the canvas.
        step: when.
        text: what it opened as; None: it was masked again.
    """

    position: int
    step: int
    text: str | None


@dataclass
class SampleRecord:
    """One generation, as the page and the terminal show it.

    The canvas holds every position that ever was, in the order in which they stand: one that was
    inserted or removed on the way says at which step.

    Attributes:
        prompt_tokens: text of each token before the canvas.
        tokens: text of each token of the canvas, in order of position.
        opened_step: step at which each token of the canvas appeared, for the last time; -1: it was
            given. A position that was removed while it was masked has the step of its removal.
        confidence: the algorithm's confidence at that step; None: there is none.
        text: the final text.
        meta: short facts to show beside it.
        suffix_tokens: text of each given token after the canvas.
        inserted_step: step at which each position came in; -1: there from the start. Empty: all -1.
        removed_step: step at which each went out; -1: it stayed. Empty: all -1.
        earlier: what happened before the last opening, in order: other tokens, masked again.
    """

    prompt_tokens: list[str]
    tokens: list[str]
    opened_step: list[int]
    confidence: Sequence[float | None]
    text: str
    meta: dict[str, str] = field(default_factory=dict)
    suffix_tokens: list[str] = field(default_factory=list)
    inserted_step: list[int] = field(default_factory=list)
    removed_step: list[int] = field(default_factory=list)
    earlier: list[Change] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Refuse lists that do not belong together."""
        count = len(self.tokens)
        if not count == len(self.opened_step) == len(self.confidence):
            raise ValueError(
                f"A sample has {count} tokens, {len(self.opened_step)} steps and "
                f"{len(self.confidence)} confidences; give one of each a position."
            )
        for name in ("inserted_step", "removed_step"):
            if len(getattr(self, name)) not in (0, count):
                raise ValueError(
                    f"A sample has {count} tokens and {len(getattr(self, name))} entries of {name}; "
                    "give one a position, or none."
                )
        if any(not 0 <= change.position < count for change in self.earlier):
            raise ValueError(f"A sample of {count} tokens tells of a position that it has not.")


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
    scripts = [(_FOLDER / name).read_text(encoding="utf-8") for name in ("gif.js", "page.js")]
    script = "\n".join(scripts)
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
