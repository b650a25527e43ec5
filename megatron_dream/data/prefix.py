"""Names of token files: ``P.bin``, ``P.idx``, ``P.json`` for a prefix ``P`` that may hold dots."""

from __future__ import annotations

from pathlib import Path


def prefix_path(prefix: Path | str, ending: str) -> Path:
    """``prefix`` + ``ending``; ``Path.with_suffix`` would cut a dot that is part of the name."""
    return Path(f"{prefix}{ending}")
