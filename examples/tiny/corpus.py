"""The quickstart's corpus: the standard library's source of the interpreter that runs this.

Left out: ``encodings/``, tests, packages of others, generated tables, files that are not UTF-8. Near
duplicates are removed by MinHash over 5-token shingles (64 permutations, Jaccard over 0.7; the first
file by name stays). A module or package goes to one split as a whole, with its private twins
(``decimal`` and ``_pydecimal``), by the hash of its family's name: held-out functions have no sibling
in the training text.

Writes train.jsonl and valid.jsonl (fields text, path), functions.jsonl (held-out functions cut into
prefix, middle, suffix), answers.jsonl and questions.jsonl (what a docstring asks for, with the function
that does it from training text, without from held-out text), gaps.jsonl (held-out functions without
their second line) and counts.json.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import io
import json
import re
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron_dream.files import atomic_write, write_json  # noqa: E402

SKIPPED_FOLDERS = {
    "encodings", "test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__",
    "lib2to3", "ensurepip", "turtledemo",
}  # fmt: skip
VALID_PERCENT = 6
NUM_PERMUTATIONS, SHINGLE, NEAR = 64, 5, 0.7
_TOKEN = re.compile(r"\w+|[^\w\s]")
_TWIN = re.compile(r"^_+(py)?")


def source_files(root: Path) -> Iterator[Path]:
    """Python files of the standard library, in order of their names."""
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if not SKIPPED_FOLDERS.intersection(parts[:-1]) and not _is_generated_name(parts):
            yield path


def _is_generated_name(parts: tuple[str, ...]) -> bool:
    name = parts[-1]
    return parts[0] == "pydoc_data" or name.startswith(("_sysconfigdata", "test_"))


def is_table(text: str) -> bool:
    """Whether a file is a generated table rather than a program: mostly numbers or endless lines."""
    tokens = _TOKEN.findall(text)
    if len(tokens) < 20:
        return True
    numbers = sum(token[0].isdigit() for token in tokens)
    longest = max(map(len, text.split("\n")))
    return numbers > 0.3 * len(tokens) or longest > 2000


def signature(text: str) -> np.ndarray:
    """MinHash signature, uint64 [NUM_PERMUTATIONS]: equal entries estimate the Jaccard index."""
    tokens = _TOKEN.findall(text)
    shingles = {" ".join(tokens[i : i + SHINGLE]) for i in range(max(1, len(tokens) - SHINGLE + 1))}
    hashes = np.array(
        [
            int.from_bytes(hashlib.blake2b(s.encode(), digest_size=8).digest(), "little")
            for s in shingles
        ],
        dtype=np.uint64,
    )
    generator = np.random.Philox(key=np.array([0, 0], dtype=np.uint64))
    factors = generator.random_raw(NUM_PERMUTATIONS) | np.uint64(1)
    lowest = np.full(NUM_PERMUTATIONS, np.iinfo(np.uint64).max, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for index, factor in enumerate(factors):
            mixed = hashes * factor
            lowest[index] = (mixed ^ (mixed >> np.uint64(29))).min()
    return lowest


class NearDuplicates:
    """Remembers signatures; tells whether a new one is near an earlier."""

    def __init__(self) -> None:
        self._signatures: list[np.ndarray] = []

    def is_near(self, text: str) -> bool:
        """Whether a text like this was seen; remembers it if not."""
        new = signature(text)
        if self._signatures:
            equal = (np.stack(self._signatures) == new).mean(axis=1)
            if float(equal.max()) > NEAR:
                return True
        self._signatures.append(new)
        return False


def family(top_level: str) -> str:
    """What a module and its private twins share: ``io`` of ``_pyio``, ``collections`` of its abc."""
    return _TWIN.sub("", top_level).split("_")[0] or top_level


def split_of(top_level: str) -> str:
    """``"train"`` or ``"valid"`` for a top-level module or package, by the hash of its family."""
    digest = hashlib.sha256(family(top_level).encode()).digest()
    return "valid" if digest[0] * 100 < VALID_PERCENT * 256 else "train"


def _functions(source: str) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node):
            yield node


def source_lines(text: str) -> list[str]:
    """Lines as Python counts them: a form feed or U+2028 ends none."""
    return list(io.StringIO(text, newline=""))


def heldout_functions(records: list[dict[str, str]], count: int) -> list[dict[str, Any]]:
    """Short functions with a docstring, cut into signature with docstring, body but the last line, rest.

    Args:
        records: held-out files, with ``text`` and ``path``.
        count: at most so many, spread over the files by a hash of their names.
    """
    found = []
    for record in records:
        lines = source_lines(record["text"])
        for node in _functions(record["text"]):
            if node.col_offset or node.end_lineno is None or len(node.body) < 3:
                continue
            body_start, last = node.body[1].lineno - 1, node.body[-1].lineno - 1
            text = "".join(lines[node.lineno - 1 : node.end_lineno])
            if not 150 <= len(text) <= 700 or not body_start < last:
                continue
            found.append(
                {
                    "name": f"{record['path']}:{node.name}",
                    "prefix": "".join(lines[node.lineno - 1 : body_start]),
                    "middle": "".join(lines[body_start:last]),
                    "suffix": "".join(lines[last : node.end_lineno]),
                }
            )
    found.sort(key=lambda entry: hashlib.sha256(entry["name"].encode()).digest())
    return found[:count]


def questions(records: list[dict[str, str]]) -> Iterator[dict[str, str]]:
    """Short functions as an answer to what their docstring asks for; methods too, without indentation.

    Args:
        records: files, with ``text`` and ``path``.
    """
    for record in records:
        lines = source_lines(record["text"])
        for node in _functions(record["text"]):
            if node.end_lineno is None or len(node.body) < 2 or node.decorator_list:
                continue
            docstring = node.body[0]
            head = lines[node.lineno - 1 : docstring.lineno - 1]
            answer = dedent("".join(head + lines[docstring.end_lineno : node.end_lineno]))
            wish = " ".join((ast.get_docstring(node) or "").partition("\n\n")[0].split())
            if 40 <= len(answer) <= 400 and 15 <= len(wish) <= 120:
                call = f"{node.name}({', '.join(a.arg for a in node.args.args)})"
                yield {"prompt": f"Write {call} in Python: {wish}", "response": answer}


def gap_of(function: str) -> dict[str, str]:
    """A function around the gap that its second line leaves."""
    lines = source_lines(function)
    return {"prefix": lines[0], "suffix": "".join(lines[2:])}


def collect(
    root: Path, count: int | None = None
) -> tuple[dict[str, list[dict[str, str]]], Counter[str]]:
    """Records by split, and what was left out by reason, of the first ``count`` files or of all."""
    records: dict[str, list[dict[str, str]]] = {"train": [], "valid": []}
    left_out: Counter[str] = Counter()
    seen = NearDuplicates()
    for path in islice(source_files(root), count):
        relative = path.relative_to(root)
        try:
            text = path.read_text(encoding="utf-8")
            ast.parse(text)
        except (UnicodeDecodeError, SyntaxError, ValueError):
            left_out["not readable as Python"] += 1
            continue
        if is_table(text):
            left_out["generated table or empty"] += 1
        elif seen.is_near(text):
            left_out["near duplicate"] += 1
        else:
            top_level = relative.parts[0].removesuffix(".py")
            records[split_of(top_level)].append({"text": text, "path": str(relative)})
    return records, left_out


def main() -> None:
    """Write the corpus and say what is in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--functions", type=int, default=40)
    parser.add_argument("--asked", type=int, default=8, help="questions and gaps")
    parser.add_argument("--files", type=int, help="only the first so many, for a rehearsal")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    records, left_out = collect(Path(sysconfig.get_paths()["stdlib"]), options.files)
    answers, asked = list(questions(records["train"])), list(questions(records["valid"]))
    files = {
        **records,
        "functions": heldout_functions(records["valid"], options.functions),
        "answers": answers,
        "questions": [{"prompt": entry["prompt"]} for entry in asked[: options.asked]],
        "gaps": [gap_of(entry["response"]) for entry in asked[: options.asked]],
    }
    for name, entries in files.items():
        with atomic_write(options.output / f"{name}.jsonl") as stream:
            stream.writelines(json.dumps(entry) + "\n" for entry in entries)
    counts = {
        split: {"files": len(found), "characters": sum(len(entry["text"]) for entry in found)}
        for split, found in records.items()
    }
    write_json(options.output / "counts.json", {**counts, "left_out": dict(left_out)})
    for split, count in counts.items():
        print(f"{split}: {count['files']} files, {count['characters']:,} characters")
    print(
        f"left out: {dict(left_out)}; held-out functions: {len(files['functions'])}; answers to learn: "
        f"{len(answers)}"
    )


if __name__ == "__main__":
    main()
