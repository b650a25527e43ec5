"""What padding costs on two public length distributions: shares of PAD, then useful tokens a second.

HumanEval's prompts and solutions (from ../shared/data, or --humaneval FILE), and the functions of this
interpreter's standard library with their docstrings as prompts. Both go through ``prepare-sft`` with
Qwen2's tokenizer and ``analyze-padding`` at the recipe's sizes; then benchmarks/sft_padding.py runs a
small model over the samples of up to 1,024 tokens, all ways in one run.

    python tests/acceptance/sft_padding.py [--no-speed]       writes docs/results/padding_*; 10 minutes
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import gzip
import io
import json
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from megatron_dream.data.sft.prepare import prepare_sft  # noqa: E402
from megatron_dream.evaluation.padding import analyze_padding  # noqa: E402

SHARED = ROOT.parent / "shared" / "data"
RESULTS = ROOT / "docs" / "results"
WIDEST = 1024  # tokens of a row whose speed is measured
SPEED = ["--sequence-length", str(WIDEST), "--micro-batch-size", "4", "--samples", "24"]


def humaneval(path: Path) -> Iterator[dict[str, str]]:
    """Prompt and canonical solution of each problem."""
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        for line in stream:
            problem = json.loads(line)
            yield {"prompt": problem["prompt"], "response": problem["canonical_solution"]}


def standard_library() -> Iterator[dict[str, str]]:
    """Signature with docstring, and the rest of the function."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if {"test", "tests", "site-packages", "idle_test"} & set(path.parts):
            continue
        try:
            text = path.read_text(encoding="utf-8")
            tree = ast.parse(text)
        except (UnicodeDecodeError, SyntaxError, ValueError):
            continue
        lines = list(io.StringIO(text, newline=""))
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef) or not ast.get_docstring(node):
                continue
            docstring, end = node.body[0], node.end_lineno
            if len(node.body) > 1 and docstring.end_lineno and end:
                head = lines[node.lineno - 1 : docstring.end_lineno]
                yield {
                    "prompt": "".join(head),
                    "response": "".join(lines[docstring.end_lineno : end]),
                }


def prepare(file: Path, prefix: Path, tokenizer: Path, **options: Any) -> None:
    """``prepare-sft`` without its summary."""
    with contextlib.redirect_stdout(io.StringIO()):
        prepare_sft(
            [file], prefix, tokenizer, max_rejects=0.0, skip_rule=["python_syntax"], **options
        )


def main() -> int:
    """Prepare, analyse, measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--humaneval", type=Path, default=SHARED / "HumanEval.jsonl.gz")
    parser.add_argument("--tokenizer", type=Path, default=SHARED / "qwen2_tokenizer")
    parser.add_argument("--no-speed", action="store_true", help="shares alone")
    options = parser.parse_args()
    sets = {"humaneval": humaneval(options.humaneval), "stdlib": standard_library()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for title, records in sets.items():
            file, prefix = folder / f"{title}.jsonl", folder / title
            file.write_text("".join(json.dumps(record) + "\n" for record in records))
            prepare(file, prefix, options.tokenizer)
            print(f"{title}:", flush=True)
            analyze_padding([prefix], options.tokenizer, folder / f"{title}_padding")
            RESULTS.mkdir(parents=True, exist_ok=True)
            for ending in ("json", "md", "png"):
                target = RESULTS / f"padding_{title}.{ending}"
                shutil.copyfile(folder / f"{title}_padding" / f"padding.{ending}", target)
            if options.no_speed:
                continue
            short = folder / f"{title}_short"
            prepare(file, short, options.tokenizer, max_length=WIDEST)
            words = [str(short), "--tokenizer", str(options.tokenizer), *SPEED]
            command = [sys.executable, str(ROOT / "benchmarks" / "sft_padding.py"), *words]
            subprocess.run(command, check=True, cwd=ROOT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
