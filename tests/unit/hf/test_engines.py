"""Which programs read a folder: a complete one, and the same with one thing wrong."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_dream.config.schema import ModelConfig
from megatron_dream.files import write_json
from megatron_dream.hf.engines import (
    LLAMA_CPP,
    LLAMA_CPP_QWEN2,
    LLAMA_CPP_TEXT,
    PUBLIC,
    TRANSFORMERS,
    engines,
    llama_cpp_hash,
)
from megatron_dream.hf.export import code_files
from megatron_dream.hf.model_config import dream_config_json
from megatron_dream.hf.safetensors_writer import write_safetensors
from megatron_dream.hf.tensor_map import huggingface_shapes
from megatron_dream.tokenizer import load_tokenizer

ALL = {TRANSFORMERS, LLAMA_CPP, PUBLIC}
WEIGHTS = "model-00001-of-00001.safetensors"


@pytest.fixture(scope="module")
def complete(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the Qwen2 tokenizer, as export-hf writes it."""
    folder = tmp_path_factory.mktemp("engines") / "export"
    tokens = load_tokenizer(shared_data / "qwen2_tokenizer")
    tokens.save_huggingface(folder)
    model = ModelConfig(
        num_layers=1,
        hidden_size=8,
        num_attention_heads=2,
        num_query_groups=1,
        ffn_hidden_size=12,
        vocab_size=152_064,
    )
    shapes = huggingface_shapes(model)
    tensors = ((name, torch.zeros(shape)) for name, shape in shapes.items())
    write_safetensors(folder, shapes, tensors, torch.bfloat16)
    config = dream_config_json(
        model,
        special_token_ids={"pad": tokens.pad_id, "mask": tokens.mask_id},
        num_tokens=tokens.vocab_size,
        tokenizer_fingerprint=tokens.fingerprint,
        torch_dtype="bfloat16",
    )
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {"mask_token_id": tokens.mask_id})
    for name, file in code_files().items():
        shutil.copyfile(file, folder / name)
    return folder


def edit(folder: Path, name: str, **changes: Any) -> None:
    """Change keys of a JSON file; None takes a key out."""
    path = folder / name
    values = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    write_json(path, {key: value for key, value in values.items() if value is not None})


def resave(folder: Path, metadata: dict[str, str] | None, **changes: torch.Tensor) -> None:
    save_file({**load_file(folder / WEIGHTS), **changes}, folder / WEIGHTS, metadata=metadata)


def other_split(folder: Path) -> None:
    """Qwen2's vocabulary behind a split that puts no space in front of a word."""
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    pattern = values["pre_tokenizer"]["pretokenizers"][0]["pattern"]
    pattern["Regex"] = pattern["Regex"].replace(r"[^\r\n\p{L}\p{N}]?\p{L}+", r"\p{L}+")
    path.write_text(json.dumps(values), encoding="utf-8")


def test_every_program_reads_a_complete_export(complete: Path) -> None:
    assert {(engine.name, engine.why_not) for engine in engines(complete)} == {
        (name, None) for name in ALL
    }
    assert str(engines(complete)[0]) == f"{TRANSFORMERS}: reads it"


CASES: dict[str, tuple[Callable[[Path], Any], set[str], str]] = {
    "other code": (
        lambda f: (f / "schedule.py").write_text("x = 1\n"),
        {TRANSFORMERS},
        "schedule.py is not this version's",
    ),
    "code gone": (lambda f: (f / "decode.py").unlink(), {TRANSFORMERS}, "decode.py is missing"),
    "auto_map without the masked class": (
        lambda f: edit(
            f, "config.json", auto_map={"AutoConfig": "configuration_dream.DreamConfig"}
        ),
        {TRANSFORMERS},
        "for AutoModel,",
    ),
    "auto_map names what is not there": (
        lambda f: edit(
            f,
            "config.json",
            auto_map={
                "AutoConfig": "configuration_dream.DreamConfig",
                "AutoModel": "modeling_dream.DreamModel",
                "AutoModelForMaskedLM": "modeling_dream.DreamForMaskedLM",
            },
        ),
        {TRANSFORMERS},
        "DreamForMaskedLM",
    ),
    "architecture": (
        lambda f: edit(f, "config.json", architectures=["Dream"]),
        ALL,
        "architectures",
    ),
    "rope_theta": (lambda f: edit(f, "config.json", rope_theta=None), ALL, "rope_theta"),
    "mask": (lambda f: edit(f, "config.json", mask_token_id=None), ALL, "lacks mask_token_id"),
    "generation config": (
        lambda f: edit(f, "generation_config.json", mask_token_id=None),
        {PUBLIC},
        "generation_config.json lacks mask_token_id",
    ),
    "no generation config": (
        lambda f: (f / "generation_config.json").unlink(),
        {PUBLIC},
        "has no generation_config.json",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), ALL, "tokenizer.json is missing"),
    "no mask token": (
        lambda f: edit(f, "tokenizer_config.json", mask_token=None),
        ALL,
        "tokenizer_config.json lacks mask_token",
    ),
    "no merges": (lambda f: (f / "merges.txt").unlink(), {LLAMA_CPP}, "merges.txt is missing"),
    "SentencePiece": (
        lambda f: (f / "tokenizer.model").write_bytes(b""),
        {LLAMA_CPP},
        "other ids",
    ),
    "another split": (other_split, {LLAMA_CPP}, "is not Qwen2's"),
    "broken tokenizer": (
        lambda f: (f / "tokenizer.json").write_text("{}"),
        {LLAMA_CPP},
        "cannot be loaded",
    ),
    "format": (lambda f: resave(f, None), ALL, "format=pt"),
    "tensor of another shape": (
        lambda f: resave(f, {"format": "pt"}, **{"model.norm.weight": torch.zeros(7)}),
        ALL,
        "model.norm.weight has shape [7]",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_named_for_those_who_stumble(
    complete: Path, tmp_path: Path, case: str
) -> None:
    change, concerned, part = CASES[case]
    folder = shutil.copytree(complete, tmp_path / "folder")
    change(folder)
    found = {engine.name: engine.why_not for engine in engines(folder)}
    assert {name for name, why in found.items() if why} == concerned, found
    for name in concerned:
        assert part in str(found[name]) and "\n" not in str(found[name])


def test_llama_cpp_takes_the_exported_tokenizer_for_qwen2s(complete: Path) -> None:
    """What the converter does: AutoTokenizer's ids of its text, hashed; and the files that it reads."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(complete, trust_remote_code=True)
    assert llama_cpp_hash(tokenizer.encode(LLAMA_CPP_TEXT)) == LLAMA_CPP_QWEN2
    vocab = tokenizer.get_vocab()
    added = json.loads((complete / "added_tokens.json").read_text(encoding="utf-8"))
    assert tokenizer.get_added_vocab() == added and max(vocab.values()) == 151_667
    ordinary = {text: number for text, number in vocab.items() if text not in added}
    assert json.loads((complete / "vocab.json").read_text(encoding="utf-8")) == ordinary
    merges = json.loads((complete / "tokenizer.json").read_text(encoding="utf-8"))["model"][
        "merges"
    ]
    lines = (complete / "merges.txt").read_text(encoding="utf-8").split("\n")
    assert lines[0] == "#version: 0.2" and lines[-1] == ""
    assert [line.split(" ") for line in lines[1:-1]] == [list(pair) for pair in merges]
    assert all(tokenizer.added_tokens_decoder[n].special for n in (151_643, 151_665, 151_666))
