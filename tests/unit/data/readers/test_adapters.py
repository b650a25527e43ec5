"""Where texts are: fields, templates, and the corpora of the recipes, each on a small file of its schema."""

import json
import pickle

import pyarrow as pa
import pytest

from megatron_dream.data.readers import (
    CORPORA,
    Adapter,
    check_adapter,
    corpus,
    list_inputs,
    text_adapter,
)
from megatron_dream.errors import ConfigError, DataError
from tests.unit.data.readers.files_of_lines import (
    read_all,
    save_to_disk,
    write_frames,
    write_gz,
    write_parquet,
)


def one(tmp_path, record, adapter, **options):
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(record))
    (outcome,) = read_all(path, adapter=adapter, **options)
    return getattr(outcome, "text", None) or outcome.reason


def test_templates(tmp_path):
    record = {"q": "What?", "meta": {"a": "That."}, "n": 1, "list": ["x", "y"]}
    made = text_adapter(template="Q: {q}\n{{A}}: {meta.a}!")
    assert one(tmp_path, record, made) == "Q: What?\n{A}: That.!"
    missing = one(tmp_path, record, text_adapter(template="{q}{answer}"))
    assert missing == "field 'answer' is missing; the record has 'q', 'meta', 'n', 'list'"
    assert "field 'n' is a number" in one(tmp_path, record, text_adapter(template="{q}{n}"))


@pytest.mark.parametrize("template", ["{q", "}", "no field", "{}", "{q!r}", "{q:>3}", "{a..b}", ""])
def test_bad_templates_are_refused(template):
    with pytest.raises(ConfigError):
        text_adapter(template=template)


@pytest.mark.parametrize("name", ["", ".", "a.", "a..b"])
def test_bad_names_are_refused(name):
    with pytest.raises(ConfigError, match="is no name of a field"):
        text_adapter(name)


def test_dotted_names(tmp_path):
    record = {"a": {"b": [{"c": "x"}, {"c": "y"}]}, "d.e": "whole", "d": {"e": "deep"}}
    assert one(tmp_path, record, text_adapter("a.b.1.c")) == "y"
    assert one(tmp_path, record, text_adapter("d.e")) == "whole"
    assert one(tmp_path, record, Adapter(text="a.b.*.c", join="+")) == "x+y"
    for name in ("a.b.2.c", "a.x", "a.b.c", "a.b.*.d", "a.b.0.c.q"):
        assert "is missing" in one(tmp_path, record, Adapter(text=name, join="+"))


def test_lists_are_joined_only_where_the_adapter_says_so(tmp_path):
    record = {"text": ["a", "b"]}
    assert "is a list, not a string" in one(tmp_path, record, text_adapter())
    assert one(tmp_path, record, Adapter(join="\n")) == "a\nb"
    assert "list of other things" in one(tmp_path, {"text": ["a", 1]}, Adapter(join=""))


def test_half_surrogates_in_parts_of_a_template(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"a": "x", "b": "\\ud800"}')
    (reject,) = read_all(path, adapter=text_adapter(template="{a}{b}"))
    assert "half of a surrogate pair" in reject.reason


def test_checking_before_the_work(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"broken\n{"content": "a"}\n')
    files = list_inputs([path])
    check_adapter(files, text_adapter("content"))
    with pytest.raises(DataError, match="none of the first 2 records"):
        check_adapter(files, text_adapter())
    path.write_text('{"content": "a"}\n')
    with pytest.raises(DataError, match="'text' is missing; the record has 'content'"):
        check_adapter(list_inputs([path]), text_adapter())
    write_parquet(tmp_path / "a.parquet", [{"content": "a"}])
    with pytest.raises(DataError, match="has no field 'text'; it has 'content'"):
        check_adapter(list_inputs([tmp_path / "a.parquet"]), text_adapter())
    path.write_text("")
    check_adapter(list_inputs([path]), text_adapter())


def test_names_of_corpora():
    assert corpus("dclm-baseline") is corpus("mlfoundations/dclm-baseline-1.0")
    assert corpus("DCLM-baseline-1.0") is corpus("dclm_baseline")
    with pytest.raises(ConfigError, match="did you mean stack-edu"):
        corpus("stack-edo")
    with pytest.raises(ConfigError, match="there are dclm-baseline"):
        corpus("qqqq")
    for adapter in CORPORA.values():
        assert adapter.hub and adapter.evidence and adapter.suffixes
        assert adapter.verified or adapter.note or "agree" in adapter.evidence
        assert pickle.loads(pickle.dumps(adapter)) == adapter
        json.dumps(adapter.identity())


SCORE = "fasttext_openhermes_reddit_eli5_vs_rw_v2_bigram_200k_train_prob"
LINE_SCHEMAS = [
    (
        "dclm-baseline",
        {
            "bff_contained_ngram_count_before_dedupe": 1,
            "language_id_whole_page_fasttext": {"en": 0.98},
            "metadata": {"WARC-Type": "response"},
            "previous_word_count": 3,
            "text": "a page",
            "url": "u",
            "warcinfo": "w",
            SCORE: 0.7,
        },
        "a page",
        {"licence": "CC-BY-4.0", "quality": 0.7, SCORE: 0.7},
    ),
    (
        "dolmino-wiki",
        {"id": "1", "text": "an article", "source": "wiki", "added": "d", "metadata": {}},
        "an article",
        {"licence": "ODC-BY"},
    ),
    ("dolmino-tulu", {"id": "1", "text": "User: q\nA: a"}, "User: q\nA: a", {"licence": "ODC-BY"}),
    ("dolmino-tinygsm", {"id": "1", "text": "sum"}, "sum", {"licence": "ODC-BY"}),
    ("tinygsm", {"question": "2+2?", "code": "x = 4"}, "2+2?\n\nx = 4", {}),
    (
        "natural-reasoning",
        {
            "question": "Why?",
            "reference_answer": "",
            "responses": [{"response_model": "m", "response": "Because."}],
        },
        "Why?\n\nBecause.",
        {"licence": "CC-BY-NC-4.0"},
    ),
]
ROW_SCHEMAS = [
    (
        "finemath",
        {"url": "u", "text": "x^2", "score": 4.1, "int_score": 4, "language": "en"},
        "x^2",
        {"licence": "ODC-BY", "language": "en", "quality": 4.1},
    ),
    (
        "openmathinstruct-2",
        {
            "problem": "1+1",
            "generated_solution": "2.",
            "expected_answer": "2",
            "problem_source": "augmented_math",
        },
        "1+1\n\n2.",
        {"licence": "CC-BY-4.0"},
    ),
    (
        "opc-fineweb-code-corpus",
        {
            "url": "u",
            "tag": "code",
            "text": "page",
            "file_path": "f",
            "dump": "d",
            "file_size_in_byte": 4,
            "line_count": 1,
        },
        "page",
        {"licence": "MIT"},
    ),
    (
        "stack-edu",
        {
            "blob_id": "a" * 40,
            "language": "Python",
            "path": "/a.py",
            "src_encoding": "UTF-8",
            "score": 3.5,
            "int_score": 4,
            "detected_licenses": ["MIT"],
            "license_type": "permissive",
            "text": "x = 1",
        },
        "x = 1",
        {"licence": ["MIT"], "language": "Python", "quality": 3.5},
    ),
    (
        "ling-coder-sft",
        {
            "mid": "1",
            "messages": [
                {"role": "HUMAN", "content": "Write."},
                {"role": "ASSISTANT", "content": "Done."},
            ],
            "tags": ["t"],
            "languages": ["python"],
        },
        "Write.\n\nDone.",
        {"licence": "Apache-2.0", "language": ["python"]},
    ),
]
ROLES = ("licence", "language", "quality")


def check(path, name, text, fields):
    asked = (*ROLES, *(set(fields) - set(ROLES)))
    (document,) = read_all(path, adapter=corpus(name), fields=asked)
    assert (document.text, document.fields) == (text, fields)


@pytest.mark.parametrize(("name", "record", "text", "fields"), LINE_SCHEMAS)
def test_corpora_of_lines(tmp_path, name, record, text, fields):
    data = json.dumps(record).encode()
    write_frames(tmp_path / "a.jsonl.zst", [data])
    write_gz(tmp_path / "a.json.gz", data)
    for path in sorted(tmp_path.iterdir()):
        check(path, name, text, fields)


@pytest.mark.parametrize(("name", "record", "text", "fields"), ROW_SCHEMAS + LINE_SCHEMAS[-1:])
def test_corpora_of_rows(tmp_path, name, record, text, fields):
    check(write_parquet(tmp_path / "a.parquet", [record]), name, text, fields)


def test_the_annealing_corpus_as_datasets_saved_it(tmp_path):
    folder = save_to_disk(tmp_path / "algorithmic_corpus", [[{"text": "def f(): 1", "lang": "py"}]])
    check(folder, "opc-annealing-corpus", "def f(): 1", {"licence": "ODC-BY", "language": "py"})


@pytest.mark.parametrize("name", ["stack-edu", "stack-v2-train-smol"])
def test_ids_without_text_point_to_the_fetcher(tmp_path, name):
    row = {"blob_id": "a" * 40, "src_encoding": "UTF-8"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    write_parquet(tmp_path / "a.parquet", [row], pa.schema({"blob_id": pa.string()}))
    for path in ("a.jsonl", "a.parquet"):
        with pytest.raises(DataError, match=r"tools/fetch_swh\.py"):
            read_all(tmp_path / path, adapter=corpus(name))


def test_every_adapter_was_tried():
    tried = {row[0] for row in LINE_SCHEMAS + ROW_SCHEMAS}
    assert set(CORPORA) - tried == {"dolmino", "opc-annealing-corpus", "stack-v2-train-smol"}
