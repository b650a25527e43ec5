"""Writes texts as ``P.bin`` and ``P.idx``, which ``TextFiles`` reads: one sequence of UTF-8 bytes a text."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..sequence_writer import SequenceWriter


class TextWriter(SequenceWriter):
    """Grows files of texts.

    Attributes:
        num_bytes: of all texts.
        max_tokens: of the longest, as its caller counts.
    """

    def __init__(self, prefix: Path, folder: Path) -> None:
        super().__init__(prefix, folder, np.dtype(np.uint8))
        self.num_bytes = self.max_tokens = 0

    def add(self, text: bytes, num_tokens: int) -> None:
        """Append one text of ``num_tokens`` tokens."""
        self.append(text, (len(text),))
        self.num_bytes += len(text)
        self.max_tokens = max(self.max_tokens, num_tokens)
