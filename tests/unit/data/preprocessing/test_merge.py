"""Parts become the bytes of megatron-core's builder, however they are cut and however often killed."""

import dataclasses
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.data.preprocessing import merge
from megatron_dream.data.preprocessing.merge import (
    BackgroundConcatenation,
    Concatenation,
    publish,
)
from megatron_dream.data.preprocessing.parts import PartRecord, PartWriter, finished_parts
from megatron_dream.errors import DataError

INT32 = np.dtype(np.int32)


def make_parts(folder, documents_by_part, dtype=INT32):
    """Write parts with the product's writer; returns their records."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for shard, documents in enumerate(documents_by_part):
        with PartWriter(folder, shard, dtype) as writer:
            for ids in documents:
                writer.add(np.asarray(ids, np.int32), np.asarray([len(ids)], np.int32))
            count = sum(map(len, documents))
            record = PartRecord(shard=shard, documents=len(documents), tokens=count)
            records.append(writer.commit(record))
    return records


def merge_all(folder, prefix, records, dtype=INT32, max_bytes=1 << 40):
    with Concatenation(folder, prefix, dtype.itemsize, max_bytes) as whole:
        for record in records:
            whole.add(record)
        outputs, lengths = whole.finish()
    publish(outputs, lengths, dtype)
    return outputs


def builder_bytes(prefix, documents, dtype=INT32):
    from megatron_dream.device import import_megatron

    import_megatron()
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype.type)
    for ids in documents:
        builder.add_document(np.asarray(ids, dtype), [len(ids)])
    builder.finalize(f"{prefix}.idx")
    return contents(prefix)


def contents(prefix):
    return {end: prefix.with_name(prefix.name + end).read_bytes() for end in (".bin", ".idx")}


documents = st.lists(st.lists(st.integers(0, 60000), min_size=1, max_size=9), max_size=6)
plans = st.lists(documents, min_size=1, max_size=6).filter(lambda plan: any(plan))


@settings(max_examples=60, deadline=None)
@given(plan=plans, dtype=st.sampled_from([np.dtype(np.int32), np.dtype(np.uint16)]))
def test_bytes_are_the_builders(tmp_path_factory, plan, dtype):
    folder = tmp_path_factory.mktemp("merge")
    records = make_parts(folder / "p.parts", plan, dtype)
    merge_all(folder / "p.parts", folder / "p", records, dtype)
    expected = builder_bytes(folder / "expected", [ids for part in plan for ids in part], dtype)
    assert contents(folder / "p") == expected


@settings(max_examples=60, deadline=None)
@given(plan=plans, max_bytes=st.integers(4, 60))
def test_large_outputs_are_cut_between_documents(tmp_path_factory, plan, max_bytes):
    folder = tmp_path_factory.mktemp("cut")
    records = make_parts(folder / "p.parts", plan)
    outputs = merge_all(folder / "p.parts", folder / "p", records, max_bytes=max_bytes)
    whole = [ids for part in plan for ids in part]
    assert [output.first for output in outputs] == [0, *(o.end for o in outputs[:-1])]
    assert outputs[-1].end == len(whole)
    for output in outputs:
        inside = whole[output.first : output.end]
        assert output.num_bytes <= max_bytes or len(inside) == 1
        name = folder / f"expected-{output.first}"
        assert contents(output.prefix) == builder_bytes(name, inside)
    assert (outputs[0].prefix == folder / "p") == (len(outputs) == 1)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), plan=plans, max_bytes=st.integers(8, 200))
def test_parts_may_come_in_any_order(tmp_path_factory, data, plan, max_bytes):
    """Beside the workers: a part is appended once all before it are there."""
    folder = tmp_path_factory.mktemp("background")
    records = make_parts(folder / "p.parts", plan)
    whole = Concatenation(folder / "p.parts", folder / "p", 4, max_bytes)
    with BackgroundConcatenation(whole) as merge:
        for record in data.draw(st.permutations(records)):
            merge.add(record, is_fresh=data.draw(st.booleans()))
        outputs, lengths = merge.finish()
    publish(outputs, lengths, INT32)
    documents = [ids for part in plan for ids in part]
    for output in outputs:
        expected = builder_bytes(folder / "expected", documents[output.first : output.end])
        assert contents(output.prefix) == expected


def test_nothing_follows_a_part_that_cannot_be_read(tmp_path):
    records = make_parts(tmp_path / "p.parts", [[[1, 2]], [[3]], [[4]]])
    (tmp_path / "p.parts" / "000001.bin").write_bytes(b"\0\0\0\0")
    whole = Concatenation(tmp_path / "p.parts", tmp_path / "p", 4, 1 << 40)
    with BackgroundConcatenation(whole) as merge, pytest.raises(DataError, match="000001.bin"):
        for record in records:
            merge.add(record, is_fresh=False)
        merge.finish()
    assert (tmp_path / ".p.00000.bin.tmp").stat().st_size == 8


class Killed(Exception):
    """Stands for the end of the process."""


@settings(max_examples=60, deadline=None)
@given(plan=plans, kills=st.lists(st.integers(0, 12), max_size=4), max_bytes=st.integers(8, 200))
def test_a_killed_merge_goes_on(tmp_path_factory, plan, kills, max_bytes):
    """A kill after any copy or any entry of the journal; copies may be short."""
    folder = tmp_path_factory.mktemp("killed")
    records = make_parts(folder / "p.parts", plan)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge, "_SYNC_BYTES", 10)
        for allowed in kills:
            with pytest.MonkeyPatch.context() as deadly:
                steps = iter(range(allowed))
                deadly.setattr(merge.os, "sendfile", dying(os.sendfile, steps, short=True))
                deadly.setattr(merge, "write_json", dying(merge.write_json, steps))
                deadly.setattr(merge.os, "fsync", dying(os.fsync, steps))
                try:
                    merge_all(folder / "p.parts", folder / "p", records, max_bytes=max_bytes)
                except Killed:
                    continue
        outputs = merge_all(folder / "p.parts", folder / "p", records, max_bytes=max_bytes)
    whole = [ids for part in plan for ids in part]
    for output in outputs:
        expected = builder_bytes(folder / "expected", whole[output.first : output.end])
        assert contents(output.prefix) == expected


def dying(function, steps, short=False):
    def call(*arguments):
        if next(steps, None) is None:
            raise Killed
        if short:  # sendfile(out, in, offset, count) may copy less than it was asked for
            arguments = (*arguments[:3], min(arguments[3], 5))
        return function(*arguments)

    return call


def test_an_altered_part_is_named(tmp_path):
    records = make_parts(tmp_path / "p.parts", [[[1, 2]], [[3]]])
    (tmp_path / "p.parts" / "000001.bin").write_bytes(b"\0\0\0\0")
    with pytest.raises(DataError, match=r"000001\.bin is missing or altered"):
        merge_all(tmp_path / "p.parts", tmp_path / "p", records)
    assert not (tmp_path / "p.idx").exists()


def test_a_part_without_a_record_does_not_exist(tmp_path):
    folder = tmp_path / "p.parts"
    make_parts(folder, [[[1]], [[2]]])
    with PartWriter(folder, 2, INT32) as writer:
        writer.add(np.asarray([7], np.int32), np.asarray([1], np.int32))
    assert sorted(finished_parts(folder, 3)) == [0, 1]
    assert not list(folder.glob("*.tmp"))


def test_a_broken_record_is_one_sentence(tmp_path):
    folder = tmp_path / "p.parts"
    make_parts(folder, [[[1]]])
    (folder / "000000.json").write_text('{"shard": 0, "pie')
    with pytest.raises(DataError, match=r"000000\.json is no record of a part"):
        finished_parts(folder, 1)


def test_records_come_back_as_they_were(tmp_path):
    (written,) = make_parts(tmp_path / "p.parts", [[[1, 2, 3]]])
    (read,) = finished_parts(tmp_path / "p.parts", 1).values()
    assert dataclasses.asdict(read) == dataclasses.asdict(written)
    assert set(read.sha256) == {".bin", ".len"}
