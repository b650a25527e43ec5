"""prepare-sft: what is written, which samples and records are named, formats, flags."""

import gzip
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megatron_dream.cli import main
from megatron_dream.data.sft.prepare import prepare_sft
from megatron_dream.errors import ConfigError, DataError
from megatron_dream.tokenizer import load_tokenizer
from tests.unit.data.sft.prepared import (
    ANSWER,
    ASKED,
    names,
    pair,
    prepare,
    read_pairs,
    report,
    write_lines,
)


def test_a_chat_prompt_and_a_plain_response(sft_model, tmp_path):
    prepare(tmp_path, sft_model, [pair("Hello?", ANSWER)])
    tokenizer = load_tokenizer(sft_model)
    [(prompt, response)] = read_pairs(tmp_path / "out")
    assert tokenizer.decode(prompt) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nHello?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert response == tokenizer.encode(ANSWER)  # no end token: the stage appends it
    assert prompt.count(tokenizer.im_start_id) == 3 and prompt.count(tokenizer.im_end_id) == 2


def test_system_text_for_those_that_have_none(sft_model, tmp_path):
    own = [{"role": "system", "content": "mine"}, {"role": "user", "content": "Hello?"}]
    prepare(tmp_path, sft_model, [pair("Hello?", "x"), pair(own, "x")], system="theirs")
    texts = [load_tokenizer(sft_model).decode(prompt) for prompt, _ in read_pairs(tmp_path / "out")]
    assert [text.split("\n")[1] for text in texts] == ["theirs<|im_end|>", "mine<|im_end|>"]


def test_without_a_template(sft_model, tmp_path):
    found = prepare(
        tmp_path,
        sft_model,
        [pair("Hello?", "x"), pair([{"role": "user", "content": "a"}], "x")],
        template="none",
    )
    tokenizer = load_tokenizer(sft_model)
    assert read_pairs(tmp_path / "out") == [
        ([tokenizer.bos_id, *tokenizer.encode("Hello?")], tokenizer.encode("x"))
    ]
    [reject] = found["rejects_lines"]
    assert reject["line"] == 2 and "needs --template chat" in reject["reason"]


def test_control_tokens_in_content_stay_text(sft_model, tmp_path):
    literal = "end <|im_end|>\n<|im_start|>assistant\n<|mask|><|endoftext|>"
    prepare(tmp_path, sft_model, [pair(literal, literal), pair("plain", "x")])
    tokenizer = load_tokenizer(sft_model)
    (prompt, response), (plain, _) = read_pairs(tmp_path / "out")
    special = set(tokenizer.added_tokens)
    assert response == tokenizer.encode(literal) and not special & set(response)
    assert [i for i in prompt if i in special] == [i for i in plain if i in special]
    assert tokenizer.decode(response) == literal and literal in tokenizer.decode(prompt)


def test_every_dropped_sample_is_named(sft_model, tmp_path):
    records = [
        pair("a", "b"),
        pair(" ", "b"),
        pair(ASKED, "No."),
        pair(ASKED, "```python\nx = 1"),
        pair(ASKED, "```python\nx = = 1\n```"),
        pair("a", "the same again " * 60),
        pair("a", "".join(chr(0x4E00 + n) for n in range(100))),
        pair("a", "b"),
    ]
    found = prepare(tmp_path, sft_model, records, max_length=200)
    rules = "empty no_code unclosed_fence python_syntax repetition too_long exact_duplicate".split()
    lines = found["dropped_lines"]
    assert [(entry["line"], entry["rule"]) for entry in lines] == list(enumerate(rules, start=2))
    assert {entry["file"] for entry in lines} == {str(tmp_path / "in.jsonl")}
    assert all(entry["detail"] for entry in lines)
    assert {name: rule["count"] for name, rule in found["rules"].items()} == dict.fromkeys(rules, 1)
    example = found["rules"]["no_code"]["examples"][0]
    assert example["line"] == 3 and example["prompt"] == ASKED and example["response"] == "No."
    copy = found["rules"]["exact_duplicate"]["examples"][0]
    assert copy["response"] == "b" and copy["prompt"].startswith("<|im_start|>system")
    assert len(read_pairs(tmp_path / "out")) == found["num_samples"] == 1


@pytest.mark.parametrize("template", ["chat", "none"])
def test_what_is_no_copy(sft_model, tmp_path, template):
    """Nor are samples whose ids are the same in a row: bytes of these have tokens of their own."""
    records = [
        pair("p1", "r"),
        pair("p2", "r"),
        pair("p1", "r "),
        pair("日本", "語"),
        pair("日", "本語"),
    ]
    found = prepare(tmp_path, sft_model, records, template=template)
    assert found["num_samples"] == 5
    pairs = read_pairs(tmp_path / "out")
    if template == "none":
        assert [*pairs[3][0], *pairs[3][1]] == [*pairs[4][0], *pairs[4][1]]


def test_rules_can_be_skipped(sft_model, tmp_path):
    records = [pair(ASKED, "No."), pair("a", "b"), pair("a", "b"), pair("a", "b " * 300)]
    skipped = ["no_code", "exact_duplicate", "too_long", "repetition"]
    found = prepare(tmp_path, sft_model, records, max_length=200, skip_rule=skipped)
    assert found["num_samples"] == 4 and not found["dropped_lines"]
    assert found["max_row_tokens"] > 200
    assert not (tmp_path / "out.dropped.jsonl").exists()


def test_the_longest_row_that_fits(sft_model, tmp_path):
    prepare(tmp_path, sft_model, [pair("a", "b")])
    [(prompt, response)] = read_pairs(tmp_path / "out")
    row = len(prompt) + len(response) + 1
    whole = prepare(tmp_path, sft_model, [pair("a", "b")], max_length=row, overwrite=True)
    assert whole["max_row_tokens"] == row
    with pytest.raises(DataError, match="no sample is left of 1 records.*1 too_long"):
        prepare(tmp_path, sft_model, [pair("a", "b")], max_length=row - 1, overwrite=True)


BROKEN = [
    (b"{", "broken JSON"),
    (b'{"prompt": "p"}', "field 'response' is missing"),
    (b'{"response": "p"}', "field 'prompt' is missing"),
    (b'{"prompt": 1, "response": "r"}', "field 'prompt' is a number"),
    (b'{"prompt": "p", "response": null}', "field 'response' is null"),
    (b'{"prompt": "p", "response": "\xff"}', "invalid UTF-8"),
    (b'{"prompt": "p", "response": "\\ud800"}', "cannot be written as UTF-8"),
    (b'{"prompt": [{"role": "user", "content": "\\udc00"}], "response": "r"}', "UTF-8"),
    (b'{"prompt": [{"role": "boss", "content": "p"}], "response": "r"}', "message 1 is no object"),
    (b'["prompt", "response"]', "the record is a list"),
]


def test_every_broken_record_is_named(sft_model, tmp_path):
    records = [pair("a", "b"), b""]
    for line, _ in BROKEN:
        records += [line, pair("a", f"{line!r}")]
    found = prepare(tmp_path, sft_model, records)
    assert [entry["line"] for entry in found["rejects_lines"]] == list(range(3, 23, 2))
    for entry, (_, reason) in zip(found["rejects_lines"], BROKEN, strict=True):
        assert reason in entry["reason"] and entry["file"] == str(tmp_path / "in.jsonl")
    assert found["rejects"]["count"] == len(BROKEN) and found["num_samples"] == 11
    assert found["rejects"]["examples"][0]["line"] == 3


@pytest.mark.parametrize("workers", [1, 2])
def test_max_rejects_zero_refuses_one_broken_record(sft_model, tmp_path, workers):
    records = [pair("a", f"b{n}") for n in range(300)] + [b"{", pair("c", "d")]
    options = {"max_rejects": 0.0, "workers": workers, "shard_bytes": 2000}
    with pytest.raises(
        DataError, match=r"in.jsonl, line 301: broken JSON.*1 of \d+ records.*max-rejects 0 "
    ):
        prepare(tmp_path, sft_model, records, **options)
    [named] = [json.loads(x) for x in (tmp_path / "out.rejects.jsonl").read_text().splitlines()]
    assert named["line"] == 301
    assert not [p for p in names(tmp_path) if p.endswith((".bin", ".idx", ".json"))]


def test_max_rejects_is_a_share(sft_model, tmp_path):
    records = [pair("a", f"b{n}") for n in range(98)] + [b"{", b"}"]
    with pytest.raises(
        DataError, match=r"2 of 100 records are broken, more than --max-rejects 0.01"
    ):
        prepare(tmp_path, sft_model, records, max_rejects=0.01)
    assert prepare(tmp_path, sft_model, records, max_rejects=0.02)["num_samples"] == 98


def test_turns(sft_model, tmp_path):
    talk = []
    for n in range(3):
        talk += [{"role": "user", "content": f"u{n}"}, {"role": "assistant", "content": f"a{n}"}]
    tokenizer = load_tokenizer(sft_model)
    records = [{"m": talk}, {"m": talk[:-1]}]
    last = prepare(tmp_path, sft_model, records, messages_key="m")
    assert [tokenizer.decode(r) for _, r in read_pairs(tmp_path / "out")] == ["a2"]
    assert [entry["line"] for entry in last["rejects_lines"]] == [2]
    each = prepare(tmp_path, sft_model, records, messages_key="m", turns="each", overwrite=True)
    pairs = read_pairs(tmp_path / "out")
    assert [tokenizer.decode(r) for _, r in pairs] == ["a0", "a1", "a2"]
    assert [tokenizer.decode(p).count("<|im_start|>assistant") for p, _ in pairs] == [1, 2, 3]
    assert "u2" in tokenizer.decode(pairs[2][0]) and "u1" not in tokenizer.decode(pairs[0][0])
    assert each["rules"]["exact_duplicate"]["count"] == 2  # of the second record


@pytest.mark.parametrize("kind", ["gz", "parquet", "arrow"])
def test_other_formats_give_the_same(sft_model, tmp_path, kind):
    records = [
        {
            "messages": [
                {"role": "user", "content": "u"},
                {"role": "assistant", "content": f"a{n}"},
            ]
        }
        for n in range(5)
    ]
    records[3]["messages"][0]["role"] = "nobody"
    path = tmp_path / {"gz": "a.jsonl.gz", "parquet": "a.parquet", "arrow": "data.arrow"}[kind]
    table = pa.Table.from_pylist(records)
    if kind == "gz":
        path.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in records).encode()))
    elif kind == "parquet":
        pq.write_table(table, path, row_group_size=2)
    else:
        with pa.ipc.new_stream(str(path), table.schema) as stream:
            stream.write_table(table)
    options = {"messages_key": "messages", "max_rejects": 1.0, "quiet": True}
    prepare_sft([path], tmp_path / "out", sft_model, **options)
    tokenizer = load_tokenizer(sft_model)
    answers = [tokenizer.decode(r) for _, r in read_pairs(tmp_path / "out")]
    assert answers == ["a0", "a1", "a2", "a4"]
    [reject] = report(tmp_path / "out")["rejects_lines"]
    assert reject["line" if kind == "gz" else "row"] == (4 if kind == "gz" else 3)


def test_invalid_utf8_of_a_table_is_named(sft_model, tmp_path):
    table = pa.table({"prompt": ["a", "b"], "response": pa.array([b"x", b"\xff"], pa.binary())})
    pq.write_table(table, tmp_path / "a.parquet")
    options = {"max_rejects": 1.0, "quiet": True}
    prepare_sft([tmp_path / "a.parquet"], tmp_path / "out", sft_model, **options)
    [reject] = report(tmp_path / "out")["rejects_lines"]
    assert reject["row"] == 1 and "invalid UTF-8" in reject["reason"]


def test_a_table_without_the_column_is_refused(sft_model, tmp_path):
    pq.write_table(pa.table({"question": ["a"], "response": ["b"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="has no field 'prompt'; it has 'question', 'response'"):
        prepare_sft([tmp_path / "a.parquet"], tmp_path / "out", sft_model, quiet=True)


def test_wrong_fields_are_refused_before_any_work(sft_model, tmp_path):
    with pytest.raises(DataError, match="record 1: field 'prompt' is missing.*--messages-key"):
        prepare(tmp_path, sft_model, [{"question": "a", "answer": "b"}] * 3)
    assert names(tmp_path) == ["in.jsonl"]


def test_humaneval(shared_data, tmp_path):
    with gzip.open(shared_data / "HumanEval.jsonl.gz", "rt") as stream:
        problems = [json.loads(line) for line in stream]
    records = [pair(p["prompt"], p["canonical_solution"]) for p in problems]
    model = shared_data / "qwen2_tokenizer"
    found = prepare(tmp_path, model, records)
    assert found["num_samples"] == 164 and found["dtype"] == "int32" and not found["dropped_lines"]
    tokenizer = load_tokenizer(model)
    pairs = read_pairs(tmp_path / "out")
    assert [tokenizer.decode(r) for _, r in pairs] == [p["canonical_solution"] for p in problems]
    for (prompt, _), problem in zip(pairs, problems, strict=True):
        assert tokenizer.decode(prompt).endswith(
            f"<|im_start|>user\n{problem['prompt']}<|im_end|>\n<|im_start|>assistant\n"
        )


def test_humaneval_is_found_in_itself(sft_model, shared_data, tmp_path):
    file = shared_data / "HumanEval.jsonl.gz"
    with gzip.open(file, "rt") as stream:
        problems = [json.loads(line) for line in stream][:40]
    records = [pair(p["prompt"], p["canonical_solution"]) for p in problems]
    found = prepare(
        tmp_path, sft_model, [*records, pair("a", "b")], evaluation_set=[f"humaneval={file}"]
    )
    assert found["num_samples"] == 1 and found["rules"]["contaminated"]["count"] == 40
    assert found["decontaminated_against"] == ["humaneval"]
    assert found["dropped_lines"][7]["detail"] == "in humaneval HumanEval/7"


@given(
    pairs=st.lists(
        st.tuples(st.text(min_size=1, max_size=60), st.text(min_size=1, max_size=60)),
        min_size=1,
        max_size=8,
        unique=True,
    ),
    template=st.sampled_from(["chat", "none"]),
)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_goes_in_comes_out(sft_model, pairs, template):
    kept = [(p, r) for p, r in pairs if p.strip() and r.strip()]
    tokenizer = load_tokenizer(sft_model)
    skipped = ["no_code", "unclosed_fence", "python_syntax", "repetition", "exact_duplicate"]
    with tempfile.TemporaryDirectory() as name:
        folder, records = Path(name), [pair(p, r) for p, r in pairs]
        if not kept:
            with pytest.raises(DataError, match="no sample is left"):
                prepare(folder, sft_model, records, template=template)
            return
        prepare(folder, sft_model, records, template=template, skip_rule=skipped)
        found = read_pairs(folder / "out")
    assert [tokenizer.decode(response) for _, response in found] == [r for _, r in kept]
    for (prompt, _), (text, _) in zip(found, kept, strict=True):
        if template == "none":
            assert prompt[0] == tokenizer.bos_id and tokenizer.decode(prompt[1:]) == text
        else:
            assert f"<|im_start|>user\n{text}<|im_end|>\n" in tokenizer.decode(prompt)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"workers": 0}, "--workers is 0"),
        ({"max_rejects": 1.5}, "--max-rejects is 1.5"),
        ({"valid_share": 1.0}, "--valid-share is 1.0"),
        ({"max_length": 1}, "--max-length is 1"),
        ({"template": "none", "system": "x"}, "leave --system out"),
        ({"template": "none", "messages_key": "m"}, "leave --messages-key out"),
        ({"skip_rule": ["unknown"]}, "--skip-rule unknown"),
        ({"prompt_key": "a..b"}, "is no name of a field"),
    ],
)
def test_impossible_options(sft_model, tmp_path, options, said):
    with pytest.raises(ConfigError, match=said):
        prepare(tmp_path, sft_model, [pair("a", "b")], **options)


def test_the_command(sft_model, tmp_path, capsys):
    path = write_lines(tmp_path / "in.jsonl", [{"q": "a", "a": "b"}, {"q": ASKED, "a": "No."}])
    words = ["prepare-sft", "--input", str(path), "--output-prefix", str(tmp_path / "out")]
    words += ["--tokenizer", str(sft_model), "--prompt-key", "q", "--response-key", "a"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "1 samples" in out and "no_code" in out and "not decontaminated" in out
    path.write_text("x")
    assert main([*words, "--overwrite"]) == 2
    assert "in.jsonl, record 1: broken JSON" in capsys.readouterr().err


def test_a_source_file_is_no_data(sft_model, tmp_path):
    (tmp_path / "a.py").write_text("x = 1")
    with pytest.raises(DataError, match="no JSON Lines, Parquet or Arrow file"):
        prepare_sft([tmp_path / "a.py"], tmp_path / "out", sft_model, quiet=True)
