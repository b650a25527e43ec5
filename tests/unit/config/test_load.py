"""The configuration reader: what it accepts, and that every refusal says where and what to do."""

import dataclasses
import math
import typing

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.config.convert import field_types, leaf_paths
from megatron_dream.config.load import load_config, save_resolved, to_yaml
from megatron_dream.config.schema import RunConfig, SourceConfig
from megatron_dream.errors import ConfigError, UserError


@pytest.fixture
def read(tmp_path):
    path = tmp_path / "run.yaml"

    def read(text, *overrides):
        path.write_text(text, encoding="utf-8")
        return load_config(path, overrides)

    return read


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "model:\n", "null\n"])
def test_an_empty_file_gives_the_defaults(read, text):
    assert read(text) == RunConfig()


def test_every_kind_of_field_is_read(read):
    config = read(
        """
        parallel: {sequence_parallel: yes, bucket_size: 40_000_000}
        data:
          train:
          - {prefix: a, weight: 2}
          - prefix: "b"
            name: other
        optimizer: {lr: 1e-5, adam_eps: 1E-8, weight_decay: 0, clip_grad: .5}
        diffusion: {weight: "linear"}
        logging: {wandb_project: null}
        """
    )
    assert config.parallel.sequence_parallel is True
    assert config.parallel.bucket_size == 40_000_000
    assert config.data.train == [SourceConfig("a", 2.0), SourceConfig("b", 1.0, "other")]
    assert (config.optimizer.lr, config.optimizer.adam_eps) == (1e-5, 1e-8)
    assert (config.optimizer.weight_decay, config.optimizer.clip_grad) == (0.0, 0.5)
    assert config.diffusion.weight == "linear"
    assert config.logging.wandb_project is None


REFUSED = {
    "unknown field": ("model:\n  num_layer: 3\n", ":2: model.num_layer ", "model.num_layers"),
    "field of another section": ("num_layers: 3\n", ":1: num_layers ", "model.num_layers"),
    "unknown in a list": ("data:\n  train:\n  - wieght: 1\n", ":3: data.train.0.wieght", "weight"),
    "duplicate key": (
        "model:\n  num_layers: 3\n  num_layers: 4\n",
        ":3: model.num_layers",
        "line 2",
    ),
    "duplicate section": ("model: {}\ndata: {}\nmodel: {}\n", ":3: model ", "line 1"),
    "bool is no number": ("model:\n  num_layers: true\n", ":2: model.num_layers", "whole number"),
    "float is no whole number": (
        "model: {num_layers: 4.0}",
        ":1: model.num_layers",
        "whole number",
    ),
    "octal": ("model: {num_layers: 010}", ":1: model.num_layers", "whole number"),
    "base 60": ("model: {num_layers: 1:30}", ":1: model.num_layers", "whole number"),
    "endless digits": (f"model: {{num_layers: {'9' * 5000}}}", ":1: model.num_layers", "..."),
    "quoted number": ("model: {num_layers: '4'}", ":1: model.num_layers", "'4'"),
    "number is no bool": ("data: {document_masks: 1}", ":1: data.document_masks", "true or false"),
    "text is no float": ("optimizer: {lr: fast}", ":1: optimizer.lr", "a number"),
    "infinity": ("optimizer: {lr: .inf}", ":1: optimizer.lr", "a number"),
    "not a number": ("optimizer: {lr: .nan}", ":1: optimizer.lr", "a number"),
    "overflow": ("optimizer: {lr: 1e999}", ":1: optimizer.lr", "too large"),
    "number is no text": ("checkpoint: {run_folder: 12}", "checkpoint.run_folder", "in quotes"),
    "null where not allowed": ("checkpoint: {run_folder: }", "checkpoint.run_folder", "null"),
    "not a choice": ("diffusion: {weight: crt}", "diffusion.weight", "the nearest one is cart"),
    "list for a section": ("model: [1]", ":1: model ", "mapping"),
    "mapping for a list": ("data: {train: {prefix: a}}", ":1: data.train ", "a list"),
    "list for a scalar": ("optimizer: {lr: [1]}", "optimizer.lr", "found a list"),
    "list at the top": ("- model\n", ":1 must be a mapping", "found a list"),
    "a key that is no name": ("model:\n  ? [a]\n  : 1\n", ":2: model", "not a name"),
    "merge key": ("model: {<<: {}}", "model.<<", "is not a field"),
    "alias to itself": ("data: {train: &a [*a]}", "data.train.0", "mapping"),
    "a tag that builds objects": (
        "model: !!python/object/apply:os.getpid []",
        ":1: model",
        "mapping",
    ),
    "a tag on a scalar": ("tokenizer: {path: !!binary aGk=}", "tokenizer.path", "must be text"),
    "broken YAML": ("model:\n  a: [1\n", ":3:", "not valid YAML"),
    "two documents": ("model: {}\n---\ndata: {}\n", ":2:", "not valid YAML"),
    "control character": ("model: \x01", "run.yaml", "character"),
    "brackets without end": ("[" * 5000, "run.yaml", "nested"),
    "unknown preset": ("model:\n  preset: tiyn\n", ":2: model.preset", "the nearest one is tiny"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_fault_is_one_sentence_with_place_and_remedy(read, case):
    text, place, remedy = REFUSED[case]
    with pytest.raises(ConfigError) as caught:
        read(text)
    message = str(caught.value)
    assert place in message and remedy in message and "run.yaml" in message
    assert "\n" not in message and message.endswith(".") and len(message) < 500


def test_files_that_cannot_be_read(tmp_path):
    for path, words in ((tmp_path / "no.yaml", "no such"), (tmp_path, "cannot be read")):
        with pytest.raises(UserError, match=words):
            load_config(path)
    (tmp_path / "latin.yaml").write_bytes(b"model: \xff")
    with pytest.raises(UserError, match="not UTF-8"):
        load_config(tmp_path / "latin.yaml")


def test_overrides_come_after_the_file_and_in_order(read):
    config = read(
        "optimizer: {lr: 1e-4}\ndata: {train: [{prefix: a}]}\n",
        ("optimizer.lr", "2e-4"),
        ("optimizer.lr", "3e-4"),
        ("data.train.0.weight", "0.5"),
        ("checkpoint.run_folder", "123"),
        ("tokenizer.path", "null"),
        ("data.valid", '[{"prefix": "v"}]'),
        ("training.deterministic", "true"),
    )
    assert config.optimizer.lr == 3e-4
    assert config.data.train == [SourceConfig("a", 0.5)]
    assert config.data.valid == [SourceConfig("v")]
    assert config.checkpoint.run_folder == "123"
    assert config.tokenizer.path is None
    assert config.training.deterministic is True


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("modle.preset", "tiny", "nearest one is model"),
        ("model.num_layer", "3", "nearest one is model.num_layers"),
        ("model.num_layers", "three", "whole number"),
        ("model.num_layers", "", "empty"),
        ("model.num_layers", "[1", "not valid YAML"),
        ("model.num_layers.x", "1", "no fields"),
        ("data.train.0.weight", "1", "0 entries"),
        ("data.train.x", "1", "0 entries"),
        ("data.train", "[{prefx: a}]", "nearest one is data.train.0.prefix"),
        ("data.train", "[{prefix: a, prefix: b}]", "given twice"),
        ("diffusion.weight", "carts", "nearest one is cart"),
        ("model.preset", "tiyn", "nearest one is tiny"),
    ],
)
def test_an_override_is_refused_by_its_flag(name, text, words):
    with pytest.raises(ConfigError) as caught:
        load_config(None, [(name, text)])
    assert str(caught.value).startswith(f"--{name.split('.')[0]}") and words in str(caught.value)


def test_saved_configuration_reads_back_equal(tmp_path):
    overrides = [("model.preset", "qwen2.5-coder-0.5b"), ("model.tie_word_embeddings", "false")]
    config = load_config(None, overrides)
    save_resolved(config, tmp_path / "resolved.yaml")
    again = load_config(tmp_path / "resolved.yaml")
    assert again == config and again.model.tie_word_embeddings is False
    assert [p.name for p in tmp_path.iterdir()] == ["resolved.yaml"]


def _values(kind):
    """Strategy for values of one declared type."""
    options = typing.get_args(kind)
    if type(None) in options:
        return st.none() | _values(next(o for o in options if o is not type(None)))
    if typing.get_origin(kind) is typing.Literal:
        return st.sampled_from(options)
    if typing.get_origin(kind) is list:
        return st.lists(_values(options[0]), max_size=3)
    if dataclasses.is_dataclass(kind):
        return st.builds(kind, **{name: _values(t) for name, t in field_types(kind).items()})
    text = st.text(st.characters(codec="utf-8"), max_size=8)
    floats = st.floats(allow_nan=False, allow_infinity=False)
    return {bool: st.booleans(), int: st.integers(-(2**63), 2**63), float: floats, str: text}[kind]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_configuration_survives_writing_and_reading(tmp_path_factory, data):
    config = data.draw(_values(RunConfig))
    config.model.preset = None
    path = tmp_path_factory.mktemp("round") / "run.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert load_config(path) == config


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40) | st.text("model:{}[]&*!|>-? \n\t#'\"0", max_size=40))
def test_any_text_is_read_or_refused_in_one_sentence(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, encoding="utf-8", newline="")
    try:
        assert isinstance(load_config(path), RunConfig)
    except UserError as error:
        assert "any.yaml" in str(error)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(leaf_paths(RunConfig)), st.text(max_size=12))
def test_any_override_is_read_or_refused_by_name(name, text):
    try:
        load_config(None, [(name, text)])
    except ConfigError as error:
        assert f"--{name}" in str(error)


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_in_any_notation(value):
    for text in (repr(value), f"{value:e}", yaml.safe_dump(value).split("\n")[0]):
        read = load_config(None, [("optimizer.lr", text)]).optimizer.lr
        assert math.isclose(read, float(text.replace("+", "")), rel_tol=0, abs_tol=0)
