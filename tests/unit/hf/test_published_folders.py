"""Folders laid out as the published ones: their config.json, file names and tokenizer files.

Weights are random and tiny, and the sizes in config.json small; every other field and the vocabulary are
those of the family (Dream-org/Dream-v0-Instruct-7B, Dream-org/Dream-Coder-v0-Instruct-7B,
apple/DiffuCoder-7B-Instruct, Dream-org/DreamOn-v0-7B, Qwen/Qwen2.5-Coder-7B, Qwen/Qwen2.5-Coder-0.5B).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from megatron_dream.config.schema import ModelConfig
from megatron_dream.errors import ModelFolderError
from megatron_dream.files import write_json
from megatron_dream.hf.importer import read_vocabulary
from megatron_dream.hf.model_config import read_config
from megatron_dream.hf.safetensors_writer import write_safetensors
from megatron_dream.hf.tensor_map import huggingface_shapes
from megatron_dream.tokenizer import load_tokenizer
from megatron_dream.tokenizer.base import Tokenizer
from tests.warm import WarmStarter

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
COMMON = {
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 152064,
}
DREAM = {
    **COMMON,
    "architectures": ["DreamModel"],
    "auto_map": {
        "AutoConfig": "configuration_dream.DreamConfig",
        "AutoModel": "modeling_dream.DreamModel",
    },
    "mask_token_id": 151666,
    "max_position_embeddings": 131072,
    "max_window_layers": 28,
    "model_type": "Dream",
    "pad_token_id": 151643,
    "rope_scaling": None,
    "sliding_window": None,
    "transformers_version": "4.46.2",
    "use_mrope": False,
}
QWEN = {
    **COMMON,
    "architectures": ["Qwen2ForCausalLM"],
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "model_type": "qwen2",
    "sliding_window": 131072,
    "transformers_version": "4.44.0",
}
# generation_config.json of Dream: the mask's id is not in it.
DREAM_GENERATION = {
    "_from_model_config": True,
    "alg": "origin",
    "alg_temp": None,
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "eps": 0.001,
    "mask_token_id": None,
    "pad_token_id": 151643,
    "steps": 512,
    "temperature": 0.0,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "dream": {"config": DREAM, "dream_tokens": True, "third": None},
    "dream-coder": {
        "config": {**DREAM, "max_position_embeddings": 32768},
        "dream_tokens": True,
        "third": None,
    },
    "diffucoder": {"config": DREAM, "dream_tokens": True, "third": "<|dlm_pad|>"},
    "dreamon": {
        "config": {**DREAM, "max_position_embeddings": 32768},
        "dream_tokens": True,
        "third": "<|expand|>",
    },
    "qwen2.5-coder": {"config": QWEN, "dream_tokens": False, "third": None},
    "qwen2.5-coder, small": {
        "config": {**QWEN, "tie_word_embeddings": True, "vocab_size": 151936},
        "dream_tokens": False,
        "third": None,
    },
}
# 151668 only where DiffuCoder's own token has the place of <|expand|>.
EXPAND_IDS = {name: 151668 if name == "diffucoder" else 151667 for name in PUBLISHED}


def random_weights(config: dict[str, Any]) -> tuple[ModelConfig, dict[str, torch.Tensor]]:
    model = ModelConfig(
        num_layers=config["num_hidden_layers"],
        hidden_size=config["hidden_size"],
        num_attention_heads=config["num_attention_heads"],
        num_query_groups=config["num_key_value_heads"],
        ffn_hidden_size=config["intermediate_size"],
        vocab_size=config["vocab_size"],
        tie_word_embeddings=config["tie_word_embeddings"],
    )
    generator = torch.Generator().manual_seed(1)
    return model, {
        name: torch.randn(shape, generator=generator).bfloat16()
        for name, shape in huggingface_shapes(model).items()
    }


def write_published(folder: Path, family: dict[str, Any], tokenizer: Path | None) -> Path:
    """The folder of one family; Dream's in shards with the slow tokenizer's files, Qwen's in one."""
    folder.mkdir()
    config = {**family["config"], **SIZES}
    write_json(folder / "config.json", config)
    model, tensors = random_weights(config)
    if config["model_type"] == "Dream":
        write_json(folder / "generation_config.json", DREAM_GENERATION)
        shapes = huggingface_shapes(model)
        write_safetensors(folder, shapes, tensors.items(), torch.bfloat16, 3_000_000)
        for name in ("modeling_dream", "configuration_dream", "generation_utils"):
            (folder / f"{name}.py").write_text("raise SystemExit('the folder was run')\n")
    else:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    if tokenizer is not None:
        write_tokenizer(folder, family, tokenizer)
    return folder


def write_tokenizer(folder: Path, family: dict[str, Any], source: Path) -> None:
    """The files of ``source`` (see ``published``), Dream's with the names that the family gives."""
    for file in source.iterdir():
        shutil.copyfile(file, folder / file.name)
    if not family["dream_tokens"]:
        return
    path = folder / "tokenizer_config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    added = values["added_tokens_decoder"]
    del added["151667"]
    if family["third"]:
        added["151667"] = {**added["151666"], "content": family["third"]}
    values["tokenizer_class"] = "DreamTokenizer"
    values["auto_map"] = {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]}
    write_json(path, values)
    write_json(folder / "added_tokens.json", {e["content"]: int(n) for n, e in added.items()})


@pytest.fixture(scope="module")
def qwen2(shared_data: Path) -> Tokenizer:
    return load_tokenizer(shared_data / "qwen2_tokenizer")


@pytest.fixture(scope="module")
def published(
    qwen2: Tokenizer, shared_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A folder of every family with its tokenizer, made once; nobody writes into them."""
    work = tmp_path_factory.mktemp("published")
    dream_tokenizer, qwen_tokenizer = work / "dream_tokenizer", work / "qwen_tokenizer"
    qwen2.save_huggingface(dream_tokenizer)
    (dream_tokenizer / "tokenizer.json").unlink()
    qwen_tokenizer.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(shared_data / "qwen2_tokenizer" / name, qwen_tokenizer / name)
    return {
        name: write_published(
            work / str(number),
            family,
            dream_tokenizer if family["dream_tokens"] else qwen_tokenizer,
        )
        for number, (name, family) in enumerate(PUBLISHED.items())
    }


# Their tokenizers are those of dream and of qwen2.5-coder; config.json differs, which the tests below read.
SAME_TOKENS = ("dream-coder", "qwen2.5-coder, small")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.acceptance] if name in SAME_TOKENS else [])
        for name in PUBLISHED
    ],
)
def test_tokens_of_a_published_folder(
    published: dict[str, Path], qwen2: Tokenizer, name: str
) -> None:
    folder = published[name]
    config = read_config(folder)
    assert config.is_dream == PUBLISHED[name]["dream_tokens"]
    found = read_vocabulary(folder, config)
    expected = {"pad": 151643, "eos": 151643, "bos": 151665, "mask": 151666}
    assert found.special_token_ids == {**expected, "expand": EXPAND_IDS[name]}
    assert found.num_tokens == EXPAND_IDS[name] + 1
    again = load_tokenizer(str(found.path))
    text = "def f(x):\r\n\treturn 'nai\u0308ve \u6f22\u5b57' + \"  1234\"  # We'Ve <|mask|>\n\n"
    assert again.encode(text) == qwen2.encode(text)
    assert again.encode_with_special(text) == qwen2.encode_with_special(text)
    assert (again.fingerprint == qwen2.fingerprint) == (name != "diffucoder")


@pytest.mark.parametrize("name", PUBLISHED)
def test_without_tokenizer_files_the_ids_are_dreams(tmp_path: Path, name: str) -> None:
    """config.json names PAD as BOS, and some folders' does not name the mask."""
    folder = write_published(tmp_path / "f", PUBLISHED[name], None)
    path = folder / "config.json"
    values = json.loads(path.read_text())
    for mask in (values.get("mask_token_id"), None):
        write_json(path, {**values, "mask_token_id": mask})
        found = read_vocabulary(folder, read_config(folder)).special_token_ids
        ends = {"pad": 151643, "eos": 151643}
        assert found == {**ends, "bos": 151665, "mask": 151666, "expand": 151667}


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"model_type": "llada", "architectures": ["LLaDAModelLM"]}, "model_type is 'llada'"),
        ({"model_type": "Fast_dLLM_Qwen"}, "model_type is 'Fast_dLLM_Qwen'"),
        # Fills block after block and does not shift; its sizes and tensor names are Dream's.
        ({"architectures": ["DreamForCausalLM"], "block_size": 32}, "DreamForCausalLM"),
        ({"model_type": "qwen2", "architectures": ["Qwen2ForTokenClassification"]}, "Token"),
        ({"use_mrope": True}, "use_mrope"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "yarn"),
        ({"model_type": None}, "model_type is None"),
    ],
)
def test_other_families_are_refused_in_one_sentence(
    tmp_path: Path, change: dict[str, Any], part: str
) -> None:
    write_json(tmp_path / "config.json", {**DREAM, **SIZES, **change})
    with pytest.raises(ModelFolderError) as caught:
        read_config(tmp_path)
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_slow_tokenizer_files_of_another_kind_are_refused(
    tmp_path: Path, published: dict[str, Path]
) -> None:
    from megatron_dream.errors import TokenizerError

    folder = tmp_path / "f"
    shutil.copytree(published["dream"], folder)
    path = folder / "tokenizer_config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {**values, "tokenizer_class": "GPT2Tokenizer"})
    with pytest.raises(TokenizerError, match="GPT2Tokenizer"):
        load_tokenizer(folder)
    write_json(path, values)
    (folder / "merges.txt").write_text("#version: 0.2\na b c\n")
    with pytest.raises(TokenizerError, match=r"merges\.txt"):
        load_tokenizer(folder)


SCRIPT = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import load_file
from megatron_dream.checkpoint.metadata import read_metadata
from megatron_dream.hf import export_hf, import_hf

def tensors(path):
    found = {}
    for file in sorted(path.glob("*.safetensors")):
        found |= load_file(file)
    return found

def look(folder, work):
    checkpoint, exported = work / "checkpoint", work / "exported"
    import_hf(folder, checkpoint)
    metadata = read_metadata(checkpoint)
    export_hf(checkpoint, exported)
    before, after = tensors(folder), tensors(exported)
    same = lambda rows: all(torch.equal(before[n][rows], after[n][rows]) for n in tables)
    tables = [n for n in before if before[n].shape[0] == before["model.embed_tokens.weight"].shape[0]]
    new = [151665, 151666]
    kept = [r for r in range(before[tables[0]].shape[0]) if r not in new]
    mean = {n: before[n][:151643].double().mean(0) for n in tables}
    return {
        "objective": metadata.objective,
        "names": before.keys() == after.keys(),
        "layers": all(torch.equal(before[n], after[n]) for n in before if n not in tables),
        "rows": same(kept),
        "new rows": same(new),
        "new rows are the mean": all(
            torch.allclose(after[n][r].double(), mean[n], atol=1e-2) for n in tables for r in new),
        "dtype": str(after[tables[0]].dtype),
        "config": json.loads((exported / "config.json").read_text()),
        "tokens": json.loads((exported / "added_tokens.json").read_text()),
    }

print(json.dumps({f: look(Path(f), Path(f + "-work")) for f in sys.argv[1:]}))
"""


@pytest.mark.parametrize(
    "names",
    [
        [name for name in PUBLISHED if name != "dream-coder"],  # dream's but for the length
        pytest.param(["dream-coder"], marks=pytest.mark.acceptance),
    ],
    ids=["all but dream-coder", "dream-coder"],
)
def test_import_and_export_of_every_family(
    published: dict[str, Path], warm: WarmStarter, names: list[str]
) -> None:
    """A Dream model comes out bit for bit; a Qwen model with new rows for BOS and mask."""
    folders = {name: published[name] for name in names}
    for folder in folders.values():
        Path(f"{folder}-work").mkdir()
    done = warm.run_code(SCRIPT, *map(str, folders.values()))
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(done.stdout.splitlines()[-1])
    for name, folder in folders.items():
        found, family = results[str(folder)], PUBLISHED[name]
        is_dream = family["dream_tokens"]
        assert found["objective"] == ("diffusion" if is_dream else "ar")
        assert found["names"] and found["layers"] and found["rows"], name
        assert found["dtype"] == "torch.bfloat16"
        assert found["new rows"] == is_dream, name
        assert found["new rows are the mean"] != is_dream, name
        config = found["config"]
        for key in ("vocab_size", "rope_theta", "max_position_embeddings", "tie_word_embeddings"):
            assert config[key] == family["config"][key], (name, key)
        assert config["model_type"] == ("Dream" if is_dream else "qwen2")
        assert config.get("mask_token_id") == (151666 if is_dream else None)
        assert config["pad_token_id"] == 151643
        assert found["tokens"]["<|expand|>"] == EXPAND_IDS[name]
        if family["third"]:
            assert found["tokens"][family["third"]] == 151667
