"""Which files to read: files, folders, globs and lists of them, local or remote, in a stable order.

Whatever is found lies inside what was named: links that lead out of a folder are left out with a
warning, ``..`` behind a folder's name is refused.
"""

from __future__ import annotations

import dataclasses
import glob
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ...errors import DataError
from .files import InputFile, content_of
from .storage import file_system, is_remote, local_stamp, remote_stamp

logger = logging.getLogger(__name__)

DATA_SUFFIXES = tuple(
    [f"{kind}{packed}" for kind in (".jsonl", ".json", ".ndjson") for packed in ("", ".gz", ".zst")]
    + [".jsonl.zstd", ".json.zstd", ".parquet", ".arrow"]
)
_STATE = "state.json"  # `datasets` writes it beside the Arrow files of a split
_SPLITS = "dataset_dict.json"  # and this one above the folders of several splits


def list_inputs(
    inputs: Sequence[str | Path], suffixes: Sequence[str] = (".py",)
) -> list[InputFile]:
    """Every file of ``inputs``, in their order.

    Args:
        inputs: files (taken whatever their name), folders, patterns (``**`` goes into folders),
            ``@FILE`` with one of these a line (relative ones from FILE's folder; ``#`` begins a
            comment); paths or URLs. In a folder its own files come first, then its folders, both
            sorted. A folder that ``datasets`` saved is read as its ``state.json`` says.
        suffixes: which files of a folder count, such as ``.py`` or ``.jsonl.gz``.

    Raises:
        DataError: an input does not exist, gives no file, or has ``..`` behind a folder's name.
        MissingDependencyError: a URL needs a package that is not installed.
    """
    if not inputs:
        raise DataError("No input was given; name at least one file, folder or pattern.")
    files = [file for given in _expanded(inputs) for file in _files_of(given, tuple(suffixes))]
    seen: set[str] = set()
    for file in files:
        if file.path in seen:
            logger.warning("%s was named twice and is read twice.", file.path)
        seen.add(file.path)
    return _with_distinct_names(files)


def _with_distinct_names(files: list[InputFile]) -> list[InputFile]:
    """Where two roots hold files of one name, all names begin at the folder above the roots."""
    paths: dict[str, str] = {}
    if all(paths.setdefault(file.name, file.path) == file.path for file in files):
        return files
    roots = [file.root or file.path.rpartition("/")[0] for file in files]
    parts = [root.split("/") for root in roots]
    same = next(
        (n for n, level in enumerate(zip(*parts, strict=False)) if len(set(level)) > 1),
        min(map(len, parts)),
    )
    return [dataclasses.replace(file, root="/".join(parts[0][:same])) for file in files]


def _expanded(inputs: Sequence[str | Path]) -> Iterator[str]:
    for item in inputs:
        given = os.fspath(item)
        if not given.startswith("@"):
            yield given.removeprefix("file://")
            continue
        yield from _lines_of_list(Path(given[1:]))


def _lines_of_list(path: Path) -> Iterator[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"@{path}: the list cannot be read: {error}.") from None
    for number, line in enumerate(lines, start=1):
        entry = line.strip().removeprefix("file://")
        if not entry or entry.startswith("#"):
            continue
        if ".." in entry.split("/"):
            raise DataError(f"{path}, line {number}: {entry} has `..`; write the path without it.")
        yield entry if is_remote(entry) or os.path.isabs(entry) else str(path.parent / entry)


def _files_of(given: str, suffixes: tuple[str, ...]) -> list[InputFile]:
    _refuse_climbing(given)
    if is_remote(given):
        return _remote_files(given, suffixes)
    if os.path.isdir(given):
        return _folder_files(given, suffixes)
    if os.path.isfile(given):
        return [_local_file(given)]
    if glob.has_magic(given):
        return _glob_files(given)
    raise DataError(f"{given}: there is no such file or folder; check the path.")


def _refuse_climbing(given: str) -> None:
    """``../x`` names a place; ``x/../y`` would leave the folder that x names."""
    parts = given.partition("://")[2].split("/") if is_remote(given) else given.split("/")
    while parts and parts[0] in ("..", ".") and not is_remote(given):
        parts.pop(0)
    if ".." in parts:
        raise DataError(f"{given} has `..` behind a folder's name; write the path without it.")


def _local_file(path: str, root: str = "") -> InputFile:
    status = os.stat(path)
    return InputFile(path, *content_of(path), status.st_size, root, local_stamp(status))


def _folder_files(folder: str, suffixes: tuple[str, ...]) -> list[InputFile]:
    found = list(_walk(folder, suffixes))
    kept = _inside(folder, found)
    if kept:
        return [_local_file(path, folder) for path in kept]
    if found:
        raise DataError(
            f"{folder}: all {len(found)} files in it are links that lead out of it; name the folder they "
            "lead to, or copy them."
        )
    raise DataError(
        f"{folder}: the folder holds no file that ends in {' or '.join(suffixes)}; check the path or ask "
        f"for other suffixes{_endings_of(folder)}."
    )


def _walk(folder: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Files below a folder by suffix; linked folders are not entered."""
    state = os.path.join(folder, _STATE)
    if (saved := _saved_files(state)) is not None:
        yield from (os.path.join(folder, name) for name in saved)
        return
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if entry.name.endswith(suffixes) and entry.is_file():
            yield entry.path
    folders = [entry.name for entry in ordered if entry.is_dir(follow_symlinks=False)]
    for entry in ordered:
        if entry.is_symlink() and entry.is_dir():
            logger.warning("%s is a link to a folder and was left out.", entry.path)
    for name in _splits(os.path.join(folder, _SPLITS)) or folders:
        yield from _walk(os.path.join(folder, name), suffixes)


def _saved_files(state: str) -> list[str] | None:
    """Arrow files of a split in the order of its state.json; None where it is no such file."""
    values = _json_object(state)
    listed = values.get("_data_files")
    if not isinstance(listed, list):
        return None
    return [_plain_name(item.get("filename"), state) for item in listed if isinstance(item, dict)]


def _splits(path: str) -> list[str]:
    listed = _json_object(path).get("splits")
    return [_plain_name(name, path) for name in listed] if isinstance(listed, list) else []


def _plain_name(name: object, where: str) -> str:
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name:
        raise DataError(f"{where} names {name!r}, which is no file beside it; mend that entry.")
    if not os.path.exists(os.path.join(os.path.dirname(where), name)):
        raise DataError(f"{where} names {name}, which is not beside it; fetch the missing file.")
    return name


def _json_object(path: str) -> dict[str, Any]:
    try:
        values = json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _glob_files(pattern: str) -> list[InputFile]:
    root = _fixed_part(pattern)
    found = [path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path)]
    kept = _inside(root or ".", found)
    if not kept:
        raise DataError(f"{pattern}: no file fits the pattern; check it.")
    return [_local_file(path, root) for path in sorted(kept, key=lambda path: _order(path, root))]


def _fixed_part(pattern: str) -> str:
    """The folder in front of the first wildcard."""
    parts = pattern.split("/")
    first = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    return "/".join(parts[:first]) or ("/" if pattern.startswith("/") else "")


def _order(path: str, root: str) -> tuple[tuple[int, str], ...]:
    """Sorts like ``_walk``: the files of a folder, then its folders."""
    *folders, name = path[len(root) :].lstrip("/").split("/")
    return (*((1, folder) for folder in folders), (0, name))


def _inside(root: str, paths: Iterable[str]) -> list[str]:
    """The paths that do not lead out of ``root`` by a link; the others are named in a warning."""
    real = os.path.realpath(root)
    kept: list[str] = []
    for path in paths:
        target = os.path.realpath(path)
        if target == real or target.startswith(real.rstrip("/") + "/"):
            kept.append(path)
        else:
            logger.warning("%s is a link that leads out of %s and was left out.", path, root)
    return kept


def _endings_of(folder: str) -> str:
    endings = {f".{name.split('.', 1)[1]}" for name in os.listdir(folder) if name.find(".") > 0}
    return f"; there are {', '.join(sorted(endings)[:5])}" if endings else ""


def _remote_files(url: str, suffixes: tuple[str, ...]) -> list[InputFile]:
    system, path = file_system(url)
    scheme = f"{url.partition('://')[0]}://"
    try:
        details, root = _remote_details(system, path, suffixes)
    except FileNotFoundError:
        raise DataError(f"{url}: there is no such file or folder; check the address.") from None
    except OSError as error:
        raise DataError(f"{url}: it cannot be listed: {error}; check address and access.") from None
    if not details:
        raise DataError(
            f"{url}: no file there fits; check the address, or the suffixes ({' '.join(suffixes)})."
        )
    prefix = scheme + root.removeprefix(scheme) if root else ""
    ordered = sorted(details, key=lambda name: _order(name, root))
    return [_remote_file(scheme, name, details[name], prefix) for name in ordered]


def _remote_details(
    system: Any, path: str, suffixes: tuple[str, ...]
) -> tuple[dict[str, dict[str, Any]], str]:
    """Details of the files by name, and the folder that they were looked for in."""
    if glob.has_magic(path) and not system.exists(path):
        found = system.glob(path, detail=True)
        return {n: d for n, d in found.items() if d["type"] == "file"}, _fixed_part(path)
    details = system.info(path)
    if details["type"] != "directory":
        return {path: details}, ""
    found = system.find(path, detail=True)
    return {n: d for n, d in found.items() if n.endswith(suffixes)}, path.rstrip("/")


def _remote_file(scheme: str, name: str, details: dict[str, Any], root: str) -> InputFile:
    size = int(details.get("size") or 0)
    url = scheme + name.removeprefix(scheme)
    return InputFile(url, *content_of(name), size, root, remote_stamp(details))
