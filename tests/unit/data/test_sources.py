"""Finding documents, and naming those that are no good."""

import gzip
import json
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.data.sources import Reject, iterate_raw, list_inputs, read_text
from megatron_dream.errors import DataError, MissingDependencyError


def read_all(*inputs, **options):
    return [read_text(raw) for raw in iterate_raw(list_inputs(inputs, **options))]


def test_folders_are_walked_in_sorted_order_by_suffix(tmp_path):
    for name in ("b/z.py", "b/a.py", "a/c.py", "top.py", "notes.txt", "b/deep/x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert read_all(tmp_path) == ["top.py", "a/c.py", "b/a.py", "b/z.py", "b/deep/x.py"]
    assert read_all(tmp_path, suffixes=[".txt"]) == ["notes.txt"]
    assert read_all(tmp_path / "notes.txt", tmp_path / "a") == ["notes.txt", "a/c.py"]


def test_records_of_a_folder(tmp_path):
    with gzip.open(tmp_path / "a.jsonl.gz", "wb") as stream:
        stream.write(b'{"text": "one"}\n\n{"text": "two"}')
    assert read_all(tmp_path, suffixes=[".jsonl.gz"]) == ["one", "two"]


def test_source_files_come_as_they_are(tmp_path):
    (tmp_path / "a.py").write_bytes(b"\xef\xbb\xbfa\r\n\tb\0\r")
    assert read_all(tmp_path) == ["a\r\n\tb\0\r"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "a"', "broken JSON: Expecting ',' delimiter at column 13"),
        (b"[1]", "the record is a list, not an object"),
        (b"null", "the record is null"),
        (b'{"body": "a"}', "field 'text' is missing"),
        (b'{"text": null}', "field 'text' is null, not a string"),
        (b'{"text": ["a"]}', "field 'text' is a list, not a string"),
        (b'{"text": 3}', "field 'text' is a number"),
        (b'{"text": "\xff"}', "invalid UTF-8 at byte 10"),
        (b'{"text": "ab\\ud800"}', "half of a surrogate pair at character 2"),
        (b"[" * 100_000, "broken JSON: nested too deeply"),
        (b'{"text": ' + b"9" * 10_000 + b"}", "digit"),
    ],
)
def test_bad_records_are_named(tmp_path, line, reason):
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "good"}\n\n' + line + b'\n{"text": "last"}')
    first, reject, last = read_all(path)
    assert (first, last) == ("good", "last")
    assert isinstance(reject, Reject)
    assert (reject.file, reject.line) == (str(path), 3)
    assert reason in reject.reason
    assert json.loads(reject.as_json())["line"] == 3


@pytest.mark.parametrize("damage", ["cut", "not gzip", "garbled"])
def test_a_damaged_gzip_file_is_a_reject_not_a_crash(tmp_path, damage):
    lines = b"".join(b'{"text": "%d"}\n' % (number * 7919) for number in range(5000))
    raw = bytearray(gzip.compress(lines))
    if damage == "cut":
        raw = raw[: len(raw) // 2]
    elif damage == "garbled":
        raw[len(raw) // 2 : len(raw) // 2 + 40] = bytes(40)
    path = tmp_path / "r.jsonl.gz"
    path.write_bytes(lines if damage == "not gzip" else bytes(raw))
    found = read_all(path)
    assert isinstance(found[-1], Reject)
    if damage == "garbled":  # gzip has one checksum, at the end: what went before is not known
        return
    good = [text for text in found if isinstance(text, str)]
    assert good == [str(number * 7919) for number in range(len(good))]


def test_sizes_add_up_for_progress(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'{"text": "x"}\n' * 10_000)
    assert sum(raw.size for raw in iterate_raw(list_inputs([path]))) == path.stat().st_size


def test_missing_inputs_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        list_inputs([tmp_path / "absent"])
    with pytest.raises(DataError, match=r"no file that ends in \.py"):
        list_inputs([tmp_path])
    with pytest.raises(DataError, match="No input"):
        list_inputs([])


def test_zst_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    path = tmp_path / "r.jsonl.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd")
    with pytest.raises(MissingDependencyError, match="pip install zstandard"):
        read_all(path)


def test_zst_of_several_frames(tmp_path):
    zstandard = pytest.importorskip("zstandard", reason="the optional zstandard is not installed")
    path = tmp_path / "r.jsonl.zst"
    frames = [zstandard.compress(b'{"text": "%d"}\n' % number) for number in range(3)]
    path.write_bytes(b"".join(frames))
    assert read_all(path) == ["0", "1", "2"]


def test_any_bytes_give_texts_and_rejects_only(tmp_path):
    path = tmp_path / "r.jsonl"

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(st.lists(st.one_of(st.binary(max_size=30), st.text(max_size=20))))
    def check(records):
        lines = [
            record if isinstance(record, bytes) else json.dumps({"text": record}).encode()
            for record in records
        ]
        path.write_bytes(b"\n".join(lines))
        found = read_all(path)
        assert all(isinstance(text, str | Reject) for text in found)
        wanted = [record for record in records if isinstance(record, str)]
        remaining = iter(text for text in found if isinstance(text, str))
        assert all(text in remaining for text in wanted)  # all, and in order

    check()
