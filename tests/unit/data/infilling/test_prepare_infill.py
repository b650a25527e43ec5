"""prepare-infill: what is written, what is dropped and named, and files that are not what they should be."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_dream.cli import main
from megatron_dream.data.infilling.job import RULES
from megatron_dream.data.infilling.prepare import prepare_infill
from megatron_dream.data.infilling.text_files import BlendTexts, TextFiles
from megatron_dream.data.order import BlendOrder, SampleOrder
from megatron_dream.errors import ConfigError, DataError
from megatron_dream.tokenizer.base import Tokenizer
from megatron_dream.tokenizer.load import load_tokenizer
from tests.unit.data.token_files import random_documents, write_tokens

TEXTS = [f"def f{n}(x):\n    y = x * {n}\n    return y\n" for n in range(40)]


@pytest.fixture(scope="module")
def tokenizer(sft_model: Path) -> Tokenizer:
    return load_tokenizer(sft_model)


def write_lines(path: Path, records: list[Any]) -> Path:
    """JSON lines; bytes are written as they are."""
    lines = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in records]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def prepared(folder: Path, model: Path, texts: list[str], name: str = "p", **options: Any) -> Path:
    """The prefix of prepared texts."""
    path = write_lines(folder / f"{name}.jsonl", [{"text": text} for text in texts])
    prepare_infill([path], folder / name, model, quiet=True, **options)
    return folder / name


def read_texts(prefix: Path | str) -> list[str]:
    """From the format's definition."""
    raw = Path(f"{prefix}.idx").read_bytes()
    magic, version, code, size, num_ends = struct.unpack_from("<9sQBQQ", raw)
    assert (magic, version, code, num_ends) == (b"MMIDIDX\x00\x00", 1, 1, size + 1)
    lengths = np.frombuffer(raw, "<i4", size, 34).tolist()
    starts = np.frombuffer(raw, "<i8", size, 34 + 4 * size).tolist()
    ends = np.frombuffer(raw, "<i8", size + 1, 34 + 12 * size)
    assert ends.tolist() == list(range(size + 1)) and len(raw) == 34 + 20 * size + 8
    data = Path(f"{prefix}.bin").read_bytes()
    assert len(data) == sum(lengths)
    return [data[a : a + n].decode() for a, n in zip(starts, lengths, strict=True)]


def sidecar(prefix: Path) -> dict[str, Any]:
    return json.loads(Path(f"{prefix}.json").read_text(encoding="utf-8"))


def lines_of(path: Path | str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_texts_are_kept_as_they_are(tmp_path: Path, sft_model: Path, tokenizer: Tokenizer) -> None:
    odd = "# naïve \U0001f40d <|expand|> <|mask|>\r\n\x0c\tx = '\u2028'\n\n  "
    prefix = prepared(tmp_path, sft_model, [*TEXTS, odd])
    assert read_texts(prefix) == [*TEXTS, odd]
    values = sidecar(prefix)
    assert (values["kind"], values["format"], values["num_samples"]) == ("infill", 1, 41)
    assert values["tokenizer_fingerprint"] == tokenizer.fingerprint
    assert values["max_tokens"] == 2 + max(len(tokenizer.encode(t)) for t in [*TEXTS, odd])
    files = TextFiles(prefix, tokenizer.fingerprint)
    assert [files[n] for n in range(len(files))] == [*TEXTS, odd]
    assert files.max_tokens == values["max_tokens"]
    again = pickle.loads(pickle.dumps(files))
    assert again[40] == odd and again.identity() == files.identity()
    assert not list(tmp_path.glob("*.parts")) and not Path(f"{prefix}.dropped.jsonl").exists()


def test_megatron_core_reads_the_bytes(tmp_path: Path, sft_model: Path) -> None:
    from megatron_dream import device

    device.import_megatron()
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    prefix = prepared(tmp_path, sft_model, TEXTS)
    dataset = IndexedDataset(str(prefix), multimodal=False, mmap=True)
    assert [bytes(dataset[n]).decode() for n in range(len(dataset))] == TEXTS


def test_every_rule_names_what_it_drops(
    tmp_path: Path, sft_model: Path, tokenizer: Tokenizer
) -> None:
    limit = len(tokenizer.encode(TEXTS[0])) + 2
    longer = TEXTS[0] + "z = 1\n" * 9
    texts = [TEXTS[0], "", " \n\t\n", "x = 1; y = 222222\n\n", "a\nb\n", longer, TEXTS[1], TEXTS[0]]
    prefix = prepared(tmp_path, sft_model, texts, max_length=limit + 2)
    assert read_texts(prefix) == [TEXTS[0], TEXTS[1]]
    found = [(line["line"], line["rule"]) for line in lines_of(f"{prefix}.dropped.jsonl")]
    assert found == [
        (2, "empty"),
        (3, "empty"),
        (4, "too_short"),
        (5, "too_short"),
        (6, "too_long"),
        (8, "exact_duplicate"),
    ]
    rules = sidecar(prefix)["rules"]
    assert {name: rules[name]["count"] for name in RULES} == {
        "no_closed_fence": 0,
        "empty": 2,
        "too_short": 2,
        "filtered": 0,
        "too_long": 1,
        "exact_duplicate": 1,
    }
    assert rules["too_long"]["examples"][0]["text"] == longer[:200]
    assert rules["too_short"]["details"] == {"1 of 2 lines": 1, "under 16 characters": 1}


def test_length_is_that_of_the_whole_text_with_both_ends(
    tmp_path: Path, sft_model: Path, tokenizer: Tokenizer
) -> None:
    size = len(tokenizer.encode(TEXTS[0])) + 2
    assert read_texts(prepared(tmp_path, sft_model, TEXTS[:1], max_length=size)) == TEXTS[:1]
    with pytest.raises(DataError, match="no text is left of 1 records; 0 broken, 1 too_long"):
        prepared(tmp_path, sft_model, TEXTS[:1], "q", max_length=size - 1)


def test_code_between_fences(tmp_path: Path, sft_model: Path) -> None:
    answer = f"Here:\n```python\n{TEXTS[0]}```\nand\n```\n{TEXTS[1]}```\nor `x`.\n"
    records = [
        {"response": answer},
        {"response": "No code\nin two lines."},
        {"response": f"```python\n{TEXTS[2]}"},
    ]
    path = write_lines(tmp_path / "r.jsonl", records)
    options = {"response_key": "response", "quiet": True}
    result = prepare_infill([path], tmp_path / "f", sft_model, take="fences", **options)
    assert read_texts(tmp_path / "f") == TEXTS[:2]
    assert result.rules["no_closed_fence"] == 2
    prepare_infill([path], tmp_path / "w", sft_model, **options)
    assert read_texts(tmp_path / "w") == [record["response"] for record in records]


def test_source_files_and_tables(tmp_path: Path, sft_model: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "src"
    (folder / "inner").mkdir(parents=True)
    (folder / "one.py").write_text(TEXTS[0])
    (folder / "inner" / "two.py").write_text(TEXTS[1])
    (folder / "broken.py").write_bytes(b"x = '\xff'\n")
    pq.write_table(pa.table({"code": [TEXTS[2], None]}), tmp_path / "t.parquet")
    inputs = [folder, tmp_path / "t.parquet"]
    prepare_infill(inputs, tmp_path / "p", sft_model, json_key="code", max_rejects=1, quiet=True)
    assert read_texts(tmp_path / "p") == [TEXTS[0], TEXTS[1], TEXTS[2]]
    rejects = lines_of(tmp_path / "p.rejects.jsonl")
    assert [Path(line["file"]).name for line in rejects] == ["broken.py", "t.parquet"]
    assert rejects[1]["row"] == 1 and "UTF-8" in rejects[0]["reason"]


def test_broken_records_are_counted_and_refused(tmp_path: Path, sft_model: Path) -> None:
    records: list[Any] = [{"text": TEXTS[0]}, b"{broken", {"text": 3}, {"other": 1}]
    path = write_lines(tmp_path / "in.jsonl", records)
    with pytest.raises(
        DataError, match=r"in\.jsonl, line 2: broken JSON.*3 of 4 records"
    ) as caught:
        prepare_infill([path], tmp_path / "p", sft_model, quiet=True)
    assert "\n" not in str(caught.value)
    assert [line["line"] for line in lines_of(tmp_path / "p.rejects.jsonl")] == [2, 3, 4]
    assert not (tmp_path / "p.bin").exists()
    result = prepare_infill([path], tmp_path / "p", sft_model, max_rejects=0.8, quiet=True)
    assert (result.num_samples, result.rejected) == (1, 3)


def test_the_split_is_by_the_hash_of_the_text(tmp_path: Path, sft_model: Path) -> None:
    prefix = prepared(tmp_path, sft_model, TEXTS, valid_share=0.25)
    train, valid = read_texts(prefix), read_texts(f"{prefix}_valid")
    assert sorted(train + valid) == sorted(TEXTS) and 2 <= len(valid) <= 20
    turned = prepared(tmp_path, sft_model, TEXTS[::-1], "q", valid_share=0.25)
    assert set(read_texts(f"{turned}_valid")) == set(valid)
    values = sidecar(Path(f"{prefix}_valid"))
    assert values["split"] == "valid" and values["num_samples"] == len(valid)
    assert (values["num_train"], values["num_valid"]) == (len(train), len(valid))
    with pytest.raises(DataError, match="no text fell to this side of --valid-share 1e-09"):
        prepared(tmp_path, sft_model, TEXTS, "r", valid_share=1e-9)


def outputs(folder: Path, name: str) -> dict[str, bytes]:
    found = sorted(folder.glob(f"{name}*"))
    return {
        path.name.removeprefix(name): path.read_bytes()
        for path in found
        if path.suffix in (".bin", ".idx", ".jsonl") and path.name != f"{name}.jsonl"
    }


def test_workers_and_interruptions_change_nothing(
    tmp_path: Path, sft_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [*TEXTS, "", *TEXTS[:5]]
    options: dict[str, Any] = {"valid_share": 0.2, "shard_bytes": 400}
    path = write_lines(tmp_path / "in.jsonl", [{"text": text} for text in texts])
    for name, workers in (("one", 1), ("two", 2)):
        prepare_infill([path], tmp_path / name, sft_model, workers=workers, quiet=True, **options)
    assert outputs(tmp_path, "one") == outputs(tmp_path, "two")
    found = [(line["line"], line["rule"]) for line in lines_of(tmp_path / "one.dropped.jsonl")]
    copies = [(number, "exact_duplicate") for number in range(42, 47)]
    assert found == [(41, "empty"), *copies]  # lines of the file, not of a shard

    from megatron_dream.data.infilling.job import InfillJob

    done, real = [], InfillJob.run

    def killed(job: InfillJob, shard: int) -> None:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(shard)
        real(job, shard)

    monkeypatch.setattr(InfillJob, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare_infill([path], tmp_path / "three", sft_model, quiet=True, **options)
    assert done == [0, 1, 2] and not (tmp_path / "three.bin").exists()
    monkeypatch.setattr(InfillJob, "run", lambda job, shard: (done.append(shard), real(job, shard)))
    prepare_infill([path], tmp_path / "three", sft_model, quiet=True, **options)
    assert done == list(range(len(done)))  # no part was made twice
    assert outputs(tmp_path, "three") == outputs(tmp_path, "one")
    again = prepare_infill([path], tmp_path / "three", sft_model, quiet=True, **options)
    assert again.is_old and again.num_valid == len(read_texts(tmp_path / "three_valid"))


def test_another_run_s_output_stays(tmp_path: Path, sft_model: Path) -> None:
    prepared(tmp_path, sft_model, TEXTS)
    with pytest.raises(DataError, match="--overwrite to replace it"):
        prepared(tmp_path, sft_model, TEXTS, max_length=200)
    prefix = prepared(tmp_path, sft_model, TEXTS[:3], overwrite=True)
    assert read_texts(prefix) == TEXTS[:3]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_length": 2}, "--max-length is 2"),
        ({"min_lines": 0}, "--min-lines is 0"),
        ({"valid_share": 1.0}, "--valid-share is 1"),
        ({"workers": 0}, "--workers is 0"),
        ({"max_rejects": 1.5}, "--max-rejects is 1.5"),
        ({"json_key": "a", "response_key": "b"}, "give one of them"),
    ],
)
def test_flags_that_cannot_be_meant(
    tmp_path: Path, sft_model: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        prepared(tmp_path, sft_model, TEXTS, **options)


def test_the_command_line(
    tmp_path: Path, sft_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_lines(tmp_path / "in.jsonl", [{"response": f"```\n{t}```"} for t in TEXTS])
    words = ["prepare-infill", "--input", str(path), "--output-prefix", str(tmp_path / "p")]
    words += ["--tokenizer", str(sft_model)]
    assert main([*words, "--response-key", "response", "--from", "fences"]) == 0
    assert "40 texts" in capsys.readouterr().out and read_texts(tmp_path / "p") == TEXTS
    assert main([*words, "--json-key", "nothing", "--overwrite"]) == 2
    assert "nothing" in capsys.readouterr().err


def test_filters_drop_and_are_told(tmp_path: Path, sft_model: Path) -> None:
    rules = tmp_path / "f.yaml"
    rules.write_text("filters:\n  - length: {min_characters: 48}\n")
    long = TEXTS[0] + "# and so on, further and further\n"
    prefix = prepared(tmp_path, sft_model, [TEXTS[0], long], filters=rules)
    assert read_texts(prefix) == [long]
    assert sidecar(prefix)["rules"]["filtered"]["count"] == 1
    assert sidecar(prefix)["filters"]["filters"][0]["seen"] == 2


def test_an_epoch_of_a_blend_holds_every_text_once(
    tmp_path: Path, sft_model: Path, tokenizer: Tokenizer
) -> None:
    prefix = prepared(tmp_path, sft_model, TEXTS)
    files = TextFiles(prefix, tokenizer.fingerprint)
    texts = BlendTexts([files], SampleOrder([len(files)], BlendOrder([1.0], 120), 5))
    epochs = [[texts[40 * e + n][0] for n in range(40)] for e in range(3)]
    assert all(sorted(epoch) == sorted(TEXTS) and epoch != TEXTS for epoch in epochs)
    assert epochs[0] != epochs[1] and texts[0][1] == 0 and len(texts) == 120


def damaged(tmp_path: Path, prefix: Path, name: str, tokenizer: Tokenizer) -> tuple[Path, str]:
    """A copy of prepared files with one fault."""
    copy = tmp_path / "copy" / "p"
    copy.parent.mkdir()
    for ending in (".bin", ".idx", ".json"):
        shutil.copy(f"{prefix}{ending}", f"{copy}{ending}")
    binary, index, side = (Path(f"{copy}{ending}") for ending in (".bin", ".idx", ".json"))
    values, fingerprint = json.loads(side.read_text()), tokenizer.fingerprint
    if name == "no files":
        index.unlink()
    elif name == "cut bin":
        binary.write_bytes(binary.read_bytes()[:-3])
    elif name == "long bin":
        binary.write_bytes(binary.read_bytes() + b"abc")
    elif name == "cut idx":
        index.write_bytes(index.read_bytes()[:-8])
    elif name == "cut header":
        index.write_bytes(index.read_bytes()[:20])
    elif name == "foreign idx":
        index.write_bytes(b"x" * 200)
    elif name == "wrong places":
        raw = bytearray(index.read_bytes())
        raw[34] ^= 1  # the first text is shorter, the next begins where it did
        index.write_bytes(raw)
    elif name == "tokens":
        write_tokens(copy, random_documents(5, 9), kind="sft")
    elif name == "no json":
        side.unlink()
    elif name == "other kind":
        side.write_text(json.dumps({**values, "kind": "sft"}))
    elif name == "other format":
        side.write_text(json.dumps({**values, "format": 9}))
    elif name == "not json":
        side.write_text("{")
    elif name == "other count":
        side.write_text(json.dumps({**values, "num_samples": 7}))
    elif name == "other tokenizer":
        fingerprint = "0123456789abcdef" * 4
    return copy, fingerprint


FAULTS = {
    "no files": r"p\.idx does not exist",
    "cut bin": r"p\.bin is truncated",
    "long bin": r"p\.bin is longer than its index says",
    "cut idx": r"p\.idx is truncated or empty",
    "cut header": r"p\.idx is no Megatron index, or truncated",
    "foreign idx": r"p\.idx is no Megatron index",
    "wrong places": r"p\.idx has places that are not the sums",
    "tokens": r"p\.idx holds tokens, not texts",
    "no json": r"p\.json does not exist",
    "other kind": r"p\.json is not of megatron-dream prepare-infill",
    "other format": r"p\.json has format 9, only 1",
    "not json": r"p\.json is not JSON",
    "other count": r"p\.bin holds 40 texts, p\.json says 7",
    "other tokenizer": r"the run's is 0123456789abcdef",
}


@pytest.mark.parametrize("name", FAULTS)
def test_files_with_a_fault_are_refused_in_one_sentence(
    tmp_path: Path, sft_model: Path, tokenizer: Tokenizer, name: str
) -> None:
    prefix = prepared(tmp_path, sft_model, TEXTS)
    copy, fingerprint = damaged(tmp_path, prefix, name, tokenizer)
    with pytest.raises(DataError, match=FAULTS[name]) as caught:
        TextFiles(copy, fingerprint)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and str(copy.parent) in message


def test_bytes_that_are_no_text_are_named_when_read(
    tmp_path: Path, sft_model: Path, tokenizer: Tokenizer
) -> None:
    prefix = prepared(tmp_path, sft_model, TEXTS)
    raw = bytearray(Path(f"{prefix}.bin").read_bytes())
    raw[len(TEXTS[0]) + 3] = 0xFF
    Path(f"{prefix}.bin").write_bytes(raw)
    files = TextFiles(prefix, tokenizer.fingerprint)
    assert files[0] == TEXTS[0]
    with pytest.raises(DataError, match=r"p\.bin, sample 1 is no UTF-8"):
        files[1]
