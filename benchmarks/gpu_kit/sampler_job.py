"""Tokens a second of the exported folder's sampler, by steps and caches, with CUDA graphs and without."""

from __future__ import annotations

import inspect
import time
from typing import Any

import torch

from benchmarks.sampling import exported_code
from megatron_dream import device
from megatron_dream.config.schema import ModelConfig

from .skip import SkipCase
from .trainee import config_of


def has_graphs() -> bool:
    """Whether the sampler of this checkout knows CUDA graphs."""
    from megatron_dream.sampling.sampling_config import SamplingConfig

    return "cuda_graphs" in inspect.signature(SamplingConfig).parameters


def random_model(code: Any, model: ModelConfig, precision: str) -> Any:
    """Random weights of a shape in the code of an exported folder."""
    torch.manual_seed(0)
    config = code.DreamConfig(
        vocab_size=model.vocab_size,
        hidden_size=model.hidden_size,
        intermediate_size=model.ffn_hidden_size,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_attention_heads,
        num_key_value_heads=model.num_query_groups,
        max_position_embeddings=4096,
        mask_token_id=model.vocab_size - 1,
        pad_token_id=model.vocab_size - 2,
        tie_word_embeddings=model.tie_word_embeddings,
    )
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    with torch.device(device.current_device()):
        torch.set_default_dtype(dtype)
        try:
            whole = code.DreamModel(config).eval()
        finally:
            torch.set_default_dtype(torch.float32)
    for weights in whole.parameters():
        if weights.dim() > 1:
            torch.nn.init.normal_(weights, std=0.05)
    whole.tie_weights()
    return whole


def prompts(model: ModelConfig, rows: int, length: int) -> torch.Tensor:
    """Random ids [rows, length] on the device."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, model.vocab_size - 2, (rows, length), generator=generator)
    return ids.to(device.current_device())


def sampler(
    fields: dict[str, Any],
    *,
    precision: str = "bf16",
    new: int = 256,
    prompt: int = 128,
    block: int = 32,
    steps: tuple[int, ...] = (256, 128, 64),
    rows: int = 1,
    weights: str = "bf16",
) -> dict[str, Any]:
    """Seconds of a generation for each number of steps, each cache, graphs on and off.

    Raises:
        SkipCase: ``weights`` is ``fp8`` and the exported code has no such weights.
    """
    model = config_of(fields).model
    graphs = ("off", "on") if device.device_type() == "cuda" and has_graphs() else (None,)
    found = []
    with exported_code() as code, torch.no_grad():
        whole = random_model(code, model, precision)
        if weights == "fp8":
            if not hasattr(whole, "use_weights"):
                raise SkipCase("needs FP8 weights in the sampler of this checkout")
            whole = whole.use_weights("fp8")
        x = prompts(model, rows, prompt)
        for cache in ("none", "prefix", "dual"):
            for graph in graphs if cache != "none" else graphs[:1]:
                options = {"cache": cache, "alg": "entropy", "block_length": block}
                options |= {} if graph is None else {"cuda_graphs": graph}
                # Recording, and what libraries set up, is not the speed of the next generation.
                whole.diffusion_generate(x, max_new_tokens=new, steps=new // block, **options)
                for count in steps:
                    device.synchronize()
                    began = time.perf_counter()
                    whole.diffusion_generate(x, max_new_tokens=new, steps=count, **options)
                    device.synchronize()
                    spent = time.perf_counter() - began
                    found.append(
                        {
                            "cache": cache,
                            "cuda_graphs": graph,
                            "steps": count,
                            "seconds": spent,
                            "tokens_per_second": rows * new / spent,
                        }
                    )
    kind = "fp8 weights" if weights == "fp8" else precision
    return {"precision": kind, "new": new, "prompt": prompt, "rows": rows, "runs": found}


def graphs_against_eager(fields: dict[str, Any], *, precision: str, new: int) -> dict[str, Any]:
    """Tokens of CUDA graphs against plain calls; equal tokens are asked for.

    Raises:
        SkipCase: there is no GPU, or no such graphs.
    """
    if device.device_type() == "cpu":
        raise SkipCase("needs a GPU: CUDA graphs of the sampler")
    if not has_graphs():
        raise SkipCase("needs cuda_graphs in the sampler of this checkout")
    model = config_of(fields).model
    shares = {}
    with exported_code() as code, torch.no_grad():
        whole, x = random_model(code, model, precision), prompts(model, 2, 64)
        for cache in ("prefix", "dual"):
            made = [
                whole.diffusion_generate(
                    x, max_new_tokens=new, steps=new, block_length=32, alg="entropy", cache=cache,
                    cuda_graphs=graph,
                )
                for graph in ("off", "on")
            ]  # fmt: skip
            shares[cache] = float((made[0] == made[1]).float().mean())
    worst = min(shares.values())
    return {"figure": worst, "bound": 1.0, "passed": worst == 1.0, "detail": shares}


def exact_against_recomputation(
    fields: dict[str, Any], *, precision: str, new: int
) -> dict[str, Any]:
    """Tokens of the sampler without a cache against full recomputation with all logits."""
    from benchmarks.sampling import recompute

    model = config_of(fields).model
    with exported_code() as code, torch.no_grad():
        whole, x = random_model(code, model, precision), prompts(model, 1, 32)
        expected = recompute(whole, x, new, 32)
        found = whole.diffusion_generate(
            x, max_new_tokens=new, steps=new, block_length=32, alg="entropy"
        )
    share = float((expected == found).float().mean())
    return {"figure": share, "bound": 1.0, "passed": share == 1.0}
