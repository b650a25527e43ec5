"""Toy problems for sft_truncation.py and sampling_trained.py: the prompt decides how long the answer is.

    repeat q r x to 5:   q r q r q ...       as many letters as it says, which have to be counted
    number q r x to 3:   1 q 2 r 3 x         the same with numbers, so that the end can be read off

Lengths are skewed by default: most answers are short, a few as long as can be, as those to instructions are.
"""

from __future__ import annotations

import json
import random
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LONGEST = 60  # tokens of an answer, about
SHARE_OF_LONG = 0.15  # of any length alike
_MEAN_OF_SHORT = 8.0


@dataclass(frozen=True)
class Problem:
    """A prompt and its only right answer."""

    prompt: str
    answer: str


def make_problem(draw: random.Random, longest: int, share_of_long: float) -> Problem:
    """One problem; its length is drawn first."""
    if draw.random() < share_of_long:
        length = draw.randint(1, longest)
    else:
        length = min(longest, 1 + int(draw.expovariate(1 / _MEAN_OF_SHORT)))
    letters = draw.sample(string.ascii_lowercase, 3)
    if draw.random() < 0.5:
        items = [letters[n % 3] for n in range(length)]
        return Problem(f"repeat {' '.join(letters)} to {length}:\n", " ".join(items))
    count = numbered_items(length)
    items = [f"{n + 1} {letters[n % 3]}" for n in range(count)]
    return Problem(f"number {' '.join(letters)} to {count}:\n", " ".join(items))


def numbered_items(length: int) -> int:
    """Items of about ``length`` tokens, at least one: number, letter, blank; from 10 on two digits."""
    return max(1, (length + 1) // 3) if length < 30 else 9 + (length - 26) // 4


def write_problems(
    folder: Path,
    train: int,
    held_out: int,
    longest: int = LONGEST,
    share_of_long: float = SHARE_OF_LONG,
) -> None:
    """``texts.jsonl`` for pretraining, ``train.jsonl`` and ``held_out.jsonl``; no prompt twice."""
    draw = random.Random(0)
    problems: dict[str, Problem] = {}
    while len(problems) < train + held_out:
        problem = make_problem(draw, longest, share_of_long)
        problems.setdefault(problem.prompt, problem)
    # Repeated prompts are left out, short ones rather than long: mixed, both parts are alike in that.
    mixed = list(problems.values())
    draw.shuffle(mixed)
    kept, rest = mixed[:held_out], mixed[held_out:]
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "texts.jsonl", [{"text": p.prompt + p.answer} for p in rest])
    _write(folder / "train.jsonl", [{"prompt": p.prompt, "response": p.answer} for p in rest])
    _write(folder / "held_out.jsonl", [{"prompt": p.prompt, "answer": p.answer} for p in kept])


def read_held_out(folder: Path) -> list[Problem]:
    """What ``write_problems`` kept."""
    lines = (folder / "held_out.jsonl").read_text(encoding="utf-8").splitlines()
    return [Problem(**json.loads(line)) for line in lines]


def _write(path: Path, records: Sequence[dict[str, str]]) -> None:
    text = "".join(json.dumps(record) + "\n" for record in records)
    path.write_text(text, encoding="utf-8")
