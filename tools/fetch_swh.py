"""Blob ids to texts: fetches what Stack-Edu and The Stack v2 name from the Software Heritage bucket.

    python tools/fetch_swh.py --input stack-edu/Python/*.parquet --output raw/stack_edu_py --threads 64
    megatron-dream preprocess --input raw/stack_edu_py --dataset stack-edu ...

Killed or failed, the same command goes on. Bulk use of the bucket needs Software Heritage's consent
(see the data sets' terms); S3 needs the s3fs package.
"""

from __future__ import annotations

import argparse
import sys
import time

from megatron_dream.data.readers.blob_parts import FetchReport
from megatron_dream.data.readers.blob_store import SWH_BUCKET
from megatron_dream.data.readers.software_heritage import FetchOptions, fetch_contents
from megatron_dream.errors import UserError

_EVERY_SECONDS = 10.0


class _Progress:
    """One line now and then on the error stream."""

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()
        self._first: int | None = None

    def __call__(self, report: FetchReport) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = report.ids
        if now - self._last >= _EVERY_SECONDS:
            speed = (report.ids - self._first) / (now - self._start)
            print(f"{report.line()} {speed:,.0f} ids/s", file=sys.stderr, flush=True)
            self._last = now


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Fetch the texts of Software Heritage blob ids.")
    parser.add_argument("--input", nargs="+", required=True, help=".parquet, .jsonl or .arrow")
    parser.add_argument("--output", required=True, help="folder of the texts")
    parser.add_argument("--bucket", default=SWH_BUCKET, help="URL or folder above the objects")
    parser.add_argument("--format", choices=("jsonl.zst", "parquet"), default="jsonl.zst")
    parser.add_argument("--threads", type=int, default=32, help="requests at once")
    parser.add_argument("--part-ids", type=int, default=10_000, help="what a kill may cost")
    parser.add_argument("--attempts", type=int, default=5, help="of a failing request")
    parser.add_argument(
        "--storage-option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="for fsspec, such as profile=NAME; without any, S3 is read anonymously",
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Fetch, and print what became of the ids."""
    options = _parser().parse_args(arguments)
    try:
        report = fetch_contents(
            options.input,
            options.output,
            FetchOptions(
                bucket=options.bucket,
                threads=options.threads,
                part_ids=options.part_ids,
                output_format=options.format,
                attempts=options.attempts,
                storage_options=dict(item.partition("=")[::2] for item in options.storage_option),
            ),
            _Progress(),
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    print(report.line())
    if report.left_out:
        print(f"named in {options.output.rstrip('/')}.fetch/left_out.jsonl")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
