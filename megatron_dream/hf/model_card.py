"""README.md of an exported folder: what the model is, how it was made, how to sample from it."""

from __future__ import annotations

from typing import Any

from ..checkpoint.metadata import CheckpointMetadata
from ..config.schema import ModelConfig

_CARD = """---
library_name: transformers
pipeline_tag: text-generation
tags:
- diffusion
- masked-diffusion
- dream
- code
---

# {name}

A masked diffusion language model of the Dream kind: a Qwen2-type transformer that attends in both
directions and fills masks in any order. {origin}

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

```python
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
of a generation is a field in `sampling_config.py`; none has a hidden default.

## Limits

The model repeats what its training data holds, faults and licences included. Read and test what it writes
before you run it.
"""


def count_parameters(shapes: dict[str, tuple[int, ...]]) -> int:
    """Number of values in all tensors."""
    total = 0
    for shape in shapes.values():
        size = 1
        for length in shape:
            size *= length
        total += size
    return total


def _training_table(metadata: CheckpointMetadata) -> str:
    """What the checkpoint says about its making: one line a fact, the recipe section by section."""
    rows: list[tuple[str, Any]] = [("objective", metadata.objective), ("step", metadata.step)]
    trained = dict(metadata.trained)
    recipe = trained.pop("recipe", None)
    rows += list(trained.items())
    if isinstance(recipe, dict):
        for section in ("data", "diffusion", "optimizer", "training"):
            for name, value in (recipe.get(section) or {}).items():
                # Paths of a machine say nothing to a reader and may say too much.
                if name not in ("train", "valid", "cache_folder"):
                    rows.append((f"{section}.{name}", value))
    lines = [f"| {name} | {_cell(value)} |" for name, value in rows]
    return "\n".join(["| | |", "|---|---|", *lines])


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
    origin = "Made with Megatron-Dream."
    if metadata.objective == "ar":
        origin += (
            " **These weights were trained autoregressively and not yet adapted to diffusion: "
            "samples drawn in this folder's way are not meaningful.**"
        )
    return _CARD.format(
        name=name,
        origin=origin,
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
        training=_training_table(metadata),
    )
