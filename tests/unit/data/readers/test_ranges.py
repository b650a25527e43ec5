"""Each line has one owner, wherever a file is cut."""

import gzip
import io
import json
import tracemalloc

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megatron_dream.data.readers import Limits, list_inputs, plan_shards, read_piece, text_adapter
from megatron_dream.data.readers.byte_blocks import UnreadableError
from megatron_dream.data.readers.lines import LongLine, line_batches
from tests.unit.data.readers.files_of_lines import (
    line,
    places,
    read_all,
    read_cut,
    rejects,
    texts,
    write_frames,
)

CHECKS = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
LINES = st.lists(
    st.one_of(
        st.text(max_size=8).map(line),
        st.sampled_from([b"", b" ", b"\t", b"{", b'{"text": "\xff"}', b'{"x": 1}', b"x" * 40]),
    ),
    max_size=12,
)
CONTENTS = st.tuples(
    LINES, st.sampled_from([b"\n", b"\r\n"]), st.booleans(), st.sampled_from([b"", b"\xef\xbb\xbf"])
).map(lambda c: c[3] + c[1].join(c[0]) + (c[1] if c[2] else b""))


def expected(data):
    """(position, text or None) of every line that is not blank, by a plain loop."""
    found, position = [], 0
    for number, content in enumerate(data.split(b"\n")):
        bare = content.removeprefix(b"\xef\xbb\xbf") if number == 0 else content
        if bare.strip():
            try:
                text = json.loads(bare.decode())["text"]
            except (ValueError, KeyError, TypeError):
                text = None
            found.append((position, text))
        position += len(content) + 1
    return found


def without_reasons(outcomes):
    return [(o.position, getattr(o, "text", None)) for o in outcomes]


@CHECKS
@given(CONTENTS)
def test_plain_files_cut_at_every_byte(tmp_path, data):
    path = tmp_path / "r.jsonl"
    path.write_bytes(data)
    whole = read_cut(path, [])
    assert without_reasons(whole) == expected(data)
    for cut in range(1, len(data) + 1):
        assert places(read_cut(path, [cut])) == places(whole), cut
    for step in (1, 3, 7):
        assert places(read_cut(path, range(step, len(data), step))) == places(whole), step


@CHECKS
@given(CONTENTS, st.lists(st.integers(0, 200), max_size=8))
def test_frames_cut_inside_lines(tmp_path, data, ends):
    ends = sorted(end % (len(data) + 1) for end in ends)
    pieces = [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]
    path = tmp_path / "r.jsonl.zst"
    offsets = write_frames(path, pieces)
    whole = read_cut(path, [])
    assert [content for _, content in without_reasons(whole)] == [t for _, t in expected(data)]
    assert [o.record for o in whole] == [o.record for o in read_plain(tmp_path, data)]
    for cut in offsets[1:]:
        assert places(read_cut(path, [cut])) == places(whole), cut
    assert places(read_cut(path, offsets[1:])) == places(whole)


def read_plain(folder, data):
    path = folder / "plain.jsonl"
    path.write_bytes(data)
    return read_cut(path, [])


def test_positions_in_frames_order_and_name_the_frame(tmp_path):
    data = b"".join(line(str(i)) + b"\n" for i in range(3))
    cut = len(line("0")) + 1 + 4  # inside the second line
    path = tmp_path / "r.jsonl.zst"
    offsets = write_frames(path, [data[:cut], b"", data[cut:]])
    step = len(line("0")) + 1
    found = [o.position for o in read_cut(path, offsets[1:])]
    assert found == [0, step, (offsets[2] << 36) + 2 * step - cut]


@pytest.mark.parametrize("shard_bytes", [1, 50, 333, 10_000])
def test_planned_shards_give_every_line_once(tmp_path, shard_bytes):
    data = b"".join(line("é" * (i % 17) + str(i)) + b"\n" for i in range(200))
    (tmp_path / "a.jsonl").write_bytes(data)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(data))
    write_frames(tmp_path / "c.jsonl.zst", [data[i : i + 100] for i in range(0, len(data), 100)])
    found = read_all(tmp_path, shard_bytes=shard_bytes, suffixes=(".jsonl", ".gz", ".zst"))
    assert texts(found) == 3 * ["é" * (i % 17) + str(i) for i in range(200)]
    assert len({(o.file, o.position) for o in found}) == 600


def test_counts_of_pieces_add_up_to_the_lines_of_the_file(tmp_path):
    data = b"\n\n".join(line(str(i)) for i in range(50))
    (tmp_path / "a.jsonl").write_bytes(data)
    files = list_inputs([tmp_path / "a.jsonl"])
    shards = plan_shards(files, 100)
    assert len(shards) > 5
    lines = []
    for shard in shards:
        (piece,) = shard.pieces
        reader = read_piece(piece, files, text_adapter())
        lines += [len(lines_before(lines)) + o.record for o in reader]
        lines.append(reader)
    counts = [item.num_records for item in lines if not isinstance(item, int)]
    assert sum(counts) == 99
    assert [n for n in lines if isinstance(n, int)] == list(range(0, 99, 2))


def lines_before(items):
    return [None] * sum(item.num_records for item in items if not isinstance(item, int))


class FakeBlocks:
    """Blocks of chosen sizes, with an error at the end where asked."""

    bound = 1 << 60
    consumed = 0

    def __init__(self, data, size, error=None):
        self.data, self.size, self.error = data, size, error

    def __iter__(self):
        for start in range(0, len(self.data), self.size):
            yield 0, self.data[start : start + self.size]
        if self.error:
            raise UnreadableError(self.error)


@CHECKS
@given(st.lists(st.binary(max_size=9).filter(lambda b: b"\n" not in b)), st.integers(1, 12))
def test_block_borders_change_nothing_and_long_lines_are_told(lines, size):
    data = b"\n".join(lines)
    batches = list(line_batches(FakeBlocks(data, size), 0, skips_first=False, limit=5))
    wanted = io.BytesIO(data).readlines()
    found = [item for batch in batches for item in batch.lines]
    assert list(map(len, found)) == list(map(len, wanted))
    for item, line_there in zip(found, wanted, strict=True):
        is_long = len(line_there.rstrip(b"\n")) > 5
        assert isinstance(item, LongLine) if is_long else item == line_there
    position = 0
    for batch in batches:
        assert batch.position == position
        position += sum(map(len, batch.lines))


def test_long_lines_are_skipped_without_being_held(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_bytes(line("a") + b"\n" + b"x" * 5_000_000 + b"\n" + line("b") + b"\n")
    limits = Limits(line_bytes=1000)
    for cuts in ([], [5], [2_000_000], [5_000_010], range(100_000, 5_000_000, 700_000)):
        found = read_cut(path, cuts, limits=limits)
        assert texts(found) == ["a", "b"]
        (reject,) = rejects(found)
        assert (reject.position, "5,000,000 bytes" in reject.reason) == (len(line("a")) + 1, True)


def test_memory_stays_flat_over_a_line_without_end(tmp_path):
    path = tmp_path / "r.jsonl.zst"
    path.write_bytes(zstandard.compress(b"x" * (300 << 20)))
    tracemalloc.start()
    limits = Limits(line_bytes=1 << 20, decompression_grace=1 << 40)
    found = read_cut(path, [], limits=limits)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(rejects(found)) == 1 and peak < 32 << 20
