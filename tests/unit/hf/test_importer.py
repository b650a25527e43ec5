"""Filling a model of any layout from a folder, on a stand-in for megatron-core's model."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from megatron_dream.config.schema import ModelConfig
from megatron_dream.errors import CheckpointError, LayoutError
from megatron_dream.hf.importer import (
    Vocabulary,
    fill_chunk,
    fill_new_rows,
    import_folder,
    mean_row,
    read_vocabulary,
)
from megatron_dream.hf.model_config import FolderConfig
from megatron_dream.hf.tensor_map import entries, huggingface_shapes, join_shards, to_huggingface


class Stage(nn.Module):
    """Parameters of one pipeline stage and tensor-parallel rank under megatron-core's local names."""

    def __init__(
        self, model: ModelConfig, layers: range, tp_size: int, first: bool, last: bool
    ) -> None:
        super().__init__()
        self.parameters_by_name: dict[str, nn.Parameter] = {}
        numbers = [SimpleNamespace(layer_number=layer + 1) for layer in layers]
        self.decoder = SimpleNamespace(layers=numbers)
        shapes = shard_shapes(model, tp_size)
        for name, shape in shapes.items():
            parts = name.split(".")
            if parts[1] == "layers":
                if int(parts[2]) not in layers:
                    continue
                parts[2] = str(int(parts[2]) - layers.start)
            elif not (first if parts[0] == "embedding" else last):
                continue
            self.parameters_by_name[".".join(parts)] = nn.Parameter(torch.full(shape, torch.nan))
        if last and not first and model.tie_word_embeddings:
            table = shapes["embedding.word_embeddings.weight"]
            self.parameters_by_name["output_layer.weight"] = nn.Parameter(torch.zeros(table))

    def named_parameters(self, *args: object, **kwargs: object):  # type: ignore[no-untyped-def]
        return iter(self.parameters_by_name.items())


def shard_shapes(model: ModelConfig, tp_size: int) -> dict[str, torch.Size]:
    from megatron_dream.hf.tensor_map import read_shard

    zeros = {name: torch.zeros(shape) for name, shape in huggingface_shapes(model).items()}
    return {
        entry.name: read_shard(entry, lambda n, i: zeros[n][i], model, 0, tp_size).shape
        for entry in entries(model)
    }


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("tp_size", "pp_size"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_all_stages_together_hold_the_folder(tied: bool, tp_size: int, pp_size: int) -> None:
    model = ModelConfig(
        num_layers=4,
        hidden_size=16,
        num_attention_heads=4,
        num_query_groups=2,
        ffn_hidden_size=12,
        vocab_size=13,
        tie_word_embeddings=tied,
    )
    tensors = {name: torch.randn(shape) for name, shape in huggingface_shapes(model).items()}
    shards: dict[str, list[torch.Tensor]] = {}
    for pp_rank in range(pp_size):
        width = model.num_layers // pp_size
        layers = range(pp_rank * width, (pp_rank + 1) * width)
        for tp_rank in range(tp_size):
            stage = Stage(model, layers, tp_size, pp_rank == 0, pp_rank == pp_size - 1)
            fill_chunk(stage, lambda n, i: tensors[n][i], model, tp_rank, tp_size)
            for name, parameter in stage.named_parameters():
                parts = name.split(".")
                if parts[1] == "layers":
                    parts[2] = str(int(parts[2]) + layers.start)
                shards.setdefault(".".join(parts), []).append(parameter.data)
    back: dict[str, torch.Tensor] = {}
    for entry in entries(model):
        back |= to_huggingface(entry, join_shards(entry, shards[entry.name]), model)
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
    if tied and pp_size > 1:
        copy = torch.cat(shards["output_layer.weight"])[: model.vocab_size]
        assert torch.equal(copy, tensors["model.embed_tokens.weight"])


@pytest.mark.parametrize("tp_size", [1, 2])
def test_rows_of_mask_and_bos_become_the_mean(tp_size: int) -> None:
    model = ModelConfig(
        num_layers=1,
        hidden_size=16,
        num_attention_heads=4,
        num_query_groups=2,
        ffn_hidden_size=12,
        vocab_size=13,
    )
    tensors = {name: torch.randn(shape) for name, shape in huggingface_shapes(model).items()}
    vocabulary = Vocabulary({"pad": 8, "eos": 8, "bos": 9, "mask": 10}, 11)
    tables = {"embedding.word_embeddings.weight": [], "output_layer.weight": []}
    for tp_rank in range(tp_size):
        stage = Stage(model, range(1), tp_size, True, True)
        fill_chunk(stage, lambda n, i: tensors[n][i], model, tp_rank, tp_size)
        fill_new_rows(stage, lambda n, i: tensors[n][i], model, vocabulary, tp_rank)
        for name, parts in tables.items():
            parts.append(stage.parameters_by_name[name].data)
    sources = ("model.embed_tokens.weight", "lm_head.weight")
    for source, parts in zip(sources, tables.values(), strict=True):
        table, expected = torch.cat(parts)[:13], tensors[source].clone()
        expected[9] = expected[10] = expected[:8].mean(0)
        assert torch.allclose(table, expected, atol=1e-6)
        untouched = [row for row in range(13) if row not in (9, 10)]
        assert torch.equal(table[untouched], expected[untouched])


def test_mean_of_many_rows_is_exact() -> None:
    table = torch.randn(20_000, 3) + 100
    found = mean_row("t", lambda name, index: table[index], 19_999)
    assert torch.allclose(found, table[:19_999].double().mean(0), atol=1e-12)


def folder_config(**changes: object) -> FolderConfig:
    values = {
        "model": ModelConfig(vocab_size=152_064),
        "is_dream": False,
        "special_token_ids": {"bos": 151_643, "eos": 151_645},
        "num_tokens": None,
        "tokenizer_fingerprint": None,
        **changes,
    }
    return FolderConfig(**values)  # type: ignore[arg-type]


def test_qwen2_folder_without_tokenizer_gets_dreams_ids(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = read_vocabulary(tmp_path, folder_config())
    assert "no tokenizer files" in caplog.text
    assert found.special_token_ids["mask"] == 151_666 and found.special_token_ids["bos"] == 151_665


def test_foreign_folder_without_tokenizer_has_no_mask(tmp_path: Path) -> None:
    config = folder_config(model=ModelConfig(vocab_size=100), special_token_ids={"eos": 2})
    assert read_vocabulary(tmp_path, config).special_token_ids == {}


def test_dream_folder_keeps_its_ids(tmp_path: Path) -> None:
    ids = {"pad": 3, "mask": 4}
    found = read_vocabulary(tmp_path, folder_config(is_dream=True, special_token_ids=ids))
    assert found.special_token_ids == ids


def test_layout_that_does_not_divide_is_refused_before_anything_is_written(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    for sizes in ({"tp": 4}, {"pp": 3}, {"tp": 0}):
        with pytest.raises(LayoutError):
            import_folder(make_folder(str(sizes)), tmp_path / "checkpoint", **sizes)
    assert not (tmp_path / "checkpoint").exists()


def test_existing_checkpoint_is_not_overwritten(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(CheckpointError, match="exists"):
        import_folder(make_folder(), tmp_path / "checkpoint")
