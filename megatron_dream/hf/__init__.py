"""Hugging Face folders: import to a checkpoint, export from one, and the proof that both agree.

The three verbs load their parts on first use, so that importing this package costs nothing.
"""

from __future__ import annotations

from pathlib import Path


def import_hf(folder: Path | str, checkpoint: Path | str, tp: int = 1, pp: int = 1) -> None:
    """Turn a Qwen2- or Dream-type folder into a checkpoint; see ``importer.import_folder``."""
    from .importer import import_folder

    import_folder(folder, checkpoint, tp=tp, pp=pp)


def export_hf(
    checkpoint: Path | str,
    folder: Path | str,
    tokenizer: Path | str | None = None,
    *,
    dtype: str = "auto",
) -> None:
    """Turn a checkpoint into a Dream folder; see ``export.export_checkpoint``."""
    from .export import export_checkpoint

    export_checkpoint(checkpoint, folder, tokenizer, dtype=dtype)


def verify_export(folder: Path | str, against: Path | str) -> int:
    """Compare an exported folder with its checkpoint; see ``verify.verify_folder``."""
    from .verify import verify_folder

    return verify_folder(folder, against)


__all__ = ["export_hf", "import_hf", "verify_export"]
