"""Which ranks are called slow."""

from __future__ import annotations

from megatron_dream.training.watch.stragglers import Measured, slow_ranks

HOSTS = [f"n{rank // 4}" for rank in range(8)]


def measured(**changes: tuple[float, float]) -> list[Measured]:
    """Eight ranks, the second pipeline stage twice as heavy; changes of (own, probe) by ``r3``."""
    ranks = []
    for rank in range(8):
        own, probe = changes.get(f"r{rank}", (1.0 + rank // 4, 0.01))
        ranks.append(Measured(rank, rank // 4, own, 0.2, probe))
    return ranks


def test_stages_of_unlike_weight_are_no_stragglers() -> None:
    assert slow_ranks(measured(), 1.5, HOSTS) == []


def test_a_rank_is_compared_with_its_stage() -> None:
    (found,) = slow_ranks(measured(r2=(1.6, 0.01)), 1.5, HOSTS)
    assert (found.rank, found.host, found.measure, found.median) == (2, "n0", "own", 1.0)
    assert "rank 2 on n0 takes 1.6 s to its own work (0.2 s of it waiting for data)" in str(found)
    assert slow_ranks(measured(r2=(1.4, 0.01)), 1.5, HOSTS) == []


def test_a_slow_device_is_named_where_its_replica_waits_for_it() -> None:
    waiting = {f"r{rank}": (3.0, 0.01) for rank in range(8)}
    (found,) = slow_ranks(measured(**waiting | {"r5": (3.0, 0.02)}), 1.5, HOSTS)
    assert (found.rank, found.measure) == (5, "probe")


def test_of_two_ranks_the_slower_is_compared_with_the_faster() -> None:
    pair = [Measured(0, 0, 1.0, 0.0, 0.01), Measured(1, 0, 2.0, 0.0, 0.01)]
    assert [one.rank for one in slow_ranks(pair, 1.5, ["a", "b"])] == [1]


def test_the_slowest_comes_first_and_each_once() -> None:
    found = slow_ranks(measured(r0=(2.0, 0.05), r6=(9.0, 0.01)), 1.5, HOSTS)
    assert [(one.rank, one.measure) for one in found] == [(6, "own"), (0, "own")]
