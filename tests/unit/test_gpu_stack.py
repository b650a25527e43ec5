# ruff: noqa: E501
"""What doctor says of combinations that do not work: cause and cure by versions and by error texts."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from megatron_dream.gpu_stack import (
    FLASH_LAST,
    MEGATRON_CORE,
    TE_AFTER_LAST,
    TE_FIRST,
    Fault,
    Stack,
    explain_transformer_engine,
    faults_of,
)

ROOT = Path(__file__).resolve().parents[2]
GOOD = Stack(
    torch="2.10.0",
    torch_cuda="12.8",
    sees_gpu=True,
    cudnn=91002,
    driver="570.124.06",
    driver_cuda="12.8",
    nvcc="12.8",
    megatron_core=MEGATRON_CORE,
    transformer_engine="2.11.0",
    te_parts={"transformer-engine-torch": "2.11.0", "transformer-engine-cu12": "2.11.0"},
    flash_attn="2.8.3",
    apex="fused",
)
LAPTOP = Stack(torch="2.13.0+cpu", megatron_core=MEGATRON_CORE, nvcc="12.1")


def faults(**changes: object) -> list[Fault]:
    return faults_of(dataclasses.replace(GOOD, **changes))  # type: ignore[arg-type]


def only(**changes: object) -> Fault:
    (fault,) = faults(**changes)
    return fault


def test_what_fits_is_not_blamed() -> None:
    assert faults_of(GOOD) == faults_of(LAPTOP) == faults_of(Stack()) == []
    assert (
        faults(torch_cuda="12.8", driver_cuda="12.2") == []
    )  # CUDA's minor versions are compatible
    assert faults(transformer_engine="2.9.0a0") == faults(transformer_engine="2.11.0+cu12") == []
    assert faults(flash_attn=None, apex="absent", nvcc=None) == []
    assert faults(nvcc="13.0") == []  # nothing is left to build


@pytest.mark.parametrize(
    ("changes", "part", "cause", "cure"),
    [
        (
            dict(sees_gpu=False, torch="2.11.0", torch_cuda="13.0", driver_cuda="12.8"),
            "driver",
            "torch 2.11.0 is built for CUDA 13.0, and driver 570.124.06 serves CUDA 12.8 at most",
            "580 or newer for CUDA 13",
        ),
        (dict(sees_gpu=False, torch_cuda=None, transformer_engine=None, flash_attn=None), "torch", "CPU build", "cuda.txt"),
        (dict(sees_gpu=False), "torch", "sees no GPU", "CUDA_VISIBLE_DEVICES"),
        (dict(megatron_core="0.17.0"), "megatron-core", "0.17.0 is here", "megatron-core==0.16.1"),
        (dict(transformer_engine="2.12.0"), "Transformer Engine", "up to, not including, 2.12", "cuda.txt"),
        (dict(transformer_engine="2.8.0"), "Transformer Engine", "is made for 2.9", "cuda.txt"),
        (dict(cudnn=90100), "cuDNN", "9.1 is here; Transformer Engine's attention needs 9.3", "nvidia-cudnn-cu12>=9.3"),
        (dict(cudnn=8907), "cuDNN", "version 8.9 is here", "nvidia-cudnn-cu12"),
        (dict(flash_attn="2.8.3.post2"), "flash-attn", "does not use: it takes 2.1.1 to 2.8.3", "flash-attn==2.8.3"),
        (dict(flash_attn="2.0.4"), "flash-attn", "2.0.4 is here", "remove it"),
        (dict(apex="unrelated"), "apex", "nothing to do with NVIDIA's", "pip uninstall apex"),
        (dict(apex="plain"), "apex", "without its CUDA extensions", "APEX_CUDA_EXT=1"),
        (dict(transformer_engine=None, nvcc=None), "nvcc", "there is no CUDA compiler", "CUDA toolkit 12.8"),
        (dict(transformer_engine=None, nvcc="13.0"), "nvcc", "it is of CUDA 13.0, torch of 12.8", "CUDA_HOME"),
    ],
)  # fmt: skip
def test_a_combination_that_does_not_work(
    changes: dict[str, object], part: str, cause: str, cure: str
) -> None:
    fault = only(**changes)
    assert fault.part == part and cause in fault.cause and cure in fault.cure


@pytest.mark.parametrize(
    ("text", "cause", "cure"),
    [
        ("RuntimeError: cudnn shared object not found.", "neither in /usr/local/cuda nor", "nvidia-cudnn-cu12"),
        ("RuntimeError: nvrtc shared object not found.", "neither in /usr/local/cuda nor", "nvidia-nvrtc-cu12"),
        (
            "ImportError: /x/transformer_engine_torch.cpython-312-x86_64-linux-gnu.so: undefined symbol: _ZN3c104cuda29c10_"
            "cuda_check_implementationEiPKcS2_ib",
            "built with another torch than 2.10.0",
            "transformer-engine-torch==2.11.0",
        ),
        (
            "AssertionError: Transformer Engine package version mismatch. Found transformer_engine_torch v2.10.0, "
            "transformer-engine v2.11.0, and transformer-engine-cu12 v2.11.0. Install transformer-engine using ...",
            "different versions: transformer-engine 2.11.0, transformer-engine-torch 2.11.0",
            "transformer-engine[pytorch]==2.11.0",
        ),
        (
            "FileNotFoundError: Could not find shared object file for Transformer Engine torch lib.",
            "which comes as source, was not built",
            "--no-build-isolation",
        ),
        (
            "RuntimeError: Found empty `transformer-engine` meta package installed. Install ...",
            "only its outer package",
            "core_cu12",
        ),
        (
            "OSError: libcublas.so.13: cannot open shared object file: No such file or directory",
            "not found, while torch is of CUDA 12.8",
            "core_cu12] with CUDA 12",
        ),
        ("ImportError: /lib64/libc.so.6: version `GLIBC_2.28' not found", "newer C library", "slurm/Dockerfile"),
        ("AssertionError: Minimum torch version 2.1 required. Found (2, 0).", "another torch", "cuda.txt"),
        ("RuntimeError: A module that was compiled using NumPy 1.x cannot be run in NumPy 2.4", "built for NumPy 1", "upgrade"),
        ("Traceback ...\nValueError: something new\n\n", "cannot be imported: ValueError: something new", "layer_spec=local"),
    ],
)  # fmt: skip
def test_an_error_of_transformer_engine(text: str, cause: str, cure: str) -> None:
    fault = explain_transformer_engine(text, GOOD)
    assert fault.part == "Transformer Engine" and cause in fault.cause and cure in fault.cure
    assert only(transformer_engine_error=text) == fault


def test_every_cure_is_one_line_of_text() -> None:
    broken = dataclasses.replace(
        GOOD, sees_gpu=False, megatron_core="0.1", transformer_engine_error="", cudnn=1, flash_attn="9", apex="unrelated", nvcc=None
    )  # fmt: skip
    found = faults_of(broken)
    assert len(found) == 7
    for fault in found:
        assert fault.cause and fault.cure and "\n" not in fault.cause + fault.cure


def test_limits_are_those_of_the_pins() -> None:
    """setup.py, requirements/cuda.txt and what doctor says must not part."""
    assert f'"megatron-core=={MEGATRON_CORE}"' in (ROOT / "setup.py").read_text()
    pins = dict(
        re.findall(
            r"^([a-z_-]+)(?:\[.*\])?==(\S+)", (ROOT / "requirements/cuda.txt").read_text(), re.M
        )
    )
    assert pins["megatron-core"] == MEGATRON_CORE
    parts = [
        tuple(map(int, text.split(".")))
        for text in (TE_FIRST, pins["transformer-engine"], TE_AFTER_LAST)
    ]
    assert parts == sorted(parts)
    pinned = dataclasses.replace(
        GOOD,
        torch=pins["torch"],
        transformer_engine=pins["transformer-engine"],
        flash_attn=FLASH_LAST,
    )
    assert faults_of(pinned) == []
