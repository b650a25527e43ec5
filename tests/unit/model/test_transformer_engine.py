"""What is told to Transformer Engine, by megatron-core's configuration or directly.

It cannot run here. Its signatures are written down as they stand in its tag v2.11 (the newest that
megatron-core 0.16.1 names), in pytorch/module/base.py and pytorch/attention/dot_product_attention: a call
that does not bind to them would fail on the GPU.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import sys
import types
from typing import Any

import pytest
import torch

from megatron_dream import device
from megatron_dream.config.layout import resolve_layout
from megatron_dream.config.load import load_config
from megatron_dream.config.schema import Fp8Config, ModelConfig, ParallelConfig, TrainingConfig
from megatron_dream.data.packing import Packing, pack_rows
from megatron_dream.model.build import transformer_config
from megatron_dream.model.masks import packed_segments
from megatron_dream.model.overlap import start_overlap

MODEL = ModelConfig(
    num_layers=4, hidden_size=64, num_attention_heads=4, num_query_groups=2, ffn_hidden_size=128
)


class Mode(enum.Enum):
    NONE = "none"
    FP8 = "fp8"


def initialize_ub(  # type: ignore[no-untyped-def]
    shape,
    tp_size,
    use_fp8=False,
    quantization_modes=None,
    dtype=torch.bfloat16,
    ub_cfgs=None,
    bootstrap_backend=None,
): ...


def attention_forward(  # type: ignore[no-untyped-def]
    self,
    query_layer,
    key_layer,
    value_layer,
    attention_mask=None,
    qkv_format=None,
    cu_seqlens_q=None,
    cu_seqlens_kv=None,
    cu_seqlens_q_padded=None,
    cu_seqlens_kv_padded=None,
    max_seqlen_q=None,
    max_seqlen_kv=None,
    attn_mask_type=None,
    window_size=None,
    checkpoint_core_attention=False,
    core_attention_bias_type="no_bias",
    core_attention_bias=None,
    alibi_slopes=None,
    fast_zero_fill=True,
    inference_params=None,
    pad_between_seqs=None,
    fp8_output=False,
    num_splits=1,
): ...


def config_of(fp8: Fp8Config, parallel: ParallelConfig | None = None) -> Any:
    device.import_megatron()
    return transformer_config(
        # Under its own spec the configuration asks for its fused rotation, which is not here.
        MODEL,
        parallel or ParallelConfig(),
        TrainingConfig(),
        spec="local",
        fp8=fp8,
    )


@pytest.mark.parametrize(
    ("recipe", "named", "kind"),
    [
        ("delayed", "delayed", "hybrid"),
        ("current", "tensorwise", "hybrid"),
        ("blockwise", "blockwise", "e4m3"),
        ("mxfp8", "mxfp8", "e4m3"),
    ],
)
def test_recipes_have_megatron_cores_names(recipe: Any, named: str, kind: str) -> None:
    from megatron.core.enums import Fp8Recipe

    found = config_of(Fp8Config(recipe=recipe))
    assert (found.fp8, found.fp8_recipe) == (kind, named)
    assert Fp8Recipe(named) == named  # what its code compares with
    assert not found.fp8_dot_product_attention and not found.fp8_multi_head_attention
    assert not found.first_last_layers_bf16 and not found.fp8_param
    assert config_of(Fp8Config(recipe=recipe, format="e4m3")).fp8 == "e4m3"


def test_options_of_recipes_arrive() -> None:
    found = config_of(Fp8Config("delayed", margin=2, amax_history=16, amax_compute="most_recent"))
    assert (found.fp8_margin, found.fp8_amax_history_len) == (2, 16)
    assert found.fp8_amax_compute_algo == "most_recent"
    found = config_of(Fp8Config("current", first_layers_bf16=1, last_layers_bf16=2))
    from megatron.core.fp8_utils import is_first_last_bf16_layer

    assert [is_first_last_bf16_layer(found, n) for n in range(4)] == [True, False, True, True]
    found = config_of(Fp8Config("current", last_layers_bf16=1))
    assert [is_first_last_bf16_layer(found, n) for n in range(4)] == [False, False, False, True]
    assert config_of(Fp8Config()).fp8 is None


def test_communication_is_asked_for_by_name() -> None:
    ring = ParallelConfig(context_parallel_size=2, cp_comm_type="p2p")
    assert config_of(Fp8Config(), ring).cp_comm_type == "p2p"
    assert config_of(Fp8Config()).cp_comm_type == "all_gather"
    overlap = ParallelConfig(
        tensor_model_parallel_size=2, sequence_parallel=True, tp_comm_overlap=True
    )
    assert config_of(Fp8Config(), overlap).tp_comm_overlap


@pytest.mark.parametrize("cp", [1, 2])
def test_segments_bind_to_its_attention(cp: int) -> None:
    """By the fields that megatron-core passes on, and only them."""
    device.import_megatron()
    from megatron.core.packed_seq_params import PackedSeqParams

    flags = torch.tensor([[1, 0, 0, 1, 0, 0, 5, 4], [1, 0, 0, 0, 0, 0, 0, 1]], dtype=torch.uint8)
    batch = pack_rows({"flags": flags}, Packing(2 * cp), pad_id=0, cp_size=cp)
    segments = packed_segments(batch, cp_size=cp)
    kept = {field.name for field in dataclasses.fields(PackedSeqParams)}
    kept -= {"cp_group", "local_cp_size"}
    assert segments.cp_group is None and segments.local_cp_size is None
    passed = {name: getattr(segments, name) for name in kept}
    bound = inspect.signature(attention_forward).bind(None, 0, 0, 0, None, **passed)
    assert bound.arguments["qkv_format"] == "thd"
    assert bound.arguments["cu_seqlens_q"].dtype == torch.int32
    real = bound.arguments["cu_seqlens_q"].diff()
    padded = bound.arguments["cu_seqlens_q_padded"]
    if cp == 1:  # nothing between segments: FlashAttention may serve
        assert padded is None
    else:
        assert padded.dtype == torch.int32 and bool((padded.diff() % (2 * cp) == 0).all())
        assert not torch.equal(padded[:-1], bound.arguments["cu_seqlens_q"][:-1])
    assert bound.arguments["max_seqlen_q"] >= int(real.max())
    assert bound.arguments["max_seqlen_q"] % (2 * cp) == 0


@pytest.mark.parametrize(
    ("fields", "modes"),
    [
        ({}, [Mode.NONE]),
        ({"fp8.recipe": "current"}, [Mode.FP8]),
        ({"fp8.recipe": "current", "fp8.last_layers_bf16": "1"}, [Mode.FP8, Mode.NONE]),
    ],
)
def test_buffers_hold_one_width(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, str], modes: list[Mode]
) -> None:
    calls = []
    signature = inspect.signature(initialize_ub)
    base = types.ModuleType("base")
    base.UserBufferQuantizationMode = Mode  # type: ignore[attr-defined]
    base.initialize_ub = lambda *a, **k: calls.append(signature.bind(*a, **k).arguments)  # type: ignore[attr-defined]
    package = types.ModuleType("transformer_engine.pytorch.module")
    package.base = base  # type: ignore[attr-defined]
    for name in ("transformer_engine", "transformer_engine.pytorch"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "transformer_engine.pytorch.module", package)
    words = {
        "model.preset": "tiny",
        "parallel.tensor_model_parallel_size": "2",
        "parallel.sequence_parallel": "true",
        "parallel.context_parallel_size": "2",
        "training.micro_batch_size": "4",
        "training.global_batch_size": "8",
        "data.sequence_length": "512",
        **fields,
    }
    config = load_config(None, list(words.items()))
    layout = resolve_layout(config, 4)
    config.model.hidden_size = 192
    start_overlap(config, layout)
    assert not calls  # only where asked
    config.parallel.tp_comm_overlap = True
    start_overlap(config, layout)
    assert calls[0]["shape"] == [512 * 4 // 2, 192] and calls[0]["tp_size"] == 2
    assert calls[0]["quantization_modes"] == modes
