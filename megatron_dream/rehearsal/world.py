"""One rank of an imagined job: its process groups without the other processes, its tensors without memory.

Groups are torch's fake ones, whose collectives do nothing; tensors are fake, with shape, type and device
and no content. Everything between is the code of a real run: megatron-core's parallel state, layers,
data-parallel buffers and optimizer.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist

from .. import device, parallel
from ..config.schema import ParallelConfig
from ..errors import ConfigError
from ..parallel import Ranks


@contextlib.contextmanager
def on_cpu() -> Iterator[None]:
    """Within: the CPU, whatever there is; for a process that has no groups of its own.

    Raises:
        ConfigError: the process has groups, or has begun to use a GPU.
    """
    is_ready = getattr(sys.modules.get("megatron.core"), "_dream_ready", False)
    if dist.is_initialized() or (is_ready and device.device_type() != "cpu"):
        raise ConfigError(
            "a rehearsal needs a process of its own: this one has process groups or uses a GPU; run it from "
            "the command line (--dry-run N)"
        )
    name = "MEGATRON_DREAM_DEVICE"
    before = os.environ.get(name)
    os.environ[name] = "cpu"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within: megatron-core tells nothing of groups and buckets."""
    logger = logging.getLogger("megatron.core")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def imagined_rank(config: ParallelConfig, rank: int, world_size: int) -> Iterator[Ranks]:
    """Within: this process is ``rank`` of ``world_size``, and new tensors take no memory.

    Afterwards the process has no groups, as before. Use it inside ``on_cpu``.
    """
    from torch._subclasses import FakeTensorMode
    from torch.testing._internal.distributed.fake_pg import FakeStore

    random_state = torch.get_rng_state()
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
    try:
        ranks = parallel.start(config)
        with _unconverted(), _all_alike(), FakeTensorMode(allow_non_fake_inputs=True):
            yield ranks
    finally:
        parallel.stop()
        torch.set_rng_state(random_state)


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _unconverted() -> contextlib.AbstractContextManager[None]:
    """Modules are made in their type and on their device; torch cannot convert fake parameters in place."""

    def apply(module: torch.nn.Module, convert: Callable[..., Any], recurse: bool = True) -> Any:
        for parameter in module.parameters():
            converted = convert(parameter)
            assert (converted.dtype, converted.device) == (parameter.dtype, parameter.device)
        return module

    return _replaced(torch.nn.Module, "_apply", apply)


def _all_alike() -> contextlib.AbstractContextManager[None]:
    """What other ranks would say in a gathering of objects is what this one says."""

    def gather(gathered: list[Any], value: Any, group: Any = None) -> None:
        gathered[:] = [value] * len(gathered)

    return _replaced(dist, "all_gather_object", gather)
