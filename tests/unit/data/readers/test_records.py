"""Records that are no documents are named, and cost nothing but themselves."""

import gzip
import json
import sys
import zlib

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megatron_dream.data.document import Document, Reject
from megatron_dream.data.readers import (
    Limits,
    list_inputs,
    plan_shards,
    read_shard,
    text_adapter,
)
from megatron_dream.errors import ConfigError, DataError
from tests.unit.data.readers.files_of_lines import (
    line,
    read_all,
    read_cut,
    rejects,
    texts,
    write_frames,
    write_gz,
)

BAD = [
    (b'{"text": "a"', "broken JSON: Expecting ',' delimiter at column 13"),
    (b"[1]", "the record is a list, not an object"),
    (b"null", "the record is null"),
    (b'"text"', "the record is a string"),
    (b'{"body": "a"}', "field 'text' is missing; the record has 'body'"),
    (b"{}", "field 'text' is missing; the record has no fields"),
    (b'{"text": null}', "field 'text' is null, not a string"),
    (b'{"text": ["a"]}', "field 'text' is a list, not a string"),
    (b'{"text": {}}', "field 'text' is an object, not a string"),
    (b'{"text": 3}', "field 'text' is a number, not a string"),
    (b'{"text": true}', "field 'text' is a boolean, not a string"),
    (b'{"text": "\xff"}', "invalid UTF-8 at byte 10"),
    (b'{"text": "\xed\xa0\x80"}', "invalid UTF-8 at byte 10"),
    (b'{"text": "ab\\ud800"}', "half of a surrogate pair at character 2"),
    (b'{"text": "\\udc00\\ud800"}', "half of a surrogate pair at character 0"),
    (b"[" * 100_000, "broken JSON: nested too deeply"),
    (b'{"text": ' + b"[" * 1030 + b"]" * 1030 + b"}", "broken JSON: nested too deeply"),
    (b'{"text": ' + b"9" * 10_000 + b"}", "digit"),
    (b'{"text": "a\tb"}', "broken JSON: Invalid control character at at column 12"),
    (b'{"text": "a"} {}', "broken JSON: Extra data at column 15"),
    (b"\0" * 10, "broken JSON: Expecting value at column 1"),
    (b'\xef\xbb\xbf{"text": "not at the start"}', "broken JSON"),
]


@pytest.mark.parametrize(("content", "reason"), BAD)
def test_bad_records_are_named(tmp_path, content, reason):
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "good"}\n\n' + content + b'\n{"text": "last"}')
    first, reject, last = read_all(path)
    assert (first.text, first.position, last.text) == ("good", 0, "last")
    assert isinstance(reject, Reject)
    assert (reject.file, reject.record, reject.position) == (str(path), 2, 21)
    assert reason in reject.reason
    assert last.record == 3


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b'{"text": "a", "score": NaN}', "a"),  # Python writes it
        (b'{"text": "a", "score": -Infinity}', "a"),
        (b'{"text": "a", "other": "\\ud800"}', "a"),  # not the text
        (b'{"text": "\\ud83d\\ude00"}', "\U0001f600"),
        (b'{"text": "a", "text": "b"}', "b"),
        (b'  {"text": "a"} \r', "a"),
        (b'{"text": "\\u0000"}', "\0"),
        (b'{"text": "a", "n": 123456789012345678901234567890}', "a"),
        (b'{"text": ""}', ""),
        (b'{"text": "\xe2\x80\xa8"}', "\u2028"),  # no line end in JSON Lines
    ],
)
def test_odd_records_are_taken(tmp_path, content, text):
    path = tmp_path / "r.jsonl"
    path.write_bytes(content)
    (found,) = read_all(path)
    assert found.text == text


def test_depth_does_not_depend_on_the_interpreters_limit(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'{"text": "a", "x": ' + b"[" * 1030 + b"]" * 1030 + b"}")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        (reject,) = read_all(path)
    finally:
        sys.setrecursionlimit(limit)
    assert reject.reason == "broken JSON: nested too deeply"


def test_asked_fields_must_be_writable_too(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'{"text": "a", "s": "\\ud800"}\n{"text": "b", "s": NaN}\n{"text": "c"}')
    bad, nan, absent = read_all(path, fields=("s",))
    assert "field 's' cannot be written" in bad.reason
    assert nan.fields["s"] != nan.fields["s"] and absent.fields == {}


def test_only_asked_fields_are_kept(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_bytes(line("a", x=1, y={"z": [1]}, n=None))
    assert read_all(path)[0].fields == {}
    assert read_all(path, fields=("x", "y.z", "n", "q"))[0].fields == {"x": 1, "y.z": [1]}


def test_source_files_come_as_they_are(tmp_path):
    (tmp_path / "a.py").write_bytes(b"\xef\xbb\xbfa\r\n\tb\0\r")
    (tmp_path / "b.py").write_bytes(b"\xff")
    (tmp_path / "c.py").write_bytes(b"")
    write_gz(tmp_path / "d.py.gz", b"packed")
    found = read_all(tmp_path, suffixes=(".py", ".gz"))
    assert texts(found) == ["a\r\n\tb\0\r", "", "packed"]
    assert [o.record for o in found] == [0, 1, 2, 3]
    assert "invalid UTF-8 at byte 0" in rejects(found)[0].reason
    limits = Limits(line_bytes=5)
    assert len(rejects(read_all(tmp_path, limits=limits))) == 2
    assert read_all(tmp_path, fields=("path",))[0].fields == {"path": "a.py"}


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.one_of(st.binary(max_size=30), st.text(max_size=20))))
def test_any_bytes_give_documents_and_rejects_only(tmp_path, records):
    path = tmp_path / "r.jsonl"
    lines = [r if isinstance(r, bytes) else json.dumps({"text": r}).encode() for r in records]
    path.write_bytes(b"\n".join(lines))
    found = read_all(path)
    assert all(isinstance(outcome, Document | Reject) for outcome in found)
    remaining = iter(texts(found))
    assert all(text in remaining for text in records if isinstance(text, str))  # all, in order


LINES = b"".join(b'{"text": "%d"}\n' % (number * 7919) for number in range(5000))


@pytest.mark.parametrize("kind", ["gz", "zst", "frames"])
@pytest.mark.parametrize("damage", ["cut", "not packed", "garbled", "trailing"])
def test_a_damaged_file_keeps_what_comes_before(tmp_path, kind, damage):
    path = tmp_path / ("r.jsonl.gz" if kind == "gz" else "r.jsonl.zst")
    if kind == "gz":
        write_gz(path, LINES)
    else:
        step = 20_000 if kind == "frames" else len(LINES)
        write_frames(path, [LINES[i : i + step] for i in range(0, len(LINES), step)])
    raw = bytearray(path.read_bytes())
    if damage == "cut":
        raw = raw[: len(raw) * 2 // 3]
    elif damage == "not packed":
        raw = bytearray(LINES)
    elif damage == "trailing":
        raw += b"garbage"
    else:
        raw[len(raw) // 2 : len(raw) // 2 + 40] = bytes(40)
    path.write_bytes(raw)
    found = read_all(path)
    (*_, last) = found
    assert isinstance(last, Reject)
    if damage == "garbled" and kind == "gz":  # its one checksum is at the end
        return
    assert [i for i, o in enumerate(found) if isinstance(o, Reject)] == [len(found) - 1]
    assert "cannot be read from here on" in last.reason
    assert texts(found) == [str(n * 7919) for n in range(len(found) - 1)]
    if damage == "trailing":
        assert len(found) == 5001
    elif damage != "not packed" and kind != "zst":
        assert len(found) > 500
    assert last.record == len(found) - 1
    if kind == "gz":
        assert last.position == sum(len(one) + 1 for one in LINES.split(b"\n")[: len(found) - 1])


def test_damage_in_one_shard_leaves_the_others(tmp_path):
    path = tmp_path / "r.jsonl.zst"
    offsets = write_frames(path, [LINES[i : i + 20_000] for i in range(0, len(LINES), 20_000)])
    raw = bytearray(path.read_bytes())
    raw[offsets[2] + 200] ^= 0xFF
    path.write_bytes(raw)
    found = read_cut(path, offsets[1:])
    assert len(rejects(found)) == 1
    lost = 5000 - len(texts(found))
    assert lost < 1700  # a frame and the lines across its borders
    assert texts(found)[-1] == str(4999 * 7919)


def test_gzip_of_several_members_with_padding(tmp_path):
    path = tmp_path / "r.jsonl.gz"
    cut = len(LINES) // 2 + 3
    members = [gzip.compress(LINES[:cut]), gzip.compress(b""), gzip.compress(LINES[cut:])]
    path.write_bytes(members[0] + members[1] + members[2] + b"\0" * 1000)
    assert len(texts(read_all(path))) == len(read_all(path)) == 5000


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_bombs_stop_at_the_ratio(tmp_path, kind):
    content = line("good") + b"\n" + b" " * (200 << 20)
    if kind == "gz":
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        data = packer.compress(content) + packer.flush()
    else:
        data = zstandard.compress(content)
    path = tmp_path / f"r.jsonl.{kind}"
    path.write_bytes(data)
    limits = Limits(decompression_ratio=100, decompression_grace=1 << 20)
    found = read_all(path, limits=limits)
    assert texts(found) == ["good"]
    assert "more than 100 times its size" in found[-1].reason
    assert len(read_all(path, limits=Limits(decompression_ratio=10**9))) <= 2


def test_too_many_fields(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_bytes(line("a", **{f"f{i}": 1 for i in range(20)}) + b"\n" + line("b"))
    first, second = read_all(path, limits=Limits(fields=20))
    assert "21 fields, over the limit of 20" in first.reason and second.text == "b"


def test_limits_are_positive():
    with pytest.raises(ConfigError, match="line_bytes is 0"):
        Limits(line_bytes=0)


@pytest.mark.parametrize("name", ["r.jsonl", "r.jsonl.zst", "r.py", "r.parquet", "r.arrow"])
def test_a_file_that_is_gone_stops_the_run(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(line("a"))
    files = list_inputs([path])
    path.unlink()
    with pytest.raises(DataError, match=r"r\.[a-z.]+ cannot be read.*run again"):
        list(read_shard(plan_shards(files)[0], files, text_adapter()))
