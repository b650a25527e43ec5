"""Filters in a recipe: reading, refusing with place and nearest name, identity."""

import dataclasses
import json
import pickle
import sys
import types
from dataclasses import dataclass, field

import pytest

from megatron_dream.config.load import load_config, to_yaml
from megatron_dream.data.filters import FILTERS, FilterSpec, build_filters
from megatron_dream.data.filters.length import LengthOptions
from megatron_dream.errors import ConfigError, DataError
from tests.unit.data.filters.documents import document


@dataclass
class Source:
    name: str = ""
    filters: list[FilterSpec] = field(default_factory=list)


@dataclass
class Recipe:
    output: str = ""
    filters: list[FilterSpec] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)


@pytest.fixture
def read(tmp_path):
    path = tmp_path / "recipe.yaml"

    def read(text, *overrides):
        path.write_text(text)
        return load_config(path, overrides, Recipe)

    return read


RECIPE = """
filters:
- length: {min_characters: 3, max_lines: 1_000}
- repetition
- personal_data:
sources:
- name: dclm
  filters: [{dclm: {keep_over: 0.6}}]
- name: code
  filters:
  - decontamination:
      sets:
      - path: HumanEval.jsonl.gz
      - {path: own.jsonl, fields: [question, answer]}
  - duplicates: {list: drops}
"""


def test_a_recipe_is_read(read):
    recipe = read(RECIPE)
    length, repetition, personal = recipe.filters
    assert (length.name, length.options) == (
        "length",
        LengthOptions(min_characters=3, max_lines=1000),
    )
    assert length.where.endswith("recipe.yaml:3: filters.0.length")
    assert repetition == FilterSpec.of("repetition") and personal.options.ip == "192.0.2.1"
    assert recipe.sources[0].filters[0].options.keep_over == 0.6
    sets = recipe.sources[1].filters[0].options.sets
    assert [one.title for one in sets] == ["HumanEval", "own"] and sets[1].fields == [
        "question",
        "answer",
    ]
    assert build_filters(recipe.filters).apply(document("ab")) == "under 3 characters"


def test_what_is_written_is_read_back(read):
    recipe = read(RECIPE)
    assert read(to_yaml(recipe)) == recipe


def test_overrides(read):
    recipe = read(RECIPE, ("filters", "[{length: {max_bytes: 9}}]"), ("filters.0", "dclm"))
    assert [one.name for one in recipe.filters] == ["dclm"]
    with pytest.raises(ConfigError, match="--filters.0.length: filters.0 is a value"):
        read(RECIPE, ("filters.0.length", "{}"))


@pytest.mark.parametrize(
    ("text", "place", "remedy"),
    [
        ("filters:\n- lengths: {}", ":2: filters.0.lengths ", "the nearest one is length"),
        ("filters:\n- repetitions", ":2: filters.0.repetitions ", "repetition"),
        (
            "filters:\n- length:\n    min_character: 3",
            ":3: filters.0.length.min_character ",
            "filters.0.length.min_characters",
        ),
        (
            "sources:\n- filters:\n  - dclm: {fields: x}",
            ":3: sources.0.filters.0.dclm.fields",
            "dclm.field",
        ),
        (
            "filters:\n- length: {min_lines: many}",
            ":2: filters.0.length.min_lines",
            "a whole number",
        ),
        ("filters:\n- length: {min_lines: 2, min_lines: 3}", ":2: ", "given twice"),
        ("filters:\n- length: {}\n  dclm: {}", ":2: filters.0 ", "a dash of its own"),
        ("filters:\n- length: 3", ":2: filters.0.length ", "mapping"),
        ("filters:\n- length: {}", ":2: filters.0.length ", "min_characters"),
        ("filters:\n- [length]", ":2: filters.0 ", "name: {option: value}"),
        ("filters:\n- 3", ":2: filters.0 ", "name: {option: value}"),
        ("filters:\n- ", ":2: filters.0 ", "name: {option: value}"),
        (
            "filters: {length: {min_lines: 2}}",
            ":1: filters ",
            "a list, each entry a filter, written",
        ),
        ("filters:\n- length: {min_lines: 3, max_lines: 2}", ":2: ", "exchange"),
        ("filters:\n- length: {min_lines: -3}", ":2: ", "negative"),
        ("filters:\n- languages: {}", ":2: ", "fill allow or deny"),
        ("filters:\n- languages: {allow: [C], deny: [c]}", ":2: ", "keep one"),
        ("filters:\n- languages: {allow: [C], by: suffixes}", ":2: ", "the nearest one is suffix"),
        ("filters:\n- licences: {allow: [permissives]}", ":2: ", "did you mean the set permissive"),
        ("filters:\n- personal_data: {kinds: [e-mail]}", ":2: ", "the nearest one is email"),
        ("filters:\n- repetition: {lines: 1.5}", ":2: ", "between 0 and 1"),
        ("filters:\n- dclm: {keep_over: 0.05}", ":2: ", "exchange"),
        ("filters:\n- duplicates: {}", ":2: ", "names no list"),
        ("filters:\n- parseable: {max_bytes: 0}", ":2: ", "over 0"),
        ("filters:\n- decontamination: {sets: [{pth: x}]}", ":2: ", "decontamination.sets.0.path"),
    ],
)
def test_a_fault_is_one_sentence_with_place_and_remedy(read, text, place, remedy):
    with pytest.raises(ConfigError) as caught:
        read(text)
    message = str(caught.value)
    assert place in message and remedy in message and "recipe.yaml" in message
    assert "\n" not in message and message.endswith(".") and len(message) < 500


def test_faults_of_plain_values():
    with pytest.raises(
        ConfigError, match="^r.yaml: filters.1.lengths is not a filter; the nearest one is length"
    ):
        build_filters(["dclm", {"lengths": {}}], "r.yaml")
    with pytest.raises(ConfigError, match="^filters.0.dclm.keep "):
        build_filters([{"dclm": {"keep": 1}}])
    for value in (3, None, object(), [], {}, {"a": 1, "b": 2}, {3: {}}):
        with pytest.raises(ConfigError):
            build_filters([value])


def test_the_identity_is_plain_and_follows_the_content_of_files(tmp_path):
    path = tmp_path / "set.jsonl"
    path.write_text('{"q": "one two three four five six"}\n')
    spec = FilterSpec.of({"decontamination": {"sets": [{"path": str(path), "fields": ["q"]}]}})
    before = spec.identity()
    assert json.loads(json.dumps(before)) == before == spec.identity()
    path.write_text('{"q": "one two three four five nix"}\n')
    assert spec.identity() != before
    path.unlink()
    with pytest.raises(DataError, match="set.jsonl is not there"):
        spec.identity()
    assert (
        FilterSpec.of({"dclm": {}}).identity()
        != FilterSpec.of({"dclm": {"keep_over": 0.6}}).identity()
    )
    assert "python" in FilterSpec.of("parseable").identity()


def test_specs_travel_to_workers_and_ranks():
    specs = [FilterSpec.of({"length": {"min_lines": 2}}), FilterSpec.of("personal_data")]
    assert pickle.loads(pickle.dumps(specs)) == specs


@pytest.mark.parametrize("name", FILTERS)
def test_options_of_every_filter_are_fields_with_defaults(name):
    kind = FILTERS[name]
    assert dataclasses.is_dataclass(kind.options)
    plain = FilterSpec(name, kind.options()).to_plain()
    if kind.options().problem() is None:
        assert FilterSpec.of(json.loads(json.dumps(plain))).options == kind.options()


def test_duplicates_are_those_on_the_list(monkeypatch, tmp_path):
    """Against the interface: load_drop_list(folder) gives something that documents may be in."""

    class DropList:
        def __contains__(self, document):
            return document.id == "source/corpus.jsonl:7"

    asked = []
    module = types.ModuleType("megatron_dream.data.duplicates")
    module.load_drop_list = lambda folder: asked.append(folder) or DropList()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    chain = build_filters([{"duplicates": {"list": str(tmp_path)}}])
    assert asked == [tmp_path]
    assert chain.apply(document("x", "corpus.jsonl", 7)) == "duplicate"
    assert chain.apply(document("x", "corpus.jsonl", 8)) is None


def test_filters_start_without_heavy_packages():
    code = (
        "import sys, megatron_dream.data.filters\n"
        "heavy = {'torch', 'megatron', 'datatrove', 'transformers', 'pyarrow'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    import subprocess

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
