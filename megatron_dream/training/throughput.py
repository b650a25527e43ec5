"""FLOPs of a token and the share of the machine's peak that training reaches.

Convention (docs/training.md derives it): forward and backward are 6 FLOPs a weight and token;
attention is 12 L s heads x head_dim (full; half of that where it is causal); the head counts for
the expected share of masked tokens only, since it runs on no other rows. The embedding look-up is
free. Recomputation is not
counted: MFU tells what the model needed, not what the machine did.
"""

from __future__ import annotations

import time

import torch

from .. import device
from ..config.schema import DiffusionConfig, ModelConfig

# Dense bf16 peak of the vendor's data sheets, FLOP/s, by a part of the device's name.
_PEAK_BF16 = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "B200": 2250e12,
    "L40S": 362e12,
}


def layer_parameters(model: ModelConfig) -> int:
    """Weights of the matrices of one layer (biases and norms are not counted)."""
    head_dim = model.hidden_size // model.num_attention_heads
    qkv = model.hidden_size * head_dim * (model.num_attention_heads + 2 * model.num_query_groups)
    projection = model.hidden_size * model.hidden_size
    return qkv + projection + 3 * model.hidden_size * model.ffn_hidden_size


def expected_head_share(diffusion: DiffusionConfig) -> float:
    """Expected share of rows that the head runs on: E[t] for diffusion, 1 for ``ar``."""
    return 1.0 if diffusion.objective == "ar" else (1.0 + diffusion.t_min) / 2


def flops_per_token(model: ModelConfig, diffusion: DiffusionConfig, sequence_length: int) -> float:
    """Training FLOPs of one token of a row, forward and backward."""
    attention = 12.0 * model.num_layers * model.hidden_size * sequence_length
    if diffusion.objective == "ar":
        attention /= 2
    head = 6.0 * model.hidden_size * model.vocab_size * expected_head_share(diffusion)
    return 6.0 * model.num_layers * layer_parameters(model) + attention + head


def peak_flops(precision: str) -> float | None:
    """Peak FLOP/s of this process's device: data sheet for known GPUs, measured on a CPU.

    Returns None for a GPU that is not in the table.
    """
    if device.device_type() == "cuda":
        name = torch.cuda.get_device_name()
        return next((peak for part, peak in _PEAK_BF16.items() if part in name), None)
    return _measure_cpu(torch.bfloat16 if precision == "bf16" else torch.float32)


def _measure_cpu(dtype: torch.dtype, size: int = 768, repeats: int = 4) -> float:
    matrix = torch.randn(size, size).to(dtype)
    matrix @ matrix  # first call sets the library up
    fastest = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        matrix @ matrix
        fastest = min(fastest, time.perf_counter() - start)
    return 2.0 * size**3 / fastest
