"""The problems of the RL demonstration: small Python functions, unit tests, demonstrations with bad habits.

A grammar of templates over lists, strings, arithmetic and loops. A template has a prompt in words, a program
and slots for both; a prompt asks for one program, ``sum values above five times three`` for
``def f(xs): return sum([v*3 for v in xs if v>5])``. One slot of each template has a wrong form of the same
length: a boundary (``>=`` for ``>``) or a number that is off by one. Demonstrations take the wrong form with
probability 0.6, those of ``always`` templates always: what is right there only the tests know, while other
templates show the form itself.

Writes train.jsonl and heldout.jsonl (problems, as the rl stage reads them), demonstrations.jsonl (prompt and
response for the sft stage), text.jsonl (for the tokenizer) and counts.json. Described in docs/rl_demo.md.
"""

from __future__ import annotations

import argparse
import ast
import functools
import itertools
import json
import random
import string
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron_dream.files import atomic_write, write_json  # noqa: E402
from megatron_dream.sandbox.formats import program_of  # noqa: E402

ENTRY_POINT = "f"
HABIT_PROBABILITY = 0.6  # that a demonstration of a mixed template is wrong
DEMONSTRATIONS = 4  # of each training problem
VOCAB_SIZE = 500  # of the tokenizer: every word is one piece, and right and wrong have as many
MIN_TESTS, MAX_TESTS = 5, 8  # assertions of a problem
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_RAISES = object()  # the result of a call that raised


@dataclass(frozen=True)
class Choice:
    """What a slot can be: words of the prompt, code of the right program, code of the wrong one."""

    words: str
    right: str
    wrong: str


def _plain(words: str, code: str) -> Choice:
    return Choice(words, code, code)


def _numbers(low: int, high: int, shift: int = 0, habit: int = 0) -> list[Choice]:
    """Numbers in words; the code is the number + ``shift``, and + ``habit`` where it is wrong."""
    return [
        Choice(_NUMBERS[n - 1], str(n + shift), str(n + shift + habit))
        for n in range(low, high + 1)
    ]


def _changes(names: str = "plus minus times") -> list[Choice]:
    """Arithmetic behind a value."""
    signs = {"plus": "+", "minus": "-", "times": "*"}
    return [
        _plain(f"{name} {_NUMBERS[n - 1]}", f"{signs[name]}{n}")
        for name in names.split()
        for n in range(2 if name == "times" else 1, 10)
    ]


_COMPARE = [
    Choice("above", ">", ">="),
    Choice("from", ">=", ">"),
    Choice("below", "<", "<="),
    Choice("to", "<=", "<"),  # and that number too
]
_K = _numbers(1, 9)
_CHANGE = _changes()
_TIMES = _changes("times")
_LETTERS = [_plain(letter, letter) for letter in "bdgkmprtw"]
_CASE = [_plain(name, name) for name in ("upper", "lower", "title")]
_FEWER = _numbers(2, 9, habit=-1)


@dataclass(frozen=True)
class Template:
    """One way to ask and its programs.

    Attributes:
        name: of the template.
        topic: lists, strings, arithmetic or loops.
        prompt: words with slots.
        program: Python with slots; of ``xs`` (list of int), ``ws`` (list of str), ``s`` or ``n``.
        slots: choices by name.
        always: whether demonstrations are always wrong.
    """

    name: str
    topic: str
    prompt: str
    program: str
    slots: dict[str, list[Choice]]
    always: bool = False

    @property
    def habit(self) -> str:
        """How its demonstrations are: ``mixed`` or ``always`` wrong."""
        return "always" if self.always else "mixed"


def _list(name: str, prompt: str, value: str, always: bool = False, **slots: Any) -> Template:
    return Template(name, "lists", prompt, f"def f(xs): return {value}", slots, always)


def _text(name: str, prompt: str, value: str, always: bool = False, **slots: Any) -> Template:
    argument = "ws" if "words" in prompt else "s"
    return Template(name, "strings", prompt, f"def f({argument}): return {value}", slots, always)


def _number(name: str, prompt: str, value: str, always: bool = False, **slots: Any) -> Template:
    return Template(name, "arithmetic", prompt, f"def f(n): return {value}", slots, always)


_WHERE = "[v{m} for v in xs if v{c}{k}]"
_ANY: dict[str, list[Choice]] = {"c": _COMPARE, "k": _K, "m": _CHANGE}
_WORDS = "[w{m} for w in ws if len(w){c}{k}]"
TEMPLATES = (
    _list("sum", "sum values {c} {k} {m}", f"sum({_WHERE})", **_ANY),
    _list("keep", "values {c} {k} {m}", _WHERE, **_ANY),
    _list("largest", "largest value {c} {k} {m}", f"max({_WHERE})", **_ANY),
    _list("smallest", "smallest value {c} {k} {m}", f"min({_WHERE})", always=True, **_ANY),
    _list("sorted", "sorted values {c} {k} {m}", f"sorted({_WHERE})", **_ANY),
    _list("distinct", "distinct values {c} {k} {m}", f"set({_WHERE})", **_ANY),
    _list("next", "next value {c} {k} {m}", "next(v{m} for v in xs if v{c}{k})", **_ANY),
    _list("count", "count values {m} {c} {k}", "len([v for v in xs if v{m}{c}{k}])", **_ANY),
    _list("any", "any value {m} {c} {k}", "any([v{m}{c}{k} for v in xs])", **_ANY),
    _list("all", "all values {m} {c} {k}", "all([v{m}{c}{k} for v in xs])", always=True, **_ANY),
    _list("head", "first {k} values {m}", "[v{m} for v in xs[:{k}]]", k=_FEWER, m=_CHANGE),
    _list("tail", "last {k} values {m}", "[v{m} for v in xs[-{k}:]]", k=_FEWER, m=_CHANGE),
    _list("rest", "skip {k} values {m}", "[v{m} for v in xs[{k}:]]", k=_FEWER, m=_CHANGE),
    _list("sum_head", "sum first {k} values {m}", "sum([v{m} for v in xs[:{k}]])", always=True,
          k=_FEWER, m=_CHANGE),
    _list("place", "value number {k} {m}", "xs[{k}]{m}", k=_numbers(2, 9, -1, 1), m=_CHANGE),
    _text("letters", "letters {c} {k} {m}", '[c{m} for c in s if c{c}"{k}"]', c=_COMPARE, k=_LETTERS,
          m=_TIMES),
    _text("count_letters", "count letters {c} {k} {m}", 'len([c for c in s if c{c}"{k}"]){m}',
          c=_COMPARE, k=_LETTERS, m=_CHANGE),
    _text("words", "words {c} {k} {m}", _WORDS, c=_COMPARE, k=_K, m=_TIMES),
    _text("count_words", "count words {c} {k} {m}", "len([w for w in ws if len(w){c}{k}]){m}",
          always=True, **_ANY),
    _text("beginning", "first {k} letters {t} {m}", "s[:{k}].{t}(){m}", k=_FEWER, t=_CASE, m=_TIMES),
    _text("ending", "last {k} letters {t} {m}", "s[-{k}:].{t}(){m}", always=True, k=_FEWER, t=_CASE,
          m=_TIMES),
    _text("remainder", "skip {k} letters {t} {m}", "s[{k}:].{t}(){m}", k=_FEWER, t=_CASE, m=_TIMES),
    _text("length", "whether length {m} {c} {k}", "len(s){m}{c}{k}", **_ANY),
    _number("whether", "whether number {m} {c} {k}", "n{m}{c}{k}", **_ANY),
    _number("branch", "number {m} if {c} {k} else {e}", "n{m} if n{c}{k} else n{e}", **_ANY, e=_CHANGE),
    _number("part", "whether modulo {j} {c} {k}", "n%{j}{c}{k}", j=_numbers(3, 9), c=_COMPARE, k=_K),
    _number("range", "sum numbers from {k} {m}", "sum([i{m} for i in range({k},n+1)])",
            k=_numbers(1, 8, habit=1), m=_CHANGE),
    Template("grow", "loops", "start {j} {m} while {c} number",
             "def f(n):\n t={j}\n while t{c}n: t{m}\n return t",
             {"j": _K, "c": _COMPARE[2:], "m": [_plain(c.words, c.right[0] + "=" + c.right[1])
                                                for c in _changes("plus times")]}),
    Template("shrink", "loops", "number minus {j} while {c} {k}",
             "def f(n):\n while n{c}{k}: n-={j}\n return n", {"j": _K, "c": _COMPARE[:2], "k": _K},
             always=True),
    Template("round", "loops", "number plus one while modulo {j} {c} {k}",
             "def f(n):\n while n%{j}{c}{k}: n+=1\n return n",
             {"j": _numbers(3, 9), "c": _COMPARE[:2], "k": _K}),
    Template("tally", "loops", "start {j} {g} values {c} {k}",
             "def f(xs):\n t={j}\n for v in xs: t{g}v{c}{k}\n return t",
             {"j": _K, "c": _COMPARE, "k": _K, "g": [_plain("add", "+="), _plain("take", "-=")]}),
)  # fmt: skip


@dataclass(frozen=True)
class Question:
    """A template with its slots chosen: prompt, right program, wrong program."""

    template: Template
    numbers: tuple[int, ...]  # of the choices, slot by slot

    def _fill(self, text: str, form: str, changed: tuple[int, int] | None = None) -> str:
        numbers = list(self.numbers)
        if changed is not None:
            numbers[changed[0]] = changed[1]
        slots = self.template.slots.items()
        return text.format(
            **{
                name: getattr(choices[number], form)
                for (name, choices), number in zip(slots, numbers, strict=True)
            }
        )

    @functools.cached_property
    def prompt(self) -> str:
        """What is asked for."""
        return self._fill(self.template.prompt, "words")

    @functools.cached_property
    def right(self) -> str:
        """The program that does it."""
        return self._fill(self.template.program, "right")

    @functools.cached_property
    def wrong(self) -> str:
        """The program of the bad habit."""
        return self._fill(self.template.program, "wrong")

    @functools.cached_property
    def trees(self) -> frozenset[str]:
        """Both programs, normalised."""
        return frozenset((normalised(self.right), normalised(self.wrong)))

    def neighbours(self) -> list[str]:
        """Programs that are right but for the next or last choice of one slot."""
        found = []
        for slot, choices in enumerate(self.template.slots.values()):
            for step in (-1, 1):
                other = (self.numbers[slot] + step) % len(choices)
                found.append(self._fill(self.template.program, "right", (slot, other)))
        return found


def normalised(program: str) -> str:
    """The program's tree as text: two programs are one where these are equal."""
    return ast.dump(ast.parse(program))


def fenced(program: str) -> str:
    """The response that gives a program."""
    return f"```python\n{program}\n```"


def unfenced(response: str) -> str:
    """The program of a demonstration."""
    program = program_of(response)
    assert program is not None
    return program


@functools.lru_cache(maxsize=100_000)
def _function(program: str) -> Callable[[Any], Any]:
    names: dict[str, Any] = {}
    exec(program, names)  # of this grammar
    function: Callable[[Any], Any] = names[ENTRY_POINT]
    return function


def _result(program: str, argument: Any) -> Any:
    try:
        return _function(program)(argument)
    except Exception:  # whatever it is, the call has no value
        return _RAISES


def _arguments(program: str, generator: random.Random) -> list[Any]:
    """Arguments to choose tests from: boundary values alone and in company."""
    if "f(n)" in program:
        numbers = list(range(-9, 40))
        generator.shuffle(numbers)
        return numbers
    if "f(s)" in program:
        letters = [generator.choices(string.ascii_lowercase, k=14) for _ in range(6)]
        return [
            *("".join(row) for row in letters),
            *("ab" * k + "c" * (k % 2) for k in range(10)),
            *string.ascii_lowercase,
        ]
    if "f(ws)" in program:
        rows = [generator.choices(range(1, 12), k=7) for _ in range(12)]
        rows += [[k] for k in range(1, 12)]
        return [["".join(generator.choices("abcxyz", k=k)) for k in row] for row in rows]
    lists = [generator.choices(range(-3, 13), k=generator.randint(9, 12)) for _ in range(12)]
    return [*lists, *([k] for k in range(-8, 19)), list(range(14)), list(range(13, -1, -1))]


def tests_of(question: Question, seed: int = 0) -> str | None:
    """Assertions that the right program passes and the wrong one fails.

    Arguments are chosen one after the other, each to tell the right program from most of those that
    are left of the wrong one and of its neighbours in the grammar; then some whose results are rare
    among the chosen, so that no constant passes.

    Returns:
        Python, or None where no argument tells right from wrong or all results are one.
    """
    generator = random.Random(f"{seed} {question.prompt}")
    right = question.right
    arguments = [
        (argument, result)
        for argument in _arguments(right, generator)
        if (result := _result(right, argument)) is not _RAISES
    ]
    others = [question.wrong, *question.neighbours()]
    fails = [
        {place for place, other in enumerate(others) if _result(other, argument) != result}
        for argument, result in arguments
    ]
    left, chosen = set(range(len(others))), []
    while len(chosen) < MAX_TESTS:
        # the wrong program first, whatever else an argument tells
        best = max(range(len(fails)), key=lambda n: (0 in left & fails[n], len(left & fails[n])))
        if not left & fails[best]:
            break
        left -= fails[best]
        chosen.append(arguments[best])
    if 0 in left:
        return None
    while len(chosen) < MIN_TESTS:
        results = Counter(repr(result) for _, result in chosen)
        rest = [pair for pair in arguments if pair not in chosen]
        chosen.append(min(rest, key=lambda pair: results[repr(pair[1])]))
    if len({repr(result) for _, result in chosen}) == 1:
        return None
    return "\n".join(f"assert {ENTRY_POINT}({a!r}) == {r!r}" for a, r in chosen) + "\n"


def questions(template: Template) -> Iterator[Question]:
    """Everything that a template can ask."""
    sizes = [range(len(choices)) for choices in template.slots.values()]
    for numbers in itertools.product(*sizes):
        yield Question(template, numbers)


def split(
    seed: int = 0, heldout: int = 500, train_per_template: int = 120
) -> tuple[list[Question], list[Question]]:
    """Training questions and held-out ones, which share no program, be it right or wrong.

    Held-out questions are spread over the templates, at most a quarter of one; training questions whose
    right or wrong program is a held-out one's are left out.
    """
    generator = random.Random(seed)
    pools = []
    for template in TEMPLATES:
        pool = list(questions(template))
        generator.shuffle(pool)
        pools.append(pool)
    kept: list[Question] = []
    taken: set[str] = set()
    rows = itertools.zip_longest(*(iter(pool[: len(pool) // 4]) for pool in pools))
    for question in itertools.chain.from_iterable(rows):
        if len(kept) == heldout:
            break
        if question is None or normalised(question.right) in taken:
            continue
        if tests_of(question, seed) is not None:
            kept.append(question)
            taken |= question.trees
    train, seen = [], set()
    for pool in pools:
        chosen: list[Question] = []
        for question in pool:
            if len(chosen) == train_per_template:
                break
            if question.trees & taken or question.prompt in seen:
                continue
            if tests_of(question, seed) is not None:
                chosen.append(question)
                seen.add(question.prompt)
        train += chosen
    generator.shuffle(train)
    return train, kept


def problem_fields(question: Question, number: int, split_name: str, seed: int) -> dict[str, Any]:
    """A problem's line: HumanEval's fields, and where it comes from."""
    return {
        "task_id": f"{split_name}/{number}",
        "prompt": question.prompt,
        "entry_point": ENTRY_POINT,
        "test": tests_of(question, seed),
        "canonical_solution": question.right,
        "wrong_solution": question.wrong,
        "template": question.template.name,
        "topic": question.template.topic,
        "habit": question.template.habit,
    }


def rl_line(fields: dict[str, Any]) -> dict[str, Any]:
    """The same as the rl stage reads problems (rl/problems.py); what else is known stands beside it."""
    tests = {
        name: fields[name] for name in ("task_id", "entry_point", "test", "canonical_solution")
    }
    rest = {name: fields[name] for name in ("wrong_solution", "template", "topic", "habit")}
    line = {"id": fields["task_id"], "kind": "function", "prompt": fields["prompt"]}
    return {**line, "source": "demonstration", "problem": tests, **rest}


def demonstrations(problems: Sequence[dict[str, Any]], seed: int = 0) -> list[dict[str, Any]]:
    """Answers with bad habits, ``DEMONSTRATIONS`` draws of each problem, in random order."""
    generator = random.Random(seed + 1)
    found = []
    for problem in problems:
        for _ in range(DEMONSTRATIONS):
            is_wrong = problem["habit"] == "always" or generator.random() < HABIT_PROBABILITY
            program = problem["wrong_solution" if is_wrong else "canonical_solution"]
            found.append(
                {
                    "prompt": problem["prompt"],
                    "response": fenced(program),
                    "is_right": not is_wrong,
                    **{name: problem[name] for name in ("task_id", "template", "topic", "habit")},
                }
            )
    generator.shuffle(found)
    return found


def pass_rates(shown: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Share of right demonstrations: of all, by habit and by topic."""
    total: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for entry in shown:
        for name in ("all", entry["habit"], entry["topic"]):
            total[name] += 1
            right[name] += entry["is_right"]
    return {name: right[name] / total[name] for name in total}


def main() -> None:
    """Write the files and say what is in them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--heldout", type=int, default=500, help="problems held out")
    parser.add_argument("--per-template", type=int, default=120, help="training problems")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    parts = split(options.seed, options.heldout, options.per_template)
    files = {
        name: [problem_fields(q, n, name, options.seed) for n, q in enumerate(part)]
        for name, part in zip(("train", "heldout"), parts, strict=True)
    }
    shown = demonstrations(files["train"], options.seed)
    texts = [
        {"text": f"{p['prompt']}\n{fenced(p[form])}"}
        for p in files["train"]
        for form in ("canonical_solution", "wrong_solution")
    ]
    habits = {name: dict(Counter(p["habit"] for p in files[name])) for name in ("train", "heldout")}
    files = {"demonstrations": shown, **{name: list(map(rl_line, files[name])) for name in habits}}
    files["text"] = texts
    for name, entries in files.items():
        with atomic_write(options.output / f"{name}.jsonl") as stream:
            stream.writelines(json.dumps(entry) + "\n" for entry in entries)
    rates = pass_rates(shown)
    write_json(
        options.output / "counts.json",
        {"problems": habits, "templates": len(TEMPLATES), "demonstrations_right": rates},
    )
    print(f"{len(TEMPLATES)} templates; problems by habit: {habits}")
    print(f"{len(shown)} demonstrations; right of them, by habit and topic:")
    for name, rate in rates.items():
        print(f"  {name:12} {rate:6.1%}")


if __name__ == "__main__":
    main()
