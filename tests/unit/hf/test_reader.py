"""Folders that are not what they should be: one sentence each, and nothing of them is run."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_dream.errors import ModelFolderError
from megatron_dream.hf.model_config import read_config
from megatron_dream.hf.reader import INDEX_NAME, FolderReader

MakeFolder = Callable[..., Path]


def edit_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def refuse(folder: Path, *parts: str) -> None:
    """The folder is refused in one sentence that holds all ``parts``."""
    with pytest.raises(ModelFolderError) as caught:
        FolderReader(folder).close()
    sentence = str(caught.value)
    assert "\n" not in sentence
    for part in parts:
        assert part in sentence, sentence


@pytest.fixture
def single(make_folder: MakeFolder) -> Path:
    """The folder as one file without an index."""
    folder, tensors = make_folder(), {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
        file.unlink()
    (folder / INDEX_NAME).unlink()
    save_file(tensors, folder / "model.safetensors")
    return folder


def resave(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize("tied", [False, True])
def test_reads_parts_of_tensors_bit_for_bit(make_folder: MakeFolder, tied: bool) -> None:
    folder = make_folder(tied=tied)
    expected: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        expected |= load_file(file)
    with FolderReader(folder) as reader:
        assert set(reader.dtypes) == set(expected)
        for name, tensor in expected.items():
            assert torch.equal(reader.read(name), tensor)
        part = reader.read("model.layers.1.mlp.down_proj.weight", (slice(None), slice(8, 24)))
    assert torch.equal(part, expected["model.layers.1.mlp.down_proj.weight"][:, 8:24])


def test_single_file_and_float16_are_read(single: Path) -> None:
    resave(single, lambda t: t.update({k: v.half() for k, v in t.items()}))
    with FolderReader(single) as reader:
        assert not reader.is_bf16
        assert reader.read("model.norm.weight").dtype == torch.float32


def test_snapshot_of_the_hub_cache_is_read(make_folder: MakeFolder, tmp_path: Path) -> None:
    """Its files are links to ../../blobs, which are outside the folder but of the same repository."""
    folder = make_folder()
    snapshot, blobs = tmp_path / "repo/snapshots/abc", tmp_path / "repo/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in folder.iterdir():
        file.rename(blobs / file.name)
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    FolderReader(snapshot).close()


def test_missing_tensor(single: Path) -> None:
    resave(single, lambda t: t.pop("model.norm.weight"))  # type: ignore[arg-type, return-value]
    refuse(single, "lacks the tensor model.norm.weight", "[32]")


def test_extra_tensor(single: Path) -> None:
    resave(single, lambda t: t.update({"model.extra": torch.zeros(1)}))
    refuse(single, "model.safetensors", "model.extra", "no place")


def test_misshapen_tensor(single: Path) -> None:
    resave(single, lambda t: t.update({"model.norm.weight": torch.zeros(31)}))
    refuse(single, "model.safetensors", "model.norm.weight", "[31]", "[32]")


def test_wrong_dtype(single: Path) -> None:
    resave(single, lambda t: t.update({"model.norm.weight": torch.zeros(32, dtype=torch.int8)}))
    refuse(single, "model.norm.weight", "I8", "BF16, F16, F32")


def test_truncated_file(single: Path) -> None:
    path = single / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    refuse(single, "model.safetensors", "no complete safetensors file")


def test_pickle_under_a_safetensors_name(single: Path) -> None:
    torch.save({"a": torch.zeros(1)}, single / "model.safetensors")
    refuse(single, "no complete safetensors file")


def test_offsets_outside_the_file(single: Path) -> None:
    header = json.dumps(
        {"model.norm.weight": {"dtype": "F32", "shape": [32], "data_offsets": [0, 128]}}
    ).encode()
    (single / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    refuse(single, "no complete safetensors file")


def test_only_other_formats(single: Path) -> None:
    (single / "model.safetensors").rename(single / "pytorch_model.bin")
    refuse(single, "neither model.safetensors nor")


@pytest.mark.parametrize("path", ["/etc/passwd", "../folder2/x.safetensors", "a/../../x", "a\x00b"])
def test_index_that_leaves_the_folder(make_folder: MakeFolder, path: str) -> None:
    folder = make_folder()
    edit_json(folder / INDEX_NAME, lambda v: v["weight_map"].update({"model.norm.weight": path}))
    refuse(folder, INDEX_NAME, "outside the folder")


def test_link_that_leaves_the_folder(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder()
    file = sorted(folder.glob("*.safetensors"))[0]
    file.rename(tmp_path / "elsewhere.safetensors")
    file.symlink_to(tmp_path / "elsewhere.safetensors")
    refuse(folder, file.name, "outside the folder")


def test_link_loop(make_folder: MakeFolder) -> None:
    folder = make_folder()
    file = sorted(folder.glob("*.safetensors"))[0]
    file.unlink()
    file.symlink_to(file.name)
    refuse(folder, file.name)


def test_index_and_files_disagree(make_folder: MakeFolder) -> None:
    folder = make_folder()
    weights = json.loads((folder / INDEX_NAME).read_text())["weight_map"]
    other = next(f for f in weights.values() if f != weights["model.norm.weight"])
    edit_json(folder / INDEX_NAME, lambda v: v["weight_map"].update({"model.norm.weight": other}))
    refuse(folder, "model.norm.weight", INDEX_NAME)


def test_missing_shard(make_folder: MakeFolder) -> None:
    folder = make_folder()
    file = sorted(folder.glob("*.safetensors"))[0]
    file.unlink()
    refuse(folder, file.name, "missing")


@pytest.mark.parametrize("text", ["[1]", "{", "\udcff", "[" * 100_000])
def test_config_that_is_no_json_object(make_folder: MakeFolder, text: str) -> None:
    folder = make_folder()
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    refuse(folder, "config.json")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e6}}, "llama3"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, "rope_theta"),
        ({"rope_theta": None}, "rope_theta"),
        ({"rope_theta": 0}, "rope_theta"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"shift": False}, "shift"),
        ({"hidden_size": "32"}, "hidden_size"),
        ({"hidden_size": 33}, "hidden_size"),
        ({"hidden_size": True}, "hidden_size"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"head_dim": 16}, "head_dim"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings"),
        ({"mask_token_id": 61}, "mask_token_id"),
        ({"num_tokens": 62}, "num_tokens"),
        ({"vocab_size": -1}, "vocab_size"),
    ],
)
def test_config_fields_are_refused_by_name(
    make_folder: MakeFolder, change: dict[str, Any], part: str
) -> None:
    folder = make_folder()
    edit_json(folder / "config.json", lambda values: values.update(change))
    refuse(folder, "config.json", part)


def test_rope_theta_as_transformers_5_writes_it(make_folder: MakeFolder) -> None:
    folder = make_folder()

    def change(values: dict[str, Any]) -> None:
        del values["rope_theta"]
        values["rope_parameters"] = {"rope_type": "default", "rope_theta": 12345.0}

    edit_json(folder / "config.json", change)
    assert read_config(folder).model.rotary_base == 12345.0


def test_code_of_the_folder_is_never_run(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder, mark = make_folder(), tmp_path / "ran"
    for name in ("modeling_dream.py", "configuration_dream.py", "__init__.py"):
        (folder / name).write_text(f"open({str(mark)!r}, 'w')")
    FolderReader(folder).close()
    assert not mark.exists()
