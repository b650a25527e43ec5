"""One buffer ahead: the same items in the same order, on streams that wait for one another."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from megatron_dream import device
from megatron_dream.data.ahead import CopiedAhead
from megatron_dream.errors import DataError


def counted(items: list[Any], taken: list[int]) -> Iterator[Any]:
    for number, item in enumerate(items):
        taken.append(number)
        yield item


def test_items_come_in_order_and_one_ahead() -> None:
    error = DataError("row 7 is bad")
    items = [torch.tensor([1, 2]), torch.tensor([3]), error, torch.tensor([4])]
    taken: list[int] = []
    ahead = CopiedAhead(counted(items, taken), torch.device("cpu"))
    assert taken == []
    found = []
    for number, item in enumerate(ahead):
        found.append(item)
        assert len(taken) == min(number + 2, 4)
    assert found[2] is error
    assert [one.tolist() for one in found if isinstance(one, torch.Tensor)] == [[1, 2], [3], [4]]
    with pytest.raises(StopIteration):
        next(ahead)


class Buffer:
    """Notes on which stream it is copied and for whom its memory is kept."""

    is_cuda = True

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def to(self, target: Any, non_blocking: bool = False) -> Any:
        assert non_blocking and target == torch.device("cuda", 0)
        self.log.append(f"copy {self.name}")
        return self

    def record_stream(self, stream: Any) -> None:
        self.log.append(f"keep {self.name} for {stream.name}")


class Stream:
    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def wait_stream(self, other: Any) -> None:
        self.log.append(f"{self.name} waits for {other.name}")


def test_the_computing_stream_waits_for_a_copy_before_the_next_one_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Were the next copy begun first, the step would wait for it too."""
    log: list[str] = []

    @contextlib.contextmanager
    def on_stream(stream: Any) -> Iterator[None]:
        log.append(f"on {stream.name}")
        yield

    monkeypatch.setattr(device, "side_stream", lambda: Stream("copies", log))
    monkeypatch.setattr(device, "current_stream", lambda: Stream("step", log))
    monkeypatch.setattr(device, "on_stream", on_stream)
    ahead = CopiedAhead(iter([Buffer("a", log), Buffer("b", log)]), torch.device("cuda", 0))
    next(ahead)
    begin = ["on copies", "copy a", "step waits for copies", "keep a for step"]
    assert log == [*begin, "on copies", "copy b"]
    next(ahead)
    assert log[6:] == ["step waits for copies", "keep b for step"]
