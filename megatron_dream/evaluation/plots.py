"""Pictures of measurements: where matplotlib is imported, and how a figure is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import MissingDependencyError
from ..files import atomic_write


def import_pyplot() -> Any:
    """matplotlib.pyplot, without a display.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise MissingDependencyError(
            "plots need matplotlib, which is not installed: pip install 'megatron-dream[plots]'."
        ) from None
    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with atomic_write(path, "wb") as stream:
        figure.savefig(stream, format="png", dpi=120, bbox_inches="tight")
    import_pyplot().close(figure)
