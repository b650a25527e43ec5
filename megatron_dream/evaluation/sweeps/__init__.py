"""Sweeps: one YAML file each, measured cell by cell to a CSV, a plot and a paragraph (docs/sweeps.md)."""
