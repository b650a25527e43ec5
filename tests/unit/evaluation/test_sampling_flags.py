"""The flags are the sampler's configuration, and the documentation's table is both."""

from __future__ import annotations

import argparse
import dataclasses
import re
import types
import typing
from collections.abc import Sequence
from pathlib import Path

import pytest

from megatron_dream.evaluation.sampling_flags import (
    SAMPLING_FLAGS,
    SamplingFlag,
    _read_flags,
    add_sampling_flags,
    flag_name,
    in_flags,
)
from megatron_dream.sampling import ALGORITHMS, SamplingConfig

DOCS = Path(__file__).resolve().parents[3] / "docs" / "sampling.md"
FROM_THE_MODEL = {"mask_token_id", "pad_token_id", "bos_token_id", "eos_token_id", "num_tokens"}
FIELDS = {field.name: field for field in dataclasses.fields(SamplingConfig)}

# a value of each kind that every field takes
VALUES = {"alg": "entropy"} | {
    name: flag.choices[-1]
    for name, flag in SAMPLING_FLAGS.items()
    if flag.choices and name != "alg"
}


# what else a field needs to be given at all
NEEDS: dict[str, dict[str, object]] = {
    "cache_refresh": {"cache": "dual"},
    "border": {"cache": "dual"},
    "cuda_graphs": {"cache": "dual"},
    "suffix_window": {"block_length": 8},
    "early_end": {"block_length": 8},
}


def config_with(name: str, value: object) -> SamplingConfig:
    ids = {"mask_token_id": 0, "pad_token_id": 0, "eos_token_id": 0}
    return SamplingConfig(**{**ids, **NEEDS.get(name, {}), name: value})  # type: ignore[arg-type]


def parse(*words: str) -> dict[str, object]:
    parser = argparse.ArgumentParser(argument_default=argparse.SUPPRESS, exit_on_error=False)
    add_sampling_flags(parser)
    return vars(parser.parse_args(words))


def test_every_field_that_a_person_can_set_has_a_flag() -> None:
    assert set(SAMPLING_FLAGS) == set(FIELDS) - FROM_THE_MODEL - {"output_history"}


def test_a_new_field_is_a_flag_with_its_comment_as_help() -> None:
    source = (
        'ALGORITHMS = ("a", "b")\nclass SamplingConfig:\n    alg: str = "a"\n'
        "    new_one: float | None = None  # what it does\n    ids: Sequence[int] = ()\n"
        "    seed: int | None = None\n    mask_token_id: int | None = None\n"
    )
    flags = _read_flags(source)
    assert flags["new_one"] == SamplingFlag(float, "what it does")
    assert flags["ids"].is_list and flags["ids"].kind is int
    assert flags["alg"].choices == ("a", "b") and "mask_token_id" not in flags


def test_every_flag_has_help() -> None:
    assert [name for name, flag in SAMPLING_FLAGS.items() if not flag.help] == []


def test_the_number_of_samples_has_a_short_flag() -> None:
    assert parse("-n", "3") == {"num_return_sequences": 3}


@pytest.mark.parametrize("name", SAMPLING_FLAGS)
def test_a_flag_has_the_type_of_its_field(name: str) -> None:
    hint = typing.get_type_hints(SamplingConfig)[name]
    kinds = set(typing.get_args(hint)) if isinstance(hint, types.UnionType) else {hint}
    flag = SAMPLING_FLAGS[name]
    expected = Sequence[flag.kind] if flag.is_list else flag.kind  # type: ignore[name-defined]
    assert kinds - {type(None)} == {expected}


@pytest.mark.parametrize("name", SAMPLING_FLAGS)
def test_a_flag_arrives_in_its_field_and_nothing_else_does(name: str) -> None:
    assert parse() == {}
    flag = SAMPLING_FLAGS[name]
    word = VALUES.get(name, "1" if flag.kind is int else "0.5")
    options = parse(flag_name(name), *([] if flag.kind is bool else [word]))
    value = True if flag.kind is bool else flag.kind(word)
    assert options == {name: [value] if flag.is_list else value}
    assert getattr(config_with(name, options[name]), name) == options[name]


def test_choices_are_those_of_the_sampler() -> None:
    assert SAMPLING_FLAGS["alg"].choices == ALGORITHMS
    with_choices = [name for name, flag in SAMPLING_FLAGS.items() if flag.choices]
    assert set(with_choices) == {name for name, flag in SAMPLING_FLAGS.items() if flag.kind is str}
    for name in with_choices:
        for choice in SAMPLING_FLAGS[name].choices:
            config_with(name, choice)
        with pytest.raises(argparse.ArgumentError, match=f"{flag_name(name)}: invalid choice"):
            parse(flag_name(name), "other")


def test_the_documentation_lists_options_flags_and_defaults() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| .+ \| (.+?) \|$", DOCS.read_text(), re.MULTILINE)
    listed = {name: (flag, default) for name, flag, default in rows if name in FIELDS}
    assert set(listed) == set(FIELDS) - FROM_THE_MODEL
    for name, (flag, default) in listed.items():
        if name in SAMPLING_FLAGS:
            assert f"{flag_name(name)} " in flag.replace("`", " ")
        value = FIELDS[name].default
        if value is None or value == ():
            assert default.startswith(("none", "off", "0", "`max_new_tokens`", "fresh")), name
        elif isinstance(value, bool | str):
            assert default.strip("`") == str(value).lower(), name
        else:
            assert float(default) == value, name


@pytest.mark.parametrize(
    "sentence, expected",
    [
        ("top_p is 2: give", "--top-p is 2: give"),
        ("factor is -1: give", "--factor is -1: give"),
        (
            "alg_temp 1 has no meaning with alg factor",
            "--alg-temp 1 has no meaning with alg factor",
        ),
        ("pad_penalty and eos_penalty say", "--pad-penalty and --eos-penalty say"),
        ("choose one of maskgit_plus, entropy", "choose one of maskgit_plus, entropy"),
    ],
)
def test_a_refusal_names_the_flag(sentence: str, expected: str) -> None:
    assert in_flags(sentence) == expected
