"""``verify-export``: does an exported folder compute what its checkpoint computes?

The folder is loaded in a process of its own by transformers alone; the checkpoint by megatron-core
here. Both see the same random rows, one of them padded on the left, and both generate from the same
prompt without randomness.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.inference import CheckpointModel, load_for_sampling
from ..errors import DifferenceFoundError, ModelFolderError
from ..sampling.generation import diffusion_generate
from ..sampling.sampling_config import SamplingConfig
from .model_config import read_config

_OTHER_SIDE = Path(__file__).parent / "verify_process.py"
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.15}  # largest |difference| of a logit
_LENGTH, _PADDING, _NEW_TOKENS = 33, 5, 16


def verify_folder(folder: Path | str, against: Path | str) -> int:
    """Compare and print the result.

    Returns:
        0 when the folder agrees.

    Raises:
        ModelFolderError: transformers cannot load the folder.
        DifferenceFoundError: logits or the generation differ.
    """
    folder = Path(folder)
    config = read_config(folder)
    task = _task(config.num_tokens or config.model.vocab_size, config.special_token_ids)
    theirs = _run_transformers(folder, task)
    ours = _run_checkpoint(load_for_sampling(against, accepts_autoregressive=True), task)
    real = torch.tensor(task["attention_mask"]).bool()
    difference = float((theirs["logits"] - ours["logits"])[real].abs().max())
    dtype = str(theirs["dtype"])
    if difference > TOLERANCE[dtype]:
        raise DifferenceFoundError(
            f"{folder}: its {dtype} logits differ from those of {against} by {difference:.2e} "
            f"(allowed {TOLERANCE[dtype]:.0e}); export it again"
        )
    same = theirs["sequence"] == ours["sequence"]
    if dtype == "float32" and not same:
        raise DifferenceFoundError(
            f"{folder}: a generation without randomness differs from that of {against}; export it "
            f"again"
        )
    print(
        f"{folder}: loaded by transformers {theirs['transformers']} alone; largest difference of a "
        f"logit {difference:.2e} ({dtype}, allowed {TOLERANCE[dtype]:.0e}); deterministic "
        f"generation of {_NEW_TOKENS} tokens {'equal' if same else 'not equal'}"
    )
    return 0


def _task(num_tokens: int, special: dict[str, int]) -> dict[str, Any]:
    """Rows of random ids, the second padded on the left, and how to generate from the first."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, num_tokens, (2, _LENGTH), generator=generator)
    rows = rows.masked_fill(rows == special.get("mask", -1), 0)
    mask = torch.ones_like(rows)
    mask[1, :_PADDING] = 0
    sampling = {
        "max_new_tokens": _NEW_TOKENS,
        "steps": _NEW_TOKENS,
        "alg": "maskgit_plus",
        "temperature": 0.0,
        "mask_token_id": special.get("mask"),
        "pad_token_id": special.get("pad"),
        "num_tokens": num_tokens,
    }
    return {
        "input_ids": rows.tolist(),
        "attention_mask": mask.tolist(),
        "sampling": sampling if special.get("mask") is not None else None,
    }


def _run_transformers(folder: Path, task: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="verify-") as scratch:
        question, answer = Path(scratch) / "task.json", Path(scratch) / "answer.pt"
        question.write_text(json.dumps(task))
        # Cached remote code of an earlier export must not answer for this one.
        environment = {
            **os.environ,
            "HF_MODULES_CACHE": str(Path(scratch) / "modules"),
            "HF_HUB_OFFLINE": "1",
        }
        command = [
            sys.executable,
            str(_OTHER_SIDE),
            str(folder.resolve()),
            str(question),
            str(answer),
        ]
        result = subprocess.run(
            command, env=environment, cwd=scratch, capture_output=True, text=True, check=False
        )
        if result.returncode:
            last = (result.stderr.strip().splitlines() or ["no message"])[-1]
            raise ModelFolderError(
                f"{folder} cannot be loaded by transformers ({last}); export it again"
            )
        loaded: dict[str, Any] = torch.load(answer, weights_only=True)
        return loaded


def _run_checkpoint(model: CheckpointModel, task: dict[str, Any]) -> dict[str, Any]:
    ids, mask = torch.tensor(task["input_ids"]), torch.tensor(task["attention_mask"])
    sequence = None
    if task["sampling"]:
        output = diffusion_generate(model, ids[:1], config=SamplingConfig(**task["sampling"]))
        sequence = output.sequences[0].tolist()
    return {"logits": model.forward(ids, mask).float(), "sequence": sequence}
