"""The recipe of a mixture: sources, weights, filters and a token budget, read from YAML.

``megatron-dream preprocess --recipe`` makes its token files, ``plan-data`` tells what it takes and
writes the blend of a pretraining run. Paths are relative to the folder that a command runs in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml

from ...config.convert import Converter, Place, nearest, to_plain
from ...config.load import load_config
from ...errors import ConfigError
from ..budget import TokenBudget
from ..filters import FilterSpec
from ..filters.decontamination import DecontaminationOptions
from ..preprocessing.job import SpecialTokens
from ..readers import Adapter, corpus, text_adapter

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MAX_WEIGHT = 1e12
# OUTPUT/NAME.parts holds the parts of NAME, OUTPUT/NAME_00000 is its first file of several.
_TAKEN = re.compile(r".*(\.parts|_[0-9]{5})")


@dataclass
class SourceFields:
    """What a recipe may write of a source."""

    name: str = ""
    dataset: str | None = None
    text: str | None = None
    template: str | None = None
    suffixes: list[str] = field(default_factory=list)
    input: list[str] = field(default_factory=list)
    weight: float | None = None
    filters: list[FilterSpec] = field(default_factory=list)


@dataclass(frozen=True)
class RecipeSource:
    """One corpus of a mixture.

    Attributes:
        name: in reports, of its token files, and in the ids of its documents.
        weight: share of the mixture, before all are divided by their sum.
        input: files, folders, globs, ``@lists``, URLs (readers/listing.py).
        dataset: a known corpus, which says where its text is; or None.
        text: field with the text instead; or None.
        template: a text made of fields instead; or None.
        suffixes: which files of a folder count; empty: the data set's.
        filters: its own, behind those of the recipe.
        where: file, line and place in the recipe, to begin an error with.
    """

    name: str
    weight: float
    input: tuple[str, ...]
    dataset: str | None = None
    text: str | None = None
    template: str | None = None
    suffixes: tuple[str, ...] = ()
    filters: tuple[FilterSpec, ...] = ()
    where: str = field(default="", compare=False)

    description: ClassVar[str] = "a source, a mapping with name, weight and input"

    @classmethod
    def from_node(cls, node: yaml.Node, place: Place, converter: Converter) -> RecipeSource:
        """Read and check one entry; called by config/convert.py.

        Raises:
            ConfigError: with file, line and field.
        """
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{place.at(node)} must be {cls.description}.")
        fields = converter.convert(node, SourceFields, place)

        def at(name: str) -> str:
            path = place.child(name).path
            return converter.given.get(path, place.child(name).at(node))

        _check_name(fields.name, at("name"))
        _check_weight(fields.weight, at("weight"))
        if not fields.input or not all(fields.input):
            raise ConfigError(f"{at('input')} is empty; list the source's files, folders or globs.")
        source = cls(
            name=fields.name,
            weight=float(fields.weight),
            input=tuple(fields.input),
            dataset=fields.dataset,
            text=fields.text,
            template=fields.template,
            suffixes=tuple(fields.suffixes),
            filters=tuple(fields.filters),
            where=place.at(node),
        )
        _check_adapter(source, at)
        return source

    def to_plain(self) -> dict[str, Any]:
        """As a recipe writes it."""
        names = ("name", "weight", "dataset", "text", "template")
        plain = {name: getattr(self, name) for name in names}
        plain |= {"input": list(self.input), "suffixes": list(self.suffixes)}
        return {**plain, "filters": to_plain(list(self.filters))}

    @property
    def adapter(self) -> Adapter:
        """Where the text of a record is."""
        if self.dataset is not None:
            return corpus(self.dataset)
        return text_adapter(self.text or "text", self.template)


@dataclass
class Recipe:
    """A mixture.

    Attributes:
        tokenizer: where it is loaded from.
        output: folder of the token files; a source's prefix is ``output/name``.
        token_budget: tokens of a run, rows times their length.
        append_eod: whether every document ends with ``<|endoftext|>``.
        special_tokens_in_text: what a literal such as ``<|im_start|>`` in a text becomes.
        filters: of every source, before its own.
        sources: in the order of the blend; of duplicates the copy in the first one stays.
    """

    tokenizer: str = ""
    output: str = ""
    token_budget: TokenBudget | None = None
    append_eod: bool = True
    special_tokens_in_text: SpecialTokens = "as_text"
    filters: list[FilterSpec] = field(default_factory=list)
    sources: list[RecipeSource] = field(default_factory=list)

    def prefix(self, source: RecipeSource) -> Path:
        """Of its token files."""
        return Path(self.output) / source.name

    def filters_of(self, source: RecipeSource) -> list[FilterSpec]:
        """All that its documents have to pass, in order."""
        return [*self.filters, *source.filters]

    def evaluation_sets(self, source: RecipeSource) -> list[str]:
        """Sets that its documents are compared with; none: not decontaminated."""
        options = [spec.options for spec in self.filters_of(source)]
        filters = [one for one in options if isinstance(one, DecontaminationOptions)]
        return [one.title for options in filters for one in options.sets]

    def chosen(self, names: Sequence[str]) -> list[RecipeSource]:
        """The sources with these names, in the recipe's order; all where none is given.

        Raises:
            ConfigError: there is no such source; names the nearest.
        """
        known = [source.name for source in self.sources]
        for name in names:
            if name not in known:
                raise ConfigError(
                    f"--source {name}: the recipe has no such source; the nearest one is "
                    f"{nearest(name, known)} (there are {', '.join(known)})."
                )
        return [source for source in self.sources if not names or source.name in names]


def load_recipe(path: Path | str) -> Recipe:
    """Read a recipe.

    Raises:
        ConfigError: an unknown, missing, duplicate or impossible field; names file, line and field.
        DataError: the file cannot be read.
    """
    recipe = load_config(path, base=Recipe)
    for name in ("tokenizer", "output", "token_budget", "sources"):
        if not getattr(recipe, name):
            raise ConfigError(f"{path}: {name} is not given; a recipe needs it (docs/data.md).")
    first: dict[str, RecipeSource] = {}
    for source in recipe.sources:
        if source.name in first:
            raise ConfigError(
                f"{source.where} is named {source.name!r} as {first[source.name].where} is; give one of "
                f"them another name."
            )
        first[source.name] = source
    return recipe


def _check_name(name: str, where: str) -> None:
    if not name:
        raise ConfigError(f"{where} is not given; name the source, its token files are called so.")
    if not _NAME.fullmatch(name) or _TAKEN.fullmatch(name):
        raise ConfigError(
            f"{where} is {name!r}, which cannot name token files: use letters, digits, `.`, `_` and `-`, "
            f"a letter or digit first, at most 100, no `.parts` or `_00000` at the end."
        )


def _check_weight(weight: float | None, where: str) -> None:
    if weight is None:
        raise ConfigError(f"{where} is not given; write the source's share of the mixture.")
    if not 0 < weight <= _MAX_WEIGHT:  # the reader takes finite numbers only
        raise ConfigError(
            f"{where} must be above 0 and at most {_MAX_WEIGHT:g}, it is {weight:g}; give the source's "
            f"share of the mixture, or leave it out."
        )


def _check_adapter(source: RecipeSource, at: Any) -> None:
    given = [name for name in ("dataset", "text", "template") if getattr(source, name) is not None]
    if len(given) > 1:
        raise ConfigError(
            f"{at(given[1])} and {given[0]} both say where the text is; leave one of them out."
        )
    try:
        _ = source.adapter
    except ConfigError as error:
        raise ConfigError(f"{at(given[0] if given else 'text')}: {error}") from None
