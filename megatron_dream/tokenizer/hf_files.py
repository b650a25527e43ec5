"""The tokenizer files of an exported folder, which transformers 4.46 to 5.x and other engines read.

tokenizer.json defines the ids. vocab.json and merges.txt repeat it for readers that want them
(SentencePiece's spelling U+2581 stands for a space there: merges.txt is separated by spaces).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_dream.files import atomic_write, write_json
from megatron_dream.tokenizer.fast_json import SPACE_SYMBOL, merge_pairs
from megatron_dream.tokenizer.special import (
    BEGINOFTEXT,
    ENDOFTEXT,
    EXPAND,
    IM_END,
    IM_START,
    MASK,
    AddedToken,
)

DEFAULT_SYSTEM = "You are a helpful assistant."
# Renders as Qwen2.5's template for conversations without tools: a system turn is put in front where
# there is none, then each turn between its marks.
CHAT_TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' -%}"
    "{{- '<|im_start|>system\\n" + DEFAULT_SYSTEM + "<|im_end|>\\n' -}}"
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
_NAMED = {
    "bos_token": BEGINOFTEXT,
    "eos_token": ENDOFTEXT,
    "pad_token": ENDOFTEXT,
    "mask_token": MASK,
}
_ADDITIONAL = [IM_START, IM_END, EXPAND]


def write_tokenizer_files(
    folder: Path | str,
    tokenizer_json: dict[str, Any],
    added: Sequence[AddedToken],
    tokenizer_class: str,
    model_max_length: int = 32768,
) -> None:
    """Write the six tokenizer files into ``folder``, which is made if need be.

    Args:
        folder: where they go.
        tokenizer_json: with ``added`` among its added tokens.
        added: all added tokens.
        tokenizer_class: a name that transformers' AutoTokenizer knows.
        model_max_length: tokens, for readers that warn about long inputs.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model = tokenizer_json["model"]
    has_spaces = tokenizer_class != "Qwen2Tokenizer"  # byte-level vocabularies hold none
    _write_compact(folder / "tokenizer.json", tokenizer_json)
    _write_compact(folder / "vocab.json", _spelled(model["vocab"], has_spaces))
    with atomic_write(folder / "merges.txt") as stream:
        stream.write("#version: 0.2\n")
        for left, right in merge_pairs(model["merges"]):
            pair = (
                f"{left}\n{right}".replace(" ", SPACE_SYMBOL) if has_spaces else f"{left}\n{right}"
            )
            stream.write(pair.replace("\n", " ") + "\n")
    write_json(folder / "added_tokens.json", {token.content: token.id for token in added})
    write_json(
        folder / "special_tokens_map.json", {**_NAMED, "additional_special_tokens": _ADDITIONAL}
    )
    write_json(
        folder / "tokenizer_config.json",
        _tokenizer_config(added, tokenizer_class, model_max_length),
    )


def set_bos_before_texts(folder: Path | str, is_wanted: bool) -> None:
    """Whether the tokenizer of ``folder`` puts BOS before a text, where special tokens are asked for.

    Ids of a text alone stay as they are, and so does the fingerprint.
    """
    folder = Path(folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    before = content.get("post_processor")
    steps = [before] if before is not None else []
    if before is not None and before["type"] == "Sequence":
        steps = before["processors"]
    kept = [step for step in steps if BEGINOFTEXT not in json.dumps(step)]
    if is_wanted:
        ids = {token["content"]: token["id"] for token in content["added_tokens"]}
        kept.append(_bos_template(ids[BEGINOFTEXT]))
    if kept == steps:
        return
    content["post_processor"] = {"type": "Sequence", "processors": kept} if kept else None
    _write_compact(path, content)
    config_path = folder / "tokenizer_config.json"
    config = json.loads(config_path.read_text(encoding="utf-8"))
    write_json(config_path, {**config, "add_bos_token": is_wanted})


def _bos_template(bos_id: int) -> dict[str, Any]:
    bos = {"SpecialToken": {"id": BEGINOFTEXT, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    token = {"id": BEGINOFTEXT, "ids": [bos_id], "tokens": [BEGINOFTEXT]}
    return {
        "type": "TemplateProcessing",
        "single": [bos, first],
        "pair": [bos, first, second],
        "special_tokens": {BEGINOFTEXT: token},
    }


def _tokenizer_config(
    added: Sequence[AddedToken], tokenizer_class: str, model_max_length: int
) -> dict[str, Any]:
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(token.id): token.as_config() for token in added},
        "additional_special_tokens": _ADDITIONAL,
        **_NAMED,
        "unk_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "model_max_length": model_max_length,
        "split_special_tokens": False,
        "tokenizer_class": tokenizer_class,
    }


def _spelled(vocab: dict[str, int], has_spaces: bool) -> dict[str, int]:
    if not has_spaces:
        return vocab
    return {text.replace(" ", SPACE_SYMBOL): number for text, number in vocab.items()}


def _write_compact(path: Path, value: Any) -> None:
    with atomic_write(path) as stream:
        json.dump(value, stream, ensure_ascii=False, separators=(",", ":"))
