"""The optional package datatrove, imported where it is used, from here alone for passes and steps."""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import Any

from ..errors import MissingDependencyError


def import_datatrove(module: str, purpose: str) -> Any:
    """One of datatrove's modules.

    Args:
        module: name behind ``datatrove.``, such as ``pipeline.base``.
        purpose: what needs it, to begin the error with.

    Raises:
        MissingDependencyError: it is not installed, or a package that this module needs is not.
    """
    try:
        return importlib.import_module(f"datatrove.{module}")
    except ImportError as error:
        raise MissingDependencyError(
            f"{purpose} needs datatrove ({error}): pip install 'megatron-dream[datatrove]'."
        ) from None


def datatrove_version() -> str:
    """The installed version; empty where there is none."""
    try:
        return version("datatrove")
    except ImportError:
        return ""
