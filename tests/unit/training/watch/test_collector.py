"""Garbage is collected at the steps that are said, and at no other time."""

from __future__ import annotations

import gc
import weakref

from megatron_dream.training.watch.collector import Collector


class Knot:
    def __init__(self) -> None:
        self.itself = self


def test_cycles_go_at_the_interval_only() -> None:
    collector = Collector(3)
    collector.start()
    try:
        knot = weakref.ref(Knot())
        for step in (1, 2):
            [[] for _ in range(100_000)]  # Python's own count would collect here
            collector.step(step)
            assert knot() is not None and not gc.isenabled()
        collector.step(3)
        assert knot() is None and gc.get_freeze_count() > 0
    finally:
        collector.close()
    assert gc.isenabled() and gc.get_freeze_count() == 0


def test_zero_leaves_python_to_itself() -> None:
    collector = Collector(0)
    collector.start()
    assert gc.isenabled()
    collector.step(0)
    collector.close()
    assert gc.isenabled()
