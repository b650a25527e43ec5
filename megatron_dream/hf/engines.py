"""Which programs can read an exported folder, from its files alone; nothing of the folder is run.

What each one reads, and where it says so:

- transformers: config.json's auto_map and the code it names; 4.x refuses safetensors without a format.
- llama.cpp's converter (conversion/dream.py, conversion/base.py): architecture, keys without which it
  writes a broken file silently, and the hash of a text's ids, by which it knows the pre-tokenizer.
- The public Dream code, as in dllm and Fast-dLLM (dream/model/modeling_dream.py): its own model classes
  on the folder's config.json, weights, generation_config.json and AutoTokenizer.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..errors import ModelFolderError
from .export import code_files
from .model_config import read_json
from .reader import FolderReader, tensor_files

# Versions that tests/acceptance/transformers_versions.py runs this version's code under.
TRANSFORMERS = "transformers 4.46.2, 4.57.6, 5.23.0"
QWEN2 = "transformers' Qwen2ForCausalLM, tokenizer by PreTrainedTokenizerFast"
LLAMA_CPP = "llama.cpp's converter"
PUBLIC = "public Dream code (dllm, Fast-dLLM)"

_LEFT_TO_RIGHT = "it opens masks, and this model goes from left to right"
_AUTO_CLASSES = ("AutoConfig", "AutoModel", "AutoModelForMaskedLM")
_SHAPE_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_theta",
    "max_position_embeddings",
    "vocab_size",
)
_NAMED_TOKENS = ("bos_token", "eos_token", "pad_token", "mask_token")
# The converter hashes the ids of this text (get_vocab_base_pre in conversion/base.py) ...
LLAMA_CPP_TEXT = (
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n\U0001f680 (normal) "
    "\U0001f636\u200d\U0001f32b\ufe0f (multiple emojis concatenated) \u2705 \U0001f999\U0001f999 "
    "3 33 333 3333 33333 333333 3333333 33333333 3.3 3..3 3...3 "
    "\u1780\u17b6\u1793\u17cb\u178f\u17c2\u1796\u17b7\u179f\u17c1\u179f\u17a2\u17b6\u1785"
    "\U0001f601 ?\u6211\u60f3\u5728apple\u5de5\u4f5c1314151\u5929\uff5e ------======= "
    "\u043d\u0435\u0449\u043e \u043d\u0430 \u0411\u044a\u043b\u0433\u0430\u0440\u0441\u043a\u0438 "
    "''''''```````\"\"\"\"......!!!!!!?????? I've been 'told he's there, 'RE you sure? 'M not sure "
    "I'll make it, 'D you like some tea? We'Ve a'lL"
)
# ... and takes this one for Qwen2's.
LLAMA_CPP_QWEN2 = "e636dc30a262dcc0d8c323492e32ae2b70728f4df7dfe9737d9f920a282b8aea"


@dataclass(frozen=True)
class Engine:
    """One program.

    Attributes:
        name: of the program, with versions where they matter.
        why_not: one sentence why it cannot read the folder; None where it can.
    """

    name: str
    why_not: str | None

    def __str__(self) -> str:
        return f"{self.name}: " + ("reads it" if self.why_not is None else f"no, {self.why_not}")


def engines(folder: Path | str) -> list[Engine]:
    """What the files of ``folder`` say about each program.

    Raises:
        ModelFolderError: config.json is missing or no JSON object.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    if config.get("model_type") == "qwen2":
        return [
            Engine(QWEN2, _weights(folder) or _tokenizer(folder)),
            Engine(PUBLIC, _LEFT_TO_RIGHT),
        ]
    common = [_weights(folder), _layout(config)]
    checks: dict[str, Iterable[str | None]] = {
        TRANSFORMERS: [*common, _code(folder, config), _tokenizer(folder)],
        LLAMA_CPP: [*common, _tokenizer(folder), _llama_cpp_tokenizer(folder)],
        PUBLIC: [*common, _generation(folder), _tokenizer(folder)],
    }
    return [
        Engine(name, next((reason for reason in reasons if reason), None))
        for name, reasons in checks.items()
    ]


def _weights(folder: Path) -> str | None:
    """Names, shapes and types as config.json promises, in files that say they are torch's."""
    from safetensors import safe_open

    try:
        FolderReader(folder).close()
        files = tensor_files(folder)
    except ModelFolderError as error:
        return str(error)
    for name in files:
        if not name.startswith("model"):
            return f"{name} is no name of a weights file, which begin with model"
        with safe_open(str(folder / name), framework="pt") as handle:
            if (handle.metadata() or {}).get("format") != "pt":
                return (
                    f"{name} lacks the metadata format=pt, without which transformers 4 refuses it"
                )
    return None


def _layout(config: dict[str, Any]) -> str | None:
    """Architecture and the keys that every reader takes from the top level."""
    for name, value in (("model_type", "Dream"), ("architectures", ["DreamModel"])):
        if config.get(name) != value:
            return f"config.json's {name} is {config.get(name)!r}, not {value!r}"
    missing = [key for key in (*_SHAPE_KEYS, "mask_token_id") if config.get(key) is None]
    return f"config.json lacks {missing[0]}" if missing else None


def _code(folder: Path, config: dict[str, Any]) -> str | None:
    """The code is what this version exports, and what auto_map names is in it."""
    for name, ours in code_files().items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.read_bytes() != ours.read_bytes():
            return f"{name} is not this version's, which was tested under them; export it again"
    auto_map = config.get("auto_map")
    for auto in _AUTO_CLASSES:
        named = auto_map.get(auto) if isinstance(auto_map, dict) else None
        module, _, name = str(named).partition(".")
        if f"{module}.py" not in code_files() or name not in _classes(folder / f"{module}.py"):
            return f"config.json's auto_map has {named!r} for {auto}, which no file defines"
    return None


def _classes(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


def _generation(folder: Path) -> str | None:
    """The public model class reads the mask's id from here."""
    try:
        values = read_json(folder / "generation_config.json")
    except ModelFolderError as error:
        return str(error)
    if values.get("mask_token_id") is None:
        return "generation_config.json lacks mask_token_id"
    return None


def _tokenizer(folder: Path) -> str | None:
    """A fast tokenizer whose class is named, with Dream's tokens by name."""
    if not (folder / "tokenizer.json").is_file():
        return "tokenizer.json is missing: export with --tokenizer"
    try:
        named = read_json(folder / "tokenizer_config.json")
    except ModelFolderError as error:
        return str(error)
    missing = [key for key in ("tokenizer_class", *_NAMED_TOKENS) if not named.get(key)]
    return f"tokenizer_config.json lacks {missing[0]}" if missing else None


def _llama_cpp_tokenizer(folder: Path) -> str | None:
    if (folder / "tokenizer.model").is_file():
        return (
            "it takes tokenizer.model for the tokenizer and does not note that no space is put "
            "before a text, so that texts would get other ids"
        )
    for name in ("vocab.json", "merges.txt"):
        if not (folder / name).is_file():
            return f"{name} is missing"
    return _guarded(lambda: _hash_fault(folder))


def _hash_fault(folder: Path) -> str | None:
    import tokenizers

    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    found = llama_cpp_hash(library.encode(LLAMA_CPP_TEXT).ids)
    if found != LLAMA_CPP_QWEN2:
        return f"it does not know the pre-tokenizer, whose hash {found[:16]} is not Qwen2's"
    rows = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    if library.get_vocab_size(with_added_tokens=True) > rows:
        return f"the tokenizer has more tokens than the table's {rows} rows"
    return None


def _guarded(check: Callable[[], str | None]) -> str | None:
    try:
        return check()
    except Exception as error:  # the library raises nothing more precise
        return f"tokenizer.json cannot be loaded ({error})"


def llama_cpp_hash(ids: list[int]) -> str:
    """By which llama.cpp knows a pre-tokenizer: sha256 of the list of ids as Python prints it."""
    return sha256(str(ids).encode()).hexdigest()
