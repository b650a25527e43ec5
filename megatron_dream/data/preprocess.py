"""Text to token files, the sample's first arrow: source > preprocess > .bin/.idx.

``P.bin`` and ``P.idx`` are what megatron-core's builder writes for the same documents in the same
order, whatever the number of workers. ``P.json`` beside them says which tokenizer made them; a run
with another tokenizer is refused by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_dream.data.encode import EncodedChunk, Encoder, encode_all
from megatron_dream.data.progress import PreprocessProgress
from megatron_dream.data.sources import InputFile, iterate_raw, list_inputs
from megatron_dream.data.token_writer import TokenWriter, prefix_path
from megatron_dream.errors import DataError
from megatron_dream.tokenizer.base import Tokenizer
from megatron_dream.tokenizer.inputs import import_zstandard
from megatron_dream.tokenizer.load import load_tokenizer

SIDECAR_VERSION = 1


@dataclass(frozen=True)
class PreprocessResult:
    """What was written.

    Attributes:
        prefix: of the files.
        documents: written.
        tokens: written, EOD tokens included.
        empty: documents without text, left out.
        rejected: records that could not be read, named in ``P.rejects.jsonl``.
        seconds: wall time of reading, encoding and writing.
        dtype: of the ids on disk.
    """

    prefix: Path
    documents: int
    tokens: int
    empty: int
    rejected: int
    seconds: float
    dtype: str

    def line(self) -> str:
        """The closing line."""
        rejects = (
            f" (named in {prefix_path(self.prefix, '.rejects.jsonl')})" if self.rejected else ""
        )
        return (
            f"{self.prefix}.bin: {self.documents:,} documents, {self.tokens:,} tokens ({self.dtype}) in "
            f"{self.seconds:,.1f} s, {self.tokens / self.seconds:,.0f} tokens/s; "
            f"{self.empty:,} empty, {self.rejected:,} rejected{rejects}."
        )


def preprocess(
    inputs: Sequence[Path | str],
    output_prefix: Path | str,
    tokenizer: Tokenizer | Path | str,
    json_key: str = "text",
    append_eod: bool = False,
    workers: int = 1,
    *,
    suffixes: Sequence[str] = (".py",),
    quiet: bool = False,
) -> PreprocessResult:
    """Encode documents into ``output_prefix``.bin and .idx.

    Args:
        inputs: JSON Lines files (plain, .gz, .zst), source files, and folders, walked in sorted
            order.
        output_prefix: path without ending; its folder is made, older files of the name are
            replaced.
        tokenizer: a tokenizer or where to load it from.
        json_key: the field of a record that holds the text.
        append_eod: whether every document ends with ``<|endoftext|>``.
        workers: processes; the output does not depend on it.
        suffixes: which files of a folder count, such as ``.py`` or ``.jsonl.gz``.
        quiet: no progress and no closing line.

    Raises:
        DataError: an input is missing, nothing is left to write, or a document holds a mask token.
        TokenizerError: the tokenizer cannot be loaded.
        MissingDependencyError: an input is .zst and zstandard is absent.
    """
    if workers < 1:
        raise DataError(f"--workers is {workers}; give 1 or more.")
    files = list_inputs(inputs, suffixes)
    for file in files:
        if file.path.suffix == ".zst":
            import_zstandard(file.path)  # before the first token, not in the middle
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = load_tokenizer(tokenizer)
    encoder = Encoder(tokenizer, json_key, append_eod)
    with TokenWriter(output_prefix, tokenizer.vocab_size) as writer:
        with PreprocessProgress(sum(file.size for file in files)) as progress:
            empty = 0
            for chunk in encode_all(encoder, iterate_raw(files), workers):
                empty += chunk.empty
                _write(chunk, writer)
                if not quiet:
                    progress.update(len(chunk.lengths), chunk.tokens.size, chunk.size)
        _refuse_nothing(writer, files, empty)
        result = PreprocessResult(
            prefix=Path(output_prefix),
            documents=writer.documents,
            tokens=writer.tokens,
            empty=empty,
            rejected=writer.rejected,
            seconds=progress.seconds,
            dtype=writer.dtype.name,
        )
        writer.commit(_sidecar(result, encoder, inputs))
    if not quiet:
        print(result.line())
    return result


def _write(chunk: EncodedChunk, writer: TokenWriter) -> None:
    start = 0
    for length in chunk.lengths:
        writer.add_document(chunk.tokens[start : start + length])
        start += length
    for reject in chunk.rejects:
        writer.add_reject(reject)


def _refuse_nothing(writer: TokenWriter, files: Sequence[InputFile], empty: int) -> None:
    if writer.documents:
        return
    rejects = writer.commit_rejects()
    named = f" (named in {rejects})" if rejects else ""
    raise DataError(
        f"{files[0].path}: no document is left to write, {writer.rejected} records were bad{named} and "
        f"{empty} empty; check the files and --json-key."
    )


def _sidecar(
    result: PreprocessResult, encoder: Encoder, inputs: Sequence[Path | str]
) -> dict[str, Any]:
    """What ``P.json`` says about the token files."""
    tokenizer = encoder.tokenizer
    return {
        "version": SIDECAR_VERSION,
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "eod_id": tokenizer.eod_id,
        "mask_token_id": tokenizer.mask_id,
        "append_eod": encoder.append_eod,
        "dtype": result.dtype,
        "tokens": result.tokens,
        "documents": result.documents,
        "empty": result.empty,
        "rejected": result.rejected,
        "sources": [str(path) for path in inputs],
    }
