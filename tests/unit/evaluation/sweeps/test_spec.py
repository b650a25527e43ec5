"""A sweep's file: what it says is taken as written, and what is wrong is told with file, line and field."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from megatron_dream.config.convert import Place
from megatron_dream.errors import ConfigError, UserError
from megatron_dream.evaluation.sweeps.fields import Fields, plain, typed
from megatron_dream.evaluation.sweeps.spec import read_sweep

GOOD = """\
title: Answers over temperature
question: How?
kind: sampling
models: {a: models/a}
benchmark: humaneval
style: base
data: problems
settings: {max_new_tokens: 8}
vary:
  - name: temperature
    values: [0.1, 1]
plot: {x: temperature, y: pass@1}
"""


def write(folder, text):
    path = folder / "some_sweep.yaml"
    path.write_text(textwrap.dedent(text))
    return path


def test_a_file_as_it_is_written(tmp_path):
    sweep = read_sweep(write(tmp_path, GOOD))
    assert (sweep.name, sweep.title, sweep.kind.name) == (
        "some_sweep", "Answers over temperature", "sampling",
    )  # fmt: skip
    assert [(plot.x, list(plot.y)) for plot in sweep.plots] == [("temperature", ["pass@1"])]
    assert [cell.columns["temperature"] for cell in sweep.kind.cells()] == [0.1, 1]


@pytest.mark.parametrize(
    "old, new, sentence",
    [
        ("title:", "titles:", "some_sweep.yaml:1: titles is not a field; the nearest one is title"),
        ("style:", "styl:", "some_sweep.yaml:6: styl is not a field; the nearest one is style"),
        ("kind: sampling", "kind: samplings", "some_sweep.yaml:3: kind 'samplings' is unknown; the nearest"),
        ("style: base", "style: basic", "some_sweep.yaml:6: style must be one of base, instruct"),
        ("data: problems", "data: [a]", "some_sweep.yaml:7: data must be text, found a list"),
        ("    values:", "    valus:", "some_sweep.yaml:11: vary.0.valus is not a field; the nearest"),
        ("[0.1, 1]", "[0.1, hot]", "some_sweep.yaml:11: vary.0.values.1 is 'hot'; give a number"),
        ("[0.1, 1]", "[0.1, -1]", "some_sweep.yaml:11: vary.0.values.1: temperature is -1: give"),
        ("{max_new_tokens: 8}", "{max_new_tokens: 8, thresholds: 1}",
         "some_sweep.yaml:8: settings.thresholds is no field of the sampler; the nearest one is threshold"),
        ("benchmark: humaneval", "benchmark: humanevil", "the nearest one is humaneval"),
        ("benchmark: humaneval\n", "", "benchmark is missing"),
        ("data: problems", "data: x\ndata: y", "data is given twice"),
        ("{a: models/a}", "{a: models/a, a: b}", "some_sweep.yaml:4: models.a is given twice"),
        ("{a: models/a}", "{a: !!python/name:os.system x}", "some_sweep.yaml:4: models.a: the tag"),
        ("{a: models/a}", "{a: &x models/a, b: *x}", "some_sweep.yaml:4: an alias"),
        ("plot: {x: temperature, y: pass@1}", "", "give one of plot"),
        ("plot: {x: temperature, y: pass@1}", "plot: {x: temperature}", "plot needs x and y"),
        ("plot: {", "plots: []\nplot: {tiddle: a, ", "plot.tiddle is not a field; the nearest one is"),
        ("title: A", "title: [", "not valid YAML"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_where(tmp_path, old, new, sentence):
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        read_sweep(write(tmp_path, GOOD.replace(old, new, 1))).kind.cells()
    assert sentence in str(caught.value) and str(caught.value).count("\n") == 0


def test_words_and_numbers_are_what_people_mean():
    text = "{a: off, b: 1e-14, c: '1', d: true, e: null, f: 010, g: -3, h: .5, i: yes, j: 1_0}"
    found = plain(yaml.compose(text), Place("", "f"))
    assert dict(found) == {
        "a": "off", "b": 1e-14, "c": "1", "d": True, "e": None, "f": 10.0, "g": -3, "h": 0.5,
        "i": "yes", "j": "1_0",
    }  # fmt: skip
    assert found.at["b"] == "f:1: b"
    with pytest.raises(ConfigError, match=r"f:1: a is 1e999, too large"):
        plain(yaml.compose("{a: 1e999}"), Place("", "f"))


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=8)
)
names = st.text("abcdefgh_", min_size=1, max_size=5)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3)
)


@given(values)
def test_plain_values_are_those_that_were_written(value):
    assert plain(yaml.compose(json.dumps(value)), Place("", "f")) == value


@given(st.text(max_size=60) | st.builds(lambda a, b: GOOD[:a] + b + GOOD[a:],
       st.integers(0, len(GOOD)), st.text(max_size=12)))  # fmt: skip
def test_no_text_raises_anything_but_a_sentence(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_text(text, encoding="utf-8", newline="")
    try:
        read_sweep(path).kind.cells()
    except UserError as error:
        assert str(path) in str(error)


@dataclass
class Some:
    count: int = 1
    names: list[str] = field(default_factory=list)
    free: Fields = field(default_factory=Fields)


def test_a_kind_reads_its_fields_from_a_program_too():
    found = typed({"count": 3, "free": {"a": [1, {"b": 2.5e-9}]}}, Some, Path("x.yaml"))
    assert found == Some(3, [], Fields({"a": [1, {"b": 2.5e-9}]}))
    with pytest.raises(
        ConfigError, match=r"x.yaml:1: cuont is not a field; the nearest one is count"
    ):
        typed({"cuont": 3}, Some, Path("x.yaml"))
