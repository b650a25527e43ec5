"""What lies in token files: counts, lengths, samples, checksums, as text or as a page.

Reads ``.idx`` and ``.json`` whole, of ``.bin`` only the samples, or all of it to check the checksums that
preprocessing left.
"""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..tokenizer.base import Tokenizer
from .document import document_hash
from .indexed import TokenFiles, inspect_token_files, read_index
from .prefix import prefix_path

_EXCERPT_TOKENS = 160
_PIECE = 1 << 24


@dataclass
class Inspection:
    """One pair of token files.

    Attributes:
        files: headers and sidecar.
        lengths: ids of every document, int32 [documents].
        samples: (number of the document, its ids) of some documents.
        checked: None where nothing was checked, else whether the checksums are right.
    """

    files: TokenFiles
    lengths: NDArray[np.int32]
    samples: list[tuple[int, NDArray[np.integer[Any]]]] = field(default_factory=list)
    checked: bool | None = None

    @property
    def name(self) -> str:
        """The source's name, or the prefix's last part."""
        sidecar = self.files.sidecar or {}
        return str(sidecar.get("source") or self.files.prefix.name)

    @property
    def licences(self) -> list[tuple[str, int, int]]:
        """(licence, documents, tokens), most tokens first; empty where the corpus tells none."""
        counts = (self.files.sidecar or {}).get("licences") or {}
        rows = [
            (str(name), int(documents), int(tokens)) for name, (documents, tokens) in counts.items()
        ]
        return sorted(rows, key=lambda row: (-row[2], row[0]))

    def histogram(self) -> list[tuple[str, int, int]]:
        """(lengths, documents, tokens) by powers of two."""
        power = np.frexp(np.maximum(self.lengths, 1))[1] - 1  # floor of log2
        rows = []
        for exponent in range(int(power.max(initial=0)) + 1):
            inside = self.lengths[power == exponent]
            label = f"{1 << exponent:,} to {(2 << exponent) - 1:,}"
            rows.append((label, int(inside.size), int(inside.sum(dtype=np.int64))))
        return rows


def inspect_data(
    prefixes: Sequence[Path | str], *, samples: int = 3, check: bool = False
) -> list[Inspection]:
    """Look into token files.

    Args:
        prefixes: paths without ending.
        samples: documents to show of each, the same at every call.
        check: read all ids and compare the checksums of ``P.json``.

    Raises:
        DataError: files that are missing, foreign or truncated, or have no checksums to compare.
    """
    found = []
    for prefix in prefixes:
        files = inspect_token_files(prefix)
        lengths, offsets = read_index(files)
        chosen = sorted(range(lengths.size), key=lambda n: document_hash(f"{n}", "inspect"))[
            :samples
        ]
        ids = np.memmap(files.bin_path, dtype=files.dtype, mode="r")
        itemsize = np.dtype(files.dtype).itemsize
        starts = [int(offsets[number]) // itemsize for number in chosen]
        shown = [
            (number, np.array(ids[start : start + min(int(lengths[number]), _EXCERPT_TOKENS)]))
            for number, start in zip(chosen, starts, strict=True)
        ]
        checked = ranges_are_right([files]) if check else None
        found.append(Inspection(files, np.asarray(lengths), shown, checked))
    return found


def ranges_are_right(files: Sequence[TokenFiles]) -> bool:
    """Whether the ids have the checksums that the sidecar lists, for outputs of one file.

    Raises:
        DataError: the sidecar lists none.
    """
    sidecar = files[0].sidecar or {}
    ranges = sidecar.get("ranges")
    if not ranges or sum(size for size, _ in ranges) != files[0].bin_bytes:
        raise DataError(
            f"{prefix_path(files[0].prefix, '.json')} lists no checksums of this file alone; only files "
            "that preprocess wrote as one can be checked."
        )
    with open(files[0].bin_path, "rb") as stream:
        return all(_digest(stream, size) == expected for size, expected in ranges)


def _digest(stream: Any, size: int) -> str:
    digest = hashlib.sha256()
    while size > 0:
        piece = stream.read(min(size, _PIECE))
        if not piece:
            return ""
        digest.update(piece)
        size -= len(piece)
    return digest.hexdigest()


def text_report(found: Sequence[Inspection], tokenizer: Tokenizer | None) -> Iterator[str]:
    """Lines for a terminal."""
    total = sum(int(one.lengths.sum(dtype=np.int64)) for one in found)
    for one in found:
        tokens = int(one.lengths.sum(dtype=np.int64))
        yield (
            f"{one.name}: {one.lengths.size:,} documents, {tokens:,} tokens ({tokens / total:.1%} of all), "
            f"{one.files.bin_bytes / 1e9:,.3f} GB, {np.dtype(one.files.dtype).name}"
        )
        yield f"  longest {int(one.lengths.max()):,}, median {int(np.median(one.lengths)):,} tokens"
        if one.checked is not None:
            yield f"  checksums {'right' if one.checked else 'WRONG'}"
        for licence, documents, inside in one.licences:
            yield f"  {licence:>24}  {documents:>12,} documents  {inside / tokens:6.1%}"
        for label, documents, inside in one.histogram():
            bar = "#" * round(40 * inside / tokens)
            yield f"  {label:>24}  {documents:>12,} documents  {inside / tokens:6.1%}  {bar}"
        for number, ids in one.samples:
            yield f"  document {number:,}: {_shown(ids, tokenizer)}"


def _shown(ids: NDArray[np.integer[Any]], tokenizer: Tokenizer | None) -> str:
    if tokenizer is None:
        return " ".join(map(str, ids.tolist()))
    return json.dumps(tokenizer.decode(ids.tolist()), ensure_ascii=False)


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } td, th { padding: .1rem .8rem; text-align: right; }
td.bar { width: 20rem; text-align: left; } td.bar div { background: #4a7; height: .9rem; }
pre { background: #f4f4f4; padding: .6rem; white-space: pre-wrap; overflow-wrap: anywhere; }
"""


def html_report(found: Sequence[Inspection], tokenizer: Tokenizer | None) -> str:
    """The same as one page that loads nothing and runs nothing; all text of the data is escaped."""
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Token files</title>",
        "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; "
        "style-src 'unsafe-inline'\">",
        f"<style>{_STYLE}</style><h1>Token files</h1>",
    ]
    for one in found:
        parts += _html_section(one, tokenizer)
    return "\n".join([*parts, "</html>"])


def _html_section(one: Inspection, tokenizer: Tokenizer | None) -> Iterator[str]:
    tokens = int(one.lengths.sum(dtype=np.int64))
    yield f"<h2>{html.escape(one.name)}</h2>"
    yield (
        f"<p>{one.lengths.size:,} documents, {tokens:,} tokens, {one.files.bin_bytes / 1e9:,.3f} GB, "
        f"{np.dtype(one.files.dtype).name}. {html.escape(str(one.files.prefix))}</p>"
    )
    if one.checked is not None:
        yield f"<p>Checksums {'right' if one.checked else '<b>wrong</b>'}.</p>"
    yield "<table><tr><th>tokens of a document<th>documents<th>share of tokens<th></tr>"
    for label, documents, inside in one.histogram():
        share = inside / tokens
        yield (
            f"<tr><td>{label}<td>{documents:,}<td>{share:.1%}"
            f"<td class='bar'><div style='width:{100 * share:.1f}%'></div></tr>"
        )
    yield "</table>"
    if one.licences:
        yield "<table><tr><th>licence<th>documents<th>share of tokens</tr>"
        for licence, documents, inside in one.licences:
            yield f"<tr><td>{html.escape(licence)}<td>{documents:,}<td>{inside / tokens:.1%}</tr>"
        yield "</table>"
    for number, ids in one.samples:
        text = (
            " ".join(map(str, ids.tolist()))
            if tokenizer is None
            else tokenizer.decode(ids.tolist())
        )
        yield f"<h3>Document {number:,}</h3><pre>{html.escape(text)}</pre>"
