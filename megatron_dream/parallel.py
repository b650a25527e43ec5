"""Start and end of the process groups, and every size and rank by its name.

``launcher.py`` tells who started this process: torchrun, srun, or nobody; one process needs no launcher.
"""

from __future__ import annotations

import atexit
import datetime
import os
import types
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from . import device, launcher
from .config.schema import ParallelConfig
from .errors import LayoutError


@dataclass(frozen=True)
class Ranks:
    """Where this process stands: sizes and ranks of every kind of parallelism.

    Groups are megatron-core's; ``None`` never occurs after ``start``.
    """

    world_size: int
    rank: int
    tp_size: int
    tp_rank: int
    pp_size: int
    pp_rank: int
    cp_size: int
    cp_rank: int
    dp_size: int
    dp_rank: int
    vp_size: int
    tp_group: dist.ProcessGroup
    pp_group: dist.ProcessGroup
    dp_cp_group: dist.ProcessGroup
    tp_source: int  # global rank of TP rank 0, who reads the data

    @property
    def is_last_pipeline_rank(self) -> bool:
        """Whether this process holds the last layers, and so the loss."""
        return self.pp_rank == self.pp_size - 1

    @property
    def reports(self) -> bool:
        """Whether this process speaks for the run: the first of the last stage knows the loss."""
        return (
            self.is_last_pipeline_rank
            and self.tp_rank == 0
            and self.dp_rank == 0
            and self.cp_rank == 0
        )


def launched_world_size() -> int:
    """Number of processes that the launcher started; 1 without a launcher."""
    return launcher.launched().world_size


def launched_rank() -> int:
    """This process's number before process groups exist."""
    return launcher.launched().rank


def _init_process_group(timeout: datetime.timedelta) -> None:
    """Join the processes that were started together in torch.distributed; alone, a world of one.

    Raises:
        LayoutError: the launcher's variables contradict one another, or lead to no address.
    """
    if dist.is_initialized():
        return
    backend = device.distributed_backend()
    launch = launcher.launched()
    if launch.launcher == "none":
        store = dist.HashStore()
        dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=timeout)
    else:
        if launch.launcher == "srun":
            os.environ.update(launcher.as_torchrun(launch))
        device.bind_local_device(launch.local_rank)
        dist.init_process_group(backend, timeout=timeout)
    atexit.register(stop)


def _provide_rearrange(parallel_state: Any) -> None:
    """Give megatron-core the one rearrangement that it asks einops for, where einops is absent.

    It makes the groups of several optimizer instances: "(l s u) -> (l u) s".
    """
    if parallel_state.HAVE_EINOPS:
        return

    def rearrange(ranks: Any, _: str, *, l: int, s: int, u: int) -> Any:  # noqa: E741
        return ranks.reshape(l, s, u).transpose(0, 2, 1).reshape(l * u, s)

    parallel_state.einops = types.SimpleNamespace(rearrange=rearrange)
    parallel_state.HAVE_EINOPS = True


def start(config: ParallelConfig, seed: int = 1234, *, graphs: bool = False) -> Ranks:
    """Initialise torch.distributed and megatron-core's groups for a layout.

    Args:
        config: sizes of the layout; data-parallel size is what remains of the world.
        seed: of megatron-core's random-number tracker (dropout); TP ranks get streams of their own.
        graphs: the tracker's states are of the kind that CUDA graphs can hold.

    Raises:
        LayoutError: the number of processes is no multiple of TP x PP x CP.
    """
    device.import_megatron()
    from megatron.core import parallel_state, tensor_parallel

    timeout = datetime.timedelta(minutes=config.distributed_timeout_minutes)
    _init_process_group(timeout)
    model_size = (
        config.tensor_model_parallel_size
        * config.pipeline_model_parallel_size
        * config.context_parallel_size
    )
    if dist.get_world_size() % model_size:
        raise LayoutError(
            f"{dist.get_world_size()} processes cannot be divided into TP "
            f"{config.tensor_model_parallel_size} x PP {config.pipeline_model_parallel_size} x CP "
            f"{config.context_parallel_size} = {model_size}; start a multiple of {model_size} or "
            f"change parallel.*"
        )
    if parallel_state.model_parallel_is_initialized():
        parallel_state.destroy_model_parallel()
    if config.num_distributed_optimizer_instances > 1:
        _provide_rearrange(parallel_state)
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=config.tensor_model_parallel_size,
        pipeline_model_parallel_size=config.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=config.virtual_pipeline_model_parallel_size,
        context_parallel_size=config.context_parallel_size,
        num_distributed_optimizer_instances=config.num_distributed_optimizer_instances,
        distributed_timeout_minutes=max(1, int(config.distributed_timeout_minutes)),
        create_gloo_process_groups=device.device_type() == "cuda",
    )
    tensor_parallel.model_parallel_cuda_manual_seed(
        seed, force_reset_rng=True, use_cudagraphable_rng=graphs
    )
    return _ranks(config)


def _ranks(config: ParallelConfig) -> Ranks:
    from megatron.core import parallel_state as state

    return Ranks(
        world_size=dist.get_world_size(),
        rank=dist.get_rank(),
        tp_size=state.get_tensor_model_parallel_world_size(),
        tp_rank=state.get_tensor_model_parallel_rank(),
        pp_size=state.get_pipeline_model_parallel_world_size(),
        pp_rank=state.get_pipeline_model_parallel_rank(),
        cp_size=state.get_context_parallel_world_size(),
        cp_rank=state.get_context_parallel_rank(),
        dp_size=state.get_data_parallel_world_size(),
        dp_rank=state.get_data_parallel_rank(),
        vp_size=config.virtual_pipeline_model_parallel_size or 1,
        tp_group=state.get_tensor_model_parallel_group(),
        pp_group=state.get_pipeline_model_parallel_group(),
        dp_cp_group=state.get_data_parallel_group(with_context_parallel=True),
        tp_source=state.get_tensor_model_parallel_src_rank(),
    )


def barrier() -> None:
    """Wait until every process is here."""
    if device.device_type() == "cuda":
        dist.barrier(device_ids=[torch.cuda.current_device()])
    else:
        dist.barrier()


def broadcast_object(value: object, source: int = 0) -> object:
    """``value`` as the process ``source`` holds it, on every process."""
    if dist.get_world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=source)
    return box[0]


def stop() -> None:
    """Destroy the process groups; safe to call twice."""
    if not dist.is_initialized():
        return
    from megatron.core import parallel_state

    if parallel_state.model_parallel_is_initialized():
        parallel_state.destroy_model_parallel()
    dist.destroy_process_group()
