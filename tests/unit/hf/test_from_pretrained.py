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

import pytest

VERSIONS = ["", *filter(None, os.environ.get("DREAM_TRANSFORMERS", "").split(":"))]
SCRIPT = """
import json, sys, tempfile
import torch, transformers
from transformers import AutoModel
model, info = AutoModel.from_pretrained(
    sys.argv[1], trust_remote_code=True, output_loading_info=True)
model.eval()
ids = torch.arange(2, 14)[None]
with torch.no_grad():
    logits = model(ids).logits
row = model.diffusion_generate(ids, max_new_tokens=6, steps=6)
with tempfile.TemporaryDirectory() as again:
    model.save_pretrained(again)
    second = AutoModel.from_pretrained(again, trust_remote_code=True).eval()
    with torch.no_grad():
        same = torch.equal(second(ids).logits, logits)
print(json.dumps({
    "class": type(model).__name__,
    "missing": sorted(map(str, info["missing_keys"])),
    "unexpected": sorted(map(str, info["unexpected_keys"])),
    "logits": logits[0, -1, :8].tolist(),
    "row": row[0].tolist(),
    "tied": model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr(),
    "ids": [model.config.mask_token_id, model.config.pad_token_id, model.config.rope_theta],
    "saved again": same,
    "foreign": [m for m in sys.modules if m.split(".")[0] in ("megatron", "megatron_dream")],
}))
"""


@pytest.mark.parametrize("tied", [False, True])
def test_loads_and_samples_with_transformers_alone(
    make_folder: Callable[..., Path], tmp_path: Path, tied: bool
) -> None:
    folder, results = make_folder(tied=tied), []
    for version in VERSIONS:
        environment = {
            **os.environ,
            "PYTHONPATH": version,
            "HF_MODULES_CACHE": str(tmp_path / f"modules{len(results)}"),
            "HF_HUB_OFFLINE": "1",
        }
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(folder)],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        results.append(json.loads(done.stdout.splitlines()[-1]))
    first = results[0]
    assert first["class"] == "DreamModel" and first["tied"] == tied
    assert not first["missing"] and not first["unexpected"] and not first["foreign"]
    assert first["ids"] == [51, 50, 1e6]
    assert len(first["row"]) == 18 and 51 not in first["row"]
    assert first["saved again"]
    for other in results[1:]:
        assert other == first
