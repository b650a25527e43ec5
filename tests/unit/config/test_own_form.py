"""Types that read themselves: the converter hands them the node, errors and YAML use their form."""

from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from megatron_dream.config.load import load_config, to_yaml
from megatron_dream.errors import ConfigError


@dataclass(frozen=True)
class Span:
    """Written ``3-5``."""

    first: int
    last: int
    description: ClassVar[str] = "two numbers, written 3-5"

    @classmethod
    def from_node(cls, node, place, converter):
        try:
            first, last = map(int, node.value.split("-"))
        except (AttributeError, ValueError):
            raise ConfigError(f"{place.at(node)} must be {cls.description}.") from None
        return cls(first, last)

    def to_plain(self):
        return f"{self.first}-{self.last}"


@dataclass
class Pages:
    one: Span = field(default_factory=lambda: Span(1, 2))
    maybe: Span | None = None
    many: list[Span] = field(default_factory=list)


@pytest.fixture
def read(tmp_path):
    def read(text, *overrides):
        (tmp_path / "run.yaml").write_text(text)
        return load_config(tmp_path / "run.yaml", overrides, Pages)

    return read


def test_it_reads_itself_and_is_written_back(read):
    pages = read("one: 3-5\nmany: [1-1, 2-4]\n")
    assert pages == Pages(Span(3, 5), None, [Span(1, 1), Span(2, 4)])
    assert read(to_yaml(pages)) == pages
    assert read("maybe: null") == Pages()
    assert read("many: [1-1]", ("many.0", "7-8"), ("one", "2-2")) == Pages(
        Span(2, 2), None, [Span(7, 8)]
    )


def test_errors_use_its_words_and_place(read):
    with pytest.raises(ConfigError, match=r"run.yaml:2: many.1 must be two numbers, written 3-5\."):
        read("many: [1-1,\n  x]")
    with pytest.raises(
        ConfigError, match="many must be a list, each entry two numbers, written 3-5"
    ):
        read("many: 1-1")
    with pytest.raises(ConfigError, match="one is a value and has no fields"):
        read("one: 1-1", ("one.first", "3"))
