"""Prepare SFT data: the same function as ``megatron-dream prepare-sft``.

python tools/prepare_sft_data.py --input sft.jsonl --output-prefix data/sft --tokenizer FOLDER_OR_MODEL
"""

import sys

from megatron_dream.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["prepare-sft", *sys.argv[1:]]))
