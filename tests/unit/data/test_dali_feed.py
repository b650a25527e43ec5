"""The DALI loader against torch's: the same bytes, the same errors, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megatron_dream.config.schema import DataConfig
from megatron_dream.data.batch import BatchLayout
from megatron_dream.data.build import build_streams
from megatron_dream.data.dali_feed import DaliFeed
from megatron_dream.data.loader import MicroBatchIterator, PackedMicroBatches
from megatron_dream.data.stream import NoisedStream, Row
from megatron_dream.errors import DataError, MissingDependencyError
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


@pytest.fixture
def dali() -> None:
    pytest.importorskip(
        "nvidia.dali", reason="needs DALI: pip install 'megatron-dream[dali]'", exc_type=ImportError
    )


class HangingRows:
    sequence_length, has_whole_rows, has_one_width, pad_id = 64, True, True, 0

    def __getitem__(self, n: int) -> Row:
        time.sleep(3600 if n >= 12 else 0)
        row = np.zeros(64, dtype=np.int32)
        return Row(row, row, row, row, 1.0, 0, n, 3)  # type: ignore[arg-type]


DYING_RUN = """
import os
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

iterator = MicroBatchIterator(Rows(), num_workers=2, loader="dali")
for _ in range(100):
    next(iterator)
print(*[worker.pid for worker in iterator._buffers.workers], flush=True)
"""


def micro_batches_of(stream: NoisedStream) -> PackedMicroBatches:
    layout = BatchLayout(3, stream.sequence_length)
    return PackedMicroBatches(
        stream, layout, [], consumed=0, num_microbatches=2, dp_rank=0, dp_size=1
    )


def batches(stream: NoisedStream, **options: Any) -> list[dict[str, torch.Tensor]]:
    iterator = MicroBatchIterator(stream, micro_batch_size=3, num_microbatches=2, **options)
    try:
        return list(iterator)
    finally:
        iterator.close()


def assert_same(found: list[dict], expected: list[dict]) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert list(one) == list(other)
        for name, value in one.items():
            assert value.dtype == other[name].dtype and torch.equal(value, other[name]), name


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that ended and was not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def test_without_dali_the_error_says_what_to_install(
    stream: NoisedStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(MissingDependencyError, match=r"megatron-dream\[dali\]") as error:
        MicroBatchIterator(stream, loader="dali")
    assert "\n" not in str(error.value) and "data.loader" in str(error.value)
    with pytest.raises(MissingDependencyError):  # on ranks that read nothing too
        MicroBatchIterator(stream, loader="dali", tp_rank=1)


def test_torch_is_the_default() -> None:
    assert DataConfig().loader == "torch"


@pytest.mark.acceptance
@pytest.mark.usefixtures("dali")
class TestWithDali:
    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_micro_batches_of_different_widths(self, num_workers: int) -> None:
        rows = stream_of(truncation="off")
        common = {"stop_ordinal": 60, "width_unit": 2}
        expected = batches(rows, **common)  # type: ignore[arg-type]
        found = batches(rows, loader="dali", num_workers=num_workers, **common)  # type: ignore[arg-type]
        assert_same(found, expected)
        assert len({batch["tokens"].shape for batch in found}) > 3

    @pytest.mark.parametrize("num_workers", [0, 2])
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"consumed": 36},
            {"skip_ranges": [(5, 9), (24, 36)]},
            {"consumed": 12, "skip_ranges": [(20, 21)], "stop_ordinal": 77},
            {"dp_rank": 1, "dp_size": 2},
            {"cp_rank": 1, "cp_size": 2},
            {"is_first_stage": False},
            {"is_last_stage": False},
            {"is_first_stage": False, "is_last_stage": False},  # flags only
        ],
        ids=str,
    )
    def test_the_same_bytes(
        self, stream: NoisedStream, num_workers: int, options: dict[str, Any]
    ) -> None:
        found = batches(stream, loader="dali", num_workers=num_workers, **options)
        assert_same(found, batches(stream, num_workers=num_workers, **options))

    def test_spawned_workers_give_the_same(self, stream: NoisedStream) -> None:
        """As on a machine with a GPU, where DALI forks nothing."""
        dataset = micro_batches_of(stream)
        feed = DaliFeed(
            dataset, 6, torch.device("cpu"), num_workers=2, prefetch_factor=2, start_method="spawn"
        )
        try:
            for number in range(6):
                assert torch.equal(next(feed), dataset[number])
        finally:
            feed.close()

    @pytest.mark.parametrize("num_workers", [0, 1])
    def test_model_chunks_have_feeds_of_their_own(
        self, stream: NoisedStream, num_workers: int
    ) -> None:
        """Two chunks read alternately, as an interleaved schedule does."""
        stages = ({"is_last_stage": False}, {"is_first_stage": False})
        expected = [batches(stream, **stage) for stage in stages]
        feeds = [
            MicroBatchIterator(
                stream,
                micro_batch_size=3,
                num_microbatches=2,
                loader="dali",
                num_workers=num_workers,
                **stage,
            )
            for stage in stages
        ]
        found: list[list[dict]] = [[], []]
        for _ in expected[0]:
            for chunk, feed in enumerate(feeds):
                found[chunk].append(next(feed))
        for feed in feeds:
            feed.close()
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_a_batch_given_does_not_change_later(
        self, stream: NoisedStream, num_workers: int
    ) -> None:
        """DALI uses its memory again; a batch must be a copy of it."""
        iterator = MicroBatchIterator(stream, loader="dali", num_workers=num_workers)
        given, copies = [], []
        for batch in iterator:
            given.append(batch)
            copies.append({name: value.clone() for name, value in batch.items()})
        assert_same(given, copies)

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_bad_data_is_the_same_sentence_at_the_same_batch(
        self, tmp_path: Path, num_workers: int
    ) -> None:
        documents = random_documents(30, 40)
        documents[3][0] = MASK
        config = run_config(tmp_path, write_tokens(tmp_path / "bad", documents))
        tokenizer = FakeTokenizer()
        bad = build_streams(config, tokenizer, train_samples=100)[0]  # type: ignore[arg-type]
        outcomes = []
        for loader in ("torch", "dali"):
            iterator, given = MicroBatchIterator(bad, loader=loader, num_workers=num_workers), 0
            with pytest.raises(DataError, match="document 3 ") as error:
                for _ in iterator:
                    given += 1
            assert iterator.num_left == 0
            outcomes.append((given, str(error.value)))
        assert outcomes[0] == outcomes[1] and "\n" not in outcomes[1][1]

    def test_workers_leave_signals_to_the_training_process(self, stream: NoisedStream) -> None:
        iterator = MicroBatchIterator(stream, loader="dali", num_workers=2)
        workers = iterator._buffers.workers  # type: ignore[union-attr]
        assert len(workers) == 2
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            for worker in workers:  # at their start, when the handlers are the run's
                os.kill(worker.pid, number)
        next(iterator)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            for worker in workers:
                os.kill(worker.pid, number)
        assert [next(iterator)["ordinal"].item() for _ in range(40)] == list(range(1, 41))
        assert all(worker.is_alive() for worker in workers)
        iterator.close()
        assert not any(worker.is_alive() for worker in workers)

    def test_close_does_not_wait_for_a_worker_that_hangs(self) -> None:
        dataset = micro_batches_of(HangingRows())  # type: ignore[arg-type]
        feed = DaliFeed(dataset, 9, torch.device("cpu"), num_workers=1, prefetch_factor=4)
        next(feed)
        time.sleep(1)  # the worker has come to the fifth micro-batch
        workers, started = feed.workers, time.monotonic()
        assert len(workers) == 1
        feed.close()
        assert time.monotonic() - started < 20 and not workers[0].is_alive()
        with pytest.raises(StopIteration):
            next(feed)

    @pytest.mark.parametrize("end", ["raise RuntimeError('it dies')", "os.kill(os.getpid(), 9)"])
    def test_no_worker_outlives_a_run(self, repository_root: Path, end: str) -> None:
        result = subprocess.run(
            [sys.executable, "-c", DYING_RUN + end],
            cwd=repository_root,
            stdout=subprocess.PIPE,
            text=True,
            timeout=120,
        )
        assert result.returncode in (1, -signal.SIGKILL)
        workers = [int(pid) for pid in result.stdout.split()]
        assert len(workers) == 2
        latest = time.monotonic() + 30
        while any(is_alive(pid) for pid in workers) and time.monotonic() < latest:
            time.sleep(0.2)
        assert not any(is_alive(pid) for pid in workers)
