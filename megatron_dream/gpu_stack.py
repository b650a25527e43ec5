"""Which combinations of driver, torch, Transformer Engine and their kin do not work, and what to do.

Pure functions of versions and error texts, so that what ``doctor`` says of a broken machine is tested on
one without a GPU. The limits are those of the pinned versions (requirements/cuda.txt, docs/environment.md);
error texts are those of Transformer Engine 2.11 and torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

MEGATRON_CORE = "0.16.1"  # setup.py pins it
# What megatron-core 0.16.1 asks for (its extra "dev").
TE_FIRST, TE_AFTER_LAST = "2.9", "2.12"
CUDNN_FIRST = (9, 3)  # Transformer Engine's README, 2.9 to 2.11
# Transformer Engine 2.9 to 2.11 uses flash-attn from the first to the last, posts of the last not included.
FLASH_FIRST, FLASH_LAST = "2.1.1", "2.8.3"
PINNED = "requirements/cuda.txt"
_REBUILD_TE = (
    "pip install --no-build-isolation --no-cache-dir --no-deps --force-reinstall "
    "transformer-engine-torch=={version}"
)


@dataclass(frozen=True)
class Stack:
    """What was found; None: absent or not told.

    Attributes:
        torch: version.
        torch_cuda: CUDA that torch was built for, such as 12.8; None: a CPU build.
        sees_gpu: torch can use a GPU.
        cudnn: as torch tells it, such as 91002.
        driver: version of the driver.
        driver_cuda: the newest CUDA that the driver serves.
        nvcc: version of the compiler.
        megatron_core: version.
        transformer_engine: version.
        transformer_engine_error: the text of its import, where that fails.
        te_parts: versions of its other packages by name.
        flash_attn: version.
        apex: ``absent``, ``unrelated`` (the package index's), ``plain`` (without extensions), ``fused``.
    """

    torch: str | None = None
    torch_cuda: str | None = None
    sees_gpu: bool = False
    cudnn: int | None = None
    driver: str | None = None
    driver_cuda: str | None = None
    nvcc: str | None = None
    megatron_core: str | None = None
    transformer_engine: str | None = None
    transformer_engine_error: str | None = None
    te_parts: dict[str, str] = field(default_factory=dict)
    flash_attn: str | None = None
    apex: str = "absent"


@dataclass(frozen=True)
class Fault:
    """A combination that does not work.

    Attributes:
        part: whose.
        cause: what does not fit what.
        cure: what to do.
    """

    part: str
    cause: str
    cure: str


def faults_of(stack: Stack) -> list[Fault]:
    """All that does not fit, the ones that others follow from first."""
    checks = (_driver, _megatron_core, _transformer_engine, _cudnn, _flash_attn, _apex, _nvcc)
    return [fault for check in checks for fault in check(stack)]


def _version(text: str | None) -> tuple[int, ...] | None:
    """Numbers of a release, and of a post release behind them: they compare as versions do here."""
    match = re.match(r"(\d+(?:\.\d+)*)(?:\.post(\d+))?", text or "")
    if match is None:
        return None
    post = (int(match[2]),) if match[2] else ()
    return tuple(int(number) for number in match[1].split(".")) + post


def _is_in(found: tuple[int, ...], first: str, last: str) -> bool:
    low, high = _version(first), _version(last)
    return low is not None and high is not None and low <= found <= high


def _major(text: str) -> int:
    return int(text.split(".")[0])


def _driver(stack: Stack) -> list[Fault]:
    if stack.driver is None or stack.torch is None or stack.sees_gpu:
        return []
    if stack.torch_cuda is None:
        return [
            Fault(
                "torch",
                f"a GPU is here (driver {stack.driver}), but torch {stack.torch} is a CPU build",
                f"install the torch of {PINNED}, or set MEGATRON_DREAM_DEVICE=cpu if that is meant",
            )
        ]
    if stack.driver_cuda and _major(stack.torch_cuda) > _major(stack.driver_cuda):
        return [
            Fault(
                "driver",
                f"torch {stack.torch} is built for CUDA {stack.torch_cuda}, and driver {stack.driver} "
                f"serves CUDA {stack.driver_cuda} at most",
                f"a driver for CUDA {_major(stack.torch_cuda)} (580 or newer for CUDA 13), or a torch built "
                f"for CUDA {_major(stack.driver_cuda)}",
            )
        ]
    return [
        Fault(
            "torch",
            f"the driver {stack.driver} answers, but torch {stack.torch} sees no GPU",
            "look at CUDA_VISIBLE_DEVICES; in a container start it with the GPUs (--gpus all, --nv); after a "
            "driver update restart the machine",
        )
    ]


def _megatron_core(stack: Stack) -> list[Fault]:
    if stack.megatron_core in (None, MEGATRON_CORE):
        return []
    return [
        Fault(
            "megatron-core",
            f"version {stack.megatron_core} is here; this program is written for {MEGATRON_CORE}, inside "
            "which it replaces functions",
            f"pip install megatron-core=={MEGATRON_CORE}",
        )
    ]


def _transformer_engine(stack: Stack) -> list[Fault]:
    if stack.transformer_engine is None:
        return []
    if stack.transformer_engine_error is not None:
        return [explain_transformer_engine(stack.transformer_engine_error, stack)]
    found = _version(stack.transformer_engine)
    if found is None or _is_in(
        found, TE_FIRST, TE_AFTER_LAST
    ):  # 2.12 itself would be 2.12.0, after it
        return []
    return [
        Fault(
            "Transformer Engine",
            f"version {stack.transformer_engine} is here; megatron-core {MEGATRON_CORE} is made for "
            f"{TE_FIRST} up to, not including, {TE_AFTER_LAST}",
            f"install the version of {PINNED}",
        )
    ]


def explain_transformer_engine(text: str, stack: Stack) -> Fault:
    """The cause of a failed ``import transformer_engine.pytorch``, told by its text.

    Args:
        text: the exception's, all of it or its last line.
        stack: versions around it.
    """
    version = stack.transformer_engine or "VERSION"
    rebuild = _REBUILD_TE.format(version=version)
    wanted = f"CUDA {stack.torch_cuda}" if stack.torch_cuda else "a CPU build"
    known: tuple[tuple[str, str, str], ...] = (
        (
            r"libcud(?:art|nn|a_runtime)\.so|libcublas\w*\.so|libnvrtc\.so",
            "a CUDA library of the version that it was built for is not found, while torch is of "
            + wanted,
            f"its core package must fit torch's CUDA: transformer-engine[pytorch,core_cu12] with CUDA 12, "
            f"[pytorch,core_cu13] with CUDA 13, both at {version}",
        ),
        (
            r"(cudnn|nvrtc|curand|cublas|cudart) shared object not found",
            "a library of CUDA is found neither in /usr/local/cuda nor beside torch",
            "pip install nvidia-{0}-cu12 (or cu13), or set CUDA_HOME, and CUDNN_PATH for cuDNN",
        ),
        (
            r"undefined symbol",
            f"its extension was built with another torch than {stack.torch or 'the one here'}",
            f"build it again: {rebuild}",
        ),
        (
            r"version mismatch",
            "its packages are of different versions: " + _parts(stack),
            f"pip install --no-build-isolation 'transformer-engine[pytorch]=={version}'",
        ),
        (
            r"Could not find shared object file for Transformer Engine torch|"
            r"Could not find .?transformer[-_]engine[-_]torch|No module named 'transformer_engine_torch'",
            "its torch extension, which comes as source, was not built",
            f"with nvcc at hand: {rebuild}",
        ),
        (
            r"empty `transformer-engine` meta package|TE core package|"
            r"Could not find shared object file for Transformer Engine core",
            "only its outer package is here, without the library",
            f"pip install --no-build-isolation 'transformer-engine[pytorch,core_cu12]=={version}'",
        ),
        (
            r"GLIBC(?:XX)?_[\d.]+.? not found",
            "its wheel needs a newer C library than this system has (glibc 2.28)",
            "a newer system, or the container of slurm/Dockerfile",
        ),
        (
            r"Minimum torch version|torch_version|requires? (?:a newer )?torch",
            f"it asks for another torch than {stack.torch or 'the one here'}",
            f"install both as in {PINNED}",
        ),
        (
            r"numpy\.core\.multiarray failed|_ARRAY_API not found|compiled using NumPy 1",
            "something that it imports was built for NumPy 1 and finds NumPy 2",
            "upgrade the package that the text names",
        ),
    )
    for pattern, cause, cure in known:
        if match := re.search(pattern, text):
            name = match.group(1) if match.groups() else ""
            return Fault("Transformer Engine", cause, cure.format(name) if name else cure)
    line = next((line for line in reversed(text.splitlines()) if line.strip()), "no reason given")
    return Fault(
        "Transformer Engine",
        f"it cannot be imported: {line.strip()[:160]}",
        f"install it as in {PINNED}, or use the container of slurm/Dockerfile; training goes on with "
        "model.layer_spec=local",
    )


def _parts(stack: Stack) -> str:
    parts = {"transformer-engine": stack.transformer_engine or "?", **stack.te_parts}
    return ", ".join(f"{name} {version}" for name, version in parts.items())


def _cudnn(stack: Stack) -> list[Fault]:
    """Only where Transformer Engine is: nothing else of ours asks for cuDNN."""
    if stack.cudnn is None or stack.transformer_engine is None:
        return []
    unit = 10000 if stack.cudnn >= 90000 else 1000  # 91002 is 9.10.2, 8907 was 8.9.7
    found = (stack.cudnn // unit, stack.cudnn % unit // 100)
    if found >= CUDNN_FIRST:
        return []
    first = ".".join(map(str, CUDNN_FIRST))
    return [
        Fault(
            "cuDNN",
            f"version {found[0]}.{found[1]} is here; Transformer Engine's attention needs {first} or newer",
            f"pip install 'nvidia-cudnn-cu{_major(stack.torch_cuda or '12')}>={first}', or a newer torch",
        )
    ]


def _flash_attn(stack: Stack) -> list[Fault]:
    """Transformer Engine only warns and then takes another kernel, which nobody notices."""
    found = _version(stack.flash_attn)
    if found is None or stack.transformer_engine is None:
        return []
    if _is_in(found, FLASH_FIRST, FLASH_LAST):
        return []
    return [
        Fault(
            "flash-attn",
            f"version {stack.flash_attn} is here, which Transformer Engine does not use: it takes "
            f"{FLASH_FIRST} to {FLASH_LAST}",
            f"pip install --no-build-isolation flash-attn=={FLASH_LAST}, or remove it: cuDNN's serves",
        )
    ]


def _apex(stack: Stack) -> list[Fault]:
    source = "build it from source as docs/environment.md says, or remove it"
    if stack.apex == "unrelated":
        cause = (
            "the package `apex` of the package index is here, which has nothing to do with NVIDIA's"
        )
        return [Fault("apex", cause, f"pip uninstall apex; {source}")]
    if stack.apex == "plain" and stack.sees_gpu:
        cause = "apex is here without its CUDA extensions, and so is of no use"
        return [Fault("apex", cause, f"{source} (APEX_CPP_EXT=1 APEX_CUDA_EXT=1)")]
    return []


def _nvcc(stack: Stack) -> list[Fault]:
    """Of interest only while something is still to be built."""
    is_done = stack.transformer_engine is not None and stack.transformer_engine_error is None
    if stack.driver is None or stack.torch_cuda is None or is_done:
        return []
    if stack.nvcc is None:
        return [
            Fault(
                "nvcc",
                "there is no CUDA compiler, and Transformer Engine's extension, flash-attn and apex come as "
                "source",
                f"install the CUDA toolkit {stack.torch_cuda} and set CUDA_HOME, or use the container of "
                "slurm/Dockerfile",
            )
        ]
    if stack.nvcc.split(".")[:2] != stack.torch_cuda.split(".")[:2]:
        return [
            Fault(
                "nvcc",
                f"it is of CUDA {stack.nvcc}, torch of {stack.torch_cuda}: apex refuses to be built so, and "
                "another major version cannot be",
                f"install the CUDA toolkit {stack.torch_cuda} and set CUDA_HOME to it",
            )
        ]
    return []
