"""Curation: published prompts to those that RL is trained on, phase by phase (docs/curation.md)."""

from .command import CurateOptions, curate

__all__ = ["CurateOptions", "curate"]
