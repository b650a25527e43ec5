"""What would fail on the cluster fails in the rehearsal, with the sentence that says what to do."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_dream.checkpoint.metadata import FILE_NAME, CheckpointMetadata
from megatron_dream.config.schema import ModelConfig, RunConfig, SourceConfig
from megatron_dream.errors import UserError
from megatron_dream.rehearsal.command import rehearse

TP = "parallel__tensor_model_parallel_size"
PP = "parallel__pipeline_model_parallel_size"
VP = "parallel__virtual_pipeline_model_parallel_size"
CP = "parallel__context_parallel_size"
SP = "parallel__sequence_parallel"

# Fields, processes, what the sentence says.
REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "no whole data-parallel size": ({TP: 4, PP: 2}, 1020, "DP 1020/8 is not whole; start a multiple"),
    "KV heads by TP": ({TP: 8}, 64, "model.num_query_groups 4 is not divisible by TP 8"),
    "layers by stages and chunks": ({PP: 4, VP: 4}, 64, "num_layers 8 is not divisible by PP 4 x VP 4"),
    "global batch by ranks": (
        {"training__micro_batch_size": 2},
        64,
        "accumulation 64/128 is not whole; make it a multiple of 128",
    ),
    "rows by CP": ({CP: 8, "data__sequence_length": 72}, 64, "72 is not divisible by 16 (2 x CP 8); 64"),
    "rows by TP under SP": (
        {TP: 4, SP: True, "data__sequence_length": 62},
        64,
        "62 is not divisible by 4 (SP over TP 4); 60",
    ),
    "validation by ranks": ({"training__eval_samples": 96}, 64, "96 is no multiple of micro batch 1 x DP 64"),
    "table too small": ({"model__vocab_size": 200}, 64, "the model's table has 200 rows; set"),
    "host memory": (
        {"checkpoint__host_memory_gb": 0.01, "checkpoint__optimizer_format": "fully_reshardable"},
        64,
        "host memory on node 0 (8 ranks, up to 0.0",
    ),
    "Transformer Engine's rows": (
        {"model__layer_spec": "transformer_engine", "data__document_masks": True, CP: 2},
        64,
        "all_gather of Transformer Engine takes no documents",
    ),
    "optimizer shards that are all padding": (
        {"checkpoint__optimizer_format": "dp_reshardable", "data__train": "a",
         "training__global_batch_size": 1023, "training__eval_interval": 0},
        1023,
        "rank 1022 of 1023 data-parallel ranks gets nothing but padding",
    ),
    "too short a source": ({"data__train": "short"}, 64, "has 9 tokens, less than one row of 63"),
    "missing data": ({"data__train": "gone"}, 64, "gone.idx does not exist; data prefixes are paths"),
    "data of another tokenizer": ({"data__train": "foreign"}, 64, "was made with the tokenizer abababab"),
    "indices that nobody built": (
        {"data__seed": 7},
        64,
        "indices of the data are missing in",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(make_config: Callable[..., RunConfig], run_files: Path, name: str) -> None:
    fields, processes, sentence = REFUSED[name]
    if "data__train" in fields:
        sources = [SourceConfig(str(run_files / fields["data__train"]))]
        fields = {**fields, "data__train": sources}
    with pytest.raises(UserError) as caught:
        rehearse(make_config(**fields), "pretrain", processes)
    assert caught.value.exit_code == 2 and sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_ids_beyond_the_tokenizer_are_found_in_rows(
    make_config: Callable[..., RunConfig], run_files: Path
) -> None:
    """Eight ranks may build an index inside the job; with it there, rows are read."""
    from megatron_dream.training.run import build_index

    config = make_config(data__train=[SourceConfig(str(run_files / "beyond"))])
    assert any("builds 1 indices" in note for note in rehearse(config, "pretrain", 8).notes)
    build_index(make_config(data__train=config.data.train))
    with pytest.raises(UserError, match=r"beyond\.bin, document 0 .* the tokenizer has"):
        rehearse(config, "pretrain", 8)


def write_checkpoint(folder: Path, **changes: Any) -> Path:
    """The metadata of a checkpoint, and files of the sizes that it lists."""
    folder.mkdir()
    files = {name: {"bytes": 3, "sha256": "0"} for name in (".metadata", "metadata.json")}
    for name in files:
        (folder / name).write_text("abc")
    metadata = CheckpointMetadata(**{"model": {}, "files": files, **changes})
    (folder / FILE_NAME).write_text(json.dumps(dataclasses.asdict(metadata)))
    return folder


def model_of(config: RunConfig, **changes: Any) -> dict[str, Any]:
    return dataclasses.asdict(dataclasses.replace(config.model, **changes))


def test_it_does_not_start_from_another_model(
    make_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    folder = write_checkpoint(
        tmp_path / "start", model=dataclasses.asdict(ModelConfig(num_layers=4))
    )
    config = make_config(checkpoint__init_from=str(folder))
    with pytest.raises(
        UserError, match="model.num_layers is 4 there and 8 here; make the model equal"
    ):
        rehearse(config, "pretrain", 64)
    missing = make_config(checkpoint__init_from=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="nowhere does not exist"):
        rehearse(missing, "pretrain", 64)


def test_it_does_not_resume_shards_of_another_layout(
    make_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    from megatron_dream.tokenizer.load import load_tokenizer

    config = make_config(checkpoint__run_folder=str(tmp_path / "run"), model__vocab_size=512)
    tokenizer = load_tokenizer(str(config.tokenizer.path))
    checkpoints = tmp_path / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    write_checkpoint(
        checkpoints / "step_00000005",
        model=model_of(config),
        step=5,
        stage="pretrain",
        mask_token_id=tokenizer.mask_id,
        tokenizer_fingerprint=tokenizer.fingerprint,
        has_optimizer=True,
        optimizer_format="dp_reshardable",
        layout={"tp": 2, "pp": 1, "vp": 1},
        index_hash=rehearse(make_config(model__vocab_size=512), "pretrain", 8).data.index_hash,  # type: ignore[union-attr]
    )
    (checkpoints / "latest").write_text("step_00000005\n")
    with pytest.raises(UserError, match=r"megatron-dream reshard .* --tp 1 --pp 1"):
        rehearse(config, "pretrain", 64)
    config.parallel.tensor_model_parallel_size = 2
    assert "goes on from" in rehearse(config, "pretrain", 64).start
    (checkpoints / "step_00000005" / "metadata.json").write_text("ab")
    with pytest.raises(UserError, match="has no checkpoint that can be used"):
        rehearse(config, "pretrain", 64)
