"""Train a SentencePiece tokenizer: the same function as ``megatron-dream tokenizer train``.

python tools/train_tokenizer.py --input corpus/ --vocab-size 4096 --output tokenizer.model
"""

import sys

from megatron_dream.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["tokenizer", "train", *sys.argv[1:]]))
