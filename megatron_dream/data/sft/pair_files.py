"""Writes SFT token files: ``P.bin`` and ``P.idx`` with two sequences a document, prompt and response.

Document i is the sequences 2i and 2i + 1, so that document ends are 0, 2, 4 and so on. End tokens are
not in the files: the stage appends the one that its recipe asks for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..sequence_writer import SequenceWriter


class PairWriter(SequenceWriter):
    """Grows files of samples.

    Attributes:
        num_tokens: of all samples, without end tokens.
        longest: tokens of the longest prompt, response, and row (both and one end token).
    """

    per_document: ClassVar[int] = 2

    def __init__(self, prefix: Path, folder: Path, dtype: np.dtype[Any]) -> None:
        super().__init__(prefix, folder, dtype)
        self.num_tokens = 0
        self.longest = {"prompt": 0, "response": 0, "row": 0}

    def add(self, ids: NDArray[Any], prompt: int, response: int) -> None:
        """Append one sample.

        Args:
            ids: of prompt and response, [prompt + response], of ``dtype``.
            prompt: tokens of the prompt.
            response: tokens of the response.
        """
        self.append(np.ascontiguousarray(ids, self.dtype).data, (prompt, response))
        self.num_tokens += prompt + response
        lengths = {"prompt": prompt, "response": response, "row": prompt + response + 1}
        for name, length in lengths.items():
            self.longest[name] = max(self.longest[name], length)
