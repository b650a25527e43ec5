"""Megatron-LM's ``tools/preprocess_data.py`` for the same job: JSON lines to ``.bin/.idx``.

As there, each key goes to ``PREFIX_KEY_document``; ``megatron-dream preprocess`` writes to PREFIX.

    python tools/preprocess_data.py --input corpus.jsonl --output-prefix out/corpus \
        --tokenizer-type HuggingFaceTokenizer --tokenizer-model FOLDER --append-eod --workers 8
"""

import argparse

from megatron_dream.cli import main as run_command

TOKENIZER_TYPES = ("HuggingFaceTokenizer", "SentencePieceTokenizer", "GPTSentencePieceTokenizer")


def main() -> int:
    """Parse Megatron-LM's flags and preprocess every key."""
    parser = argparse.ArgumentParser(description="Turn JSON lines into .bin/.idx token files.")
    parser.add_argument("--input", nargs="+", required=True)
    parser.add_argument("--output-prefix", required=True)
    parser.add_argument("--tokenizer-type", choices=TOKENIZER_TYPES, help="told by the path itself")
    parser.add_argument("--tokenizer-model", required=True)
    parser.add_argument("--json-keys", nargs="+", default=["text"])
    parser.add_argument("--append-eod", action="store_true")
    parser.add_argument("--workers", default="1")
    options = parser.parse_args()
    flags = ["--tokenizer", options.tokenizer_model, "--workers", options.workers]
    flags += ["--append-eod"] if options.append_eod else []
    for key in options.json_keys:
        prefix = f"{options.output_prefix}_{key}_document"
        own = ["--input", *options.input, "--output-prefix", prefix, "--json-key", key]
        code = run_command(["preprocess", *own, *flags])
        if code:
            return code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
