"""Parquet and Arrow: only the columns that are needed, every row once, damage told."""

import struct

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from megatron_dream.data.readers import (
    Limits,
    Piece,
    list_inputs,
    plan_shards,
    read_piece,
    read_shard,
    tables,
    text_adapter,
)
from megatron_dream.errors import DataError
from tests.unit.data.readers.files_of_lines import (
    places,
    read_all,
    rejects,
    texts,
    write_arrow,
    write_parquet,
)

ROWS = [{"text": f"row {i}", "n": i, "deep": {"x": [i]}} for i in range(700)]


def written(folder, kind, rows=ROWS, group=50):
    if kind == "parquet":
        return write_parquet(folder / "a.parquet", rows, row_group_size=group)
    return write_arrow(folder / "a.arrow", rows, group, kind.partition(" ")[2])


KINDS = pytest.mark.parametrize("kind", ["parquet", "arrow stream", "arrow file"])


@KINDS
def test_every_group_at_every_cut(tmp_path, kind):
    path = written(tmp_path, kind)
    files = list_inputs([path])
    whole = places(read_all(path))
    assert whole == [(i, f"row {i}") for i in range(700)]
    for cut in range(1, 15):
        pieces = [Piece(0, 0, cut), Piece(0, cut, None)]
        cut_up = [o for p in pieces for o in read_piece(p, files, text_adapter())]
        assert places(cut_up) == whole, cut
    assert places(read_all(path, shard_bytes=2000)) == whole


@KINDS
def test_fields_and_numbers(tmp_path, kind):
    files = list_inputs([written(tmp_path, kind)])
    reader = read_piece(Piece(0, 2, 4), files, text_adapter(), fields=("n", "deep.x", "no"))
    found = list(reader)
    assert (reader.num_records, len(found)) == (100, 100)
    assert found[0].record == 0 and found[0].position == 100
    assert found[0].fields == {"n": 100, "deep.x": [100]}


@KINDS
def test_only_needed_columns_are_read(tmp_path, kind, monkeypatch):
    seen = []
    records = tables._records
    monkeypatch.setattr(tables, "_records", lambda b: seen.append(b.schema.names) or records(b))
    path = written(tmp_path, kind)
    read_all(path)
    read_all(path, fields=("deep.x",))
    assert {tuple(names) for names in seen} == {("text",), ("text", "deep")}


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_values_that_are_no_text(tmp_path, kind):
    valid = pa.array([b"a", b"\xc3\xa9", b"\xff\xfe", None, b"e"])
    column = pa.Array.from_buffers(pa.string(), 5, valid.buffers())
    table = pa.table({"text": column, "raw": valid, "n": [1, 2, 3, 4, 5]})
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    for name in ("text", "raw"):
        found = read_all(path, adapter=text_adapter(name))
        assert texts(found) == ["a", "é", "e"]
        assert [(r.record, r.reason) for r in rejects(found)] == [
            (2, f"field '{name}' holds invalid UTF-8 at byte 0"),
            (3, f"field '{name}' is null, not a string"),
        ]
    assert "is a number" in read_all(path, adapter=text_adapter("n"))[0].reason


@KINDS
def test_a_column_that_is_not_there_is_an_error_with_those_that_are(tmp_path, kind):
    path = written(tmp_path, kind)
    with pytest.raises(DataError, match=r"has no field 'body'; it has 'text', 'n', 'deep'"):
        read_all(path, adapter=text_adapter("body"))
    with pytest.raises(DataError, match=r"has no field 'answer'"):
        read_all(path, adapter=text_adapter(template="{text} {answer}"))


def test_large_strings_dictionaries_and_empty_tables(tmp_path):
    text = pa.array(["a", "b", "a"])
    for number, column in enumerate((text.cast(pa.large_string()), text.dictionary_encode())):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(pa.table({"text": column}), path)
        assert texts(read_all(path)) == ["a", "b", "a"]
    path = tmp_path / "empty.parquet"
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    assert read_all(path) == []


@KINDS
def test_a_group_over_the_limit_is_left_out_and_told(tmp_path, kind):
    rows = [{"text": "a" * 10, "other": "b" * 5000} for _ in range(4)]
    rows[2]["text"] = "".join(chr(0x4E00 + i) for i in range(2000))
    path = written(tmp_path, kind, rows, 1)
    found = read_all(path, limits=Limits(row_group_bytes=3000))
    assert len(texts(found)) == 3
    (reject,) = rejects(found)
    assert reject.position == 2 and "over the limit of 3,000 (row_group_bytes)" in reject.reason
    assert [o.record for o in found] == [0, 1, 2, 3]
    long = read_all(path, limits=Limits(line_bytes=3000))
    assert "over the limit of 3,000 bytes (line_bytes)" in rejects(long)[0].reason


def test_too_many_columns(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", [{"text": "a"} | {f"c{i}": 1 for i in range(9)}])
    (reject,) = read_all(path, limits=Limits(fields=5))
    assert "10 columns, over the limit of 5" in reject.reason


@KINDS
def test_truncated_tables(tmp_path, kind):
    path = written(tmp_path, kind)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    found = read_all(path, shard_bytes=1 << 30)
    assert len(rejects(found)) == 1 and "cannot be read from here on" in found[-1].reason
    if kind == "arrow stream":
        assert texts(found) == [f"row {i}" for i in range(len(found) - 1)] and len(found) > 300
    read_all(path, shard_bytes=100)


def test_offsets_that_lead_out_of_their_buffer(tmp_path):
    """Arrow trusts them; reading past the end crashes or gives another program's memory."""
    path = write_arrow(tmp_path / "a.arrow", [{"text": "x" * 1000}] * 3, batch=3)
    data, offsets = path.read_bytes(), struct.pack("<4i", 0, 1000, 2000, 3000)
    assert data.count(offsets) == 1
    path.write_bytes(data.replace(offsets, struct.pack("<4i", 0, 1000, 2000, 1 << 29)))
    (reject,) = read_all(path)
    assert "cannot be read from here on" in reject.reason


def test_one_damaged_group(tmp_path):
    path = written(tmp_path, "parquet")
    offset = pq.ParquetFile(path).metadata.row_group(3).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[offset : offset + 30] = b"\xff" * 30
    path.write_bytes(data)
    found = read_all(path)
    (reject,) = rejects(found)
    assert len(texts(found)) == 650 and reject.position == 150
    assert "row group 3 cannot be read" in reject.reason
    assert found[-1].record == 699


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.integers(0, 10**9), st.binary(min_size=1, max_size=8), st.sampled_from(["p", "s", "f"]))
@example(26792, b"\x80", "s")  # a column's name
def test_flipped_bytes_never_crash(tmp_path, at, noise, kind):
    name = {"p": "parquet", "s": "arrow stream", "f": "arrow file"}[kind]
    path = written(tmp_path, name, ROWS[:40], 10)
    data = bytearray(path.read_bytes())
    at %= len(data)
    data[at : at + len(noise)] = noise
    path.write_bytes(data)
    files = list_inputs([path])
    try:
        for shard in plan_shards(files, 100):
            list(read_shard(shard, files, text_adapter()))
    except DataError as error:  # the column's name itself
        assert "has no field" in str(error)
