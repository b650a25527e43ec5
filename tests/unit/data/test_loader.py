"""Which samples reach which rank, from any position, with and without worker processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron_dream.data.build import build_streams
from megatron_dream.data.loader import (
    MicroBatchIterator,
    merge_ranges,
    micro_batch_samples,
    ordinal_of,
)
from megatron_dream.data.stream import NoisedStream
from megatron_dream.diffusion.rows import PREDICTED
from megatron_dream.errors import DataError
from tests.unit.data.sft.random_samples import stream_of
from tests.unit.data.token_files import (
    MASK,
    FakeTokenizer,
    random_documents,
    run_config,
    write_tokens,
)


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> NoisedStream:
    folder = tmp_path_factory.mktemp("tokens")
    prefixes = [write_tokens(folder / f"{k}", random_documents(40, 40, seed=k)) for k in range(2)]
    config = run_config(folder, *prefixes, weights=[0.7, 0.3], document_masks=True)
    return build_streams(config, FakeTokenizer(), train_samples=96)[0]  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12))), st.integers(0, 40))
def test_skipped_ordinals_never_come(ranges: list[tuple[int, int]], count: int) -> None:
    skip = merge_ranges([(start, start + length) for start, length in ranges])
    skipped = {n for start, stop in skip for n in range(start, stop)}
    assert skipped == {n for start, length in ranges for n in range(start, start + length)}
    expected = [n for n in range(200) if n not in skipped][:count]
    assert [ordinal_of(sample, skip) for sample in range(count)] == expected


@pytest.mark.parametrize("bad", [(-1, 3), (5, 4)])
def test_impossible_ranges_are_refused(bad: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="0 <= start <= stop"):
        merge_ranges([bad])


@given(st.integers(0, 1000), st.integers(1, 5), st.integers(1, 5), st.integers(1, 5))
def test_ranks_and_micro_batches_share_a_step(consumed: int, m: int, r: int, b: int) -> None:
    samples = [
        sample
        for micro_batch in range(m)
        for rank in range(r)
        for sample in micro_batch_samples(
            consumed, micro_batch, dp_rank=rank, dp_size=r, micro_batch_size=b
        )
    ]
    assert samples == list(range(consumed, consumed + m * r * b))


def global_batches(stream: NoisedStream, dp_size: int, size: int, **more: object) -> list[dict]:
    """Every step's rows by ordinal: label, weight and token sums of 12 rows a step."""
    per_rank = 12 // (dp_size * size)
    iterators = [
        MicroBatchIterator(
            stream,
            micro_batch_size=size,
            num_microbatches=per_rank,
            dp_rank=rank,
            dp_size=dp_size,
            **more,  # type: ignore[arg-type]
        )
        for rank in range(dp_size)
    ]
    steps = []
    while iterators[0].num_left:
        step: dict[int, tuple] = {}
        for iterator in iterators:
            for _ in range(per_rank):
                batch = next(iterator)
                for j, n in enumerate(batch["ordinal"].tolist()):
                    row = (batch["tokens"][j], batch["labels"][j], batch["loss_weight"][j])
                    step[n] = tuple(part.numpy().tobytes() for part in row)
        steps.append(step)
    for iterator in iterators:
        with pytest.raises(StopIteration):
            next(iterator)
    return steps


def test_the_same_global_batches_on_every_layout(stream: NoisedStream) -> None:
    expected = global_batches(stream, 1, 1)
    assert [sorted(step) for step in expected] == [
        list(range(12 * k, 12 * k + 12)) for k in range(8)
    ]
    for dp_size, size in ((1, 4), (2, 1), (2, 3), (3, 2), (4, 3)):
        assert global_batches(stream, dp_size, size) == expected


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resume_at_a_sample_replays_nothing(stream: NoisedStream, num_workers: int) -> None:
    straight = global_batches(stream, 2, 2)
    resumed = global_batches(stream, 2, 2, consumed=36, num_workers=num_workers)
    assert resumed == straight[3:]


def test_skipped_ranges_shift_what_follows(stream: NoisedStream) -> None:
    plain = global_batches(stream, 2, 3)
    skipping = global_batches(stream, 2, 3, skip_ranges=[(24, 36)])
    assert skipping == plain[:2] + plain[3:]
    assert global_batches(stream, 2, 3, skip_ranges=[(24, 36)], consumed=24) == plain[3:]


def test_only_whole_global_batches_are_given(stream: NoisedStream) -> None:
    assert len(global_batches(stream, 2, 3, stop_ordinal=47)) == 3
    assert len(global_batches(stream, 2, 3, consumed=90)) == 0


@pytest.mark.parametrize("stage", ["first", "middle", "last"])
def test_pipeline_stages_see_the_same_rows(stream: NoisedStream, stage: str) -> None:
    whole = MicroBatchIterator(stream, micro_batch_size=3, num_microbatches=2)
    part = MicroBatchIterator(
        stream,
        micro_batch_size=3,
        num_microbatches=2,
        is_first_stage=stage == "first",
        is_last_stage=stage == "last",
    )
    for _ in range(5):
        expected, found = next(whole), next(part)
        for name, value in found.items():
            if stage == "middle" and "flags" in name:
                expected[name] = expected[name] & 5  # who predicts does not matter to attention
            assert torch.equal(value, expected[name]), name
        assert ("labels" in found, "tokens" in found) == (stage == "last", stage == "first")


def test_virtual_chunks_have_independent_iterators(stream: NoisedStream) -> None:
    one, two = (MicroBatchIterator(stream, num_workers=1, num_microbatches=2) for _ in range(2))
    first = [next(one)["ordinal"].item() for _ in range(4)]
    second = [next(two)["ordinal"].item() for _ in range(4)]
    one.close()
    two.close()
    assert first == second == [0, 1, 2, 3]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_bad_data_is_one_sentence_from_workers_too(tmp_path: Path, num_workers: int) -> None:
    documents = random_documents(30, 40)
    documents[3][0] = MASK
    config = run_config(tmp_path, write_tokens(tmp_path / "bad", documents))
    tokenizer = FakeTokenizer()
    bad = build_streams(config, tokenizer, train_samples=100)[0]  # type: ignore[arg-type]
    iterator = MicroBatchIterator(bad, num_workers=num_workers)
    with pytest.raises(DataError, match=r"document 3 ") as error:
        for _ in iterator:
            pass
    assert "\n" not in str(error.value) and "Traceback" not in str(error.value)
    assert iterator.num_left == 0


def test_workers_leave_signals_to_the_training_process(stream: NoisedStream) -> None:
    iterator = MicroBatchIterator(stream, num_workers=2)
    next(iterator)
    workers = iterator._buffers._workers  # type: ignore[union-attr]
    for worker in workers:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            os.kill(worker.pid, number)
    assert [next(iterator)["ordinal"].item() for _ in range(40)] == list(range(1, 41))
    assert all(worker.is_alive() for worker in workers)
    iterator.close()
    assert not any(worker.is_alive() for worker in workers)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_micro_batch_is_as_wide_as_its_longest_row(num_workers: int) -> None:
    """Rounded up to the unit; ranks that do not read know it too, and so do middle stages."""
    stream = stream_of(truncation="off")
    common = {"micro_batch_size": 3, "stop_ordinal": 60, "width_unit": 4}
    batches = list(MicroBatchIterator(stream, num_workers=num_workers, **common))  # type: ignore[arg-type]
    widths = [batch["tokens"].shape[1] for batch in batches]
    longest = [max(stream.row_length(n) for n in range(i, i + 3)) for i in range(0, 60, 3)]
    assert widths == [min(-(-length // 4) * 4, 40) for length in longest] and len(set(widths)) > 3
    for first, last in ((True, False), (False, False)):
        place = {"is_first_stage": first, "is_last_stage": last}
        others = list(MicroBatchIterator(stream, **place, **common))  # type: ignore[arg-type]
        keep = ~torch.tensor(PREDICTED, dtype=torch.uint8)
        for batch, other in zip(batches, others, strict=True):
            expected = batch["flags_full"] if first else batch["flags_full"] & keep
            assert torch.equal(other["flags_full"], expected)
    silent = MicroBatchIterator(stream, tp_rank=1, **common)  # type: ignore[arg-type]
    assert [silent._dataset.layout_of(n).sequence_length for n in range(20)] == widths


DYING_RUN = """
import numpy as np
from megatron_dream.data.loader import MicroBatchIterator
from megatron_dream.data.stream import Row

class Rows:
    sequence_length, has_whole_rows, has_one_width, pad_id = 4, True, True, 0
    def __len__(self):
        return 10**6
    def __getitem__(self, n):
        zeros = np.zeros(4, dtype=np.int32)
        return Row(zeros, zeros, zeros, zeros, 1.0, 0, n, 3)

iterator = MicroBatchIterator(Rows(), num_workers=2)
next(iterator)
print(*[worker.pid for worker in iterator._buffers._workers], flush=True)
raise RuntimeError("the run dies while its loader works")
"""


def test_a_run_that_dies_is_not_held_by_its_workers(repository_root: Path) -> None:
    """multiprocessing ends daemons by SIGTERM at exit and joins them, but they ignore it."""
    command = [sys.executable, "-c", DYING_RUN]
    result = subprocess.run(
        command, cwd=repository_root, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 1 and "the run dies" in result.stderr
    workers = [int(pid) for pid in result.stdout.split()]
    assert len(workers) == 2
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
