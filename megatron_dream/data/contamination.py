"""Whether training data was compared with evaluation sets, as ``P.json`` of its files tells.

Preprocessing notes the sets; a run and its model card repeat it (SPEC 5's 13-grams, data/filters).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..config.schema import SourceConfig
from .prefix import prefix_path

NOT_DECONTAMINATED = "not decontaminated"


def decontaminated_against(sidecar: Mapping[str, Any] | None) -> list[str]:
    """Names of the evaluation sets; none where there were none, or where nothing is known."""
    sidecar = sidecar or {}
    filters = sidecar.get("filters")
    counted = filters.get("decontaminated_against") if isinstance(filters, dict) else None
    found = sidecar.get("decontaminated_against", counted)
    return [str(name) for name in found] if isinstance(found, list) else []


def contamination_of(sources: Iterable[SourceConfig]) -> str:
    """What to say of a run's blend, by the sidecars of its token files."""
    return contamination_words(
        (
            source.name or Path(source.prefix).name,  # no paths: the model card repeats it
            decontaminated_against(read_sidecar(source.prefix)),
        )
        for source in sources
    )


def read_sidecar(prefix: str) -> dict[str, Any] | None:
    """``P.json`` of token files; None where there is none that can be read."""
    try:
        values = json.loads(prefix_path(prefix, ".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return (
            None  # files from elsewhere have none; a broken one is refused where files are opened
        )
    return values if isinstance(values, dict) else None


def contamination_words(sources: Iterable[tuple[str, Iterable[str]]]) -> str:
    """What to say of a mixture.

    Args:
        sources: name, and the evaluation sets that its documents were compared with.

    Returns:
        ``decontaminated against`` the sets that all sources share, or ``not decontaminated`` with the
        names of the sources that share none with all others.
    """
    against = {name: list(dict.fromkeys(sets)) for name, sets in sources}
    without = [name for name, sets in against.items() if not sets]
    if without or not against:
        named = f" ({', '.join(without)})" if 0 < len(without) < len(against) else ""
        return NOT_DECONTAMINATED + named
    first, *others = against.values()
    shared = [name for name in first if all(name in sets for sets in others)]
    if not shared:
        return f"{NOT_DECONTAMINATED} as a whole: its sources share no evaluation set"
    return f"decontaminated against {', '.join(shared)}"
