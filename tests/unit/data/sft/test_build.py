"""Streams of prepared samples: which files are refused, and what the index hash and orders hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_dream.config.schema import RunConfig, SourceConfig
from megatron_dream.config.validate import validate
from megatron_dream.data.sft.build import build_sft_streams
from megatron_dream.data.sft.stream import SftStream
from megatron_dream.errors import ConfigError, DataError
from tests.unit.data.token_files import BOS, EOD, MASK, FakeTokenizer, write_tokens

IM_END = 996


class ChatTokenizer(FakeTokenizer):
    pad_id = eos_id = EOD
    im_end_id = IM_END


TOKENIZER = ChatTokenizer()


def prepared(prefix: Path, count: int = 40, seed: int = 0, **sidecar: Any) -> Path:
    """Prompts and answers as prepare-sft lays them down."""
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(count):
        parts += [rng.integers(0, 900, int(rng.integers(2, 10))) for _ in range(2)]
        parts[-2][0] = BOS
    about = {"kind": "sft", "tokenizer_fingerprint": TOKENIZER.fingerprint, "eod_id": EOD}
    return write_tokens(prefix, parts, **{**about, **sidecar})


def config_of(folder: Path, *prefixes: Path, **sft: Any) -> RunConfig:
    config = RunConfig()
    config.data.train = [SourceConfig(prefix=str(prefix)) for prefix in prefixes]
    config.data.cache_folder, config.data.sequence_length = str(folder / "cache"), 32
    config.training.global_batch_size = 8
    for name, value in sft.items():
        setattr(config.sft, name, value)
    return config


def built(config: RunConfig, samples: int = 100, **more: Any) -> SftStream:
    return build_sft_streams(config, TOKENIZER, train_samples=samples, **more)[0]  # type: ignore[arg-type,return-value]


def refusal(config: RunConfig) -> str:
    with pytest.raises(DataError) as caught:
        built(config)
    return str(caught.value)


def test_every_sample_once_an_epoch_from_two_sources(tmp_path: Path) -> None:
    prefixes = [prepared(tmp_path / name, seed=n) for n, name in enumerate("ab")]
    stream = built(config_of(tmp_path, *prefixes, truncation="off"), 160)
    rows = [stream.samples[n] for n in range(80)]
    assert {source for _, _, source in rows} == {0, 1}
    assert len({(p.tobytes(), r.tobytes()) for p, r, _ in rows}) == 80
    row = stream[3]
    clean = np.where(row.tokens == MASK, np.append(EOD, row.labels[:-1]), row.tokens)
    prompt, response, _ = stream.samples[3]
    assert clean.tolist() == [*prompt, *response, EOD]


def test_the_end_of_an_answer_is_the_configured_one(tmp_path: Path) -> None:
    prefix = prepared(tmp_path / "a")
    stream = built(config_of(tmp_path, prefix, truncation="off", response_end="im_end"))
    assert stream[0].labels[-2] == IM_END and stream[0].labels[-1] == 0


def test_like_lengths_stand_beside_one_another(tmp_path: Path) -> None:
    prefix = prepared(tmp_path / "a", 600)
    config = config_of(tmp_path, prefix, truncation="off", length_group_size=8)
    stream = built(config, 100)
    spreads = [np.ptp([stream.row_length(n) for n in range(i, i + 8)]) for i in range(0, 96, 8)]
    assert max(spreads) <= 2


def test_validation_is_of_its_own_files_and_of_stream_0(tmp_path: Path) -> None:
    config = config_of(tmp_path, prepared(tmp_path / "a"))
    config.data.valid = [SourceConfig(prefix=str(prepared(tmp_path / "v", seed=9)))]
    config.diffusion.complementary = True
    found = []
    for number in (0, 1):
        config.data.new_stream = number
        train, valid, _ = build_sft_streams(
            config,
            TOKENIZER,  # type: ignore[arg-type]
            train_samples=64,
            valid_samples=16,
        )
        assert valid is not None
        found.append(([train[n].tokens.tolist() for n in range(8)], valid[5].tokens.tolist()))
    assert found[0][0] != found[1][0] and found[0][1] == found[1][1]


def test_the_hash_knows_what_changes_the_samples(tmp_path: Path) -> None:
    prefix = prepared(tmp_path / "a")

    def hashed(**changes: Any) -> str:
        config = config_of(tmp_path, changes.pop("prefix", prefix), **changes.pop("sft", {}))
        config.data.seed = changes.pop("seed", 1)
        return build_sft_streams(config, TOKENIZER, train_samples=changes.pop("samples", 64))[2]  # type: ignore[arg-type]

    base = hashed()
    assert base == hashed(samples=640) == hashed(sft={"width": "max"})
    others = [
        hashed(seed=2),
        hashed(prefix=prepared(tmp_path / "b", seed=4)),
        hashed(sft={"truncation_group_size": 4}),
        hashed(sft={"length_group_size": 2}),
    ]
    assert len({base, *others}) == 5


def test_what_is_refused(tmp_path: Path) -> None:
    plain = write_tokens(tmp_path / "plain", [np.arange(5)] * 4, eod_id=EOD)
    assert "prepare-sft" in refusal(config_of(tmp_path, plain))
    other = prepared(tmp_path / "other", tokenizer_fingerprint="cd" * 32)
    assert "tokenizer" in refusal(config_of(tmp_path, other))
    config = config_of(tmp_path, prepared(tmp_path / "long"))
    config.data.sequence_length = 12
    assert "--max-length 12" in refusal(config)
    assert "does not exist" in refusal(config_of(tmp_path, tmp_path / "none"))


def test_a_mask_in_the_data_is_named(tmp_path: Path) -> None:
    parts = [np.array([1, 2]), np.array([3, MASK])]
    about = {"kind": "sft", "tokenizer_fingerprint": TOKENIZER.fingerprint, "eod_id": EOD}
    stream = built(config_of(tmp_path, write_tokens(tmp_path / "a", parts, **about)))
    with pytest.raises(DataError, match=r"a\.bin, sample 0 holds id 999"):
        stream[0]


@pytest.mark.parametrize(
    ("section", "name", "value", "words"),
    [
        ("sft", "pad", "max", "set pad to none or truncation to off"),
        ("sft", "truncation_group_size", 7, "make it even"),
        ("sft", "expand_probability", 1.5, "between 0 and 1"),
        ("data", "document_masks", True, "leave it out"),
        ("data", "random_length", 0.1, "leave it out"),
        ("sft", "task", "infill", "complementary"),
    ],
)
def test_fields_that_contradict_one_another(
    tmp_path: Path, section: str, name: str, value: Any, words: str
) -> None:
    config = config_of(tmp_path, tmp_path / "a")
    config.checkpoint.run_folder, config.tokenizer.path = "run", "t.model"
    config.training.train_steps = 1
    config.diffusion.complementary = True
    validate(config, "sft")
    setattr(getattr(config, section), name, value)
    with pytest.raises(ConfigError, match=words):
        validate(config, "sft")


def test_sft_fields_are_refused_in_pretraining(tmp_path: Path) -> None:
    config = config_of(tmp_path, tmp_path / "a", eos_as_one=True)
    config.checkpoint.run_folder, config.tokenizer.path = "run", "t.model"
    config.training.train_steps = 1
    with pytest.raises(ConfigError, match="no meaning in pretraining"):
        validate(config, "pretrain")
