"""What lies on the disk of a source: its token files, parts that are begun, or only the raw input."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import DataError, UserError
from ..contamination import decontaminated_against
from ..indexed import TokenFiles, inspect_token_files
from ..prefix import prefix_path
from ..preprocessing.command import estimated_tokens
from ..preprocessing.job import MANIFEST
from ..readers import list_inputs
from ..readers.storage import is_remote
from .recipe import Recipe, RecipeSource

_PART_RECORD = re.compile(r"[0-9]{6,}\.json")


@dataclass(frozen=True)
class SourceFiles:
    """What there is of one source.

    Attributes:
        files: token files; none where it is not preprocessed to the end.
        shards: done and planned, where preprocessing is begun.
        input_files: raw files found; None where nobody looked.
        input_bytes: of them.
        estimated_tokens: that they will make, about, before filters; 0 where nothing is known.
        input_problem: why no raw files were found.
    """

    files: tuple[TokenFiles, ...] = ()
    shards: tuple[int, int] | None = None
    input_files: int | None = None
    input_bytes: int = 0
    estimated_tokens: int = 0
    input_problem: str = ""

    @property
    def is_ready(self) -> bool:
        """Whether it can be trained on."""
        return bool(self.files)

    @property
    def tokens(self) -> int:
        """Of the token files."""
        return sum(one.num_tokens for one in self.files)

    @property
    def disk_bytes(self) -> int:
        """Of ``.bin`` and ``.idx``."""
        return sum(one.bin_bytes + one.idx_bytes for one in self.files)

    @property
    def decontaminated_against(self) -> list[str]:
        """Evaluation sets that all of its files were compared with."""
        each = [decontaminated_against(one.sidecar) for one in self.files]
        return [name for name in each[0] if all(name in sets for sets in each)] if each else []


def find_source(recipe: Recipe, source: RecipeSource) -> SourceFiles:
    """Look for a source's token files, and where there are none for its input.

    Raises:
        DataError: token files that are foreign, truncated or incomplete.
    """
    prefix = recipe.prefix(source)
    manifest = prefix.with_name(f"{prefix.name}.parts") / MANIFEST
    if not manifest.is_file() and (prefixes := find_prefixes(prefix)):
        return token_files(prefixes)
    found = _find_input(source)
    if not manifest.is_file():
        return found
    done = sum(1 for path in manifest.parent.iterdir() if _PART_RECORD.fullmatch(path.name))
    return SourceFiles(
        shards=(done, _planned_shards(manifest)),
        input_files=found.input_files,
        input_bytes=found.input_bytes,
        estimated_tokens=found.estimated_tokens,
        input_problem=found.input_problem,
    )


def token_files(prefixes: Sequence[Path]) -> SourceFiles:
    """Of prefixes that exist; only headers and lengths are looked at."""
    return SourceFiles(tuple(inspect_token_files(prefix, thorough=False) for prefix in prefixes))


def find_prefixes(prefix: Path) -> list[Path]:
    """Prefixes that preprocessing to ``prefix`` wrote: itself, or ``prefix_00000`` and so on; or none.

    Raises:
        DataError: one that ``P.json`` lists is not there.
    """
    if prefix_path(prefix, ".idx").is_file():
        found = [prefix]
    else:
        pattern = f"{glob.escape(str(prefix))}_[0-9][0-9][0-9][0-9][0-9].idx"
        found = [Path(path[: -len(".idx")]) for path in sorted(glob.glob(pattern))]
    if not found:
        return []
    listed = _listed_outputs(found[0])
    for name in listed:
        if not prefix_path(prefix.with_name(name), ".idx").is_file():
            raise DataError(
                f"{prefix_path(found[0], '.json')} lists {name}, which is not beside it; copy its files "
                f"there or preprocess again."
            )
    return [prefix.with_name(name) for name in listed] or found


def _listed_outputs(prefix: Path) -> list[str]:
    path = prefix_path(prefix, ".json")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        names = values.get("outputs", [])
    except FileNotFoundError:
        return []
    except (ValueError, AttributeError):
        raise DataError(f"{path} is no sidecar of token files; preprocess again.") from None
    if not isinstance(names, list) or not all(isinstance(n, str) and "/" not in n for n in names):
        raise DataError(f"{path} has outputs that are no names; preprocess again.")
    return names


def _planned_shards(manifest: Path) -> int:
    try:
        return int(json.loads(manifest.read_text(encoding="utf-8"))["shards"])
    except (ValueError, KeyError, TypeError):
        raise DataError(
            f"{manifest} cannot be read; remove {manifest.parent} to preprocess anew."
        ) from None


def _find_input(source: RecipeSource) -> SourceFiles:
    """List local input; what is remote is not asked for."""
    try:
        if any(_names_remote(entry) for entry in source.input):
            return SourceFiles(input_problem="its input is remote and was not listed")
        files = list_inputs(source.input, source.suffixes or source.adapter.suffixes or (".py",))
    except UserError as error:
        return SourceFiles(input_problem=str(error).rstrip("."))
    return SourceFiles(
        input_files=len(files),
        input_bytes=sum(file.size for file in files),
        estimated_tokens=estimated_tokens(files),
    )


def _names_remote(entry: str) -> bool:
    if not entry.startswith("@"):
        return is_remote(entry) and not entry.startswith("file://")
    path = Path(entry[1:])
    return path.is_file() and "://" in path.read_text(encoding="utf-8", errors="replace")
