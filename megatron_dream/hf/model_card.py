"""README.md of an exported folder, filled from the run that made it."""

from __future__ import annotations

from typing import Any

from .. import __version__
from ..checkpoint.metadata import CheckpointMetadata
from ..config.schema import ModelConfig

_CARD = """---
library_name: transformers
pipeline_tag: text-generation
tags: [diffusion-language-model, dream, code]
---

# {title}

{kind} Written by Megatron-Dream {version}.

| | |
|---|---|
| layers, hidden, heads, KV heads, FFN | {shape} |
| vocabulary | {vocabulary} |
| weights | {dtype} |
| optimizer steps | {step} |
| tokens seen | {tokens} |
| corpora | {sources} |
| objective, weight | {objective} |

## Use

```python
import torch
from transformers import AutoModel, AutoTokenizer

folder = "PATH_OF_THIS_FOLDER"
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModel.from_pretrained(folder, trust_remote_code=True, dtype=torch.{dtype}).eval()
prompt = [tokenizer.convert_tokens_to_ids("<|beginoftext|>"), *tokenizer.encode("def add(a, b):")]
ids = model.diffusion_generate(torch.tensor([prompt]), max_new_tokens=32, steps=32, alg="entropy")
print(tokenizer.decode(ids[0], skip_special_tokens=True))
```

`forward` returns unshifted logits: position i - 1 predicts token i.

## Limits

{limits}
"""


def _kind(metadata: CheckpointMetadata) -> str:
    if metadata.objective == "ar":
        return (
            "**Autoregressive weights in a Dream folder, not adapted yet**: diffusion sampling from "
            "it gives no sensible text."
        )
    return "A masked diffusion language model with the shift operation (Dream type)."


def model_card(metadata: CheckpointMetadata, model: ModelConfig, dtype: str) -> str:
    """The card's text.

    Args:
        metadata: of the checkpoint.
        model: its shape.
        dtype: of the exported weights.
    """
    trained: dict[str, Any] = metadata.trained
    recipe = trained.get("recipe", {})
    objective = recipe.get("diffusion", {})
    shape = (
        model.num_layers,
        model.hidden_size,
        model.num_attention_heads,
        model.num_query_groups,
        model.ffn_hidden_size,
    )
    weight = (
        f", {objective.get('weight')}" if metadata.objective == "diffusion" and objective else ""
    )
    return _CARD.format(
        title=model.preset or "Dream model",
        kind=_kind(metadata),
        version=__version__,
        shape=", ".join(map(str, shape)),
        vocabulary=f"{model.vocab_size} rows, {metadata.num_tokens or 'unknown'} tokens",
        dtype=dtype,
        step=metadata.step,
        tokens=f"{trained['tokens']:,}" if "tokens" in trained else "not recorded",
        sources=", ".join(trained.get("sources", []))
        or trained.get("imported_from", "not recorded"),
        objective=f"{metadata.objective}{weight}",
        limits="Not decontaminated against any benchmark; not evaluated by this export.",
    )
