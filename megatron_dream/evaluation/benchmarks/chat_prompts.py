"""How instruct models are asked for code: EvalPlus's words, which BigCodeBench shares.

The answer begins with ``PREFILL``, put behind the template's generation prompt, and ends at the fence.
Source: evalplus 0.3.1 and bigcodebench 0.2.5, provider/utility.py and their command lines (Apache-2.0).
"""

from __future__ import annotations

from .base import Ask

INSTRUCTION = (
    "Please provide a self-contained Python script that solves the following problem in a markdown "
    "code block:"
)
PREFILL = (
    "Below is a Python script with a self-contained function that solves the problem and passes "
    "corresponding tests:\n```python\n"
)
CHAT_STOPS = ("\n```\n", "\nif __name__", "\ndef main(", "\nprint(")
BASE_STOPS = ("\nif __name__", "\ndef main(", "\nprint(")


def code_ask(problem: str, fenced: bool = True) -> Ask:
    """A problem as a user's message; ``fenced``: it is code."""
    text = f"```\n{problem.strip()}\n```" if fenced else problem.strip()
    message = {"role": "user", "content": f"{INSTRUCTION}\n{text}\n"}
    return Ask(messages=(message,), prefill=PREFILL)
