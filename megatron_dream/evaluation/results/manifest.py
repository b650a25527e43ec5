"""``docs/results/index.yaml``: the measurements, and what each file of the folder belongs to.

The file says nothing that is not elsewhere: a commit or date stands in a result's JSON
(``FILE.json#KEY``) or, where it is written out, in the log or another named page, which is looked up.
Results of the verb ``sweep`` need no line: their own JSON says everything (``sweeps.py``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from ...config.convert import Converter, Place
from ...config.load import compose_yaml, read_yaml
from ...errors import ConfigError, DataError
from .checks import checks_table
from .entries import NOT_RECORDED, Entry, Section
from .facts import fact, read_result
from .sweeps import is_cell, read_sweeps

MANIFEST = "index.yaml"
REPORT = "report.html"
SWEEPS = "sweeps"
_OF_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_OF_DATE = re.compile(r"\d{4}-\d\d-\d\d")


@dataclass
class Results:
    """The whole file, checked.

    Attributes:
        title: of the page.
        about: paragraphs before the first section.
        sections: in order.
        folder: of the results.
    """

    title: str = ""
    about: str = ""
    sections: list[Section] = field(default_factory=list)
    folder: Path = Path()

    def entries(self) -> Iterator[Entry]:
        """All of them."""
        for section in self.sections:
            yield from section.entries

    def figures(self, entry: Entry) -> list[tuple[str, str]]:
        """(file, Markdown) of what is shown of an entry in full."""
        shown = [(name, _text(self.folder / name)) for name in entry.files if name.endswith(".md")]
        if entry.checks:
            shown.append((entry.checks, checks_table(self.folder / entry.checks)))
        return shown


def read_results(folder: Path) -> Results:
    """Read the manifest of a folder of results, put the sweeps in, and check all of it.

    Args:
        folder: ``docs/results``; the pages that entries name lie beside it.

    Raises:
        ConfigError: a field is unknown, missing or ill-typed; a commit or date stands nowhere.
        DataError: a file is missing or damaged.
    """
    path = folder / MANIFEST
    node = compose_yaml(read_yaml(path), str(path))
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}: no mapping of fields; give title and sections.")
    results: Results = Converter(Results, {}).convert(node, Results, Place("", str(path)))
    results.folder = folder
    for entry in results.entries():
        _complete(entry, folder, path)
    sweeps = read_sweeps(folder / SWEEPS)
    takers = [section for section in results.sections if section.takes_sweeps]
    if sweeps and len(takers) != 1:
        raise ConfigError(
            f"{path}: {len(takers)} sections have takes_sweeps: true; give it to one."
        )
    for section in takers:
        section.entries += sweeps
    _refuse_twins(results, path)
    return results


def _complete(entry: Entry, folder: Path, path: Path) -> None:
    """Check one entry and put in what stands in its JSON."""
    where = f"{path}: {entry.title or 'an entry without a title'}"
    for name in ("title", "shows", "command", "commit", "date", "machine"):
        if not getattr(entry, name).strip():
            hint = (
                "; write 'not recorded' where it is not known" if name in ("commit", "date") else ""
            )
            raise ConfigError(f"{where}: {name} is missing{hint}.")
    for name in entry.all_files:
        if not (folder / name).is_file():
            raise DataError(
                f"{where}: {folder / name} does not exist; measure it by the entry's command, or take "
                "the name out."
            )
        if name.endswith(".json"):
            read_result(folder / name)
    for picture in entry.pictures:
        if not picture.alt.strip():
            raise ConfigError(f"{where}: picture {picture.file} has no alt; say what it shows.")
    _state(entry, folder, where)


def _state(entry: Entry, folder: Path, where: str) -> None:
    """Take commit, date and machine from JSON, or find where the entry says what is written out."""
    told = sources(entry, folder)
    if entry.log and not told:
        raise ConfigError(f"{where}: log.md has no part '{entry.log}'; give a title of one.")
    for name, form in (("commit", _OF_COMMIT), ("date", _OF_DATE), ("machine", None)):
        value: str = getattr(entry, name)
        if "#" in value:
            setattr(entry, name, fact(folder, value, where))
        elif form is not None and value != NOT_RECORDED:
            literals = form.findall(value)
            lost = [one for one in literals if one not in told]
            if not literals or lost:
                place = f"the log's part '{entry.log}'" if entry.log else entry.stated_in
                raise ConfigError(
                    f"{where}: {name} {lost[0] if lost else value} stands neither in {place} nor in the "
                    "entry's Markdown; give what is recorded, or 'not recorded'."
                )


def sources(entry: Entry, folder: Path) -> str:
    """What an entry is taken from: its part of the log, its page, and its own Markdown.

    Empty where the log has no such part.
    """
    names = [name for name in entry.files if name.endswith(".md")]
    told = [_text(folder / name) for name in names]
    if not entry.log or entry.stated_in != "log.md":
        told.append(_text(folder.parent / entry.stated_in))
    if entry.log:
        heading = f"## {entry.log}\n"
        _, found, after = ("\n" + _text(folder.parent / "log.md")).partition(f"\n{heading}")
        if not found:
            return ""
        told.append(heading + after.partition("\n## ")[0])
    return "\n".join(told)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}); restore it.") from None


def _refuse_twins(results: Results, path: Path) -> None:
    seen: set[str] = set()
    sections = [section.title for section in results.sections]
    for title in [*sections, *(entry.title for entry in results.entries())]:
        if title in seen:
            raise ConfigError(f"{path}: '{title}' is the title of two; give each its own.")
        seen.add(title)


def refuse_strays(results: Results, but: Collection[Path] = ()) -> None:
    """Refuse a file that nobody tells of: it would be a measurement without a command.

    Args:
        results: read from the folder.
        but: files that are let pass.

    Raises:
        DataError: there is one; the sentence says what to do.
    """
    known = {MANIFEST, REPORT, *(name for entry in results.entries() for name in entry.all_files)}
    sweeps = results.folder / SWEEPS
    for file in sorted(set(results.folder.rglob("*")) - set(but)):
        name = file.relative_to(results.folder).as_posix()
        if (
            not file.is_file()
            or name in known
            or file.name.startswith(".")
            or is_cell(file, sweeps)
        ):
            continue
        if file.is_relative_to(sweeps):
            raise DataError(
                f"{file}: no sweep's JSON stands beside it; write the report again (megatron-dream sweep "
                "--report) or remove the file."
            )
        raise DataError(
            f"{file} is in no entry of {results.folder / MANIFEST}; add it to one, or remove it."
        )
