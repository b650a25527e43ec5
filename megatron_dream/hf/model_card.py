"""README.md of an exported folder: what the model is, how it was made, how to sample from it."""

from __future__ import annotations

from typing import Any

from ..checkpoint.metadata import CheckpointMetadata
from ..config.schema import ModelConfig

_CARD = """---
library_name: transformers
pipeline_tag: text-generation
tags:
{tags}
---

# {name}

{kind} Made with Megatron-Dream.

## Model

| | |
|---|---|
| parameters | {parameters:,} |
| layers, hidden size, FFN | {num_layers}, {hidden_size}, {ffn_hidden_size} |
| heads, KV heads | {num_attention_heads}, {num_query_groups} |
| rows of the table, tied | {vocab_size}, {tied} |
| longest sequence | {max_position_embeddings} tokens |
| weights | {dtype} |
| mask token id | {mask_token_id} |
| tokenizer (sha256 of what defines ids) | {fingerprint} |

## Training

{training}

## Use

{use}

## Limits

The model repeats what its training data holds, faults and licences included. Read and test what it writes
before you run it.
"""

_DREAM_KIND = (
    "A masked diffusion language model of the Dream kind: a Qwen2-type transformer that attends in both\n"
    "directions and fills masks in any order."
)
_DREAM_TAGS = "- diffusion\n- masked-diffusion\n- dream\n- code"
_DREAM_USE = """```python
import torch
from transformers import AutoModel, AutoTokenizer

folder = "PATH_OR_NAME"
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)

prompt = "def add(a, b):\\n"
ids = [tokenizer.convert_tokens_to_ids("<|beginoftext|>")] + tokenizer(prompt)["input_ids"]
output = model.diffusion_generate(
    torch.tensor([ids]), max_new_tokens=64, steps=64, alg="entropy", temperature=0.0
)
text = tokenizer.decode(output[0, len(ids):].tolist())
print(text.split("<|endoftext|>")[0])
```

Runs under transformers 4.46 to 5.x. `forward` returns unshifted logits: those at position i - 1 predict
token i. To infill, put `<|mask|>` tokens where the text is missing. Pad batches on the left. Every option
of a generation is a field in `sampling_config.py`; none has a hidden default."""
_CAUSAL_KIND = (
    "A language model that goes from left to right, of the Qwen2 kind: the start or the baseline of a\n"
    "masked diffusion model."
)
_CAUSAL_TAGS = "- code"
_CAUSAL_USE = """```python
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

folder = "PATH_OR_NAME"
model = AutoModelForCausalLM.from_pretrained(folder).eval()
tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)

output = model.generate(**tokenizer("def add(a, b):\\n", return_tensors="pt"), max_new_tokens=64)
print(tokenizer.decode(output[0], skip_special_tokens=True))
```

The folder holds no code: transformers' own Qwen2 runs it. PreTrainedTokenizerFast reads tokenizer.json as
it is; AutoTokenizer of transformers 5 takes Qwen2's own for every folder of this type, which gives other
ids where the model has another. The tokenizer puts BOS before a text where the training did."""


def count_parameters(shapes: dict[str, tuple[int, ...]]) -> int:
    """Number of values in all tensors."""
    total = 0
    for shape in shapes.values():
        size = 1
        for length in shape:
            size *= length
        total += size
    return total


# Of the recipe, what says how the weights were made; layout and logging change nothing in them.
_RECIPE = ("data", "diffusion", "optimizer", "training")
# Paths of a machine say nothing to a reader and may say too much.
_PATHS = ("train", "valid", "cache_folder")
_METRICS = {
    "loss": "loss",
    "masked_cross_entropy": "cross-entropy on masked tokens (nats)",
    "accuracy": "accuracy on masked tokens",
    "bound_per_token": "bound per token (nats)",
}
_MAX_LICENCES = 12  # of a source; the rest is summed up


def _training(metadata: CheckpointMetadata) -> str:
    """Facts, data, metrics and recipe of the checkpoint; what it does not say is left out."""
    trained = dict(metadata.trained)
    sections = {
        "Data": _data_table(trained.pop("data", None)),
        "Metrics": _metrics_table(trained.pop("metrics", None)),
        "Recipe": _recipe_table(trained.pop("recipe", None)),
    }
    facts = {"objective": metadata.objective, "step": metadata.step, **_facts(trained)}
    parts = [_table(["", ""], [[name, value] for name, value in facts.items()])]
    parts += [f"### {title}\n\n{text}" for title, text in sections.items() if text]
    return "\n\n".join(parts)


def _facts(trained: dict[str, Any]) -> dict[str, Any]:
    start = trained.pop("initial weights", None)
    if isinstance(start, dict):
        source = start.get("imported_from")
        origin = f", imported from {source}" if source else ""
        text = f"step {start.get('step')} of {start.get('objective')} weights{origin}"
        trained["initial weights"] = text
    return {name: value for name, value in trained.items() if value not in (None, [])}


def _data_table(data: Any) -> str | None:
    if not isinstance(data, list) or not data:
        return None
    header = [
        "source",
        "weight",
        "documents",
        "tokens",
        "licences (share of tokens)",
        "compared with",
    ]
    rows = [
        [
            one.get("name"),
            one.get("weight"),
            _count(one.get("documents")),
            _count(one.get("tokens")),
            _licences(one),
            ", ".join(one.get("decontaminated_against") or []) or "nothing",
        ]
        for one in data
    ]
    return _table(header, rows)


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "unknown"


def _licences(source: dict[str, Any]) -> str:
    """Licences by their tokens; those of a corpus that tells none are unknown, which is not free."""
    counts = {name: tokens for name, (_, tokens) in (source.get("licences") or {}).items()}
    total = sum(counts.values())
    if not total:
        return "unknown"
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{name} {tokens / total:.1%}" for name, tokens in ranked[:_MAX_LICENCES]]
    if rest := ranked[_MAX_LICENCES:]:
        shown.append(f"{len(rest)} others {sum(tokens for _, tokens in rest) / total:.1%}")
    return ", ".join(shown)


def _metrics_table(metrics: Any) -> str | None:
    if not isinstance(metrics, dict) or not metrics:
        return None
    rows = [
        [name, one.get("step"), *(_number(one.get(key)) for key in _METRICS)]
        for name, one in metrics.items()
    ]
    return _table(["", "step", *_METRICS.values()], rows)


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, (int, float)) else "not finite"


def _recipe_table(recipe: Any) -> str | None:
    if not isinstance(recipe, dict):
        return None
    rows = [
        [f"{section}.{name}", value]
        for section in _RECIPE
        for name, value in (recipe.get(section) or {}).items()
        if name not in _PATHS
    ]
    return _table(["", ""], rows)


def _table(header: list[str], rows: list[list[Any]]) -> str:
    lines = [header, ["---"] * len(header), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(
        "|" + "|".join(f" {text} " if text else " " for text in line) + "|" for line in lines
    )


def _cell(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        value = ", ".join(str(item) for item in value)
    text = " ".join(str(value).split())
    return text.replace("|", "\\|").replace("<", "&lt;")


def model_card(
    metadata: CheckpointMetadata,
    model: ModelConfig,
    shapes: dict[str, tuple[int, ...]],
    *,
    name: str,
    dtype: str,
    fingerprint: str | None,
    mask_token_id: int | None,
) -> str:
    """Markdown of README.md, filled from a checkpoint's metadata.

    Args:
        metadata: of the checkpoint.
        model: its shape.
        shapes: of the exported tensors.
        name: heading.
        dtype: of the exported tensors.
        fingerprint: of the exported tokenizer.
        mask_token_id: of the exported tokenizer.
    """
    is_causal = metadata.objective == "ar"
    return _CARD.format(
        name=name,
        kind=_CAUSAL_KIND if is_causal else _DREAM_KIND,
        tags=_CAUSAL_TAGS if is_causal else _DREAM_TAGS,
        use=_CAUSAL_USE if is_causal else _DREAM_USE,
        parameters=count_parameters(shapes),
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.ffn_hidden_size,
        num_attention_heads=model.num_attention_heads,
        num_query_groups=model.num_query_groups,
        vocab_size=model.vocab_size,
        tied="yes" if model.tie_word_embeddings else "no",
        max_position_embeddings=model.max_position_embeddings,
        dtype=dtype,
        mask_token_id="unknown" if mask_token_id is None else mask_token_id,
        fingerprint=fingerprint or "unknown",
        training=_training(metadata),
    )
