"""The proof of an export: transformers' numbers from the folder against megatron-core's from the checkpoint.

The folder's own code runs here, in a process of its own that knows nothing of this package: verify what
you exported, not what you were sent. The two models are in memory one after the other.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checkpoint.inference import CheckpointModel, load_for_sampling
from ..checkpoint.metadata import read_metadata, resolve_checkpoint
from ..errors import DifferenceFoundError, ModelFolderError
from ..sampling import SamplingConfig, diffusion_generate
from .engines import engines
from .model_config import FolderConfig
from .reader import FolderReader

TOLERANCE = 1e-4  # of logits, both in fp32
_ROWS, _LENGTH, _SEED = 2, 24, 20240917
_NO_SHAPE = ("preset", "layer_spec", "head_chunk_rows", "hidden_dropout")


def verify_folder(folder: Path | str, against: Path | str) -> int:
    """Compare an exported folder with the checkpoint it was made from.

    Compared: shape, shift, mask id and tokenizer; fp32 logits of fixed random ids, without and with left
    padding; a generation at temperature 0, of a model from left to right with transformers' cache against
    whole passes of ours. A folder in bf16 is compared with the checkpoint's weights
    rounded to bf16. Printed: what was compared, and which programs can read the folder by its files
    (``engines.engines``), a line each.

    Args:
        folder: exported by ``export-hf``; **its code is run** if it has any.
        against: checkpoint or run folder.

    Returns:
        0 when all is equal.

    Raises:
        DifferenceFoundError: something differs; says what and by how much.
        ModelFolderError: the folder is incomplete or transformers cannot load it.
        CheckpointError: the checkpoint is missing or altered.
    """
    source = resolve_checkpoint(against)
    with FolderReader(folder) as reader:
        config, is_bf16 = reader.config, reader.is_bf16
    _compare_metadata(Path(folder), config, source)
    request = _request(Path(folder).resolve(), config)
    theirs = _run_transformers(request)
    loaded = load_for_sampling(source, accepts_autoregressive=True)
    if is_bf16:
        _round_weights(loaded)
    report = _compare_logits(loaded, request, theirs)
    compare = _compare_generation if config.is_dream else _compare_greedy
    report += compare(loaded, request, theirs)
    print(f"{folder} equals {source}: " + "; ".join(report))
    print("\n".join(f"  {engine}" for engine in engines(folder)))
    return 0


def _compare_metadata(folder: Path, config: FolderConfig, source: Path) -> None:
    metadata = read_metadata(source)
    exported = dataclasses.asdict(config.model)
    kinds = {True: "a diffusion model", False: "a model from left to right"}
    pairs: list[tuple[str, Any, Any]] = [
        ("the folder's model", kinds[config.is_dream], kinds[metadata.objective != "ar"])
    ]
    pairs += [
        (f"model.{name}", exported[name], value)
        for name, value in metadata.model.items()
        if name in exported and name not in _NO_SHAPE
    ]
    if metadata.mask_token_id is not None and config.is_dream:
        pairs.append(
            ("mask_token_id", config.special_token_ids.get("mask"), metadata.mask_token_id)
        )
    if metadata.tokenizer_fingerprint is not None:
        found = config.tokenizer_fingerprint
        pairs.append(("tokenizer_fingerprint", found, metadata.tokenizer_fingerprint))
    for name, there, here in pairs:
        if there != here:
            raise DifferenceFoundError(
                f"{folder}: {name} is {there}, in {source} it is {here}; export it again"
            )


def _request(folder: Path, config: FolderConfig) -> dict[str, Any]:
    """Fixed random ids, the second row padded on the left, and a generation if the model can make one."""
    length = min(_LENGTH, config.model.max_position_embeddings)
    high = min(config.special_token_ids.values(), default=0) or config.num_tokens
    generator = torch.Generator().manual_seed(_SEED)
    shape = (_ROWS, length)
    ids = torch.randint(0, high or config.model.vocab_size, shape, generator=generator)
    mask = torch.ones_like(ids)
    mask[1, : length // 3] = 0
    sampling, new = None, length - length // 3
    if config.is_dream and "mask" in config.special_token_ids:
        ids_of = config.special_token_ids
        sampling = {"max_new_tokens": new, "steps": new, "alg": "entropy", "temperature": 0.0}
        sampling |= {"seed": 0, "mask_token_id": ids_of["mask"], "num_tokens": config.num_tokens}
    return {
        "folder": str(folder),
        "input_ids": ids.tolist(),
        "attention_mask": mask.tolist(),
        "prompt": ids[:, : max(1, length // 3)].tolist(),
        "sampling": sampling,
        "greedy": 0 if config.is_dream else new,
        "is_dream": config.is_dream,
    }


def _run_transformers(request: dict[str, Any]) -> dict[str, np.ndarray]:
    """Run verify_worker.py; its modules cache is thrown away, and it asks no network."""
    with tempfile.TemporaryDirectory() as work:
        request_path, result_path = Path(work, "request.json"), Path(work, "result.npz")
        request_path.write_text(json.dumps(request), encoding="utf-8")
        environment = {
            **os.environ,
            "HF_MODULES_CACHE": str(Path(work, "modules")),
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_VERBOSITY": "error",
        }
        worker = str(Path(__file__).with_name("verify_worker.py"))
        # -P: the script's own folder must not shadow libraries.
        command = [sys.executable, "-P", worker, str(request_path), str(result_path)]
        done = subprocess.run(
            command, env=environment, cwd=work, capture_output=True, text=True, check=False
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ModelFolderError(
                f"{request['folder']} cannot be used by transformers ({last}); export it again"
            )
        with np.load(result_path) as stored:
            return {name: stored[name] for name in stored.files}


@torch.no_grad()
def _round_weights(loaded: CheckpointModel) -> None:
    for parameter in loaded.model.parameters():
        parameter.copy_(parameter.bfloat16().float())


def _difference(ours: Tensor, theirs: np.ndarray, real: Tensor) -> float:
    distance = (ours.float().cpu() - torch.from_numpy(theirs)).abs().amax(-1)
    return float(distance[real.bool()].max())


@torch.no_grad()
def _compare_logits(
    loaded: CheckpointModel, request: dict[str, Any], theirs: dict[str, np.ndarray]
) -> list[str]:
    device = next(loaded.model.parameters()).device
    ids = torch.tensor(request["input_ids"], device=device)
    mask = torch.tensor(request["attention_mask"], device=device)
    cases = {"logits": torch.ones_like(mask), "padded_logits": mask}
    report = []
    for name, real in cases.items():
        ours = loaded.forward(ids, real) if request["is_dream"] else _causal(loaded, ids, real)
        distance = _difference(ours, theirs[name], real.cpu())
        if not distance <= TOLERANCE:  # NaN is a difference
            raise DifferenceFoundError(
                f"{request['folder']}: {name} differ from the checkpoint's by {distance:.3g}, more "
                f"than {TOLERANCE:g}; export it again"
            )
        report.append(f"{name} within {distance:.2g}")
    return report


def _causal(loaded: CheckpointModel, ids_BS: Tensor, real_BS: Tensor) -> Tensor:
    """Logits [B, S, V] of a model from left to right: each row without its padding, which is 0 there."""
    rows = []
    for ids_S, real_S in zip(ids_BS, real_BS.bool(), strict=True):
        logits = loaded.forward(ids_S[real_S][None])[0]
        rows.append(torch.cat([logits.new_zeros(int((~real_S).sum()), logits.shape[1]), logits]))
    return torch.stack(rows)


@torch.no_grad()
def _compare_greedy(
    loaded: CheckpointModel, request: dict[str, Any], theirs: dict[str, np.ndarray]
) -> list[str]:
    """The most likely token again and again, every pass over the whole of the row."""
    device = next(loaded.model.parameters()).device
    ids = torch.tensor(request["prompt"], device=device)
    for _ in range(request["greedy"]):
        ids = torch.cat([ids, loaded.forward(ids)[:, -1].argmax(-1, keepdim=True)], dim=1)
    _check_tokens(request, ids, theirs)
    return [f"{ids.numel()} tokens of a greedy generation with a cache equal"]


def _compare_generation(
    loaded: CheckpointModel, request: dict[str, Any], theirs: dict[str, np.ndarray]
) -> list[str]:
    if request["sampling"] is None:
        return ["no mask token, so nothing was generated"]
    device = next(loaded.model.parameters()).device
    prompt = torch.tensor(request["prompt"], device=device)
    ours = diffusion_generate(loaded, prompt, config=SamplingConfig(**request["sampling"]))
    _check_tokens(request, ours.sequences, theirs)
    return [f"{ours.sequences.numel()} generated tokens equal"]


def _check_tokens(request: dict[str, Any], ours: Tensor, theirs: dict[str, np.ndarray]) -> None:
    found = torch.from_numpy(theirs["sequences"])
    wrong = int((ours.cpu() != found).sum()) if ours.shape == found.shape else ours.numel()
    if wrong:
        raise DifferenceFoundError(
            f"{request['folder']}: {wrong} of {ours.numel()} generated tokens differ from "
            f"the checkpoint's; export it again"
        )
