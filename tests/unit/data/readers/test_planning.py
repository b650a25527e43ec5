"""Shards are a function of the inputs; frames are found without decompressing."""

import gzip
import io
import logging
import random
import shutil
import struct
import subprocess

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.data.readers import (
    InputFile,
    Piece,
    content_of,
    list_inputs,
    plan_shards,
)
from megatron_dream.data.readers.zst_frames import frame_offsets
from megatron_dream.errors import DataError
from tests.unit.data.readers.files_of_lines import write_arrow, write_frames, write_parquet


def file_of(size, name="a.jsonl"):
    return InputFile(name, *content_of(name), size)


def test_plain_lines_are_cut_evenly_and_small_files_share_a_shard():
    files = [file_of(10), file_of(20), file_of(250), file_of(30, "x.py"), file_of(0)]
    shards = plan_shards(files, 100)
    assert [shard.index for shard in shards] == list(range(len(shards)))
    assert [shard.identity() for shard in shards] == [
        [[0, 0, None], [1, 0, None]],
        [[2, 0, 83]],
        [[2, 83, 166]],
        [[2, 166, 250]],
        [[3, 0, None], [4, 0, None]],
    ]
    assert sum(shard.num_bytes for shard in shards) == 310
    assert plan_shards(files, 100) == shards


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 500), max_size=20), st.integers(1, 300))
def test_every_byte_is_in_one_piece_and_shards_keep_to_their_size(sizes, shard_bytes):
    shards = plan_shards([file_of(size) for size in sizes], shard_bytes)
    pieces = [piece for shard in shards for piece in shard.pieces]
    assert [p.file for p in pieces] == sorted(p.file for p in pieces)
    for number, size in enumerate(sizes):
        own = [p for p in pieces if p.file == number]
        assert own[0].start == 0 and own[-1].stop in (None, size)
        assert [p.stop for p in own[:-1]] == [p.start for p in own[1:]]
        assert sum(p.num_bytes for p in own) == size
    assert all(shard.num_bytes <= shard_bytes for shard in shards)


def test_a_shard_of_no_bytes_is_refused():
    with pytest.raises(DataError, match="shard of 0 bytes"):
        plan_shards([file_of(1)], 0)


def frames_of(pieces, *, table=False, skippable=b"", **options):
    compressor = zstandard.ZstdCompressor(**options)
    packed = [compressor.compress(piece) for piece in pieces]
    offsets, data = [], b""
    for frame in packed:
        if skippable:
            data += struct.pack("<II", 0x184D2A53, len(skippable)) + skippable
        offsets.append(len(data))
        data += frame
    if table:
        entries = b"".join(
            struct.pack("<II", len(f), len(p)) for f, p in zip(packed, pieces, strict=True)
        )
        footer = struct.pack("<IBI", len(packed), 0, 0x8F92EAB1)
        data += struct.pack("<II", 0x184D2A5E, len(entries) + 9) + entries + footer
    return data, offsets


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.binary(min_size=1, max_size=400), min_size=1, max_size=6),
    st.booleans(),
    st.booleans(),
    st.sampled_from([b"", b"note", b"x" * 100_000]),
)
def test_walking_finds_every_frame(pieces, checksum, content_size, skippable):
    options = {"write_checksum": checksum, "write_content_size": content_size}
    data, offsets = frames_of(pieces, skippable=skippable, **options)
    assert frame_offsets(io.BytesIO(data)) == [0, *offsets[1:]]


def test_walking_passes_large_raw_and_repeated_blocks():
    noise = random.Random(0).randbytes(700_000)
    pieces = [noise, b"\0" * 3_000_000, noise[:300_000] + b"a" * 500_000, b""]
    data, offsets = frames_of(pieces, write_checksum=True)
    assert frame_offsets(io.BytesIO(data)) == offsets


def test_streamed_frames_without_content_size():
    compressor = zstandard.ZstdCompressor()
    data = b""
    offsets = []
    for number in range(3):
        offsets.append(len(data))
        out = compressor.compressobj()
        data += out.compress(b"line %d\n" % number * 50_000) + out.flush()
    assert frame_offsets(io.BytesIO(data)) == offsets


def test_the_seek_table_is_used_without_walking():
    data, offsets = frames_of([b"a" * 100, b"b" * 100, b"c"], table=True)
    assert frame_offsets(io.BytesIO(data), walk=False) == offsets
    assert frame_offsets(io.BytesIO(data)) == offsets
    broken = data[:10] + data[11:]
    assert frame_offsets(io.BytesIO(broken), walk=False) == [0]
    assert frame_offsets(io.BytesIO(frames_of([b"a", b"b"])[0]), walk=False) == [0]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.binary(max_size=60), st.integers(0, 200), st.booleans())
def test_damage_never_raises(noise, cut, behind):
    data, _ = frames_of([b"a" * 50, b"b" * 50])
    damaged = data + noise if behind else data[: cut % len(data)] + noise
    offsets = frame_offsets(io.BytesIO(damaged))
    assert offsets == sorted(set(offsets)) and offsets[0] == 0


def test_frames_are_grouped_into_shards(tmp_path):
    rng = random.Random(0)
    path = tmp_path / "a.jsonl.zst"
    offsets = write_frames(path, [rng.randbytes(1000) for _ in range(10)])
    files = list_inputs([path])
    shards = plan_shards(files, 3 * (offsets[1] - offsets[0]) + 5)
    pieces = [shard.pieces[0] for shard in shards]
    assert [(p.start, p.stop) for p in pieces] == [
        (0, offsets[3]),
        (offsets[3], offsets[6]),
        (offsets[6], offsets[9]),
        (offsets[9], None),
    ]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_a_large_file_that_cannot_be_cut_is_named_with_the_remedy(tmp_path, caplog, name):
    path = tmp_path / name
    path.write_bytes(zstandard.compress(b"a"))
    (file,) = list_inputs([path])
    large = InputFile(file.path, file.format, file.compression, 3_200_000_000)
    with caplog.at_level(logging.WARNING):
        (shard,) = plan_shards([large], 1 << 26)
    assert shard.pieces == (Piece(0, 0, None, 3_200_000_000),)
    assert f"{path} (3.2 GB)" in caplog.text and "--filter='zstd -c'" in caplog.text


def test_the_remedy_of_the_warning_works(tmp_path, caplog):
    if not shutil.which("zstd"):
        pytest.skip("needs zstd: apt install zstd")
    data = b"".join(b'{"text": "%d"}\n' % i for i in range(5000))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(data))
    (file,) = list_inputs([tmp_path / "a.jsonl.gz"])
    large = InputFile(file.path, file.format, file.compression, 2_000_000_000)
    plan_shards([large], 1 << 26)
    command = caplog.text.split("`")[1].replace("256M", "10K")
    subprocess.run(command, shell=True, check=True, capture_output=True)
    path = tmp_path / "a.frames.jsonl.zst"
    with open(path, "rb") as stream:
        assert len(frame_offsets(stream)) == -(-len(data) // 10240)
    assert list_inputs([path])[0].format == "jsonl"


def test_row_groups_and_record_batches_are_the_units(tmp_path):
    rows = [{"text": f"{i} " * 50} for i in range(100)]
    write_parquet(tmp_path / "a.parquet", rows, row_group_size=10)
    write_arrow(tmp_path / "b.arrow", rows, batch=10)
    (tmp_path / "c.parquet").write_bytes(b"PAR1 no table PAR1" * 100)
    files = list_inputs([tmp_path], [".parquet", ".arrow"])
    shards = plan_shards(files, 1200)
    for number, last in ((0, 10), (1, 10)):
        own = [p for s in shards for p in s.pieces if p.file == number]
        assert len(own) > 3 and own[0].start == 0 and own[-1].stop == last
        assert [p.stop for p in own[:-1]] == [p.start for p in own[1:]]
    assert [p for s in shards for p in s.pieces if p.file == 2] == [Piece(2, 0, None, 1800)]
