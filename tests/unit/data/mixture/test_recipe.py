"""The recipe's reader: what it takes, and that every refusal says where and what to do."""

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.data.budget import parse_tokens
from megatron_dream.data.mixture.recipe import load_recipe
from megatron_dream.errors import ConfigError

RECIPE = """\
tokenizer: tok.model
output: out
token_budget: 322e9
sources:
  - name: web
    dataset: dclm-baseline
    input: [raw/web]
    weight: 0.25
    filters: [dclm]
  - name: code
    text: content
    input:
      - raw/code/**/*.jsonl
    weight: 0.75
"""


def read(tmp_path: Path, text: str):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return load_recipe(path)


def test_a_recipe(tmp_path):
    recipe = read(tmp_path, RECIPE)
    assert recipe.token_budget == 322_000_000_000 and recipe.append_eod
    web, code = recipe.sources
    assert (web.name, web.weight, web.adapter.name) == ("web", 0.25, "dclm-baseline")
    assert code.input == ("raw/code/**/*.jsonl",) and code.adapter.text == "content"
    assert recipe.prefix(code) == Path("out/code")


def test_common_filters_come_before_a_sources_own(tmp_path):
    recipe = read(tmp_path, RECIPE + "filters: [{length: {min_characters: 3}}]\n")
    web, code = recipe.sources
    assert [spec.name for spec in recipe.filters_of(web)] == ["length", "dclm"]
    assert [spec.name for spec in recipe.filters_of(code)] == ["length"]
    assert recipe.evaluation_sets(web) == []


def test_evaluation_sets_are_those_of_all_filters(tmp_path):
    common = "filters: [{decontamination: {sets: [{path: h/HumanEval.jsonl.gz}]}}]\n"
    own = "    filters: [{decontamination: {sets: [{path: m.jsonl, name: MBPP}]}}]\n"
    recipe = read(tmp_path, RECIPE + own + common)
    web, code = recipe.sources
    assert recipe.evaluation_sets(web) == ["HumanEval"]
    assert recipe.evaluation_sets(code) == ["HumanEval", "MBPP"]


# what is replaced, by what, the line of the error, words of it
BAD = {
    "unknown field": ("output: out", "outputs: out", 2, "the nearest one is output"),
    "unknown field of a source": ("    weight: 0.25", "    wieght: 0.25", 8, "sources.0.weight"),
    "given twice": ("output: out", "output: out\noutput: b", 3, "is given twice (first on line 2)"),
    "twice in a source": ("    text: content", "    text: a\n    text: b", 12, "given twice"),
    "no weight": ("    weight: 0.25\n", "", 5, "sources.0.weight is not given"),
    "weight 0": ("weight: 0.25", "weight: 0", 8, "must be above 0"),
    "weight below 0": ("weight: 0.25", "weight: -0.5", 8, "must be above 0"),
    "infinite weight": ("weight: 0.25", "weight: .inf", 8, "must be a number"),
    "weight that is none": ("weight: 0.25", "weight: .nan", 8, "must be a number"),
    "overflowing weight": ("weight: 0.25", "weight: 1e999", 8, "too large"),
    "huge weight": ("weight: 0.25", "weight: 1e300", 8, "at most 1e+12"),
    "weight as text": ("weight: 0.25", "weight: '0.25'", 8, "must be a number"),
    "two of one name": ("name: code", "name: web", 10, "is named 'web' as"),
    "no name": ("  - name: web\n    dataset", "  - dataset", 5, "name is not given"),
    "name with a slash": ("name: web", "name: a/b", 5, "cannot name token files"),
    "name that climbs": ("name: web", "name: ..", 5, "cannot name token files"),
    "name with a blank": ("name: web", "name: a b", 5, "cannot name token files"),
    "name of parts": ("name: web", "name: code.parts", 5, "cannot name token files"),
    "name of a further file": ("name: web", "name: code_00001", 5, "cannot name token files"),
    "number as a name": ("name: web", "name: 12", 5, "put it in quotes"),
    "data set misspelt": ("dclm-baseline", "dclm-baselin", 6, "did you mean dclm-baseline?"),
    "text twice": (
        "    text: content",
        "    text: a\n    template: '{b}'",
        12,
        "and text both say",
    ),
    "data set and text": (
        "    input: [raw/web]",
        "    text: a\n    input: [x]",
        7,
        "both say where",
    ),
    "bad template": ("text: content", "template: 'no field'", 11, "names no field"),
    "no input": ("input: [raw/web]", "input: []", 7, "sources.0.input is empty"),
    "input that is no list": ("input: [raw/web]", "input: raw/web", 7, "must be a list"),
    "unknown filter": ("filters: [dclm]", "filters: [dlcm]", 9, "the nearest one is dclm"),
    "option of a filter": ("[dclm]", "[{dclm: {keep: 1}}]", 9, "keep_over"),
    "budget of words": ("322e9", "lots", 3, "must be a number of tokens, such as 322e9"),
    "negative budget": ("322e9", "-1", 3, "must be a number of tokens"),
    "no tokens": ("322e9", "0", 3, "give 1 to 10^18 tokens"),
    "half a token": ("322e9", "1.5", 3, "no whole number"),
    "too many tokens": ("322e9", "1e99", 3, "give 1 to 10^18 tokens"),
    "budget of commas": ("322e9", "[322, 000]", 3, "found a list"),
    "literals": ("output: out", "special_tokens_in_text: as_txt", 2, "the nearest one is as_text"),
    "no YAML": ("output: out", "output: [", 4, "not valid YAML"),
    "source that is none": ("  - name: code", "  - 3\n  - name: code", 10, "must be a source"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_recipe_is_refused_with_its_line(tmp_path, case):
    old, new, line, words = BAD[case]
    assert RECIPE.count(old) == 1
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, RECIPE.replace(old, new))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/r.yaml:{line}: "), message
    assert words in message and message.endswith(".") and "\n" not in message


@pytest.mark.parametrize("name", ["tokenizer", "output", "token_budget", "sources"])
def test_a_missing_field_is_named(tmp_path, name):
    lines = RECIPE.split("sources:")[0].splitlines() + ["sources:" + RECIPE.split("sources:")[1]]
    kept = "\n".join(line for line in lines if not line.startswith(f"{name}:"))
    with pytest.raises(ConfigError, match=rf"r\.yaml: {name} is not given"):
        read(tmp_path, kept + "\n")


def test_an_empty_recipe(tmp_path):
    with pytest.raises(ConfigError, match="tokenizer is not given"):
        read(tmp_path, "")


@pytest.mark.parametrize(
    "text",
    [
        "322e9",
        "322_000_000_000",
        "322B",
        "322b",
        "322 B",
        "0.322T",
        "322000M",
        "3.22e11",
        "3.22E+11",
    ],
)
def test_ways_to_write_a_budget(tmp_path, text):
    assert parse_tokens(text) == 322_000_000_000
    for written in (text, f'"{text}"'):
        assert read(tmp_path, RECIPE.replace("322e9", written)).token_budget == 322_000_000_000


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 10**18))
def test_every_number_is_read_exactly(number):
    assert parse_tokens(str(number)) == parse_tokens(f"{number:_}") == number
    digits = str(number).rstrip("0")
    zeros = len(str(number)) - len(digits)
    assert parse_tokens(f"{digits}e{zeros}") == number


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 10**6), st.sampled_from([("K", 3), ("m", 6), ("B", 9), ("t", 12)]))
def test_units_are_powers_of_a_thousand(number, unit):
    letter, power = unit
    assert parse_tokens(f"{number}{letter}") == number * 10**power
    assert parse_tokens(f"{number / 1000:.3f}{letter}") == number * 10 ** (power - 3)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_a_whole_number_or_refused(text):
    try:
        value = parse_tokens(text)
    except ValueError as error:
        assert str(error)
    else:
        assert 1 <= value <= 10**18 and any(character.isdigit() for character in text)


@settings(max_examples=30, deadline=None)
@given(st.floats(min_value=1e-12, max_value=1e12))
def test_every_positive_weight_is_read_as_written(tmp_path_factory, weight):
    recipe = read(tmp_path_factory.getbasetemp(), RECIPE.replace("0.25", repr(weight)))
    assert recipe.sources[0].weight == weight and math.isfinite(weight)
