"""Every benchmark reads its own format, and its reference solutions pass by the way that answers go."""

import base64
import dataclasses
import gzip
import json
import pickle
import zlib

import pytest

from megatron_dream.errors import ConfigError, DataError
from megatron_dream.evaluation.benchmarks import livecodebench
from megatron_dream.evaluation.benchmarks.base import cut_at_stops
from megatron_dream.evaluation.benchmarks.cruxeval import is_expression
from megatron_dream.evaluation.benchmarks.livecodebench import LiveCodeBench
from megatron_dream.evaluation.benchmarks.plus_inputs import deserialise
from megatron_dream.evaluation.benchmarks.registry import BENCHMARKS, benchmark
from megatron_dream.evaluation.harness.verdicts import judge_references, judge_samples
from megatron_dream.sandbox import Judge, Limits

HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'def add(a, b):\n    """Sum."""\n',
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
}
PLUS = {
    **{k: v for k, v in HUMANEVAL.items() if k != "test"},
    "contract": "",
    "base_input": [[1, 2]],
    "plus_input": [[-1, 1], [0.5, 0.25]],
    "atol": 0,
}
MBPP_HUB = {
    "task_id": 7,
    "prompt": "Write a function to add.",
    "code": "def helper(x):\n    return x\ndef add(a, b):\n    return helper(a) + b",
    "test_imports": ["import math"],
    "test_list": ["assert add(1, 2) == 3", "assert math.isclose(add(.1, .2), .3)"],
}
MBPP_PLUS = {
    "task_id": "Mbpp/2",
    "prompt": '"""\nWrite a function to find shared elements.\nassert similar(...)\n"""\n',
    "entry_point": "similar_elements",
    "canonical_solution": "def similar_elements(a, b):\n    return tuple(set(a) & set(b))\n",
    "base_input": [[[3, 4, 5], [5, 7, 4]]],
    "plus_input": [[[1], [1]]],
    "contract": "",
    "atol": 0,
}
BIGCODE = {
    "task_id": "BigCodeBench/0",
    "complete_prompt": 'import itertools\ndef task_func(n):\n    """Pairs."""\n',
    "instruct_prompt": "Write pairs.",
    "code_prompt": "import itertools\ndef task_func(n):\n",
    "canonical_solution": "    return list(itertools.combinations(range(n), 2))\n",
    "test": "import unittest\nclass TestCases(unittest.TestCase):\n    def test_pairs(self):\n"
    "        self.assertEqual(task_func(3), [(0, 1), (0, 2), (1, 2)])\n",
    "entry_point": "task_func",
    "libs": "['itertools']",
}
OWN = {
    "id": "own/0",
    "kind": "function",
    "prompt": "one more",
    "problem": {
        "task_id": "own/0",
        "entry_point": "f",
        "test": "assert f(1) == 2\n",
        "canonical_solution": "def f(n): return n+1",
    },
}
OWN_STDIN = {
    "id": "own/1",
    "kind": "stdin",
    "prompt": "print one more",
    "problem": {
        "task_id": "own/1",
        "inputs": ["1\n", "2\n"],
        "outputs": ["2\n", "3\n"],
        "canonical_solution": "print(int(input())+1)",
    },
}
CRUX = {"id": "sample_0", "code": "def f(x):\n    return x + 1", "input": "16", "output": "17"}
STDIN = {"input": "1 2\n", "output": "3\n", "testtype": "stdin"}
CALL = {"input": "[1, 2]\n3", "output": "[1, 2, 3]", "testtype": "functional"}


def packed(cases):
    text = json.dumps(cases)
    return base64.b64encode(zlib.compress(pickle.dumps(text))).decode()


def contest(number, date, public, private, metadata="{}", starter=""):
    return {
        "question_id": str(number),
        "question_content": "Add.",
        "contest_date": date,
        "starter_code": starter,
        "public_test_cases": json.dumps(public),
        "private_test_cases": private,
        "metadata": metadata,
    }


CONTESTS = [
    contest(1, "2024-09-30T00:00:00", [STDIN], packed([STDIN])),  # before the window
    contest(2, "2024-10-01T00:00:00", [STDIN], packed([STDIN] * 2)),
    contest(3, "2025-05-31T00:00:00", [CALL], json.dumps([CALL]), '{"func_name": "join"}', "class"),
    contest(4, "2025-06-01T00:00:00", [STDIN], packed([STDIN])),  # after it
]
FILES = {
    "HumanEval": [HUMANEVAL],
    "HumanEvalPlus": [PLUS],
    "mbppplus": [MBPP_HUB],
    "MbppPlus": [MBPP_PLUS],
    "BigCodeBench": [BIGCODE],
    "BigCodeBench-Hard": [BIGCODE],
    "cruxeval": [CRUX],
    "livecodebench": CONTESTS,
    "problems": [OWN, OWN_STDIN],
    "HumanEval-SingleLineInfilling": [
        {**HUMANEVAL, "prompt": "def add(a, b):\n", "suffix": "    return c\n",
         "canonical_solution": "    c = a + b\n", "task_id": "SingleLineInfilling/HumanEval/0/L0"}
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, records in FILES.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


@pytest.fixture(scope="module")
def judge():
    with Judge(1, Limits(cpu=20, wall=120)) as opened:
        yield opened


HAS_FILES = [
    (name, style)
    for name, kind in BENCHMARKS.items()
    for style in kind.styles
    if name not in ("infilling_multi", "infilling_random", "livecodebench", "mbpp")
]


@pytest.mark.parametrize("name, style", [*HAS_FILES, ("mbpp", "base")])
def test_the_reference_passes_and_nothing_else_does(data, judge, name, style):
    kind = benchmark(name, style)
    tasks = kind.tasks(data)
    verdicts = judge_references(kind, tasks, judge)
    assert [verdict.passed for verdict in verdicts.values()] == [True] * len(tasks)
    samples = {
        (task.id, 0): {"task_id": task.id, "sample_index": 0, "answer": "    return None\n"}
        for task in tasks
    }
    judged = judge_samples(kind, tasks, samples, judge, quiet=True)
    assert [line["passed"] for line in judged.lines] == [False] * len(tasks)


def test_the_table_of_the_hub_is_read_too(tmp_path, judge):
    (tmp_path / "mbppplus.jsonl").write_text(json.dumps(MBPP_HUB) + "\n")
    kind = benchmark("mbpp", "base")
    (task,) = kind.tasks(tmp_path)
    assert task.id == "Mbpp/7" and task.problem.functions == ("add",)
    assert "assert add(1, 2) == 3" in task.ask.text and task.ask.text.endswith("```python\n")
    assert all(verdict.passed for verdict in judge_references(kind, [task], judge).values())


def test_livecodebench_takes_its_window_and_both_kinds_of_tests(data, judge):
    kind = benchmark("livecodebench", "instruct")
    tasks = kind.tasks(data)
    assert [task.id for task in tasks] == ["2", "3"]
    assert len(tasks[0].problem.cases) == 3
    script = "a, b = map(int, input().split())\nprint(a + b)"
    method = "class Solution:\n    def join(self, xs, x):\n        return (*xs, x)"
    answers = {"2": f"So:\n```python\n{script}\n```\n", "3": f"```python\n{method}\n```\nDone."}
    samples = {
        (name, 0): {"task_id": name, "sample_index": 0, "answer": answer}
        for name, answer in answers.items()
    }
    lines = judge_samples(kind, tasks, samples, judge, quiet=True).lines
    assert [line["outcome"] for line in lines] == ["passed", "passed"]
    samples = {key: {**sample, "answer": "no block"} for key, sample in samples.items()}
    lines = judge_samples(kind, tasks, samples, judge, quiet=True).lines
    assert [line["outcome"] for line in lines] == ["format", "format"]


class Evil:
    def __reduce__(self):
        return (print, ("unpickled",))


def test_a_pickle_that_is_no_text_is_refused(capsys):
    evil = base64.b64encode(zlib.compress(pickle.dumps(Evil()))).decode()
    record = contest(5, "2025-01-01", [STDIN], evil)
    with pytest.raises(DataError, match=r"f\.jsonl: private_test_cases are not readable"):
        LiveCodeBench("instruct").task(record, "f.jsonl")
    assert "unpickled" not in capsys.readouterr().out


def test_bigcodebench_leaves_to_its_own_evaluator_what_needs_packages(tmp_path, judge):
    needs = {**BIGCODE, "task_id": "BigCodeBench/1", "libs": "['numpy', 'os']"}
    wrong = {**BIGCODE, "task_id": "BigCodeBench/2", "canonical_solution": "    return n.missing\n"}
    (tmp_path / "BigCodeBench.jsonl").write_text(
        "".join(json.dumps(r) + "\n" for r in (BIGCODE, needs, wrong))
    )
    kind = benchmark("bigcodebench_complete", "base")
    tasks = kind.tasks(tmp_path)
    samples = {
        (task.id, 0): {
            "task_id": task.id,
            "sample_index": 0,
            "answer": BIGCODE["canonical_solution"],
        }
        for task in tasks
    }
    judged = judge_samples(kind, tasks, samples, judge, quiet=True)
    assert [(line["task_id"], line["passed"]) for line in judged.lines] == [
        ("BigCodeBench/0", True)
    ]
    assert judged.unjudged["BigCodeBench/1"] == "needs numpy"
    assert "reference solution" in judged.unjudged["BigCodeBench/2"]


@pytest.mark.parametrize(
    "name, answer, passes",
    [
        ("cruxeval_output", "so [ANSWER]\nassert f(16) == 17\n[/ANSWER] more", True),
        ("cruxeval_output", "[ANSWER] assert f(16) == f(16) [/ANSWER]", False),  # computes it
        ("cruxeval_output", "17", True),
        ("cruxeval_output", "16 +", False),
        ("cruxeval_input", "[ANSWER]\nassert f(16) == 17\n[/ANSWER]", True),
        ("cruxeval_input", "[ANSWER]\nassert f(8 * 2) == 17\n[/ANSWER]", True),
        ("cruxeval_input", "[ANSWER]\nassert 17 == 17\n[/ANSWER]", False),  # no call
        ("cruxeval_input", "type('E', (), {'__eq__': lambda s, o: True})() or f(1)", False),
    ],
)
def test_cruxeval_counts_what_its_evaluator_counts(data, judge, name, answer, passes):
    kind = benchmark(name, "base")
    tasks = kind.tasks(data)
    samples = {("sample_0", 0): {"task_id": "sample_0", "sample_index": 0, "answer": answer}}
    (line,) = judge_samples(kind, tasks, samples, judge, quiet=True).lines
    assert line["passed"] == passes, line


def test_plus_compares_floats_and_sets_as_evalplus_does(tmp_path, judge):
    record = {**PLUS, "canonical_solution": "    return (a + b) / 3\n", "plus_input": []}
    (tmp_path / "HumanEvalPlus.jsonl").write_text(json.dumps(record) + "\n")
    kind = benchmark("humaneval_plus", "base")
    (task,) = kind.tasks(tmp_path)

    def outcome(body):
        return judge.submit(f"def add(a, b):\n    return {body}\n", task.problem).result().passed

    assert outcome("(a + b) / 3 + 5e-7") and not outcome("(a + b) / 3 + 5e-6")
    assert outcome("int((a + b) / 3)")  # 1 == 1.0, and so it has it
    assert not outcome("[(a + b) / 3]") and not outcome("str((a + b) / 3)")


def test_inputs_that_json_cannot_hold():
    assert deserialise("Mbpp/2", [[[1, 2], [3]]]) == [[(1, 2), (3,)]]
    assert deserialise("Mbpp/252", [["1+2j"]]) == [[1 + 2j]]
    assert deserialise("Mbpp/115", [[[[1], []]]]) == [[[{1}, {}]]]
    assert deserialise("Mbpp/580", [[[1, [2, [3]]]]]) == [[(1, (2, (3,)))]]
    assert deserialise("Mbpp/1", [[[1]]]) == [[[1]]]


def test_gzip_lists_and_parquet_are_read(tmp_path):
    import pyarrow
    import pyarrow.parquet

    kind = benchmark("humaneval", "base")
    wanted = [HUMANEVAL, {**HUMANEVAL, "task_id": "HumanEval/1"}]
    for number, suffix in enumerate(("jsonl.gz", "json", "parquet")):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = folder / f"HumanEval.{suffix}"
        if suffix == "jsonl.gz":
            path.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in wanted).encode()))
        elif suffix == "json":
            path.write_text(json.dumps(wanted))
        else:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(wanted), path)
        assert [task.id for task in kind.tasks(folder)] == ["HumanEval/0", "HumanEval/1"]


@pytest.mark.parametrize(
    "content, sentence",
    [
        (b"\x1f\x8b\x08broken", "not readable"),
        (b"not gzip", "not readable"),
        (gzip.compress(b"", mtime=0)[:10] + b"\xff" * 20, "not readable"),
        (gzip.compress(b"[1]\n"), "no object"),
        (gzip.compress(b'{"task_id": "a"}\n'), "is missing"),
        (
            gzip.compress(json.dumps(HUMANEVAL).encode() + b"\n" + json.dumps(HUMANEVAL).encode()),
            "twice",
        ),
        (gzip.compress(b""), "no task"),
    ],
)
def test_a_broken_file_is_told_in_a_sentence(tmp_path, content, sentence):
    (tmp_path / "HumanEval.jsonl.gz").write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        benchmark("humaneval", "base").tasks(tmp_path)


def test_missing_files_and_names_are_told(tmp_path):
    with pytest.raises(DataError, match=r"the problems of humaneval are not there"):
        benchmark("humaneval", "base").tasks(tmp_path)
    with pytest.raises(ConfigError, match="no benchmark 'nothing'"):
        benchmark("nothing", "base")
    with pytest.raises(DataError, match="no prompts for base"):
        benchmark("livecodebench", "base")


@pytest.mark.parametrize(
    "answer",
    [
        "\n```python\ndef add(a, b):\n    return a + b\n```\nDone.",  # a fence of its own after a line feed
        "def add(a, b):\n    return a + b\n```",
        "def add(a, b):\n\treturn a + b\n",
    ],
)
@pytest.mark.parametrize("name", ["humaneval", "mbpp", "humaneval_plus"])
def test_a_chat_models_fence_costs_no_program(data, name, answer):
    kind = benchmark(name, "instruct")
    (task, *_) = kind.tasks(data)
    task = dataclasses.replace(task, record={**task.record, "entry_point": "add"})
    program = kind.program(task, cut_at_stops(answer, task.stops))
    assert program == "def add(a, b):\n    return a + b"


@pytest.mark.parametrize(
    "answer, passes",
    [("()", True), ("tuple()", True), ("", False), ("# nothing", False), ("(), 2", False)],
)
def test_an_empty_answer_is_no_empty_tuple(tmp_path, judge, answer, passes):
    """CRUXEval's evaluator puts an answer behind ``==``, where nothing is no expression."""
    record = {"id": "s", "code": "def f(x):\n    return ()", "input": "1", "output": "()"}
    (tmp_path / "cruxeval.jsonl").write_text(json.dumps(record) + "\n")
    kind = benchmark("cruxeval_output_direct", "base")
    tasks = kind.tasks(tmp_path)
    samples = {("s", 0): {"task_id": "s", "sample_index": 0, "answer": answer}}
    (line,) = judge_samples(kind, tasks, samples, judge, quiet=True).lines
    assert line["passed"] == passes
    if not passes:
        assert line["outcome"] == "format"


def test_expressions_stand_alone():
    for text in ("(1, 2)", "()", "[1,\n 2]", "f(1) + (2, 3)", "1  # one", "((1, 2), 3)"):
        assert is_expression(text), text
    for text in ("", "1, 2", "(1), 2", "(1, 2), 3", "1)\nimport os\n(2", "x = 1", "*a, b"):
        assert not is_expression(text), text


def test_livecodebench_programs_have_its_imports(data, judge):
    """The starter code names List, heapq's functions and others without importing them."""
    kind = benchmark("livecodebench", "instruct")
    (task,) = (task for task in kind.tasks(data) if task.problem.kind == "function")
    code = (
        "class Solution:\n    def join(self, xs: List[int], x: Optional[int]) -> List[int]:\n"
        "        return list(accumulate(xs))[:0] + sorted([*xs]) + [x]"
    )
    samples = {(task.id, 0): {"task_id": task.id, "sample_index": 0, "answer": f"```\n{code}\n```"}}
    (line,) = judge_samples(kind, [task], samples, judge, quiet=True).lines
    assert line["passed"], line
    assert kind.program(task, "no fence") == kind.program(task, "```\n\n```") == ""


def test_a_record_that_is_no_python_is_told(tmp_path):
    (tmp_path / "mbppplus.jsonl").write_text(json.dumps({**MBPP_HUB, "code": "def add("}) + "\n")
    with pytest.raises(DataError, match="record 1: its code or a test is no Python"):
        benchmark("mbpp", "base").tasks(tmp_path)


def contest_lines(tmp_path, judge, record, answers):
    """What the judge says of several programs for one contest task."""
    (tmp_path / "livecodebench.jsonl").write_text(json.dumps(record) + "\n")
    kind = benchmark("livecodebench", "instruct")
    (task,) = kind.tasks(tmp_path)
    samples = {
        (task.id, n): {"task_id": task.id, "sample_index": n, "answer": f"```python\n{answer}\n```"}
        for n, answer in enumerate(answers)
    }
    return judge_samples(kind, [task], samples, judge, quiet=True).lines


def test_livecodebench_compares_printed_numbers_as_numbers(tmp_path, judge):
    """Its checker strips lines and compares words as decimals, exactly."""
    case = {"input": "", "output": "3.50 2\nyes\n100000000000000001", "testtype": "stdin"}
    record = contest(1, "2025-01-01", [case], "[]")
    right = ["  3.5 2.0 ", "\tyes", "100000000000000001.0"]
    wrong = (
        ["3.5 2", "yes", "100000000000000000"],
        ["3.5 2", "no", "100000000000000001"],
        ["3.5", "2", "yes", "100000000000000001"],
        ["3.5 sNaN", "yes", "100000000000000001"],
    )
    programs = [
        "import sys\nsys.stdout.write(" + repr("\n".join(lines) + "\n") + ")"
        for lines in (right, *wrong)
    ]
    lines = contest_lines(tmp_path, judge, record, programs)
    assert [line["passed"] for line in lines] == [True, False, False, False, False], lines


def test_livecodebench_takes_a_bare_function_and_no_inner_tuples(tmp_path, judge):
    case = {"input": "[1, 2]", "output": "[[1, 2]]", "testtype": "functional"}
    record = contest(1, "2025-01-01", [case], "[]", '{"func_name": "pairs"}', "class")
    bodies = ("[xs]", "(xs,)", "[tuple(xs)]")  # whole answers may be tuples, parts of them not
    lines = contest_lines(
        tmp_path, judge, record, [f"def pairs(xs):\n    return {body}" for body in bodies]
    )
    assert [line["passed"] for line in lines] == [True, True, False], lines


def test_a_case_of_a_contest_has_its_own_time(tmp_path, judge, monkeypatch):
    monkeypatch.setattr(livecodebench, "_CASE_SECONDS", 0.5)
    case = {"input": "", "output": "1", "testtype": "stdin"}
    slow = "import time\nwhile time.process_time() < 1.5:\n    pass\nprint(1)"
    lines = contest_lines(
        tmp_path, judge, contest(1, "2025-01-01", [case], "[]"), [slow, "print(1)"]
    )
    assert [line["outcome"] for line in lines] == ["timeout", "passed"], lines


@pytest.mark.parametrize("damage", [b"junk", pickle.dumps("[]")[:-3], pickle.dumps(b"\xff")])
def test_damaged_private_tests_are_told_in_a_sentence(damage):
    record = contest(5, "2025-01-01", [STDIN], base64.b64encode(zlib.compress(damage)).decode())
    with pytest.raises(DataError, match=r"f\.jsonl: (private_test_cases|its tests)"):
        LiveCodeBench("instruct").task(record, "f.jsonl")


@pytest.mark.parametrize(
    "name, answer, wanted",
    [
        ("cruxeval_output", "It adds.\nSo 16 == 16\n17\n", "17"),
        ("cruxeval_input", "f(17) is 18.\nf(16)", "f(16)"),
        ("cruxeval_output_direct", "assert f(16) == 17", "17"),
    ],
)
def test_thinking_without_a_marked_answer_ends_with_it(name, answer, wanted):
    """As the public recipe takes it (cruxeval's openai_prompt.py)."""
    assert benchmark(name, "instruct").answer(answer) == wanted


def test_a_byte_order_mark_and_windows_lines_are_read(tmp_path):
    (tmp_path / "HumanEval.jsonl").write_bytes(
        b"\xef\xbb\xbf" + json.dumps(HUMANEVAL).encode() + b"\r\n"
    )
    assert len(benchmark("humaneval", "base").tasks(tmp_path)) == 1


def test_setup_code_of_mbpp_stands_before_its_assertions(tmp_path, judge):
    record = {
        **MBPP_HUB, "test_setup_code": "three = 3", "test_list": ["assert add(1, 2) == three"],
    }  # fmt: skip
    (tmp_path / "mbpp.jsonl").write_text(json.dumps(record) + "\n")
    kind = benchmark("mbpp", "base")
    (verdict,) = judge_references(kind, kind.tasks(tmp_path), judge).values()
    assert verdict.passed, verdict
