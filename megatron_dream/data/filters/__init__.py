"""Filters of documents: a list in a recipe becomes a chain that drops, masks and counts."""

from .base import Filter, Options
from .chain import FilterChain, counters_table, merge_counters
from .registry import FILTERS
from .spec import FilterSpec, build_filters

__all__ = [
    "FILTERS",
    "Filter",
    "FilterChain",
    "FilterSpec",
    "Options",
    "build_filters",
    "counters_table",
    "merge_counters",
]
