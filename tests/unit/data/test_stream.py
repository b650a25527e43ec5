"""Streams built from token files: which text, which noise, and what refuses what."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kstest

from megatron_dream.config.schema import RunConfig, SourceConfig
from megatron_dream.data import stream as stream_module
from megatron_dream.data.build import build_streams
from megatron_dream.data.stream import NoisedStream, Row
from megatron_dream.diffusion.noise import NoiseStream
from megatron_dream.errors import ConfigError, DataError
from tests.unit.data.token_files import (
    BOS,
    EOD,
    MASK,
    FakeTokenizer,
    random_documents,
    run_config,
    write_tokens,
)

TOKENIZER = FakeTokenizer()


@pytest.fixture(scope="module")
def prefixes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two sources; the second holds the same documents as the first."""
    folder = tmp_path_factory.mktemp("tokens")
    documents = random_documents(60, 40)
    return [write_tokens(folder / name, documents) for name in ("one", "two")]


def built(config: RunConfig, samples: int = 400, **more: object) -> NoisedStream:
    return build_streams(config, TOKENIZER, train_samples=samples, **more)[0]  # type: ignore[arg-type]


def is_masked(row: Row) -> np.ndarray:
    return row.tokens == MASK


def same(one: Row, two: Row) -> bool:
    names = ("tokens", "labels", "loss_weight", "flags", "t", "source", "ordinal", "num_maskable")
    return all(np.array_equal(getattr(one, n), getattr(two, n)) for n in names)


def test_an_epoch_holds_every_row_once_behind_bos(tmp_path: Path, prefixes: list[Path]) -> None:
    stream = built(run_config(tmp_path, prefixes[0]))
    per_epoch = stream.rows.sources[0].rows_per_epoch
    tokens = np.fromfile(f"{prefixes[0]}.bin", dtype=np.uint16)
    assert per_epoch == tokens.size // 63
    epochs = [[stream.rows[e * per_epoch + i][0] for i in range(per_epoch)] for e in range(3)]
    as_sets = [{row.tobytes() for row in epoch} for epoch in epochs]
    assert len(as_sets[0]) == per_epoch and as_sets[0] == as_sets[1] == as_sets[2]
    assert [r.tobytes() for r in epochs[0]] != [r.tobytes() for r in epochs[1]]
    assert all(row[0] == BOS and row.dtype == np.int32 and row.size == 64 for row in epochs[0])
    counts = np.bincount(np.concatenate(epochs[0]), minlength=1000)[:998]
    missing = np.bincount(tokens, minlength=998)[:998] - counts
    assert missing.min() >= 0 and missing.sum() == tokens.size - 63 * per_epoch


def test_rows_without_bos_are_the_stream_alone(tmp_path: Path, prefixes: list[Path]) -> None:
    stream = built(run_config(tmp_path, prefixes[0], bos_per_sample=False))
    assert stream.rows.sources[0].row_tokens == 64
    assert stream.rows[0][0].size == 64 and BOS not in stream.rows[0][0]


def test_end_of_document_tokens_survive(tmp_path: Path, prefixes: list[Path]) -> None:
    """megatron-core's own items replace PAD = EOD by 0."""
    stream = built(run_config(tmp_path, prefixes[0]))
    assert sum((stream.rows[n][0] == EOD).sum() for n in range(20)) > 5


def repeated_masks(stream: NoisedStream, pairs: list[tuple[int, int]]) -> int:
    """How many pairs of ordinals have one row under one mask."""
    return sum(np.array_equal(is_masked(stream[a]), is_masked(stream[b])) for a, b in pairs)


def epoch_pairs(stream: NoisedStream) -> list[tuple[int, int]]:
    """Ordinals of the same text in the first two epochs of the first source."""
    texts: dict[bytes, int] = {}
    pairs = []
    for n in range(2 * stream.rows.sources[0].rows_per_epoch):
        text = stream.rows[n][0].tobytes()
        if text in texts:
            pairs.append((texts[text], n))
        texts.setdefault(text, n)
    return pairs


def test_one_row_has_another_mask_in_another_epoch(tmp_path: Path, prefixes: list[Path]) -> None:
    stream = built(run_config(tmp_path, prefixes[0]))
    pairs = epoch_pairs(stream)
    assert len(pairs) == stream.rows.sources[0].rows_per_epoch
    assert repeated_masks(stream, pairs) <= len(pairs) // 20  # two rows of tiny t can agree
    assert len({stream[n].t for pair in pairs for n in pair}) == 2 * len(pairs)


def source_pairs(stream: NoisedStream) -> list[tuple[int, int]]:
    """Ordinals at one local index of the two sources."""
    places = {stream.rows.order[n]: n for n in range(100)}
    return [(n, places[1, i]) for (s, i), n in places.items() if s == 0 and (1, i) in places]


def test_two_sources_at_one_local_index_have_different_masks(
    tmp_path: Path, prefixes: list[Path]
) -> None:
    stream = built(run_config(tmp_path, *prefixes))
    pairs = source_pairs(stream)
    assert len(pairs) > 40 and repeated_masks(stream, pairs) <= 2


def test_noise_by_local_index_would_be_caught(
    tmp_path: Path, prefixes: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = built(run_config(tmp_path, *prefixes))
    make = stream_module.make_row

    def by_local_index(
        x0: np.ndarray, lengths: list[int], dead: int, n: int, **more: object
    ) -> Row:
        return make(x0, lengths, dead, stream.rows.order[n][1], **more)  # type: ignore[arg-type]

    monkeypatch.setattr(stream_module, "make_row", by_local_index)
    pairs = source_pairs(stream)
    assert repeated_masks(stream, pairs) == len(pairs)


def test_a_blend_meets_uniform_times_and_equal_masks_on_ranks(
    tmp_path: Path, prefixes: list[Path]
) -> None:
    """Masked tokens of 4 data-parallel ranks over 1,000 steps of 64 rows, within 2%.

    A rank's 16,000 times have mean 1/2 and deviation 0.29, so their sum is known to 0.5%.
    """
    config = run_config(tmp_path, *prefixes, weights=[0.9, 0.1], sequence_length=32)
    stream = built(config, 64_000)
    masked, times = np.zeros(4), ([], [])
    for n in range(64_000):
        t = stream.noise.time(n)
        masked[n % 64 // 16] += (stream.noise.positions(n, 32)[1:] < t).sum()
        times[stream.rows.order[n][0]].append(t)
    assert masked.max() / masked.min() < 1.02
    assert all(kstest(t, "uniform", args=(1e-3, 0.999)).pvalue > 1e-3 for t in times)


def test_more_samples_change_none_of_those_planned(tmp_path: Path, prefixes: list[Path]) -> None:
    config = run_config(tmp_path, *prefixes, weights=[0.7, 0.3])
    short, _, hash_short = build_streams(config, TOKENIZER, train_samples=50)
    config.data.cache_folder = str(tmp_path / "other")
    long, _, hash_long = build_streams(config, TOKENIZER, train_samples=500)
    assert hash_short == hash_long
    assert all(same(short[n], long[n]) for n in range(50))
    assert len(short) == 50 and len(long) == 500


def test_index_hash_names_the_data(tmp_path: Path, prefixes: list[Path]) -> None:
    def hash_of(config: RunConfig) -> str:
        return build_streams(config, TOKENIZER, train_samples=4)[2]

    config = run_config(tmp_path, *prefixes)
    hashes = [hash_of(config)]
    moved = [write_tokens(tmp_path / p.name, random_documents(60, 40)) for p in prefixes]
    assert hash_of(run_config(tmp_path, *moved)) == hashes[0]  # same content elsewhere
    for change in ({"seed": 2}, {"sequence_length": 32}, {"document_masks": True}):
        hashes.append(hash_of(run_config(tmp_path, *prefixes, **change)))
    hashes.append(hash_of(run_config(tmp_path, *prefixes, weights=[2.0, 1.0])))
    hashes.append(hash_of(run_config(tmp_path, *reversed(prefixes))))
    write_tokens(tmp_path / "one", random_documents(60, 40, seed=1))
    hashes.append(hash_of(run_config(tmp_path, tmp_path / "one", prefixes[1])))
    assert len(set(hashes)) == len(hashes)


def test_a_pickled_stream_gives_the_same_rows(tmp_path: Path, prefixes: list[Path]) -> None:
    stream = built(run_config(tmp_path, *prefixes, document_masks=True))
    first = [stream[n] for n in range(6)]
    raw = pickle.dumps(stream)
    assert len(raw) < 10_000
    copy = pickle.loads(raw)
    assert all(same(copy[n], first[n]) for n in reversed(range(6)))


def test_documents_are_segments_if_asked(tmp_path: Path, prefixes: list[Path]) -> None:
    stream = built(run_config(tmp_path, prefixes[0], document_masks=True))
    seen = 0
    for n in range(30):
        row, x0 = stream[n], stream.rows[n][0]
        starts = [0, *(np.flatnonzero(x0[:-1] == EOD) + 1).tolist()]
        assert np.flatnonzero(row.flags & 1).tolist() == starts
        assert not is_masked(row)[starts].any()
        assert row.num_maskable == 64 - len(starts)
        assert (stream.flags(n) == row.flags & 5).all()
        seen += len(starts) > 1
    assert seen > 10
    plain = built(run_config(tmp_path, prefixes[0]))
    assert plain.has_whole_rows and not stream.has_whole_rows
    assert np.flatnonzero(plain.flags(3)).tolist() == [0]
    after_eod = [
        is_masked(plain[n])[np.flatnonzero(plain.rows[n][0][:-1] == EOD) + 1] for n in range(90)
    ]
    assert np.concatenate(after_eod).any()  # without document masks they are maskable


def test_random_length_leaves_dead_padding(tmp_path: Path, prefixes: list[Path]) -> None:
    stream = built(run_config(tmp_path, prefixes[0], random_length=1.0, document_masks=True))
    for n in range(40):
        row = stream[n]
        kept = stream.noise.row_length(n, 64, 1.0)
        dead = np.arange(64) >= kept
        assert ((row.flags & 4 != 0) == dead).all() and (row.tokens[dead] == EOD).all()
        assert not row.loss_weight[kept - 1 :].any() and not row.labels[kept - 1 :].any()
        assert kept == 64 or row.flags[kept] & 1
        assert (stream.flags(n) == row.flags & 5).all()


def test_complementary_pairs_share_sample_and_noise(tmp_path: Path, prefixes: list[Path]) -> None:
    config = run_config(tmp_path, *prefixes)
    config.diffusion.complementary = True
    stream = built(config, 40)
    assert len(stream) == 40
    for k in range(20):
        one, two = stream[2 * k], stream[2 * k + 1]
        either = is_masked(one) ^ is_masked(two)
        assert either[1:].all() and not either[0]
        assert one.t + two.t == pytest.approx(1.0) and one.source == two.source
        assert (one.ordinal, two.ordinal) == (2 * k, 2 * k + 1)


def test_ar_asks_everything_and_masks_nothing(tmp_path: Path, prefixes: list[Path]) -> None:
    config = run_config(tmp_path, *prefixes)
    config.diffusion.objective = "ar"
    row = built(config)[3]
    assert not is_masked(row).any() and row.loss_weight.sum() == 63 == row.num_maskable
    assert (row.labels[:-1] == row.tokens[1:]).all()


def test_validation_has_documents_and_noise_of_its_own(
    tmp_path: Path, prefixes: list[Path]
) -> None:
    config = run_config(tmp_path, prefixes[0], random_length=1.0)
    config.data.valid = [SourceConfig(prefix=str(prefixes[1]))]
    config.diffusion.complementary = True
    train, valid, _ = build_streams(config, TOKENIZER, train_samples=4, valid_samples=7)
    assert valid is not None and len(valid) == 7 and valid.has_whole_rows
    assert valid.noise == NoiseStream(config.data.seed, "pretrain", "valid") != train.noise
    assert valid.rows.sources[0].files.prefix == prefixes[1]
    config.data.valid = []
    assert build_streams(config, TOKENIZER, train_samples=4, valid_samples=7)[1] is None


@pytest.mark.parametrize("bad", [MASK, 1000, 65535])
def test_ids_that_do_not_belong_are_named(tmp_path: Path, bad: int) -> None:
    documents = random_documents(30, 40)
    documents[17][0] = bad
    prefix = write_tokens(tmp_path / "bad", documents)
    stream = built(run_config(tmp_path, prefix, bos_per_sample=False))
    with pytest.raises(DataError, match=rf"bad\.bin, document 17 \(row \d+\) holds .*{bad}"):
        for n in range(stream.rows.sources[0].rows_per_epoch):
            stream[n]


def test_negative_ids_are_refused(tmp_path: Path) -> None:
    prefix = write_tokens(tmp_path / "bad", [np.full(200, -5)], np.int32)
    with pytest.raises(DataError, match="id -5, the tokenizer has 0..999"):
        built(run_config(tmp_path, prefix))[0]


def test_bad_sources_are_refused(tmp_path: Path, prefixes: list[Path]) -> None:
    small = write_tokens(tmp_path / "small", [np.arange(62)])
    with pytest.raises(DataError, match="less than one row of 63"):
        built(run_config(tmp_path, small))
    with pytest.raises(DataError, match=r"data.train\[0\].weight"):
        built(run_config(tmp_path, prefixes[0], weights=[0.0]))
    with pytest.raises(ConfigError, match="data.train"):
        built(run_config(tmp_path))
    other = write_tokens(tmp_path / "x", random_documents(9, 40), tokenizer_fingerprint="cd" * 32)
    with pytest.raises(DataError, match="cdcdcdcd.*abababab"):
        built(run_config(tmp_path, other))


def test_builders_build_and_others_wait(tmp_path: Path, prefixes: list[Path]) -> None:
    config = run_config(tmp_path, *prefixes)
    with pytest.raises(DataError, match="missing or incomplete"):
        built(config, is_builder=False, wait_seconds=0.2)
    built(config)
    calls: list[int] = []
    stream = built(config, is_builder=False, barrier=lambda: calls.append(1))
    assert calls == [1, 1] and stream[0].ordinal == 0
