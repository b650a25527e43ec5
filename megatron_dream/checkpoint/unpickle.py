"""Reading torch's distributed checkpoints without running what is in them.

torch reads ``.metadata`` with ``pickle.load`` and byte entries with
``torch.load(weights_only=False)``; both run code that a file may hold. Inside
``restricted_reading`` the first knows only the plain records that torch and megatron-core write,
and the second, and megatron-core's ``common.pt``, only tensors and plain values.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import pickle
import types
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch

from ..errors import CheckpointError

_RECORD_MODULES = (
    "torch.distributed.checkpoint.metadata",
    "torch.distributed._shard.sharded_tensor.metadata",
    "torch.distributed._shard.metadata",
)
_ALLOWED = {
    ("builtins", "set"),
    ("builtins", "frozenset"),
    ("collections", "OrderedDict"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.distributed.checkpoint.filesystem", "_StoragePrefix"),
    ("torch.distributed.checkpoint.planner", "SavePlan"),
    ("torch.distributed.checkpoint.planner", "WriteItem"),
    ("torch.distributed.checkpoint.planner", "WriteItemType"),
    ("torch.distributed.checkpoint.planner", "TensorWriteData"),
}


class RestrictedUnpickler(pickle.Unpickler):
    """Knows the records of a checkpoint's metadata and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """The class or function that the pickle asks for, if it is on the list."""
        if module in _RECORD_MODULES or (module, name) in _ALLOWED:
            value = getattr(importlib.import_module(module), name)
            if isinstance(value, type) or (module, name) in _ALLOWED:
                return value
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        raise CheckpointError(
            f"the checkpoint's .metadata names {module}.{name}, which no checkpoint needs: it is "
            f"malicious or foreign; do not load it"
        )


def check_metadata(path: Path) -> None:
    """Read a checkpoint's ``.metadata`` once with the restricted unpickler.

    torch would catch the refusal and go on to another file; asked first, it ends the load.

    Raises:
        CheckpointError: it names what no checkpoint needs, or is no pickle.
    """
    try:
        with open(path, "rb") as stream:
            RestrictedUnpickler(stream).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); use another checkpoint") from None


def _load(stream: IO[bytes], *args: Any, **kwargs: Any) -> Any:
    return RestrictedUnpickler(stream).load()


def _loads(data: bytes, *args: Any, **kwargs: Any) -> Any:
    return RestrictedUnpickler(io.BytesIO(data)).load()


def _torch_load(*args: Any, **kwargs: Any) -> Any:
    return torch.load(*args, **{**kwargs, "weights_only": True})


class _Overlay(types.ModuleType):
    """A module with some names replaced."""

    def __init__(self, base: types.ModuleType, **replaced: Any) -> None:
        super().__init__(base.__name__)
        self.__dict__.update(replaced, _base=base)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)


@contextlib.contextmanager
def restricted_reading() -> Iterator[None]:
    """Within the block, torch's checkpoint readers cannot run code from a file."""
    from megatron.core.dist_checkpointing.strategies import common
    from torch.distributed.checkpoint import default_planner, filesystem

    planner_torch, common_torch = default_planner.torch, common.torch
    filesystem.pickle = _Overlay(pickle, load=_load, loads=_loads)
    default_planner.torch = _Overlay(planner_torch, load=_torch_load)
    # Its torch.load says nothing of weights_only, which an environment variable can then turn off.
    common.torch = _Overlay(common_torch, load=_torch_load)
    try:
        yield
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"the checkpoint holds an object that is no tensor or plain value ({error}); "
            f"do not load it"
        ) from None
    finally:
        filesystem.pickle = pickle
        default_planner.torch, common.torch = planner_torch, common_torch
