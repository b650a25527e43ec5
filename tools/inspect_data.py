"""Look into token files: counts, lengths, decoded samples, checksums.

python tools/inspect_data.py PREFIX... [--tokenizer FOLDER_OR_MODEL] [--samples 3] [--check] [--html F.html]
"""

import argparse
import sys
from pathlib import Path

from megatron_dream.data.inspection import html_report, inspect_data, text_report
from megatron_dream.errors import UserError
from megatron_dream.files import atomic_write
from megatron_dream.tokenizer import load_tokenizer


def main() -> int:
    """Parse, look, print; 1 where checksums are wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prefixes", nargs="+", metavar="PREFIX", help="without .bin and .idx")
    parser.add_argument("--tokenizer", metavar="FOLDER_OR_MODEL", help="to show samples as text")
    parser.add_argument("--samples", type=int, default=3, metavar="N")
    parser.add_argument("--check", action="store_true", help="read all ids and compare checksums")
    parser.add_argument("--html", type=Path, metavar="F.html", help="write the same as a page")
    options = parser.parse_args()
    try:
        tokenizer = load_tokenizer(options.tokenizer) if options.tokenizer else None
        found = inspect_data(options.prefixes, samples=options.samples, check=options.check)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for line in text_report(found, tokenizer):
        print(line)
    if options.html:
        with atomic_write(options.html) as stream:
            stream.write(html_report(found, tokenizer))
    return 1 if any(one.checked is False for one in found) else 0


if __name__ == "__main__":
    raise SystemExit(main())
