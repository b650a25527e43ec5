"""Minimum tests, balance, rates, candidates, reports of progress: decisions by hand-made problems."""

from __future__ import annotations

import dataclasses
import json
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_dream.errors import ConfigError, DataError
from megatron_dream.rl.curation.balance import Balance, shares_of, targets
from megatron_dream.rl.curation.difficulty import ALL, NONE, Candidates, RatesOfFile, read_rates
from megatron_dream.rl.curation.minimum_tests import MinimumTests
from megatron_dream.rl.curation.phase import Outcome as PhaseOutcome
from megatron_dream.rl.curation.phase import done_outcome, finish, prepare_folder
from megatron_dream.rl.curation.progress_file import ProgressFile
from megatron_dream.rl.curation.references import References, reference_program
from megatron_dream.sandbox import Outcome, Problem, Verdict
from tests.unit.rl.curation.helpers import Script, decide, function, script, value


class TableJudge:
    """A judge that knows the verdict of every program, and notes what it was asked."""

    workers = 1

    def __init__(self, outcomes: dict[str, Outcome], detail: str = "said") -> None:
        self.outcomes, self.detail = outcomes, detail
        self.asked: list[str] = []

    def submit(self, program: str, problem: Problem) -> Future[Verdict]:
        self.asked.append(program)
        future: Future[Verdict] = Future()
        future.set_result(Verdict(self.outcomes[program], detail=self.detail))
        return future

    def __enter__(self) -> TableJudge:
        return self

    def __exit__(self, *_: Any) -> None:
        pass


def fenced(program: str) -> str:
    return f"Here:\n```python\n{program}```\n"


def test_problems_of_few_tests_go(tmp_path: Path) -> None:
    five = "".join(f"assert f({k})\n" for k in range(5))
    problems = [
        function("many", tests=five),
        function("few", tests=five[:-12]),
        function("broken", tests="assert ("),
        script("s5", 5),
        script("s4", 4),
        value("v"),
    ]
    found = decide(MinimumTests(5), problems, tmp_path)
    assert {name: decision.detail for name, decision in found.items()} == {
        "few": "4 tests",
        "broken": "0 tests",
        "s4": "4 tests",
    }
    assert decide(MinimumTests(0), problems, tmp_path) == {}


@pytest.mark.parametrize(
    ("counts", "shares", "most", "wanted"),
    [
        (
            {"function": 100, "stdin": 30, "output": 50},
            "function=1,stdin=1,output=1",
            None,
            (30,) * 3,
        ),
        (
            {"function": 100, "stdin": 30, "output": 50},
            "function=2,stdin=1,output=1",
            None,
            (60, 30, 30),
        ),
        (
            {"function": 100, "stdin": 30, "output": 50},
            "function=1,stdin=0,output=1",
            None,
            (50, 0, 50),
        ),
        ({"function": 100, "stdin": 30}, "function=1,stdin=1,output=0", 10, (5, 5, 0)),
        ({"function": 7, "stdin": 3}, "function=0.7,stdin=0.3,output=0", None, (7, 3, 0)),
    ],
)
def test_targets(
    counts: dict[str, int], shares: str, most: int | None, wanted: tuple[int, ...]
) -> None:
    kept = targets(counts, shares_of(shares), most)
    assert tuple(kept[kind] for kind in ("function", "stdin", "output")) == wanted


def test_a_limit_alone_keeps_the_shares_that_there_are() -> None:
    assert targets({"function": 60, "stdin": 30}, {}, 30) == {"function": 20, "stdin": 10}
    assert targets({}, {}, 30) == {}


_counts = st.dictionaries(st.sampled_from(["function", "stdin", "output"]), st.integers(1, 1000))


@given(_counts, st.integers(1, 3000))
def test_targets_never_ask_for_more_than_there_is(counts: dict[str, int], most: int) -> None:
    shares = {kind: 1.0 + place for place, kind in enumerate(counts)}
    kept = targets(counts, shares, most)
    assert all(0 <= kept[kind] <= counts[kind] for kind in counts)
    assert sum(kept.values()) <= most


def test_balance_is_the_same_whatever_the_order(tmp_path: Path) -> None:
    problems = [*(script(f"s{k}") for k in range(40)), *(value(f"v{k}") for k in range(7))]
    phase = Balance(shares_of("stdin=1,output=1"))
    found = decide(phase, problems, tmp_path)
    assert len(found) == 33 and all(name.startswith("s") for name in found)
    assert found == decide(phase, problems[::-1], tmp_path)
    names = sorted(int(name[1:]) for name in found)
    assert names != list(range(33)) and names != list(
        range(7, 40)
    )  # neither the first nor the last


def test_kinds_without_a_share_go_and_absent_kinds_are_refused(tmp_path: Path) -> None:
    problems = [script("s"), value("v")]
    assert list(decide(Balance(shares_of("stdin=1")), problems, tmp_path)) == ["v"]
    with pytest.raises(DataError, match="function problems and none"):
        decide(Balance(shares_of("stdin=1,function=1")), problems, tmp_path)


@pytest.mark.parametrize(
    "text", ["", "stdin", "stdin=x", "stdin=-1", "std=1", "stdin=0", "stdin=1,stdin=2"]
)
def test_shares_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--balance"):
        shares_of(text)


def test_references_have_to_pass(tmp_path: Path) -> None:
    problems = [
        function("right", reference="good"),
        function("wrong", reference="bad"),
        function("lost", reference="lost"),
        function("without"),
        script("slow", reference="slow"),
        value("v"),
    ]
    outcomes = {
        "good": Outcome.PASSED,
        "bad": Outcome.FAILED,
        "lost": Outcome.INFRASTRUCTURE,
        "slow": Outcome.TIMEOUT,
    }
    judge, notes = TableJudge(outcomes, "the program: more than 5 s of CPU"), []
    found = decide(References(lambda: judge), problems, tmp_path, notes)
    assert {name: (d.fate, d.reason) for name, d in found.items()} == {
        "wrong": ("dropped", "reference: failed"),
        "lost": ("apart", "not judged (infrastructure)"),
        "slow": ("dropped", "reference: timeout"),
    }
    assert notes == ["4 have a reference, 2 have none and go on"]
    # A second time only what was lost is tried, and it may be found right.
    judge = TableJudge({"lost": Outcome.PASSED})
    found = decide(References(lambda: judge), problems, tmp_path)
    assert judge.asked == ["lost"] and sorted(found) == ["slow", "wrong"]
    # A third time no judge is started.
    assert sorted(decide(References(_no_judge), problems, tmp_path)) == ["slow", "wrong"]


def test_references_that_are_only_late_are_tried_alone_and_kept_apart(tmp_path: Path) -> None:
    class Busy(TableJudge):
        """Late where others wait; what spins and what waits stay as they are."""

        def submit(self, program: str, problem: Problem) -> Future[Verdict]:
            future: Future[Verdict] = Future()
            is_first = program not in self.asked
            self.asked.append(program)
            late = Verdict(Outcome.TIMEOUT, detail="more than 15 s in all")
            found = {
                "spins": Verdict(Outcome.TIMEOUT, detail="the program: more than 5 s of CPU"),
                "waits": late,
                "slow": late if is_first else Verdict(Outcome.PASSED),
                "wrong": late if is_first else Verdict(Outcome.FAILED),
            }
            future.set_result(found[program])
            return future

    judge = Busy({})
    problems = [function(name, reference=name) for name in ("slow", "spins", "waits", "wrong")]
    found = decide(References(lambda: judge), problems, tmp_path)
    assert judge.asked == ["slow", "spins", "waits", "wrong", "slow", "waits", "wrong"]
    told = {name: (d.fate, d.reason) for name, d in found.items()}
    assert told == {
        "spins": ("dropped", "reference: timeout"),
        "waits": ("apart", "reference: out of wall-clock time twice"),
        "wrong": ("dropped", "reference: failed"),
    }
    assert decide(References(_no_judge), problems, tmp_path) == found
    # A run that was killed before the second try makes it.
    (path,) = tmp_path.glob("verdicts-*.jsonl")
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:4]))
    assert decide(References(lambda: judge), problems, tmp_path).keys() == {
        "spins",
        "waits",
        "wrong",
    }


def _no_judge() -> Any:
    raise AssertionError("nothing is left to judge")


def test_a_reference_stands_behind_its_prompt() -> None:
    problem = Problem(
        "h", prompt="def f(x):\n", tests="", functions=("f",), reference="    return x\n"
    )
    whole = reference_program(dataclasses.replace(function("h"), problem=problem))
    assert whole is not None
    names: dict[str, Any] = {}
    exec(whole, names)
    assert names["f"](3) == 3


@pytest.mark.parametrize(
    "prompt",
    [
        "Write f, which doubles a number.",
        "",
        "def f(x):\n",
        "import math\n\ndef f(x):\n    'Double it.'\n",
    ],
)
def test_a_reference_that_is_a_whole_program_is_one_behind_any_prompt(prompt: str) -> None:
    reference = "def f(x):\n    return 2 * x\n"
    problem = Problem("h", prompt=prompt, functions=("f",), reference=reference)
    whole = reference_program(dataclasses.replace(function("h"), problem=problem))
    assert whole is not None
    names: dict[str, Any] = {}
    exec(whole, names)
    assert names["f"](3) == 6 and ("math" in names) == ("math" in prompt)


def test_rates_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rates.jsonl"
    path.write_text(
        '{"id": "a", "solve_rate": 1}\n{"id": "b", "solve_rate": 0}\n{"id": "c", "solve_rate": 0.5}\n'
    )
    problems = [value(name) for name in "abcd"]
    notes: list[str] = []
    found = decide(RatesOfFile(read_rates(path), path), problems, tmp_path, notes)
    assert {n: (d.fate, d.solve_rate) for n, d in found.items()} == {
        "a": ("dropped", 1.0),
        "b": ("rated", 0.0),
        "c": ("rated", 0.5),
    }
    assert "1 have no rate" in notes[0]
    found = decide(RatesOfFile(read_rates(path), path, drops_unsolved=True), problems, tmp_path)
    assert found["a"].reason == ALL and found["b"].reason == NONE
    with pytest.raises(DataError, match="no id in it"):
        decide(RatesOfFile(read_rates(path), path), [value("z")], tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        '{"id": "a"}',
        '{"id": "a", "solve_rate": 2}',
        '{"solve_rate": 1}',
        "[]",
        '{"id": "b", "solve_rate": 1}',
    ],
)
def test_broken_rates_are_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rates.jsonl"
    path.write_text('{"id": "b", "solve_rate": 1}\n' + line + "\n")
    with pytest.raises(DataError, match=r"rates\.jsonl, line 2"):
        read_rates(path)


def test_what_all_candidates_solve_goes(tmp_path: Path) -> None:
    right, wrong = '{"output": 7}', "no idea"
    model = Script(
        {
            "What is easy?": [right] * 4,
            "What is some?": [right, wrong, right, wrong],
            "What is hard?": [wrong] * 4,
            "Write fine.": [fenced("good\n")] * 3 + ["no block"],
            "Write lost.": [fenced("lost\n")] * 4,
            "Write luck.": [fenced("lost\n"), fenced("good\n"), fenced("good\n"), fenced("good\n")],
            "Echo long.": [],
        }
    )
    judge = TableJudge({"good\n": Outcome.PASSED, "lost\n": Outcome.INFRASTRUCTURE})
    problems = [
        *(value(name) for name in ("easy", "some", "hard")),
        *(function(name) for name in ("fine", "lost", "luck")),
        script("long"),
    ]
    phase = Candidates(lambda: model, lambda: judge, num_candidates=4, batch_size=2)
    found = decide(phase, problems, tmp_path)
    assert {name: (d.fate, d.solve_rate) for name, d in found.items()} == {
        "easy": ("dropped", 1.0),
        "some": ("rated", 0.5),
        "hard": ("rated", 0.0),
        "fine": ("rated", 0.75),
        "lost": ("apart", None),
        "luck": ("rated", 1.0),  # one was not judged and may have been wrong
        "long": ("apart", None),
    }
    found = decide(dataclasses.replace(phase, drops_unsolved=True), problems, tmp_path)
    assert found["hard"].reason == NONE


def test_candidates_that_were_not_judged_drop_nothing_and_are_asked_again(tmp_path: Path) -> None:
    answers = {"Write all.": ["good\n", "lost\n"], "Write none.": ["bad\n", "lost\n"]}
    model = Script({text: [fenced(p) for p in programs] for text, programs in answers.items()})
    outcomes = {
        "good\n": Outcome.PASSED,
        "bad\n": Outcome.FAILED,
        "lost\n": Outcome.INFRASTRUCTURE,
    }
    judge = TableJudge(outcomes)
    phase = Candidates(
        lambda: model, lambda: judge, num_candidates=2, batch_size=2, drops_unsolved=True
    )
    problems = [function("all"), function("none")]
    found = decide(phase, problems, tmp_path)
    assert {n: (d.fate, d.solve_rate) for n, d in found.items()} == {
        "all": ("rated", 1.0),
        "none": ("rated", 0.0),
    }
    judge.outcomes["lost\n"] = Outcome.FAILED
    found = decide(phase, problems, tmp_path)
    assert {n: (d.fate, d.solve_rate) for n, d in found.items()} == {
        "all": ("rated", 0.5),
        "none": ("dropped", 0.0),
    }


def test_a_killed_run_asks_again_only_for_the_rest_and_with_the_same_seeds(tmp_path: Path) -> None:
    problems = [value(f"q{k}") for k in range(7)]
    answers = {f"What is q{k}?": ['{"output": 7}', "x"] for k in range(7)}
    whole = Script(answers)
    phase = Candidates(lambda: whole, _no_judge, num_candidates=2, seed=3, batch_size=2)
    wanted = decide(phase, problems, tmp_path)
    short = Script({text: answers[text] for text in list(answers)[:4]})  # the fifth is a KeyError
    killed = tmp_path / "killed"
    killed.mkdir()
    with pytest.raises(KeyError):
        decide(dataclasses.replace(phase, make_model=lambda: short), problems, killed)
    rest = Script(answers)
    assert decide(dataclasses.replace(phase, make_model=lambda: rest), problems, killed) == wanted
    assert rest.asked == whole.asked[4:]


def test_candidates_are_not_asked_again_for_other_decisions(tmp_path: Path) -> None:
    """Whatever is asked before, after or beside them, and whatever their ids."""
    answers = {f"What is q{k}?": ['{"output": 7}', "x"] for k in range(6)}
    model = Script(answers)
    phase = Candidates(lambda: model, _no_judge, num_candidates=2, batch_size=2)
    decide(phase, [value("q1"), value("q2"), value("q4")], tmp_path)
    assert len(model.asked) == 3
    more = [dataclasses.replace(value(f"q{k}"), id=f"n{k}") for k in range(6)]
    other = dataclasses.replace(phase, drops_unsolved=True, batch_size=3)
    assert len(decide(other, more, tmp_path)) == 6
    assert [text for text, _ in model.asked[3:]] == [f"What is q{k}?" for k in (0, 3, 5)]
    # Another seed or model, another answer to a prompt: measured anew, beside the old.
    decide(dataclasses.replace(phase, seed=1), more[:1], tmp_path)
    decide(dataclasses.replace(phase, described={"model": "b"}), more[:1], tmp_path)
    decide(phase, [value("q1", answer="8")], tmp_path)
    assert len(model.asked) == 9
    decide(phase, more, tmp_path)
    assert len(model.asked) == 9


def test_references_are_judged_again_only_by_another_judge(tmp_path: Path) -> None:
    problems = [function("a", reference="good"), function("b", reference="bad")]
    judge = TableJudge({"good": Outcome.PASSED, "bad": Outcome.FAILED})
    decide(References(lambda: judge, {"isolation": "auto"}), problems, tmp_path)
    renamed = [dataclasses.replace(problems[1], id="c")]
    assert list(decide(References(_no_judge, {"isolation": "auto"}), renamed, tmp_path)) == ["c"]
    decide(References(lambda: judge, {"isolation": "process"}), problems, tmp_path)
    decide(References(_no_judge, {"isolation": "auto"}), problems, tmp_path)
    assert judge.asked == ["good", "bad"] * 2


def test_a_removal_that_is_killed_leaves_no_phase_that_looks_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "2-tests"
    prepare_folder(folder)
    finish(folder, "old", PhaseOutcome("tests"), [])
    assert done_outcome(folder, "old") is not None

    def killed(*_: Any, **__: Any) -> None:
        if (tmp_path / ".2-tests.removed").exists():
            raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare_folder(folder)
    assert not folder.exists()
    monkeypatch.undo()
    prepare_folder(folder)
    assert list(tmp_path.iterdir()) == [folder] and not list(folder.iterdir())


def test_half_a_line_of_progress_is_cut_away(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    with ProgressFile(path) as progress:
        progress.add({"id": "a"})
        progress.add({"id": "b"})
    for cut in (b'{"id": "c', b'{"id": \n{"id": "d"}\n'):
        path.write_bytes(b'{"id": "a"}\n{"id": "b"}\n' + cut)
        with ProgressFile(path) as progress:
            assert [line["id"] for line in progress.lines] == ["a", "b"]
            progress.add({"id": "e"})
        assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["a", "b", "e"]
