"""Decontamination by 13-grams: what counts as shared, formats of evaluation sets, the reason's words."""

import gzip
import json

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.data.filters import build_filters
from megatron_dream.data.filters.ngrams import GramIndex, tokens_of
from megatron_dream.errors import ConfigError, DataError
from tests.unit.data.filters.documents import document

WORDS = [f"word{n}" for n in range(40)]
ITEM = " ".join(WORDS[:30])


def index(*texts, **options):
    return GramIndex([(f"item {n}", text) for n, text in enumerate(texts)], **options)


def test_the_split():
    assert tokens_of('Return "X_1"  +\tÉté(2.50)') == [
        "return",
        '"',
        "x_1",
        '"',
        "+",
        "été",
        "(",
        "2",
        ".",
        "50",
        ")",
    ]
    assert tokens_of("a+=b;\n") == ["a", "+=", "b", ";"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (ITEM, True),
        ("before " + " ".join(WORDS[5:18]) + " after", True),  # 13
        ("before " + " ".join(WORDS[5:17]) + " after", False),  # 12
        (" ".join(WORDS[5:11] + ["other"] + WORDS[11:30]), True),  # 13 after the other
        (" ".join(WORDS[:12] + ["other"] + WORDS[12:24]), False),
        (" ".join(reversed(WORDS[:30])), False),
        (ITEM.upper().replace(" ", "\n\t"), True),
        (ITEM.replace(" ", ", "), False),  # other tokens between
        ("", False),
        ("word1", False),
    ],
)
def test_thirteen_tokens_in_order_are_shared(text, found):
    assert (index(ITEM).find(text) == "item 0") is found


def test_shorter_texts_count_whole():
    one = index("def add_all(a, b): ...")  # 9 tokens
    assert one.find("x = 1\nDEF add_all(a, b): ...\n") == "item 0"
    assert one.find("def add_all(a, b): pass") is None
    few = index("return x", min_tokens=5)
    assert few.find("def f(x):\n    return x") is None
    assert few.find("return  X") == "item 0"


def test_the_first_of_equal_items_is_named_and_the_documents_first_gram():
    both = index(" ".join(WORDS[:13]), " ".join(WORDS[:13]), " ".join(WORDS[20:33]))
    assert both.find(" ".join(WORDS[:13])) == "item 0"
    assert both.find(" ".join(WORDS[20:33] + WORDS[:13])) == "item 2"


def test_rows_of_numbers_prove_nothing():
    row = "assert f([1, 2, 3, 4, 5, 6, 7, 8, 9]) == [9, 8]"
    assert index(row, min_words=1).find("x = [1, 2, 3, 4, 5, 6, 7, 8, 9]") is None
    assert index(row, min_words=0).find("x = [1, 2, 3, 4, 5, 6, 7, 8, 9]") == "item 0"
    assert index(row, min_words=1).find(row) == "item 0"
    assert index("1, 2, 3", min_words=1).find("1, 2, 3") is None


def test_an_equal_hash_is_not_enough():
    class Colliding(GramIndex):
        def _hash(self, ids, starts, size):
            return super()._hash(ids, starts, size) * 0

    one = Colliding([("item", " ".join(WORDS[:13]))])
    assert one.find(" ".join(WORDS[:13])) == "item"
    assert one.find(" ".join(reversed(WORDS[:13]))) is None


def plain_find(texts, text):
    grams = lambda tokens: {tuple(tokens[i : i + 13]) for i in range(len(tokens) - 12)}  # noqa: E731
    here = tokens_of(text)
    for one in map(tokens_of, texts):
        if len(one) >= 13 and grams(one) & grams(here):
            return True
        if 0 < len(one) < 13:
            windows = [here[i : i + len(one)] for i in range(len(here) - len(one) + 1)]
            if one in windows:
                return True
    return False


SENTENCES = st.lists(st.sampled_from(["a", "b", "(", "+"]), max_size=40).map(" ".join)


@settings(max_examples=150, deadline=None)
@given(st.lists(SENTENCES, max_size=4), SENTENCES)
def test_found_is_what_the_definition_finds(texts, text):
    assert (index(*texts).find(text) is not None) == plain_find(texts, text)


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


HUMANEVAL = {
    "task_id": "HumanEval/7",
    "prompt": 'def filter_by_substring(strings, substring):\n    """Keep strings that contain it."""\n',
    "canonical_solution": "    return [x for x in strings if substring in x]\n",
    "test": "def check(candidate):\n    assert candidate(['abc', 'bacd', 'cde'], 'a') == ['abc', 'bacd']\n",
    "entry_point": "filter_by_substring",
}
INFILLING = {
    **HUMANEVAL,
    "task_id": "SingleLineInfilling/HumanEval/7/L0",
    "suffix": "    # nothing follows after this line of the program here at all\n",
}
CRUX = {
    "id": "sample_3",
    "code": "def f(text):\n    groups = text.split('-')\n    return '+'.join(sorted(groups, key=len))",
    "input": "'a-b'",
    "output": "'a+b'",
}


@pytest.mark.parametrize("record", [HUMANEVAL, INFILLING, CRUX])
@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
def test_known_formats_need_no_fields(tmp_path, record, packing):
    path = tmp_path / f"set.jsonl{packing}"
    data = (json.dumps(record) + "\n\n").encode()
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}
    path.write_bytes(pack[packing](data))
    chain = build_filters([{"decontamination": {"sets": [{"path": str(path)}]}}])
    assert chain.decontaminated_against == ["set"]
    program = record.get("code") or record["prompt"] + record["canonical_solution"]
    name = record.get("task_id", record.get("id"))
    assert chain.apply(document(f"import os\n\n{program}\n")) == f"in set {name}"
    assert (
        chain.apply(document("import os\n\n\ndef f(x):\n    return [y for y in x if y]\n")) is None
    )


def test_a_program_is_compared_across_the_seams_of_its_parts(tmp_path):
    path = write(tmp_path / "set.jsonl", [HUMANEVAL])
    chain = build_filters([{"decontamination": {"sets": [{"path": path}]}}])
    seam = HUMANEVAL["prompt"][-12:] + HUMANEVAL["canonical_solution"]
    assert chain.apply(document(seam)) == "in set HumanEval/7"
    assert (
        chain.apply(document(HUMANEVAL["canonical_solution"])) is None
    )  # 11 tokens of many programs


def test_other_sets_name_their_fields(tmp_path):
    turns = [{"role": "user", "content": ITEM}, {"role": "assistant", "content": "no " * 20}]
    path = write(
        tmp_path / "own.jsonl", [{"messages": turns, "n": 1}, {"messages": "x " * 13, "n": 2}]
    )
    options = {"sets": [{"path": path, "name": "Own", "fields": ["messages"]}]}
    chain = build_filters([{"decontamination": options}])
    assert chain.apply(document(ITEM)) == "in Own line 1"
    assert chain.apply(document("x " * 13)) == "in Own line 2"
    assert chain.apply(document("user assistant")) is None
    named = build_filters([{"decontamination": {"sets": [{**options["sets"][0], "item": "n"}]}}])
    assert named.apply(document("x " * 13)) == "in Own 2"


def test_without_sets_nothing_is_compared():
    chain = build_filters([{"decontamination": {}}])
    assert chain.decontaminated_against == [] and chain.apply(document(ITEM)) is None
    assert build_filters(["repetition"]).decontaminated_against == []
    assert chain.table()[-1] == "not decontaminated"


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (None, {}, "no such evaluation set"),
        ("", {}, "holds no record"),
        ("{\n", {}, ":1: not JSON"),
        ("[1]\n", {}, ":1: not a JSON object"),
        ('{"question": "x"}\n', {}, "list the fields to compare"),
        ('{"question": "x"}\n', {"fields": ["answer"]}, ":1: no field 'answer'"),
        ('{"a": "x"}\n{"b": "x"}\n', {"fields": ["a"]}, ":2: no field 'a'"),
    ],
)
def test_faults_of_a_set_are_named(tmp_path, content, options, words):
    path = tmp_path / "set.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=words) as caught:
        build_filters([{"decontamination": {"sets": [{"path": str(path), **options}]}}])
    assert str(path) in str(caught.value)


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "set.jsonl.gz").write_bytes(gzip.compress(b'{"a": "b"}\n' * 99)[:-9])
    with pytest.raises(DataError, match="cannot be read"):
        build_filters(
            [
                {
                    "decontamination": {
                        "sets": [{"path": str(tmp_path / "set.jsonl.gz"), "fields": ["a"]}]
                    }
                }
            ]
        )
    with pytest.raises(ConfigError, match="without a path"):
        build_filters([{"decontamination": {"sets": [{"name": "x"}]}}])


def test_published_sets(shared_data):
    """Every program of the published sets is found, whatever stands around it."""
    names = ("HumanEval", "HumanEval-SingleLineInfilling", "cruxeval")
    sets = [{"path": str(shared_data / f"{name}.jsonl.gz")} for name in names]
    chain = build_filters([{"decontamination": {"sets": sets}}])
    assert chain.decontaminated_against == list(names)
    for name in names:
        with gzip.open(shared_data / f"{name}.jsonl.gz", "rt") as stream:
            records = [json.loads(line) for line in stream]
        for record in records[:: 1 if name == "HumanEval" else 29]:
            program = record.get("code") or record["prompt"] + record["canonical_solution"]
            assert chain.apply(document(f"# copied\n{program}\n")) is not None
