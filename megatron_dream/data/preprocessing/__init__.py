"""From text to token files: shards, workers on one machine or many, parts, and their merge."""

from .command import load_filters, preprocess
from .report import PreprocessResult

__all__ = ["PreprocessResult", "load_filters", "preprocess"]
