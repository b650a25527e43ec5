"""What a GPU and its node can do, from data sheets, and the same from a user's own file.

Sources of each number are in docs/planning.md. ``matmul_share_*`` is the best that a matrix product
reached on that GPU, measured by others over many shapes, as a share of the data sheet's peak.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ..config.convert import nearest
from ..config.load import load_config
from ..errors import ConfigError
from .efficiency import DEFAULT, Efficiency

GIB = 2**30


@dataclass
class Gpu:
    """One GPU in its node, in the units of data sheets. Bandwidths are of one direction."""

    name: str = ""
    peak_bf16_tflops: float = 0.0  # dense
    peak_fp8_tflops: float = 0.0  # dense; 0: has no FP8
    memory_gib: float = 0.0  # as the driver reports it
    memory_gb_s: float = 0.0
    nvlink_gb_s: float = 0.0  # to all others of the node together
    network_gb_s: float = 0.0  # of the GPU's share of the node's network adapters
    host_gb_s: float = 55.0  # to the host's memory
    gpus_per_node: int = 8
    host_memory_gib: float = 2048.0  # of a node
    storage_gb_s: float = 2.0  # a node writes to the file system
    matmul_share_bf16: float = 0.80
    matmul_share_fp8: float = 0.71
    peak_fp32_tflops: float = 0.0  # 0: a sixteenth of bf16's (no tensor cores)
    reached: Efficiency = DEFAULT  # in training; a calibrated file has its own

    def matmul_flops(self, precision: str) -> float:
        """FLOP/s of the best matrix product."""
        if precision == "fp8":
            return self.peak_fp8_tflops * 1e12 * self.matmul_share_fp8
        whole = self.peak_bf16_tflops * 1e12 * self.matmul_share_bf16
        if precision != "fp32":
            return whole
        return self.peak_fp32_tflops * 1e12 or whole / 16

    def attention_peak(self, precision: str) -> float:
        """FLOP/s that attention's shares are of: fp32's own where it is known, else bf16's."""
        own = self.peak_fp32_tflops if precision == "fp32" else 0.0
        return (own or self.peak_bf16_tflops) * 1e12

    @property
    def memory_bytes(self) -> float:
        """Of the GPU."""
        return self.memory_gib * GIB


def _sheet(name: str, *values: float, **others: float) -> Gpu:
    fields = [
        "peak_bf16_tflops",
        "peak_fp8_tflops",
        "memory_gib",
        "memory_gb_s",
        "nvlink_gb_s",
        "network_gb_s",
    ]
    return Gpu(name=name, **dict(zip(fields, values, strict=True)), **others)  # type: ignore[arg-type]


_BEST_A100 = {"matmul_share_bf16": 0.869, "host_gb_s": 25.0, "host_memory_gib": 1024.0}
_BEST_H100 = {"matmul_share_bf16": 0.803, "matmul_share_fp8": 0.709}
_BEST_H200 = {"matmul_share_bf16": 0.803, "matmul_share_fp8": 0.734}
_BEST_B200 = {"matmul_share_bf16": 0.776, "matmul_share_fp8": 0.763}

GPUS: Mapping[str, Gpu] = MappingProxyType(
    {
        "H100": _sheet("H100 SXM", 989, 1979, 79.1, 3350, 450, 50, **_BEST_H100),
        "H100-PCIe": _sheet("H100 PCIe", 756, 1513, 79.1, 2000, 63, 25, **_BEST_H100),
        "H200": _sheet("H200 SXM", 989, 1979, 139.8, 4800, 450, 50, **_BEST_H200),
        "A100-80": _sheet("A100 80GB SXM", 312, 0, 79.1, 2039, 300, 25, **_BEST_A100),
        "B200": _sheet("B200", 2250, 4500, 178.3, 8000, 900, 50, **_BEST_B200),
    }
)
_MAY_BE_ZERO = ("peak_fp8_tflops", "peak_fp32_tflops")
_NOT_SHARES = ("fixed_seconds", "nvlink_latency", "network_latency", "activations", "workspace_gib")


def find_gpu(name: str) -> Gpu:
    """A GPU by its name in the table (H100, h100-pcie, ...), or from a YAML file of its fields.

    Raises:
        ConfigError: no such GPU, or a field of the file is wrong.
        DataError: the file cannot be read.
    """
    if name.endswith((".yaml", ".yml")):
        return _read(name)
    by_name = {key.lower(): gpu for key, gpu in GPUS.items()}
    known = by_name.get(name.lower().replace("_", "-").removesuffix("-sxm"))
    if known is None:
        raise ConfigError(
            f"--gpu: there is no GPU {name!r} in the table; the nearest one is {nearest(name, GPUS)} "
            f"(known: {', '.join(GPUS)}), or give a YAML file of its numbers (docs/planning.md)."
        )
    return known


def _check_reached(path: str, reached: Efficiency) -> None:
    for field in dataclasses.fields(Efficiency):
        value, is_share = getattr(reached, field.name), field.name not in _NOT_SHARES
        if value < 0 or (is_share and not 0 < value <= 1):
            words = "a share, above 0 and at most 1" if is_share else "0 or more"
            raise ConfigError(f"{path}: reached.{field.name} is {value}; give {words}.")


def _read(path: str) -> Gpu:
    gpu = load_config(Path(path), base=Gpu)
    for field in dataclasses.fields(Gpu):
        value = getattr(gpu, field.name)
        if field.name == "name":
            gpu.name = value or Path(path).stem
        elif field.name == "reached":
            _check_reached(path, value)
        elif not 0 < value < float("inf") and not (value == 0 and field.name in _MAY_BE_ZERO):
            raise ConfigError(
                f"{path}: {field.name} must be above 0, it is {value}; give the data sheet's number."
            )
    for name in ("matmul_share_bf16", "matmul_share_fp8"):
        if getattr(gpu, name) > 1:
            raise ConfigError(f"{path}: {name} is a share of the peak; give at most 1.")
    return gpu
