"""Training a SentencePiece tokenizer that never loses a character of source code.

BPE with byte fallback on text as it is: no normalisation, no prefix, white space kept. Digits stand
alone, runs of spaces are pieces (indentation), newline and tab are pieces of their own, so that a
text cut at a line's end has the ids of its two parts: infilling and page rendering rely on it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import sentencepiece

from megatron_dream.errors import DataError, TokenizerError
from megatron_dream.files import atomic_write
from megatron_dream.tokenizer.inputs import InputFile, list_inputs, open_input
from megatron_dream.tokenizer.sentencepiece import SentencePieceTokenizer

_MAX_CHARACTERS = 4000  # of a training line; longer ones are cut
_MAX_LINE_BYTES = 4 * _MAX_CHARACTERS + 1


def train_sentencepiece(
    inputs: Sequence[Path | str],
    vocab_size: int,
    output: Path | str,
    *,
    json_key: str = "text",
    suffixes: Sequence[str] = (".py",),
    max_bytes: int = 1_000_000_000,
    character_coverage: float = 0.9999,
    num_threads: int = 2,
) -> SentencePieceTokenizer:
    """Train a BPE model and write it to ``output`` (a ``.model`` file) in one rename.

    The same inputs give the same file. Lines that cannot be read are skipped: preprocessing names
    them.

    Args:
        inputs: JSON Lines files, source files, or folders of them.
        vocab_size: pieces of the model; Dream's six tokens come on top.
        output: the file to write; its folder is made.
        json_key: the field of JSON Lines that holds the text.
        suffixes: which files of a folder count.
        max_bytes: of input; where there is more, lines are taken evenly from all of it.
        character_coverage: share of characters with a piece of their own; the others become bytes.
        num_threads: of the trainer; no influence on the result.

    Raises:
        DataError: no input, or no text in it.
        TokenizerError: the vocabulary is too small or too large for the text.
    """
    output = Path(output)
    files = list_inputs(inputs, suffixes)
    share = min(1.0, max_bytes / max(1, sum(file.size for file in files)))
    lines = _sampled(_training_lines(files, json_key), share)
    first = next(lines, None)
    if first is None:
        raise DataError(
            f"{files[0].path}: there is no text to train on in the inputs; check the files and the "
            f"field name {json_key!r}."
        )
    model = _train(_chain(first, lines), vocab_size, character_coverage, num_threads)
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(output, "wb") as stream:
        stream.write(model)
    return SentencePieceTokenizer(model, str(output))


def _train(lines: Iterator[str], vocab_size: int, coverage: float, num_threads: int) -> bytes:
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines,
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            character_coverage=coverage,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            user_defined_symbols=["\n", "\t"],
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            max_sentence_length=_MAX_LINE_BYTES,
            num_threads=num_threads,
            minloglevel=2,
        )
    except RuntimeError as error:
        hint = str(error).rpartition("] ")[2].strip() or "it must be positive"
        raise TokenizerError(
            f"A vocabulary of {vocab_size} pieces cannot be trained on these inputs: {hint}"
        ) from error
    return model.getvalue()


def _training_lines(files: Sequence[InputFile], json_key: str) -> Iterator[str]:
    """Lines with something on them, without their ends, cut to a length the trainer takes."""
    for text in _texts(files, json_key):
        for line in text.split("\n"):
            line = line.rstrip("\r")
            if not line.strip() or "\0" in line:  # the trainer refuses NUL
                continue
            for start in range(0, len(line), _MAX_CHARACTERS):
                yield line[start : start + _MAX_CHARACTERS]


def _texts(files: Sequence[InputFile], json_key: str) -> Iterator[str]:
    for file in files:
        try:
            with open_input(file.path) as (stream, _):
                for raw in stream if file.is_jsonl else [stream.read()]:
                    text = _record_text(raw, json_key) if file.is_jsonl else raw.decode("utf-8-sig")
                    if text:
                        yield text
        except (UnicodeDecodeError, EOFError, OSError):
            continue


def _record_text(raw: bytes, json_key: str) -> str:
    """The text of one JSON line, or nothing where the line is no good."""
    try:
        record = json.loads(raw)
        text = record[json_key]
        text.encode("utf-8")  # lone surrogates
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ""
    return text


def _sampled(lines: Iterator[str], share: float) -> Iterator[str]:
    """Every so manieth line, evenly: ``share`` of them."""
    if share >= 1.0:
        yield from lines
        return
    owed = 0.0
    for line in lines:
        owed += share
        if owed >= 1.0:
            owed -= 1.0
            yield line


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest
