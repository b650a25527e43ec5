"""Layer specs: which module does what in a transformer layer.

``local``: megatron-core's parallel linear layers, whose products are ours on a CPU, with this package's
attention, rotation, SwiGLU and RMSNorm; runs anywhere. ``transformer_engine``: fused FP8-capable layers
on a GPU, megatron-core's own spec with the attention's mask type changed from causal.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from ..config.schema import LayerSpec, ModelConfig, Objective
from ..device import has_transformer_engine
from ..errors import MissingDependencyError
from .activation import SwiGLU
from .attention import SegmentAttention
from .norm import RMSNorm
from .rotary import self_attention_class

# Checkpoints name norms as Transformer Engine does, which fuses them into the layer that follows, so
# that either spec reads what the other wrote.
_FUSED_NORM_NAMES = MappingProxyType(
    {
        "input_layernorm.": "self_attention.linear_qkv.layer_norm_",
        "pre_mlp_layernorm.": "mlp.linear_fc1.layer_norm_",
    }
)


def resolve_layer_spec(model: ModelConfig) -> LayerSpec:
    """``"local"`` or ``"transformer_engine"``; ``auto`` takes Transformer Engine where it works.

    Raises:
        MissingDependencyError: Transformer Engine is demanded and absent.
    """
    if model.layer_spec == "local":
        return "local"
    if has_transformer_engine():
        return "transformer_engine"
    if model.layer_spec == "transformer_engine":
        raise MissingDependencyError(
            "model.layer_spec is transformer_engine, but Transformer Engine does not work here: "
            "install it (pip install 'megatron-dream[te]') on a machine with a GPU, or set "
            "model.layer_spec=local"
        )
    return "local"


def _mask_type(objective: Objective) -> Any:
    from megatron.core.transformer.enums import AttnMaskType

    return AttnMaskType.causal if objective == "ar" else AttnMaskType.no_mask


def _local_layer(objective: Objective) -> Any:
    from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
    from megatron.core.transformer.attention import SelfAttentionSubmodules
    from megatron.core.transformer.mlp import MLP, MLPSubmodules
    from megatron.core.transformer.spec_utils import ModuleSpec
    from megatron.core.transformer.transformer_layer import (
        TransformerLayer,
        TransformerLayerSubmodules,
    )

    from .linear import ColumnParallel, RowParallel

    attention = SelfAttentionSubmodules(
        linear_qkv=ColumnParallel,
        core_attention=SegmentAttention,
        linear_proj=RowParallel,
    )
    mlp = MLPSubmodules(linear_fc1=ColumnParallel, activation_func=SwiGLU, linear_fc2=RowParallel)
    return ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=RMSNorm,
            self_attention=ModuleSpec(
                module=self_attention_class(),
                params={"attn_mask_type": _mask_type(objective)},
                submodules=attention,
            ),
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=RMSNorm,
            mlp=ModuleSpec(module=MLP, submodules=mlp),
            mlp_bda=get_bias_dropout_add,
            sharded_state_dict_keys_map=dict(_FUSED_NORM_NAMES),
        ),
    )


def _transformer_engine_layer(objective: Objective) -> Any:
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec

    layer = get_gpt_layer_with_transformer_engine_spec()
    layer.submodules.self_attention.params["attn_mask_type"] = _mask_type(objective)
    return layer


def block_spec(config: Any, spec: str, objective: Objective, vp_stage: int | None) -> Any:
    """The layers of one model chunk and its final norm, as megatron-core takes them."""
    from megatron.core.transformer.transformer_block import (
        TransformerBlockSubmodules,
        get_num_layers_to_build,
    )

    num_layers = get_num_layers_to_build(config, vp_stage=vp_stage)
    if spec == "transformer_engine":
        from megatron.core.extensions.transformer_engine import TENorm

        layer, norm = _transformer_engine_layer(objective), TENorm
    else:
        layer, norm = _local_layer(objective), RMSNorm
    return TransformerBlockSubmodules(layer_specs=[layer] * num_layers, layer_norm=norm)
