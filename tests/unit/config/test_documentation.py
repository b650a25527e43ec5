"""docs/configuration.md names every field of the schema, with its present default."""

import re

import pytest

from megatron_dream.config.convert import field_types, leaf_paths
from megatron_dream.config.load import load_config
from megatron_dream.config.presets import PRESETS, SHAPE_FIELDS
from megatron_dream.config.schema import RunConfig, SourceConfig


@pytest.fixture(scope="module")
def rows(repository_root):
    text = (repository_root / "docs" / "configuration.md").read_text(encoding="utf-8")
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row for row in cells}


@pytest.mark.parametrize("path", leaf_paths(RunConfig))
def test_a_field_is_there_with_its_default(rows, path):
    section, name = path.split(".")
    shown = rows[path][2].strip("`")
    default = getattr(getattr(RunConfig(), section), name)
    if shown == "[]":
        assert default == []
        return
    read = load_config(None, [(path, shown.strip('"'))])
    assert getattr(getattr(read, section), name) == default
    assert rows[path][-1].strip(), "a field needs a meaning"


def test_the_fields_of_a_source_are_there(rows):
    assert {f"data.train.N.{name}" for name in field_types(SourceConfig)} <= set(rows)


def test_no_row_for_a_field_that_does_not_exist(rows):
    documented = {path for path in rows if re.fullmatch(r"[a-z0-9]+\.[a-z_]+[a-z0-9_]*", path)}
    sections = tuple(f"{name}." for name in field_types(RunConfig))
    assert {p for p in documented if p.startswith(sections)} == set(leaf_paths(RunConfig))


@pytest.mark.parametrize("name", PRESETS)
def test_the_table_of_presets(rows, name):
    shape = [str(PRESETS[name][field]) for field in SHAPE_FIELDS]
    assert rows[name][1:6] == shape
