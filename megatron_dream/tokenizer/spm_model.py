"""Reading what a SentencePiece ``.model`` file says, without the protobuf package.

The file is one protocol buffer message (sentencepiece_model.proto, Apache-2.0, field numbers
below). The library itself tells pieces and scores, but not how text is normalised, which decides
whether ids can be reproduced by a Hugging Face tokenizer.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from megatron_dream.errors import TokenizerError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_BPE = 2


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary; its id is its place in the list."""

    text: str
    score: float
    type: int


@dataclass
class SpmModel:
    """The parts of a model file that define ids."""

    pieces: list[Piece] = field(default_factory=list)
    model_type: int = 1  # 1 unigram, 2 BPE
    whitespace_as_suffix: bool = False
    byte_fallback: bool = False
    charsmap: bytes = b""  # empty: text is taken as it is
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True

    def keeps_text(self) -> bool:
        """Whether every text comes back as it was."""
        changes = self.charsmap or self.add_dummy_prefix or self.remove_extra_whitespaces
        return self.byte_fallback and self.escape_whitespaces and not changes

    def why_not_fast(self) -> str | None:
        """Why no Hugging Face tokenizer can give the same ids, or None if one can."""
        if self.model_type != _BPE:
            return "it is not a BPE model"
        if not self.keeps_text() or self.whitespace_as_suffix:
            return "it normalises text or has no byte fallback"
        if any(piece.type == UNUSED for piece in self.pieces):
            return "it has unused pieces"
        if any(piece.type == USER_DEFINED and len(piece.text) > 1 for piece in self.pieces):
            return "it has user-defined pieces of several characters"
        return None


def parse_model(raw: bytes, where: str) -> SpmModel:
    """Read a ``.model`` file's bytes; ``where`` names it in errors."""
    model = SpmModel()
    try:
        for number, value in _fields(raw):
            if number == 1:
                model.pieces.append(_piece(_bytes(value)))
            elif number == 2:
                _read_trainer(model, _bytes(value))
            elif number == 3:
                _read_normalizer(model, _bytes(value))
    except (ValueError, IndexError, struct.error) as error:
        raise TokenizerError(
            f"{where}: this is no SentencePiece model or it is cut off ({error}); copy it again."
        ) from error
    if not model.pieces:
        raise TokenizerError(f"{where}: the SentencePiece model has no pieces; copy it again.")
    return model


def _piece(raw: bytes) -> Piece:
    text, score, kind = "", 0.0, NORMAL
    for number, value in _fields(raw):
        if number == 1:
            text = _bytes(value).decode("utf-8")
        elif number == 2:
            score = struct.unpack("<f", _bytes(value))[0]
        elif number == 3:
            kind = _int(value)
    return Piece(text, score, kind)


def _read_trainer(model: SpmModel, raw: bytes) -> None:
    for number, value in _fields(raw):
        if number == 3:
            model.model_type = _int(value)
        elif number == 24:
            model.whitespace_as_suffix = bool(value)
        elif number == 35:
            model.byte_fallback = bool(value)


def _read_normalizer(model: SpmModel, raw: bytes) -> None:
    for number, value in _fields(raw):
        if number == 2:
            model.charsmap = _bytes(value)
        elif number == 3:
            model.add_dummy_prefix = bool(value)
        elif number == 4:
            model.remove_extra_whitespaces = bool(value)
        elif number == 5:
            model.escape_whitespaces = bool(value)


def _fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values of one message; fixed-width values stay bytes."""
    position = 0
    while position < len(raw):
        key, position = _varint(raw, position)
        wire = key & 7
        if wire == 0:
            value, position = _varint(raw, position)
            yield key >> 3, value
            continue
        if wire == 2:
            size, position = _varint(raw, position)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {position}")
        if position + size > len(raw):
            raise ValueError(f"a field at byte {position} runs over the end")
        yield key >> 3, raw[position : position + size]
        position += size


def _varint(raw: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError(f"a number at byte {position} is too long")


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number stands where bytes should be")
    return value


def _int(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise ValueError("bytes stand where a number should be")
    return value
