"""An exported folder in a clean process with transformers alone.

DREAM_TRANSFORMERS names folders (separated by :) with other versions of transformers, made with
``pip install --target``; each is put first on the path of a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

VERSIONS = ["", *filter(None, os.environ.get("DREAM_TRANSFORMERS", "").split(":"))]
SCRIPT = """
import json, sys, tempfile
import torch, transformers
from transformers import AutoModel

def look(folder):
    model, info = AutoModel.from_pretrained(
        folder, trust_remote_code=True, output_loading_info=True)
    model.eval()
    ids = torch.arange(2, 14)[None]
    with torch.no_grad():
        logits = model(ids).logits
    row = model.diffusion_generate(ids, max_new_tokens=6, steps=6)
    filled = model.diffusion_infill([[2, 3], [4]], [[5, 50], [6, 7, 50]], alg="threshold")
    with tempfile.TemporaryDirectory() as again:
        model.save_pretrained(again)
        second = AutoModel.from_pretrained(again, trust_remote_code=True).eval()
        with torch.no_grad():
            same = torch.equal(second(ids).logits, logits)
    return {
        "class": type(model).__name__,
        "missing": sorted(map(str, info["missing_keys"])),
        "unexpected": sorted(map(str, info["unexpected_keys"])),
        "logits": logits[0, -1, :8].tolist(),
        "row": row[0].tolist(),
        "gaps": [gap.ids(51) for gap in filled.gaps],
        "tied": model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr(),
        "ids": [model.config.mask_token_id, model.config.pad_token_id, model.config.rope_theta],
        "saved again": same,
        "foreign": [m for m in sys.modules if m.split(".")[0] in ("megatron", "megatron_dream")],
    }

print(json.dumps([look(folder) for folder in sys.argv[1:]]))
"""


def run_script(folders: list[Path], version: str, work: Path) -> list[dict[str, Any]]:
    environment = {
        **os.environ,
        "PYTHONPATH": version,
        "HF_MODULES_CACHE": str(work / "modules"),
        "HF_HUB_OFFLINE": "1",
    }
    work.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, folders)],
        env=environment,
        cwd=work,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return results


def test_loads_and_samples_with_transformers_alone(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folders = [make_folder("untied"), make_folder("tied", tied=True)]
    by_version = [
        run_script(folders, version, tmp_path / f"work{number}")
        for number, version in enumerate(VERSIONS)
    ]
    for tied, found in zip((False, True), by_version[0], strict=True):
        assert found["class"] == "DreamModel" and found["tied"] == tied
        assert not found["missing"] and not found["unexpected"] and not found["foreign"]
        assert found["ids"] == [51, 50, 1e6]
        assert len(found["row"]) == 18 and 51 not in found["row"]
        assert found["saved again"]
        for gap, (before, after) in zip(
            found["gaps"], ([[2, 3], [5, 50]], [[4], [6, 7, 50]]), strict=True
        ):
            assert gap[: len(before)] == before and gap[-len(after) :] == after
            assert 51 not in gap
    for other in by_version[1:]:
        assert other == by_version[0]
