"""What a checkpoint says of its making, for the model card: data with licences, code, metrics.

No paths: whoever gets the model has nothing of them.
"""

from __future__ import annotations

import math
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import __version__
from ..checkpoint.metadata import CheckpointMetadata
from ..config.schema import RunConfig, SourceConfig
from ..data.contamination import contamination_of, decontaminated_against, read_sidecar
from .metrics import StepReport

_METRICS = ("loss", "masked_cross_entropy", "accuracy", "bound_per_token")


def provenance(config: RunConfig) -> dict[str, Any]:
    """``CheckpointMetadata.trained`` at a run's start."""
    commit = source_commit()
    return {
        "training data": contamination_of(config.data.train),
        "data": [_describe(source) for source in config.data.train],
        "code": f"megatron-dream {__version__}",
        "commits": [commit] if commit else [],
    }


def resumed(saved: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, Any]:
    """``trained`` of a run that goes on: what it is now, and what it was before where that still holds."""
    commits = [*saved.get("commits", []), *here.get("commits", [])]
    return {**saved, **here, "commits": list(dict.fromkeys(commits))}


def origin_of(saved: CheckpointMetadata) -> dict[str, Any]:
    """What to say of the checkpoint that a run starts from; the folder that it all came from, if any."""
    before = saved.trained.get("initial weights") or {}
    imported_from = saved.trained.get("imported_from") or before.get("imported_from")
    return {"objective": saved.objective, "step": saved.step, "imported_from": imported_from}


def metrics_of(step: int, report: StepReport) -> dict[str, float | int | None]:
    """The means of a step or a validation that a reader compares; None where one is not finite."""
    values = {name: float(getattr(report, name)) for name in _METRICS}
    return {"step": step, **{n: v if math.isfinite(v) else None for n, v in values.items()}}


def source_commit() -> str | None:
    """The commit of the code that runs, ``+changes`` where files differ from it; None outside a clone."""
    package = Path(__file__).resolve().parents[1]
    top = _git(package, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != package.parent:
        return None  # installed, perhaps inside somebody else's repository
    head = _git(package, "rev-parse", "HEAD")
    changes = _git(package, "status", "--porcelain", "--untracked-files=no", "--", ".")
    return None if head is None else head + ("+changes" if changes else "")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _describe(source: SourceConfig) -> dict[str, Any]:
    """One source as its ``P.json`` tells; files from elsewhere have none."""
    sidecar = read_sidecar(source.prefix) or {}
    licences = sidecar.get("licences")
    return {
        "name": source.name or Path(source.prefix).name,
        "weight": source.weight,
        "documents": sidecar.get("documents"),
        "tokens": sidecar.get("tokens"),
        # licence -> [documents, tokens]; empty where the corpus tells none
        "licences": licences if isinstance(licences, dict) else {},
        "decontaminated_against": decontaminated_against(sidecar),
    }
