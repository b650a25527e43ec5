"""Megatron-LM's ``tools/preprocess_data.py`` for the same job: text to ``.bin/.idx``.

As there, each key goes to ``PREFIX_KEY_document``; ``megatron-dream preprocess`` writes to PREFIX. All
further flags are its own, such as ``--mpi``:

    mpirun -n 4 python tools/preprocess_data.py --mpi --input corpus/*.jsonl --output-prefix out/corpus \
        --tokenizer-type HuggingFaceTokenizer --tokenizer-model FOLDER --append-eod --workers 8

``--recipe FILE`` of a mixture takes the place of inputs, prefix and tokenizer.
"""

import argparse
import sys

from megatron_dream.cli import main as run_command

TOKENIZER_TYPES = ("HuggingFaceTokenizer", "SentencePieceTokenizer", "GPTSentencePieceTokenizer")


def main() -> int:
    """Parse Megatron-LM's flags and preprocess every key, or leave a recipe's to the command."""
    if any(word.split("=", 1)[0] == "--recipe" for word in sys.argv[1:]):
        return run_command(["preprocess", *sys.argv[1:]])
    parser = argparse.ArgumentParser(
        description="Turn text into .bin/.idx token files.",
        epilog="Further flags: megatron-dream preprocess --help.",
        allow_abbrev=False,
    )
    parser.add_argument("--input", nargs="+", required=True)
    parser.add_argument("--output-prefix", required=True)
    parser.add_argument("--tokenizer-type", choices=TOKENIZER_TYPES, help="told by the path itself")
    parser.add_argument("--tokenizer-model", required=True)
    parser.add_argument("--json-keys", nargs="+", default=["text"])
    options, further = parser.parse_known_args()
    for key in options.json_keys:
        prefix = f"{options.output_prefix}_{key}_document"
        own = ["--input", *options.input, "--output-prefix", prefix, "--json-key", key]
        own += ["--tokenizer", options.tokenizer_model]
        code = run_command(["preprocess", *own, *further])
        if code:
            return code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
