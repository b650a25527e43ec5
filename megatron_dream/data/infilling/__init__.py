"""Texts that a model learns to infill: prepared, split, corrupted (SPEC 6)."""
