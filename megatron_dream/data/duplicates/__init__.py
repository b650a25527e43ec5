"""Duplicates: passes over all documents that end in a list of those to drop, for the filter of that name."""

from .drop_list import DropList, load_drop_list
from .exact import NORMALISATIONS, ExactSigner
from .find import PassSource, find_duplicates, pass_source
from .near import MinhashParameters, NearSigner

__all__ = [
    "NORMALISATIONS",
    "DropList",
    "ExactSigner",
    "MinhashParameters",
    "NearSigner",
    "PassSource",
    "find_duplicates",
    "load_drop_list",
    "pass_source",
]
