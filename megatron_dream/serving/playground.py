"""The page at /: one file that shows the denoising live.

Script and style are inside, allowed by their hashes; it may talk to this server only. What the model
writes is set as text, never parsed, with control characters spelled out.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from pathlib import Path

from ..evaluation.sampling_flags import SAMPLING_FLAGS

_FOLDER = Path(__file__).parent


def playground(model_name: str) -> tuple[str, str]:
    """The page's HTML, and the policy to send with it."""
    style = (_FOLDER / "playground.css").read_text(encoding="utf-8")
    script = (_FOLDER / "playground.js").read_text(encoding="utf-8")
    template = (_FOLDER / "playground.html").read_text(encoding="utf-8")
    parts = {
        "%MODEL%": html.escape(model_name),
        "%ALGORITHMS%": _options("alg"),
        "%CACHES%": _options("cache"),
        "%STYLE%": style,
        "%SCRIPT%": script,
    }
    page = re.sub("%[A-Z]+%", lambda mark: parts[mark[0]], template)
    policy = (
        f"default-src 'none'; connect-src 'self'; img-src data:; style-src {_hash(style)}; "
        f"script-src {_hash(script)}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, policy


def _options(field: str) -> str:
    return "".join(
        f"<option>{html.escape(name)}</option>" for name in SAMPLING_FLAGS[field].choices
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
