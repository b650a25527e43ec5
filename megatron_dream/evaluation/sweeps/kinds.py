"""Every kind of sweep by its name in the YAML; each is imported when it is asked for."""

from __future__ import annotations

import importlib
import inspect

from .base import Kind

KINDS = {"sampling": "sampling", "training": "training", "order": "order_kind"}  # name: module here


def kind_of(name: str) -> type[Kind]:
    """The class of a kind in ``KINDS``: the one in its module that has this name."""
    module = importlib.import_module(f"{__package__}.{KINDS[name]}")
    return next(
        cls
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, Kind) and getattr(cls, "name", None) == name
    )
