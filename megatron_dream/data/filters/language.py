"""Languages: by a field of the record, or by the ending of the file's name.

Programming and natural languages alike: names are compared without case, as the corpus writes them
(``Python``, ``en``). The endings are those of GitHub's linguist (languages.yml) where a language is
its first or only meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Literal

from ..document import Document
from .base import Filter, Options, strings_of

LanguageBy = Literal["auto", "field", "suffix"]

_SUFFIXES = {
    "assembly": ".asm .s",
    "batchfile": ".bat .cmd",
    "c": ".c .h",
    "c#": ".cs",
    "c++": ".cc .cpp .cxx .hh .hpp .hxx",
    "clojure": ".clj .cljc .cljs",
    "cmake": ".cmake",
    "css": ".css",
    "cuda": ".cu .cuh",
    "dart": ".dart",
    "elixir": ".ex .exs",
    "erlang": ".erl .hrl",
    "f#": ".fs .fsx",
    "fortran": ".f .f90 .f95",
    "go": ".go",
    "groovy": ".groovy",
    "haskell": ".hs",
    "html": ".htm .html",
    "java": ".java",
    "javascript": ".cjs .js .jsx .mjs",
    "json": ".json",
    "jupyter notebook": ".ipynb",
    "julia": ".jl",
    "kotlin": ".kt .kts",
    "lua": ".lua",
    "markdown": ".markdown .md",
    "ocaml": ".ml .mli",
    "pascal": ".pas",
    "perl": ".pl .pm",
    "php": ".php",
    "powershell": ".ps1 .psm1",
    "python": ".py .pyi .pyw",
    "r": ".r",
    "restructuredtext": ".rst",
    "ruby": ".rb",
    "rust": ".rs",
    "scala": ".sc .scala",
    "shell": ".bash .sh .zsh",
    "sql": ".sql",
    "swift": ".swift",
    "tex": ".tex",
    "text": ".txt",
    "toml": ".toml",
    "typescript": ".ts .tsx",
    "verilog": ".v",
    "vhdl": ".vhd .vhdl",
    "xml": ".xml",
    "yaml": ".yaml .yml",
    "zig": ".zig",
}
LANGUAGE_OF_SUFFIX: Mapping[str, str] = MappingProxyType(
    {suffix: name for name, suffixes in _SUFFIXES.items() for suffix in suffixes.split()}
)
_PACKED = (".gz", ".zst", ".zstd")
_CONTAINERS = (".jsonl", ".ndjson", ".parquet", ".arrow")


@dataclass
class LanguageOptions(Options):
    """Which languages.

    Attributes:
        allow: languages that stay; empty: all but those of ``deny``. An entry with a dot, such as
            ``.pyx``, is the ending of a file's name.
        deny: languages that go.
        by: ``field``, ``suffix``, or ``auto``: the field, else the suffix.
        field: of the record; ``language`` is wherever the corpus keeps it. A list stays when one of
            it is allowed and none denied.
        unknown: what becomes of a document of which neither tells.
    """

    allow: list[str] = field(default_factory=list)
    deny: list[str] = field(default_factory=list)
    by: LanguageBy = "auto"
    field: str = "language"
    unknown: Literal["drop", "keep"] = "drop"

    def problem(self) -> str | None:
        """Nothing named, or a language on both lists."""
        if not self.allow and not self.deny:
            return "names no language; fill allow or deny"
        both = {name.lower() for name in self.allow} & {name.lower() for name in self.deny}
        return f"has {min(both)} in allow and in deny; keep one" if both else None


class LanguageFilter(Filter):
    """Keep documents of some languages."""

    name: ClassVar[str] = "languages"

    def __init__(self, options: LanguageOptions) -> None:
        super().__init__()
        self.options = options
        self.fields = () if options.by == "suffix" else (options.field,)
        self._allow = {name.lower() for name in options.allow}
        self._deny = {name.lower() for name in options.deny}
        self._has_suffixes = any(name.startswith(".") for name in self._allow | self._deny)

    def apply(self, document: Document) -> str | None:
        """Drop what is denied, or not allowed where there is a list of allowed ones."""
        names = set(languages_of(document, self.options.field, self.options.by))
        if self._has_suffixes:
            names.add(suffix_of(document.file))
        names.discard("")
        if not names:
            return "language unknown" if self.options.unknown == "drop" else None
        if denied := names & self._deny:
            return f"language {min(denied)} is denied"
        if self._allow and not names & self._allow:
            return "language not in allow"
        return None


def languages_of(document: Document, field: str, by: LanguageBy) -> list[str]:
    """Languages of a document in lower case; none where nothing tells."""
    if by != "suffix" and (names := strings_of(document.fields.get(field))):
        return [name.lower() for name in names]
    if by != "field" and (name := LANGUAGE_OF_SUFFIX.get(suffix_of(document.file))):
        return [name]
    return []


def suffix_of(file: str) -> str:
    """Ending of a file's name with its dot, in lower case; empty for files that hold records."""
    name = file.rsplit("/", 1)[-1].lower()
    for packed in _PACKED:
        name = name.removesuffix(packed)
    dot = name.rfind(".")
    suffix = name[dot:] if dot > 0 else ""
    return "" if suffix in _CONTAINERS else suffix
