"""The packed buffer, what each pipeline stage gets, slices for context parallelism, segments."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from megatron_dream.data.batch import (
    DEAD,
    SEGMENT_START,
    BatchLayout,
    broadcast,
    cu_seqlens_of,
    segment_ids_of,
    to_batch,
    zigzag_slice,
)
from megatron_dream.data.stream import Row
from megatron_dream.model.masks import zigzag_positions

PER_ROW = ("t", "source", "ordinal", "num_maskable")


def random_rows(count: int, length: int) -> list[Row]:
    rng = np.random.default_rng(count * length)
    rows = []
    for n in range(count):
        flags = rng.integers(0, 4, length).astype(np.uint8)
        flags[0] |= 1
        rows.append(
            Row(
                tokens=rng.integers(0, 2**31, length).astype(np.int32),
                labels=rng.integers(0, 2**31, length).astype(np.int32),
                loss_weight=rng.random(length, dtype=np.float32),
                flags=flags,
                t=float(np.float32(rng.random())),
                source=int(rng.integers(0, 32767)),
                ordinal=2**40 + n,
                num_maskable=int(rng.integers(0, length)),
            )
        )
    return rows


@pytest.mark.parametrize(("count", "length"), [(1, 1), (3, 7), (4, 64)])
def test_what_is_packed_comes_out(count: int, length: int) -> None:
    rows, layout = random_rows(count, length), BatchLayout(count, length)
    buffer = layout.pack(rows)
    assert buffer.dtype == torch.uint8 and buffer.numel() == layout.num_bytes
    batch = to_batch(buffer, layout)
    for name in layout.names:
        expected = torch.from_numpy(np.stack([np.asarray(getattr(row, name)) for row in rows]))
        assert torch.equal(batch[name], expected.to(batch[name].dtype))
    assert batch["tokens"].dtype == batch["labels"].dtype == torch.int64
    assert torch.equal(batch["flags_full"], batch["flags"])


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 5))
def test_shorter_rows_are_filled_with_dead_padding(lengths: list[int], room: int) -> None:
    width = max(lengths) + room
    rows = [random_rows(1, length)[0] for length in lengths]
    layout = BatchLayout(len(rows), 64, pad_id=7).of_width(width)
    buffer = layout.pack(rows)
    assert BatchLayout(len(rows), 64, pad_id=7).of_buffer(buffer) == layout
    batch = to_batch(buffer, layout)
    for index, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        for name, dead in (("tokens", 7), ("labels", 0), ("loss_weight", 0), ("flags", DEAD)):
            found = batch[name][index].tolist()
            assert found[:length] == getattr(row, name).tolist()
            rest = [dead] * (width - length)
            if name == "flags" and rest:
                rest[0] |= SEGMENT_START
            assert found[length:] == rest
    middle = BatchLayout(len(rows), width, False, False)
    assert torch.equal(middle.pack_flags([r.flags for r in rows]), batch["flags"].view(-1))


def test_stages_get_what_they_need() -> None:
    def names(first: bool, last: bool) -> set[str]:
        return set(BatchLayout(2, 8, first, last).names)

    assert names(True, False) == {"tokens", "flags"}
    assert names(False, False) == {"flags"}
    assert names(False, True) == {"labels", "loss_weight", "flags", *PER_ROW}
    assert names(True, True) == names(True, False) | names(False, True)
    middle = BatchLayout(2, 8, False, False)
    assert middle.num_bytes == 16 and not middle.needs_noise
    rows = random_rows(2, 8)
    assert torch.equal(middle.pack_flags([r.flags for r in rows]), middle.pack(rows))


@pytest.mark.parametrize("cp_size", [1, 2, 4])
def test_slices_follow_the_attentions_order_and_lose_nothing(cp_size: int) -> None:
    rows, layout = random_rows(3, 16), BatchLayout(3, 16)
    whole = to_batch(layout.pack(rows), layout)
    seen = torch.zeros(16, dtype=torch.int64)
    for rank in range(cp_size):
        positions = zigzag_positions(16, rank, cp_size)
        seen[positions] += 1
        own = to_batch(layout.pack(rows), layout, cp_rank=rank, cp_size=cp_size)
        for name in ("tokens", "labels", "loss_weight", "flags"):
            assert torch.equal(own[name], whole[name][:, positions])
        for name in (*PER_ROW, "flags_full", "cu_seqlens"):
            assert torch.equal(own[name], whole[name])
    assert (seen == 1).all()


def test_rows_that_cannot_be_sliced_are_refused() -> None:
    with pytest.raises(ValueError, match="10 tokens cannot be cut into 2 x CP = 4"):
        zigzag_slice(torch.zeros(1, 10), 0, 2)
    with pytest.raises(ValueError, match="2 rows do not make a micro-batch of 3"):
        BatchLayout(3, 4).pack(random_rows(2, 4))


def test_segments_from_flags() -> None:
    flags = torch.tensor([[1, 0, 3, 0], [3, 2, 0, 5]], dtype=torch.uint8)
    assert cu_seqlens_of(flags).tolist() == [0, 2, 4, 7, 8]
    assert cu_seqlens_of(flags).dtype == torch.int32
    assert segment_ids_of(flags).tolist() == [[0, 0, 1, 1], [0, 0, 0, 1]]
    layout = BatchLayout(2, 4, False, False)
    whole = torch.tensor([1, 0, 0, 0] * 2, dtype=torch.uint8)
    known = to_batch(whole, layout, has_whole_rows=True)["cu_seqlens"]
    assert torch.equal(known, to_batch(whole, layout)["cu_seqlens"])


def _rank(rank: int, store: str, answers: Any) -> None:
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
    layout = BatchLayout(2, 8)
    buffer = layout.pack(random_rows(2, 8)) if rank == 0 else None
    received = broadcast(
        buffer,
        layout,
        group=dist.group.WORLD,
        source=0,
        is_reader=rank == 0,
        device=torch.device("cpu"),
    )
    answers.put((rank, received.numpy().tobytes()))
    dist.barrier()
    dist.destroy_process_group()


def test_a_tensor_parallel_group_gets_the_readers_buffer(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    ranks = [
        context.Process(target=_rank, args=(rank, str(tmp_path / "store"), answers))
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    found = dict(answers.get(timeout=60) for _ in ranks)
    for process in ranks:
        process.join(60)
    expected = BatchLayout(2, 8).pack(random_rows(2, 8)).numpy().tobytes()
    assert found == {0: expected, 1: expected}


def test_a_reader_without_a_buffer_is_a_bug() -> None:
    with pytest.raises(ValueError, match="reading rank"):
        broadcast(
            None,
            BatchLayout(1, 4),
            group=None,
            source=0,
            is_reader=True,
            device=torch.device("cpu"),
        )
