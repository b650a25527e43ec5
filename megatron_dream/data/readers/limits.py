"""What a record, a compressed stream and a table may at most hold; enforced while they stream."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ...errors import ConfigError

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Bounds of what is read; what exceeds one becomes a ``Reject``.

    Attributes:
        line_bytes: of one line, or of one file that is a document; more is skipped unheld.
        decompression_ratio: bytes out for each byte in, once ``decompression_grace`` bytes are out.
        decompression_grace: bytes out before the ratio counts: short files of blanks pack well.
        row_group_bytes: of one row group's or record batch's columns that are read, unpacked.
        fields: of one record, or columns of one table.
    """

    line_bytes: int = 64 * MEBIBYTE
    decompression_ratio: int = 1000
    decompression_grace: int = 64 * MEBIBYTE
    row_group_bytes: int = 4096 * MEBIBYTE
    fields: int = 10_000

    def __post_init__(self) -> None:
        for name, value in self.identity().items():
            if value < 1:
                raise ConfigError(f"The limit {name} is {value}; give 1 or more.")

    def identity(self) -> dict[str, Any]:
        """Plain values: other limits give other bytes."""
        return dataclasses.asdict(self)
