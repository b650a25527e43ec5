"""Sweeps: one YAML, many settings, one table with a plot and a paragraph."""
