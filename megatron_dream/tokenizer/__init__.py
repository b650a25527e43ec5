"""SentencePiece and Hugging Face tokenizers behind one small interface, and Dream's special tokens."""

from megatron_dream.tokenizer.base import Tokenizer, check_vocab
from megatron_dream.tokenizer.load import load_tokenizer

__all__ = ["Tokenizer", "check_vocab", "load_tokenizer"]
