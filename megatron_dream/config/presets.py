"""Model shapes by name: the quickstart's and every size of Qwen2.5-Coder (SPEC 4).

For planning and training from random weights; ``import-hf`` reads the source's own config.json.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from types import MappingProxyType
from typing import Any

from megatron_dream.config.convert import nearest
from megatron_dream.config.schema import ModelConfig
from megatron_dream.errors import ConfigError

SHAPE_FIELDS = (
    "num_layers",
    "hidden_size",
    "num_attention_heads",
    "num_query_groups",
    "ffn_hidden_size",
)


def _qwen(
    layers: int, hidden: int, heads: int, groups: int, ffn: int, tied: bool
) -> dict[str, Any]:
    shape = dict(zip(SHAPE_FIELDS, (layers, hidden, heads, groups, ffn), strict=True))
    vocab = 151936 if tied else 152064
    return {**shape, "vocab_size": vocab, "tie_word_embeddings": tied}


PRESETS = MappingProxyType(
    {
        "tiny": {
            **dict(zip(SHAPE_FIELDS, (4, 192, 6, 2, 512), strict=True)),
            "vocab_size": 0,  # the tokenizer's
            "tie_word_embeddings": True,
            "max_position_embeddings": 2048,
        },
        "qwen2.5-coder-0.5b": _qwen(24, 896, 14, 2, 4864, tied=True),
        "qwen2.5-coder-1.5b": _qwen(28, 1536, 12, 2, 8960, tied=True),
        "qwen2.5-coder-3b": _qwen(36, 2048, 16, 2, 11008, tied=True),
        "qwen2.5-coder-7b": _qwen(28, 3584, 28, 4, 18944, tied=False),
        "qwen2.5-coder-14b": _qwen(48, 5120, 40, 8, 13824, tied=False),
        "qwen2.5-coder-32b": _qwen(64, 5120, 40, 8, 27648, tied=False),
    }
)


def resolve_model(model: ModelConfig, explicit: Collection[str] | None = None) -> ModelConfig:
    """Fill what is not given from the preset; what is given wins.

    Args:
        model: the model section as read or built.
        explicit: names of the fields that were written, known to ``load_config``. None: a field
            that differs from its default counts as given, and a whole shape as already resolved.

    Returns:
        A new ModelConfig with a whole shape; ``vocab_size`` may stay 0 (the tokenizer's).

    Raises:
        ConfigError: the preset is unknown, or part of the shape is given nowhere.
    """
    values = dataclasses.asdict(model)
    if model.preset is not None:
        preset = _preset(model.preset)
        if explicit is not None or not all(values[name] for name in SHAPE_FIELDS):
            given = set(_given(model) if explicit is None else explicit)
            given -= {name for name in SHAPE_FIELDS if not values[name]}  # 0 is no shape
            values.update({k: v for k, v in preset.items() if k not in given})
    missing = [f"model.{name}" for name in SHAPE_FIELDS if not values[name]]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)}: not given; set model.preset (one of {', '.join(PRESETS)}) or "
            "give the whole shape."
        )
    return ModelConfig(**values)


def _preset(name: str) -> dict[str, Any]:
    if name not in PRESETS:
        raise ConfigError(
            f"model.preset: there is no preset {name!r}; the nearest one is "
            f"{nearest(name, PRESETS)} (known: {', '.join(PRESETS)})."
        )
    return PRESETS[name]


def _given(model: ModelConfig) -> set[str]:
    default = dataclasses.asdict(ModelConfig())
    return {name for name, value in dataclasses.asdict(model).items() if value != default[name]}
