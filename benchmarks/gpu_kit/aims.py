"""What figures are held against: this project's aims, and published runs by their own FLOP convention."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from megatron_dream.config.presets import resolve_model
from megatron_dream.config.schema import DiffusionConfig, ModelConfig
from megatron_dream.planning.hardware import GPUS

from .flops import token_flops

AIM_MODEL = "qwen2.5-coder-7b"
# Tokens a second and H100, by (precision, sequence length).
AIMS_7B = {
    ("bf16", 2048): 10_300,
    ("bf16", 4096): 9_700,
    ("fp8", 2048): 16_600,
    ("fp8", 4096): 15_700,
}


@dataclass(frozen=True)
class Anchor:
    """A published run.

    Attributes:
        name: whose, which model, on what.
        precision: of its products.
        convention: of its FLOPs.
        tflops: a second and GPU, of the H100's dense bf16 peak ``share``; low and high end.
        tokens: a second and GPU; None: not published.
    """

    name: str
    precision: str
    convention: str
    tflops: tuple[float, float]
    tokens: int | None

    @property
    def shares(self) -> tuple[float, float]:
        """Of the H100's dense bf16 peak."""
        peak = GPUS["H100"].peak_bf16_tflops
        return self.tflops[0] / peak, self.tflops[1] / peak


ANCHORS = (
    Anchor("Megatron-LM, GPT 2B to 462B, 4096, 96 to 4,608 H100", "bf16", "megatron_lm",
           (0.41 * 989, 0.48 * 989), None),
    Anchor("torchtitan, Llama-3.1 8B, 8192, 8 H100 (500 W, compiled)", "bf16", "torchtitan",
           (386.0, 386.0), 6667),
    Anchor("Megatron-LM, Llama-3 8B, 8192, 8 H100", "fp8", "megatron_lm", (800.0, 800.0), 13_812),
    Anchor("Megatron-Bridge, Llama-3 8B, 8192, 8 H100", "fp8", "megatron_bridge", (744.0, 744.0),
           14_451),
)  # fmt: skip


@cache
def aim_share(precision: str, sequence_length: int) -> float | None:
    """Share of an H100's best matrix product that the 7B's aim is; None without an aim.

    By our convention: aim x FLOP a token / best product. On another device the same share is the aim.
    """
    aim = AIMS_7B.get((precision, sequence_length))
    if aim is None:
        return None
    model = resolve_model(ModelConfig(preset=AIM_MODEL))
    flops = token_flops(model, DiffusionConfig(), sequence_length)["ours"]
    return aim * flops / GPUS["H100"].matmul_flops(precision)
