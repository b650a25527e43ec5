"""The command behind ``make results``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ...errors import UserError
from ...files import atomic_write
from .manifest import REPORT, read_results, refuse_strays
from .page import results_page
from .report import report_html


def write_results(folder: Path, whole: Path | None = None) -> list[Path]:
    """Write ``FOLDER.md`` beside a folder of results and the report in it; the files.

    Args:
        folder: with ``index.yaml``.
        whole: one more page, with its pictures inside, which can be sent by itself.

    Raises:
        UserError: something in the folder is not what it should be; nothing is written then.
    """
    results = read_results(folder)
    refuse_strays(results)
    texts = {
        folder.with_suffix(".md"): results_page(results),
        folder / REPORT: report_html(results),
    }
    if whole is not None:
        texts[whole] = report_html(results, embed=True)
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as stream:
            stream.write(text)
    return list(texts)


def main(arguments: Sequence[str], folder: Path) -> int:
    """Write, or say in one sentence what is wrong; the exit code.

    Args:
        arguments: of the command line.
        folder: default of ``--folder``.
    """
    parser = argparse.ArgumentParser(
        description="what was measured: docs/results.md and an HTML report"
    )
    parser.add_argument("--folder", type=Path, default=folder, help="of results, with index.yaml")
    parser.add_argument("--whole", type=Path, metavar="F.html", help="one file, pictures inside")
    options = parser.parse_args(arguments)
    try:
        for path in write_results(options.folder, options.whole):
            print(f"{path}: {path.stat().st_size / 1e3:,.0f} kB")
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0
