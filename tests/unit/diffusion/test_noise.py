"""The bits of the noise, their independence of who draws them, and the distribution of times.

golden_noise.json was written by noise.py once its words agreed with the reference below.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from megatron_dream.diffusion import noise
from megatron_dream.diffusion.noise import NoiseStream, philox_words, stage_word, unit_floats

GOLDEN = json.loads((Path(__file__).parent / "golden_noise.json").read_text())
BLEND = [0.17, 0.02, 0.05, 0.025, 0.025, 0.005, 0.005, 0.15, 0.40, 0.15]  # SPEC 4


def philox4x64(key: tuple[int, int], counter: tuple[int, int, int, int]) -> list[int]:
    """Philox4x64-10 from its paper (Salmon et al., 2011), as a reference."""
    low64 = 2**64 - 1
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(10):
        p0, p1 = c0 * 0xD2E7470EE14C6C93, c2 * 0xCA5A826395121157
        c0, c1, c2, c3 = (p1 >> 64) ^ c1 ^ k0, p1 & low64, (p0 >> 64) ^ c3 ^ k1, p0 & low64
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & low64, (k1 + 0xBB67AE8584CAA73B) & low64
    return [c0, c1, c2, c3]


@settings(max_examples=30, deadline=None)
@given(
    st.integers(-(2**63), 2**64 - 1),
    st.integers(0, 2**40),
    st.integers(0, 3),
    st.integers(1, 23),
)
def test_words_follow_the_documented_layout(seed: int, n: int, purpose: int, count: int) -> None:
    word = int.from_bytes(hashlib.sha256(b"pretrain/train").digest()[:8], "little")
    expected: list[int] = []
    for block in range(-(-count // 4)):
        expected += philox4x64((seed % 2**64, word), (1 + block, n, purpose, 0))
    found = philox_words((seed, stage_word("pretrain", "train")), n, purpose, count)
    assert found.tolist() == expected[:count]


def test_bits_are_those_of_the_golden_file() -> None:
    for case in GOLDEN["streams"]:
        stream = NoiseStream(case["seed"], case["stage"], case["split"])
        assert [hex(x) for x in philox_words(stream.key, case["n"], 0, 5)] == case["words"]
        assert stream.positions(case["n"], 5).tolist() == case["u"]
        assert stream.time(case["n"]) == case["t"]
        assert stream.time(case["n"], low_discrepancy=False) == case["t_independent"]
        assert stream.row_length(case["n"], 2048, 1.0) == case["random_length"]


def test_own_line_to_the_unit_interval() -> None:
    words = np.array([0, 2**11 - 1, 2**11, 2**64 - 1], dtype=np.uint64)
    assert unit_floats(words).tolist() == [0.0, 0.0, 2.0**-53, 1.0 - 2.0**-53]


def test_noise_differs_between_ordinals_stages_splits_and_seeds() -> None:
    streams = [NoiseStream(1), NoiseStream(2), NoiseStream(1, "sft"), NoiseStream(1, split="valid")]
    drawn = [stream.positions(n, 16).tobytes() for stream in streams for n in (0, 1, 2**33)]
    assert len(set(drawn)) == len(drawn)
    assert NoiseStream(1).positions(7, 16).tolist() == NoiseStream(1).positions(7, 32)[:16].tolist()


def test_each_run_of_64_has_one_time_in_each_64th() -> None:
    stream, t_min = NoiseStream(5), 1e-3
    for run in (0, 3, 10**9):
        times = [stream.time(64 * run + i, t_min=t_min) for i in range(64)]
        cells = np.floor((np.array(times) - t_min) / (1 - t_min) * 64).astype(int)
        assert sorted(cells) == list(range(64))
        assert not (np.diff(cells) == 1).all()


def times_per_source(rows_per_batch: int, batches: int) -> list[np.ndarray]:
    """Times that each source of SPEC 4's blend meets, in megatron-core's greedy order."""
    weights = np.array(BLEND) / sum(BLEND)
    counts = np.zeros(10)
    stream = NoiseStream(1234)
    times: list[list[float]] = [[] for _ in BLEND]
    for n in range(rows_per_batch * batches):
        source = int(np.argmax(weights * max(n, 1.0) - counts))
        counts[source] += 1
        times[source].append(stream.time(n))
    return [np.array(t) for t in times]


def test_time_is_uniform_in_every_source_of_the_blend() -> None:
    """400 batches of 64. The blend is periodic (period 200), runs are of 64: without the
    permutation a source of weight 0.005 would meet 8 of the 64 cells, for ever in the same turn."""
    for source, times in enumerate(times_per_source(64, 400)):
        assert times.size > 100
        uniform = kstest(times, "uniform", args=(1e-3, 1 - 1e-3))
        assert uniform.pvalue > 1e-3, (source, times.size, uniform)
        cells = np.bincount(((times - 1e-3) / (1 - 1e-3) * 8).astype(int), minlength=8)
        assert chisquare(cells).pvalue > 1e-3, (source, cells)


def test_each_place_in_a_batch_meets_all_times() -> None:
    """Rank 0 of 8 takes ordinals 0..7 of each 64: without the permutation, the smallest times."""
    stream = NoiseStream(1234)
    for rank in range(8):
        own = [stream.time(64 * k + 8 * rank + j) for k in range(100) for j in range(8)]
        assert kstest(own, "uniform", args=(1e-3, 1 - 1e-3)).pvalue > 1e-3


def test_time_without_permutation_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "_run_permutation", lambda key, run: tuple(range(64)))
    with pytest.raises(AssertionError):
        test_each_place_in_a_batch_meets_all_times()
    with pytest.raises(AssertionError):
        test_time_is_uniform_in_every_source_of_the_blend()


def test_random_length_has_its_share_and_range() -> None:
    stream = NoiseStream(3)
    lengths = np.array([stream.row_length(n, 16, 0.25) for n in range(4000)])
    assert lengths.min() == 1 and lengths.max() == 16
    assert abs((lengths < 16).mean() - 0.25 * 15 / 16) < 0.03
    assert stream.row_length(0, 16, 0.0) == 16


@pytest.mark.parametrize("t_min", [-0.1, 1.0])
def test_impossible_arguments_are_refused(t_min: float) -> None:
    with pytest.raises(ValueError, match="t_min"):
        NoiseStream(1).time(0, t_min=t_min)
    with pytest.raises(ValueError, match="ordinal -1"):
        NoiseStream(1).positions(-1, 4)
