"""config.json both ways: a Qwen2 or Dream folder's to ModelConfig, and a Dream folder's from it.

Reads JSON and nothing else. Whatever the engine would compute differently from the folder's own
code (another activation, scaled rotary positions, a sliding window, quantised weights) is refused
by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config.schema import ModelConfig
from ..errors import ModelFolderError

# Model types that can be imported, and what their architectures entry may be. Others of these types
# compute something else: a Dream model that fills block after block, a classifier's head.
ARCHITECTURES = {"qwen2": "Qwen2ForCausalLM", "Dream": "DreamModel"}
_SIZES = {
    "hidden_size": "hidden_size",
    "intermediate_size": "ffn_hidden_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_attention_heads",
    "num_key_value_heads": "num_query_groups",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "max_position_embeddings",
}
_MAX_SIZE = 1 << 31


@dataclass(frozen=True)
class FolderConfig:
    """What config.json says.

    Attributes:
        model: shape of the transformer.
        is_dream: already a diffusion model, its special rows trained.
        special_token_ids: of ``bos``, ``eos``, ``pad``, ``mask``, those that are given.
        num_tokens: ids that are tokens, None where the folder does not say.
        tokenizer_fingerprint: of the tokenizer it was made with, None where it does not say.
    """

    model: ModelConfig
    is_dream: bool
    special_token_ids: dict[str, int]
    num_tokens: int | None
    tokenizer_fingerprint: str | None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a Hugging Face folder.

    Raises:
        ModelFolderError: missing, no JSON, or no object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelFolderError(
            f"{path.parent} has no {path.name}; give a complete Hugging Face model folder"
        ) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ModelFolderError(
            f"{path} is not readable JSON ({error}); get the file again"
        ) from None
    if not isinstance(value, dict):
        raise ModelFolderError(f"{path} is no JSON object; get the file again")
    return value


def read_config(folder: Path | str) -> FolderConfig:
    """Read and check config.json of a Qwen2- or Dream-type folder.

    Raises:
        ModelFolderError: a field is missing, ill-typed, or asks for what the engine does not do.
    """
    path = Path(folder) / "config.json"
    values = read_json(path)
    model_type = values.get("model_type")
    if model_type not in ARCHITECTURES:
        raise ModelFolderError(
            f"{path}: model_type is {model_type!r}; only {' and '.join(ARCHITECTURES)} can be imported"
        )
    _check_architecture(path, values, ARCHITECTURES[model_type])
    _refuse_unsupported(path, values)
    sizes: dict[str, Any] = {ours: _size(path, values, theirs) for theirs, ours in _SIZES.items()}
    model = ModelConfig(
        **sizes,
        norm_epsilon=_number(path, values, "rms_norm_eps"),
        rotary_base=_rope_theta(path, values),
        tie_word_embeddings=_flag(path, values, "tie_word_embeddings"),
        init_method_std=_number(path, values, "initializer_range", 0.02),
        attention_dropout=_number(path, values, "attention_dropout", 0.0),
    )
    _check_shape(path, values, model)
    return FolderConfig(
        model=model,
        is_dream=model_type == "Dream",
        special_token_ids=_special_ids(path, values, model),
        num_tokens=_num_tokens(path, values, model),
        tokenizer_fingerprint=_text(path, values, "tokenizer_fingerprint"),
    )


def _wrong(path: Path, name: str, found: Any, wanted: str) -> ModelFolderError:
    return ModelFolderError(f"{path}: {name} is {found!r}, expected {wanted}; mend config.json")


def _check_architecture(path: Path, values: Mapping[str, Any], known: str) -> None:
    found = values.get("architectures")
    if found not in (None, [known]):
        raise ModelFolderError(
            f"{path}: architectures is {found!r}, which the engine does not do; import a folder of "
            f"{known}"
        )


def _size(path: Path, values: Mapping[str, Any], name: str) -> int:
    value = values.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _MAX_SIZE:
        raise _wrong(path, name, value, "a positive whole number")
    return value


def _number(
    path: Path, values: Mapping[str, Any], name: str, default: float | None = None
) -> float:
    value = values.get(name, default)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 <= value < float("inf"):
        raise _wrong(path, name, value, "a number of 0 or more")
    return float(value)


def _flag(path: Path, values: Mapping[str, Any], name: str, default: bool = False) -> bool:
    value = values.get(name, default)
    if not isinstance(value, bool):
        raise _wrong(path, name, value, "true or false")
    return value


def _text(path: Path, values: Mapping[str, Any], name: str) -> str | None:
    value = values.get(name)
    if value is not None and not isinstance(value, str):
        raise _wrong(path, name, value, "text")
    return value


def _rope_parameters(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Transformers 5 writes rope_parameters, older ones rope_scaling beside rope_theta."""
    found: dict[str, Any] = {}
    for name in ("rope_scaling", "rope_parameters"):
        part = values.get(name)
        if part is not None and not isinstance(part, dict):
            raise _wrong(path, name, part, "an object or null")
        found.update(part or {})
    return found


def _rope_theta(path: Path, values: Mapping[str, Any]) -> float:
    inner = _rope_parameters(path, values).get("rope_theta")
    outer = values.get("rope_theta")
    if inner is not None and outer is not None and inner != outer:
        raise _wrong(path, "rope_theta", outer, f"{inner!r} as in rope_parameters")
    theta = _number(path, {"rope_theta": outer if inner is None else inner}, "rope_theta")
    if theta == 0:
        raise _wrong(path, "rope_theta", theta, "a number above 0")
    return theta


def _refuse_unsupported(path: Path, values: Mapping[str, Any]) -> None:
    rope = _rope_parameters(path, values)
    layer_types = values.get("layer_types") or []
    unsupported = {
        "hidden_act": values.get("hidden_act", "silu") != "silu",
        "rope_scaling": rope.get("rope_type", rope.get("type", "default")) != "default",
        "use_sliding_window": bool(values.get("use_sliding_window", False)),
        "use_mrope": bool(values.get("use_mrope", False)),
        "layer_types": any(kind != "full_attention" for kind in layer_types),
        "quantization_config": values.get("quantization_config") is not None,
        "shift": values.get("shift", True) is not True,
    }
    for name, is_there in unsupported.items():
        if is_there:
            found = rope if name == "rope_scaling" else values.get(name)
            raise ModelFolderError(
                f"{path}: {name} is {found!r}, which the engine does not do; import a model "
                f"without it"
            )


def _check_shape(path: Path, values: Mapping[str, Any], model: ModelConfig) -> None:
    if model.hidden_size % model.num_attention_heads:
        raise _wrong(
            path, "hidden_size", model.hidden_size, f"a multiple of {model.num_attention_heads}"
        )
    if model.num_attention_heads % model.num_query_groups:
        heads = model.num_attention_heads
        raise _wrong(path, "num_key_value_heads", model.num_query_groups, f"a divisor of {heads}")
    width = model.hidden_size // model.num_attention_heads
    if width % 2:
        raise _wrong(path, "hidden_size", model.hidden_size, "an even width for each head")
    if values.get("head_dim") not in (None, width):
        raise _wrong(path, "head_dim", values["head_dim"], f"{width} (hidden_size / heads)")


def _special_ids(path: Path, values: Mapping[str, Any], model: ModelConfig) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in ("bos", "eos", "pad", "mask"):
        value: Any = values.get(f"{name}_token_id")
        if isinstance(value, list) and value:
            value = value[0]
        if value is None:
            continue
        is_id = isinstance(value, int) and not isinstance(value, bool)
        if not is_id or not 0 <= value < model.vocab_size:
            wanted = f"an id below {model.vocab_size}"
            raise _wrong(path, f"{name}_token_id", value, wanted)
        found[name] = value
    return found


def _num_tokens(path: Path, values: Mapping[str, Any], model: ModelConfig) -> int | None:
    if values.get("num_tokens") is None:
        return None
    number = _size(path, values, "num_tokens")
    if number > model.vocab_size:
        raise _wrong(path, "num_tokens", number, f"at most {model.vocab_size}")
    return number


def dream_config_json(
    model: ModelConfig,
    *,
    special_token_ids: Mapping[str, int],
    num_tokens: int | None,
    tokenizer_fingerprint: str | None,
    torch_dtype: str,
) -> dict[str, Any]:
    """config.json of an exported folder (SPEC 10), written under the names other engines read.

    Published folders name PAD as BOS too, and code takes the real BOS from the tokenizer; so here.

    Args:
        model: shape of the transformer.
        special_token_ids: ``pad`` and ``mask`` at least; ``expand`` where there is one.
        num_tokens: ids from here on are padding of the table; the sampler never draws them.
        tokenizer_fingerprint: checked when the folder is imported again.
        torch_dtype: ``"bfloat16"`` or ``"float32"``.
    """
    pad = special_token_ids.get("pad")
    return {
        "architectures": ["DreamModel"],
        "model_type": "Dream",
        "auto_map": {
            "AutoConfig": "configuration_dream.DreamConfig",
            "AutoModel": "modeling_dream.DreamModel",
            "AutoModelForMaskedLM": "modeling_dream.DreamModel",
        },
        **_shape_json(model),
        "bos_token_id": pad,
        "eos_token_id": pad,
        "pad_token_id": pad,
        "mask_token_id": special_token_ids.get("mask"),
        **(
            {"expand_token_id": special_token_ids["expand"]}
            if "expand" in special_token_ids
            else {}
        ),
        "torch_dtype": torch_dtype,
        "use_cache": False,
        "shift": True,
        "num_tokens": num_tokens,
        "tokenizer_fingerprint": tokenizer_fingerprint,
    }


def qwen2_config_json(
    model: ModelConfig,
    *,
    special_token_ids: Mapping[str, int],
    num_tokens: int | None,
    tokenizer_fingerprint: str | None,
    torch_dtype: str,
) -> dict[str, Any]:
    """config.json of an exported model from left to right: transformers' own Qwen2, no code of ours.

    Args:
        model: shape of the transformer.
        special_token_ids: ``bos`` and ``pad``, which ends a text too; absent ones are left out.
        num_tokens: ids from here on are padding of the table.
        tokenizer_fingerprint: checked when the folder is imported again.
        torch_dtype: ``"bfloat16"`` or ``"float32"``.
    """
    pad = special_token_ids.get("pad")
    ids = {"bos": special_token_ids.get("bos"), "eos": pad, "pad": pad}
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        **_shape_json(model),
        **{f"{name}_token_id": value for name, value in ids.items() if value is not None},
        "torch_dtype": torch_dtype,
        "use_cache": True,
        "use_sliding_window": False,
        "num_tokens": num_tokens,
        "tokenizer_fingerprint": tokenizer_fingerprint,
    }


def _shape_json(model: ModelConfig) -> dict[str, Any]:
    """The transformer's shape under Qwen2's names."""
    return {
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_query_groups,
        "hidden_act": "silu",
        "rms_norm_eps": model.norm_epsilon,
        "rope_theta": model.rotary_base,
        "max_position_embeddings": model.max_position_embeddings,
        "vocab_size": model.vocab_size,
        "tie_word_embeddings": model.tie_word_embeddings,
        "attention_dropout": model.attention_dropout,
        "initializer_range": model.init_method_std,
    }
