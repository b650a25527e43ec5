"""A measurement and what belongs to it."""

from __future__ import annotations

from dataclasses import dataclass, field

NOT_RECORDED = "not recorded"


@dataclass
class Picture:
    """A picture of a result.

    Attributes:
        file: in the folder.
        alt: what it shows, for who does not see it.
    """

    file: str = ""
    alt: str = ""


@dataclass
class Entry:
    """One measurement.

    Attributes:
        title: of the entry.
        shows: what it shows, with its figures.
        misses: figures that missed their aim, a sentence each.
        limits: what it does not say.
        command: as typed; several lines where there are several.
        commit: ``FILE.json#KEY``, or commits written out, or ``not recorded``.
        date: likewise; the day.
        machine: likewise, without ``not recorded``.
        conditions: what else ran, how many seeds.
        stated_in: page of docs/ in which what is written out stands.
        log: title of the log's part that tells of it.
        files: its files in the folder, pictures apart; a Markdown file is shown.
        pictures: its pictures.
        checks: a JSON of ``make acceptance``, shown as a table.
    """

    title: str = ""
    shows: str = ""
    misses: list[str] = field(default_factory=list)
    limits: str = ""
    command: str = ""
    commit: str = ""
    date: str = ""
    machine: str = ""
    conditions: str = ""
    stated_in: str = "log.md"
    log: str = ""
    files: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    checks: str | None = None

    @property
    def all_files(self) -> list[str]:
        """Everything in the folder that belongs to it."""
        more = [self.checks] if self.checks else []
        return [*self.files, *more, *(picture.file for picture in self.pictures)]


@dataclass
class Section:
    """Measurements of one kind.

    Attributes:
        title: of the section.
        about: a sentence for all of them.
        entries: in order.
        takes_sweeps: the results of ``sweep`` are put behind its entries.
    """

    title: str = ""
    about: str = ""
    entries: list[Entry] = field(default_factory=list)
    takes_sweeps: bool = False
