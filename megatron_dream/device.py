"""Which device there is, and what stands in for CUDA inside megatron-core where there is none.

The only module that asks. megatron-core assumes CUDA in four ways; on a CPU each gets its own
stand-in:

1. It calls ``torch.cuda.*`` and passes ``device="cuda"`` to factories. Every loaded
   ``megatron.core`` module gets a proxy in place of its global name ``torch``; torch itself stays
   untouched.
2. It compares ``param.type()`` with ``"torch.cuda.FloatTensor"``. A tensor method cannot be reached
   by the proxy, so these string constants are rewritten in the functions that hold them.
3. Its random-number tracker keeps CUDA states. It keeps CPU states here, by the same code.
4. Without Transformer Engine, selective recomputation names ``FP8GlobalStateManager``: a stub says
    "no FP8".

``import_megatron`` installs all of it once a process; call it before importing ``megatron.core``.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import shutil
import sys
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch

# Imported before the stand-ins are installed, so that their global ``torch`` can be replaced.
_MEGATRON_MODULES = (
    "megatron.core",
    "megatron.core.parallel_state",
    "megatron.core.tensor_parallel.random",
    "megatron.core.models.gpt.gpt_model",
    "megatron.core.models.gpt.gpt_layer_specs",
    "megatron.core.pipeline_parallel.schedules",
    "megatron.core.distributed",
    "megatron.core.distributed.finalize_model_grads",
    "megatron.core.optimizer",
    "megatron.core.optimizer.distrib_optimizer",
    "megatron.core.optimizer.clip_grads",
    "megatron.core.optimizer_param_scheduler",
    "megatron.core.dist_checkpointing",
    "megatron.core.dist_checkpointing.strategies.fully_parallel",
    "megatron.core.dist_checkpointing.strategies.torch",
    "megatron.core.dist_checkpointing.strategies.async_utils",
    "megatron.core.num_microbatches_calculator",
)
_FACTORIES = (
    "arange empty empty_like empty_strided eye full full_like linspace ones ones_like rand rand_like "
    "randint randn randn_like tensor zeros zeros_like"
).split()
_TYPE_NAMES = {
    f"torch.cuda.{kind}Tensor": f"torch.{kind}Tensor" for kind in ("Float", "Half", "BFloat16")
}


def device_type() -> str:
    """``"cuda"`` or ``"cpu"``; ``MEGATRON_DREAM_DEVICE=cpu`` leaves a GPU unused."""
    if os.environ.get("MEGATRON_DREAM_DEVICE") == "cpu" or not torch.cuda.is_available():
        return "cpu"
    return "cuda"


def current_device() -> torch.device:
    """Where this process's tensors live."""
    if device_type() == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def distributed_backend() -> str:
    """The process group's backend for this device."""
    return "nccl" if device_type() == "cuda" else "gloo"


def bind_local_device(local_rank: int) -> None:
    """Give this process its GPU; on a CPU nothing needs doing."""
    if device_type() == "cuda":
        torch.cuda.set_device(local_rank)


def synchronize() -> None:
    """Wait for the device, for honest timing."""
    if device_type() == "cuda":
        torch.cuda.synchronize()


def communication_trace() -> bytes | None:
    """What NCCL's flight recorder holds, as ``torchfrtrace`` reads it; None without one."""
    if device_type() == "cpu":
        return None
    dump = getattr(torch._C._distributed_c10d, "_dump_nccl_trace", None)
    return bytes(dump()) if dump is not None else None


class Moment:
    """When the device has done what it was given so far: on a GPU in its own time, which nobody waits for."""

    def __init__(self) -> None:
        self._event: Any = None
        self._seconds = time.perf_counter()
        if device_type() == "cuda":
            self._event = torch.cuda.Event(enable_timing=True)
            self._event.record()

    def seconds_since(self, earlier: Moment) -> float:
        """Between two moments that are over (``synchronize``)."""
        if self._event is not None:
            return float(earlier._event.elapsed_time(self._event)) / 1000.0
        return self._seconds - earlier._seconds


def probe() -> float:
    """Seconds of a fixed matrix product on this process's device, the best of three; draws nothing."""
    on_gpu = device_type() == "cuda"
    size, dtype = (4096, torch.bfloat16) if on_gpu else (256, torch.float32)
    matrix = torch.ones(size, size, dtype=dtype, device=current_device())
    fastest = float("inf")
    for _ in range(3):
        began = Moment()
        matrix @ matrix
        ended = Moment()
        synchronize()
        fastest = min(fastest, ended.seconds_since(began))
    return fastest


def peak_memory_bytes() -> int:
    """Highest memory held so far: the allocator's on a GPU, resident memory on a CPU."""
    if device_type() == "cuda":
        return torch.cuda.max_memory_allocated()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def nccl_version() -> str | None:
    """NCCL's version as torch has it; None on a CPU."""
    if device_type() == "cpu":
        return None
    return ".".join(map(str, torch.cuda.nccl.version()))


def compute_capability() -> tuple[int, int] | None:
    """Of this process's GPU: (8, 9) Ada, (9, 0) Hopper, (10, 0) Blackwell; None on a CPU."""
    return torch.cuda.get_device_capability() if device_type() == "cuda" else None


def cuda_version() -> tuple[int, int]:
    """That torch was built with; (0, 0) without."""
    major, minor = (torch.version.cuda or "0.0").split(".")[:2]
    return int(major), int(minor)


def side_stream() -> Any:
    """A stream beside the one that computes; on a CPU one whose work is done at once."""
    return torch.cuda.Stream() if device_type() == "cuda" else _Stream()


def current_stream() -> Any:
    """The stream that computes; on a CPU as above."""
    return torch.cuda.current_stream() if device_type() == "cuda" else _Stream()


def on_stream(stream: Any) -> contextlib.AbstractContextManager[Any]:
    """Within: work goes to ``stream``."""
    return torch.cuda.stream(stream) if device_type() == "cuda" else contextlib.nullcontext()


def has_transformer_engine() -> bool:
    """Whether Transformer Engine can be used: importable, and on a GPU."""
    return _works_on_gpu("transformer_engine", "transformer_engine.pytorch")


def has_fused_weight_gradients() -> bool:
    """Whether apex's kernel that adds a weight's gradient to its buffer can be used."""
    return _works_on_gpu("fused_weight_gradient_mlp_cuda")


def _works_on_gpu(package: str, module: str | None = None) -> bool:
    if device_type() == "cpu" or importlib.util.find_spec(package) is None:
        return False
    try:
        importlib.import_module(module or package)
    except (ImportError, RuntimeError, OSError):  # Transformer Engine without cuDNN: RuntimeError
        return False
    return True


def can_compile() -> bool:
    """Whether torch.compile finds what it needs here: Triton on a GPU, a C++ compiler on a CPU."""
    if device_type() == "cuda":
        return importlib.util.find_spec("triton") is not None
    return any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++")))


class _Stream:
    """A stream of one: whatever is asked of it has already happened."""

    def wait_stream(self, other: Any) -> None: ...
    def wait_event(self, event: Any) -> None: ...
    def synchronize(self) -> None: ...
    def record_event(self, event: Any = None) -> _Event:
        return _Event()


class _Event:
    def record(self, stream: Any = None) -> None: ...
    def wait(self, stream: Any = None) -> None: ...
    def synchronize(self) -> None: ...
    def query(self) -> bool:
        return True


class _Proxy(types.ModuleType):
    """A module that answers from ``overrides`` first and from ``base`` otherwise."""

    def __init__(self, base: types.ModuleType, overrides: dict[str, Any]) -> None:
        super().__init__(base.__name__)
        self.__dict__.update(overrides)
        self.__dict__["_base"] = base

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)


def _on_cpu(factory: Callable[..., Any]) -> Callable[..., Any]:
    """``factory`` with any device argument replaced by the CPU, and without pinned memory."""

    def build(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("device") is not None:
            kwargs["device"] = "cpu"
        kwargs.pop("pin_memory", None)
        return factory(*args, **kwargs)

    return build


def _cuda_overrides() -> dict[str, Any]:
    def nothing(*args: Any, **kwargs: Any) -> None:
        return None

    def stream(*args: Any, **kwargs: Any) -> _Stream:
        return _Stream()

    def zero(*args: Any, **kwargs: Any) -> int:
        return 0

    def null_context(*args: Any, **kwargs: Any) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    return {
        "is_available": lambda: False,
        "current_device": lambda: torch.device("cpu"),  # an int would select CUDA
        "device_count": lambda: 1,
        "set_device": nothing,
        "synchronize": nothing,
        "empty_cache": nothing,
        "Stream": stream,
        "Event": lambda *args, **kwargs: _Event(),
        "current_stream": stream,
        "default_stream": stream,
        "stream": null_context,
        "memory_allocated": zero,
        "max_memory_allocated": zero,
        "memory_reserved": zero,
        "max_memory_reserved": zero,
        "memory_stats": lambda *args, **kwargs: {},
        "reset_peak_memory_stats": nothing,
        "get_rng_state": lambda *args, **kwargs: torch.get_rng_state(),
        "set_rng_state": lambda state, *args, **kwargs: torch.set_rng_state(state),
        "manual_seed": torch.manual_seed,
    }


def _torch_proxy() -> _Proxy:
    cuda = _Proxy(torch.cuda, _cuda_overrides())
    factories = {name: _on_cpu(getattr(torch, name)) for name in _FACTORIES}
    return _Proxy(torch, {"cuda": cuda, **factories})


def _rewrite_type_names(code: types.CodeType) -> types.CodeType:
    """``code`` with the names of CUDA tensor types replaced by those of the CPU, nested code too."""

    def rewrite(constant: Any) -> Any:
        if isinstance(constant, types.CodeType):
            return _rewrite_type_names(constant)
        if isinstance(constant, tuple):
            return tuple(rewrite(item) for item in constant)
        return _TYPE_NAMES.get(constant, constant) if isinstance(constant, str) else constant

    return code.replace(co_consts=tuple(rewrite(constant) for constant in code.co_consts))


def _functions(module: types.ModuleType) -> Iterator[types.FunctionType]:
    """Functions and methods that ``module`` itself defines."""
    for value in list(vars(module).values()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        members = vars(value).values() if isinstance(value, type) else (value,)
        for member in members:
            function = getattr(member, "__func__", member)
            if isinstance(function, types.FunctionType):
                yield function


class _NoFP8:
    """Answers for Transformer Engine's FP8 state where it is absent."""

    @staticmethod
    def is_fp8_enabled() -> bool:
        return False

    @staticmethod
    def get_fp8_recipe() -> None:
        return None


def _stub_fp8(random_module: types.ModuleType) -> None:
    def null_context(*args: Any, **kwargs: Any) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    random_module.FP8GlobalStateManager = _NoFP8  # type: ignore[attr-defined]
    random_module.activation_recompute_forward = null_context  # type: ignore[attr-defined]
    random_module.fp8_autocast = null_context  # type: ignore[attr-defined]


def _install_cpu_random(random_module: types.ModuleType) -> None:
    """Make the tracker keep states of the CPU generator.

    Both "the CPU's state" and "the GPU's state" are then one generator. The module saves the first
    beside the second and warns when it moves; its view of the first is frozen to a constant.
    """
    frozen = torch.zeros(1, dtype=torch.uint8)

    def get_state(device: Any = "cuda", clone: bool = False, graph_safe: bool = False) -> Any:
        return torch.get_rng_state()

    def set_state(new_state: torch.Tensor, device: int = -1, graph_safe: bool = False) -> None:
        torch.set_rng_state(new_state)

    random_module._get_cuda_rng_state = get_state  # type: ignore[attr-defined]
    random_module._set_cuda_rng_state = set_state  # type: ignore[attr-defined]
    random_module.torch = _Proxy(  # type: ignore[attr-defined]
        random_module.torch,
        {"get_rng_state": lambda: frozen, "set_rng_state": lambda state: None},
    )


def _install_stand_ins() -> None:
    proxy = _torch_proxy()
    for name, module in list(sys.modules.items()):
        if name.startswith("megatron.core") and getattr(module, "torch", None) is torch:
            module.torch = proxy  # type: ignore[attr-defined]
    for name in ("distrib_optimizer", "optimizer", "clip_grads"):
        for function in _functions(sys.modules[f"megatron.core.optimizer.{name}"]):
            function.__code__ = _rewrite_type_names(function.__code__)
    # Its default factory was bound to torch's own when the module was imported.
    init_data = sys.modules["megatron.core.dist_checkpointing.mapping"].ShardedTensor.init_data
    init_data.__defaults__ = tuple(
        _on_cpu(value) if value is torch.empty else value for value in init_data.__defaults__
    )
    _install_cpu_random(sys.modules["megatron.core.tensor_parallel.random"])
    # A CPU build of torch would raise here; megatron-core calls it on tensors it thinks are
    # elsewhere.
    torch.Tensor.cuda = lambda self, *args, **kwargs: self


@contextlib.contextmanager
def _cpu_imports() -> Iterator[None]:
    """Import megatron-core without compiling its fused functions and without Transformer Engine."""
    compile_function = torch.compile

    def identity(function: Any = None, **kwargs: Any) -> Any:
        return function if function is not None else identity

    # An entry of None makes the import raise ModuleNotFoundError, which megatron-core handles;
    # Transformer Engine itself raises RuntimeError on a machine without cuDNN, which it does not.
    hidden = {} if "transformer_engine" in sys.modules else {"transformer_engine": None}
    sys.modules.update(hidden)  # type: ignore[arg-type]
    torch.compile = identity
    try:
        yield
    finally:
        torch.compile = compile_function
        for name in hidden:
            sys.modules.pop(name, None)


def import_megatron() -> None:
    """Import megatron-core, with the stand-ins on a CPU. Later calls do nothing."""
    if getattr(sys.modules.get("megatron.core"), "_dream_ready", False):
        return
    on_cpu = device_type() == "cpu"
    with _cpu_imports() if on_cpu else contextlib.nullcontext():
        for name in _MEGATRON_MODULES:
            importlib.import_module(name)
    random_module = sys.modules["megatron.core.tensor_parallel.random"]
    if not hasattr(random_module, "FP8GlobalStateManager"):
        _stub_fp8(random_module)
    if on_cpu:
        _install_stand_ins()
    else:
        # Its output layer asks for apex, though that layer's product is the head's (model/head.py).
        sys.modules["megatron.core.tensor_parallel.layers"]._grad_accum_fusion_available = True  # type: ignore[attr-defined]
    sys.modules["megatron.core"]._dream_ready = True  # type: ignore[attr-defined]
