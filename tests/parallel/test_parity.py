"""An imported Qwen2 model computes what transformers computes, and exports the same bits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity_jobs import import_and_export, logits, sampled
from pool import WorkerPool
from safetensors.torch import load_file

VOCAB = 131
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "TP1": (1, {}),
    "TP2": (2, {"tensor_model_parallel_size": 2}),
    "PP2": (2, {"pipeline_model_parallel_size": 2}),
}
# (tied, layouts multiplied)
SAMPLED = [(False, "TP2"), (True, "TP2"), (True, "PP2"), (False, "TP2 PP2")]


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def imported(
    request: pytest.FixtureRequest, pool: WorkerPool, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, list[list[int]], np.ndarray]:
    """(checkpoint, ids, transformers' logits) of a random Qwen2 model."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
        tie_word_embeddings=request.param,
        rope_theta=1e6,
    )
    model = Qwen2ForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # zero by default, which would hide a wrong order
            torch.nn.init.normal_(parameter, std=0.2)
    folder = tmp_path_factory.mktemp("qwen2")
    model.save_pretrained(folder / "hf")
    ids = torch.randint(0, VOCAB, (2, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(ids).logits.numpy()
    pool.run(
        import_and_export,
        1,
        folder=str(folder / "hf"),
        checkpoint=str(folder / "checkpoint"),
        exported=None,
        tokenizer=None,
    )
    return str(folder / "checkpoint"), ids.tolist(), expected


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_equal_transformers(
    pool: WorkerPool, imported: tuple[str, list[list[int]], np.ndarray], layout: str
) -> None:
    checkpoint, ids, expected = imported
    world_size, sizes = LAYOUTS[layout]
    results = pool.run(logits, world_size, checkpoint=checkpoint, ids=ids, sizes=sizes)
    found = [result for result in results if result is not None]
    assert found
    for result in found:
        np.testing.assert_allclose(result, expected, atol=1e-4)


@pytest.mark.parametrize(("imported", "layout"), SAMPLED, indirect=["imported"])
def test_the_sampler_is_the_same_on_every_layout(
    pool: WorkerPool, imported: tuple[str, list[list[int]], np.ndarray], layout: str
) -> None:
    """States and tokens of every rank; a cache refreshed at every step is exact there too.

    A static cache, as CUDA graphs are recorded over, changes no token; it is of one process.
    """
    checkpoint, ids, _ = imported
    base = {"mask_token_id": VOCAB - 1, "max_new_tokens": 12, "steps": 12, "block_length": 5}
    choices = [
        {**base, "seed": 3},
        {**base, "seed": 3, "cache": "dual", "cache_refresh": 1},
        {**base, "seed": 3, "cache": "prefix"},
        {**base, "seed": 3, "cache": "dual", "alg": "threshold", "threshold": 0.05},
        {**base, "seed": 3, "temperature": 1.0, "alg": "origin"},
    ]
    static = [{**options, "cuda_graphs": "on"} for options in choices[2:4]]
    (expected, sequences), *_ = pool.run(
        sampled, 1, checkpoint=checkpoint, ids=ids, sizes={}, choices=choices + static
    )
    assert sequences[0] == sequences[1]
    assert sequences[len(choices) :] == sequences[2:4]
    del sequences[len(choices) :]
    layouts = [LAYOUTS[name] for name in layout.split()]
    world_size = math.prod(number for number, _ in layouts)
    sizes = {field: size for _, fields in layouts for field, size in fields.items()}
    if "PP" in layout:  # without a cache
        choices, sequences = [choices[0], choices[-1]], [sequences[0], sequences[-1]]
    for found, tokens in pool.run(
        sampled, world_size, checkpoint=checkpoint, ids=ids, sizes=sizes, choices=choices
    ):
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert tokens == sequences


@pytest.mark.parametrize("tied", [False, True])
def test_import_then_export_returns_the_same_bits(
    pool: WorkerPool, tmp_path: Path, shared_data: Path, tied: bool
) -> None:
    """A Dream folder with the Qwen2 vocabulary, so that its tokenizer fits; bf16 as published."""
    import json

    from safetensors.torch import save_file

    from megatron_dream.config.schema import ModelConfig
    from megatron_dream.hf.model_config import dream_config_json
    from megatron_dream.hf.tensor_map import huggingface_shapes

    model = ModelConfig(
        num_layers=2,
        hidden_size=16,
        num_attention_heads=4,
        num_query_groups=2,
        ffn_hidden_size=24,
        vocab_size=151_936,
        tie_word_embeddings=tied,
    )
    generator = torch.Generator().manual_seed(2)
    tensors = {
        name: torch.randn(shape, generator=generator).to(torch.bfloat16)
        for name, shape in huggingface_shapes(model).items()
    }
    folder = tmp_path / "dream"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = dream_config_json(
        model,
        special_token_ids={"pad": 151_643, "mask": 151_666},
        num_tokens=None,
        tokenizer_fingerprint=None,
        torch_dtype="bfloat16",
    )
    (folder / "config.json").write_text(json.dumps(config))
    pool.run(
        import_and_export,
        1,
        folder=str(folder),
        checkpoint=str(tmp_path / "checkpoint"),
        exported=str(tmp_path / "again"),
        tokenizer=str(shared_data / "qwen2_tokenizer"),
    )
    again: dict[str, torch.Tensor] = {}
    for file in (tmp_path / "again").glob("*.safetensors"):
        again |= load_file(file)
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(again[name], tensor), name
