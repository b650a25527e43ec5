"""The datatrove step writes what preprocess writes, a prefix a task."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("datatrove", reason="datatrove is not installed: megatron-dream[datatrove]")

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader

from megatron_dream.data.datatrove_step import TokenFilesWriter
from megatron_dream.data.preprocessing import preprocess


def test_two_tasks_write_the_bytes_of_preprocess(token_data: Path, tmp_path: Path) -> None:
    lines = (token_data / "train.jsonl").read_text(encoding="utf-8").splitlines()[:40]
    raw = tmp_path / "raw"
    raw.mkdir()
    for number, part in enumerate((lines[:25], lines[25:])):
        own = [json.dumps({"text": json.loads(line)["text"]}) for line in part]
        (raw / f"{number}.jsonl").write_text("\n".join(own) + "\n", encoding="utf-8")
    LocalPipelineExecutor(
        pipeline=[
            JsonlReader(str(raw)),
            TokenFilesWriter(tmp_path / "out" / "code", token_data / "t.model"),
        ],
        tasks=2,
        workers=1,
        logging_dir=str(tmp_path / "logs"),
    ).run()
    for number in range(2):
        expected = tmp_path / f"expected_{number}"
        preprocess(
            [raw / f"{number}.jsonl"], expected, token_data / "t.model", append_eod=True, quiet=True
        )
        written = tmp_path / "out" / f"code_0000{number}"
        for ending in (".bin", ".idx"):
            same = (
                Path(f"{written}{ending}").read_bytes() == Path(f"{expected}{ending}").read_bytes()
            )
            assert same, (number, ending)
        assert json.loads(Path(f"{written}.json").read_text())["append_eod"] is True
