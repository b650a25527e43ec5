"""Documents and one-filter chains for the tests beside."""

from megatron_dream.data.document import Document
from megatron_dream.data.filters import build_filters


def document(text, file="a.py", position=0, **fields):
    return Document(text, "source", file, position, 0, fields)


def decide(spec, text, file="a.py", **fields):
    """The reason of a chain of one filter; None keeps."""
    return build_filters([spec]).apply(document(text, file, **fields))


def numbered(texts):
    return [document(text, "corpus.jsonl", number) for number, text in enumerate(texts)]
