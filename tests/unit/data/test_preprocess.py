"""Token files: megatron-core's own bytes, in input order, all of them or none."""

import json
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from megatron_dream.data.encode import Encoder
from megatron_dream.data.preprocess import preprocess
from megatron_dream.data.token_writer import TokenWriter
from megatron_dream.errors import DataError
from megatron_dream.tokenizer import load_tokenizer
from megatron_dream.tokenizer.train import train_sentencepiece

STDLIB = Path(sysconfig.get_path("stdlib"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    output = tmp_path_factory.mktemp("tokenizer") / "code.model"
    return train_sentencepiece([STDLIB / "json"], 600, output)


def write_records(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def built_by_hand(prefix, documents, dtype):
    """What megatron-core's builder writes for these documents."""
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
    for ids in documents:
        builder.add_document(np.array(ids), [len(ids)])
    builder.finalize(f"{prefix}.idx")


def contents(prefix):
    return [Path(f"{prefix}{ending}").read_bytes() for ending in (".bin", ".idx")]


@pytest.mark.parametrize("append_eod", [False, True])
def test_bytes_are_those_of_the_builder(tokenizer, tmp_path, append_eod):
    texts = [f"def f{number}():\n    return {number}\n" for number in range(300)]
    result = preprocess(
        [write_records(tmp_path / "r.jsonl", texts)],
        tmp_path / "out",
        tokenizer,
        append_eod=append_eod,
    )
    documents = [tokenizer.encode(text) + [tokenizer.eod_id] * append_eod for text in texts]
    built_by_hand(tmp_path / "hand", documents, np.uint16)
    assert contents(tmp_path / "out") == contents(tmp_path / "hand")
    assert (result.documents, result.tokens) == (300, sum(map(len, documents)))


def test_large_vocabularies_are_written_as_int32(shared_data, tmp_path):
    qwen2 = load_tokenizer(shared_data / "qwen2_tokenizer")
    path = write_records(tmp_path / "r.jsonl", ["import os"])
    assert preprocess([path], tmp_path / "out", qwen2, append_eod=True).dtype == "int32"
    built_by_hand(tmp_path / "hand", [[*qwen2.encode("import os"), 151643]], np.int32)
    assert contents(tmp_path / "out") == contents(tmp_path / "hand")


def test_workers_change_nothing(tokenizer, tmp_path):
    """Many chunks, bad records among them, in the order of the input."""
    lines = [json.dumps({"text": f"x = {number}\n" * (number % 90)}) for number in range(2000)]
    lines[700] = "broken"
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join(lines))
    results = [
        preprocess([path, STDLIB / "json"], tmp_path / f"w{workers}", tokenizer, workers=workers)
        for workers in (1, 2)
    ]
    assert contents(tmp_path / "w1") == contents(tmp_path / "w2")
    one, two = ({**vars(result), "prefix": 0, "seconds": 0} for result in results)
    assert one == two
    rejects = [(tmp_path / f"w{n}.rejects.jsonl").read_text() for n in (1, 2)]
    assert rejects[0] == rejects[1]
    assert json.loads(rejects[0])["line"] == 701


def test_sidecar_and_counts(tokenizer, tmp_path, capsys):
    path = write_records(tmp_path / "r.jsonl", ["a", "", "b", 3])
    preprocess([path], tmp_path / "new" / "data.v1", tokenizer, append_eod=True)
    sidecar = json.loads((tmp_path / "new" / "data.v1.json").read_text())
    expected = {
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "vocab_size": 606,
        "eod_id": 600,
        "mask_token_id": 604,
        "append_eod": True,
        "dtype": "uint16",
        "tokens": 4,
        "documents": 2,
        "empty": 1,
        "rejected": 1,
        "sources": [str(path)],
    }
    assert {name: sidecar[name] for name in expected} == expected
    line = capsys.readouterr().out
    assert "2 documents, 4 tokens" in line and "1 empty, 1 rejected" in line
    assert "data.v1.rejects.jsonl" in line
    assert sorted(found.name for found in (tmp_path / "new").iterdir()) == [
        f"data.v1{ending}" for ending in (".bin", ".idx", ".json", ".rejects.jsonl")
    ]


def test_a_second_run_replaces_all_of_the_first(tokenizer, tmp_path):
    bad = write_records(tmp_path / "bad.jsonl", ["a", 3])
    good = write_records(tmp_path / "good.jsonl", ["b"])
    preprocess([bad], tmp_path / "out", tokenizer)
    preprocess([good], tmp_path / "out", tokenizer)
    assert not (tmp_path / "out.rejects.jsonl").exists()
    assert json.loads((tmp_path / "out.json").read_text())["documents"] == 1


@pytest.mark.parametrize(("texts", "named"), [([3, None], "2 records were bad"), ([""], "1 empty")])
def test_nothing_good_is_an_error_and_keeps_older_files(tokenizer, tmp_path, texts, named):
    preprocess([write_records(tmp_path / "r.jsonl", ["old"])], tmp_path / "out", tokenizer)
    before = contents(tmp_path / "out")
    with pytest.raises(DataError, match=named):
        preprocess([write_records(tmp_path / "r.jsonl", texts)], tmp_path / "out", tokenizer)
    assert contents(tmp_path / "out") == before
    assert not list(tmp_path.glob(".*"))


def test_mask_tokens_in_data_are_refused(tokenizer, tmp_path, monkeypatch):
    """No tokenizer here makes one from text: an ordinary piece is declared to be the mask."""
    path = write_records(tmp_path / "r.jsonl", ["fine", "bad"])
    masked = load_tokenizer(tokenizer.path)
    only_in_bad = set(masked.encode("bad")) - set(masked.encode("fine"))
    monkeypatch.setitem(masked._id_of, "<|mask|>", min(only_in_bad))
    with pytest.raises(DataError, match=r"r\.jsonl, line 2.*only training may write"):
        preprocess([path], tmp_path / "out", masked)
    assert [found.name for found in tmp_path.iterdir()] == ["r.jsonl"]


class FailingEncoder(Encoder):
    """Stands for any fault that a worker finds in data."""

    def encode(self, documents):
        raise DataError("the fault")


def test_errors_of_workers_arrive(tokenizer, tmp_path):
    from megatron_dream.data.encode import encode_all
    from megatron_dream.data.sources import iterate_raw, list_inputs

    files = list_inputs([write_records(tmp_path / "r.jsonl", ["a"])])
    with pytest.raises(DataError, match="the fault"):
        list(encode_all(FailingEncoder(tokenizer, "text", False), iterate_raw(files), 2))


def test_an_interrupted_run_leaves_nothing(tokenizer, tmp_path, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(TokenWriter, "commit", stop)
    with pytest.raises(KeyboardInterrupt):
        preprocess([write_records(tmp_path / "r.jsonl", ["a", 3])], tmp_path / "out", tokenizer)
    assert [found.name for found in tmp_path.iterdir()] == ["r.jsonl"]


def test_a_crash_while_files_get_their_names_leaves_no_index(tokenizer, tmp_path, monkeypatch):
    """Old index and new data would be read as one: the index goes before the data changes."""
    path = write_records(tmp_path / "r.jsonl", ["old"])
    preprocess([path], tmp_path / "out", tokenizer)
    publish = TokenWriter._publish

    def crash_after_bin(self, ending):
        publish(self, ending)
        raise KeyboardInterrupt

    monkeypatch.setattr(TokenWriter, "_publish", crash_after_bin)
    with pytest.raises(KeyboardInterrupt):
        preprocess([path], tmp_path / "out", tokenizer)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["out.bin", "r.jsonl"]


def test_impossible_arguments_are_refused(tokenizer, tmp_path):
    path = write_records(tmp_path / "r.jsonl", ["a"])
    with pytest.raises(DataError, match="--workers is 0"):
        preprocess([path], tmp_path / "out", tokenizer, workers=0)
    with pytest.raises(DataError, match="prefix is a folder"):
        preprocess([path], tmp_path, tokenizer)
    with pytest.raises(DataError, match="--json-key"):
        preprocess([path], tmp_path / "out", tokenizer, json_key="content")
