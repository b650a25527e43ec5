"""The exported folder under transformers 4.46.2, 4.57.6 and the installed 5.x: same logits, same tokens.

Older versions are folders made by ``pip install --no-deps --target`` and put first on the path of a
process of its own, over the one torch: those that DREAM_TRANSFORMERS names (separated by ``:``), or made
in the cache folder. accelerate and peft, without dependencies, are put behind everything else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from exported import Exported, cache_folder, make_export

TOLERANCE = 1e-5  # of logits
WORKER = Path(__file__).with_name("transformers_run.py")
_HUB = "requests urllib3 certifi idna charset_normalizer".split()  # what huggingface_hub 0.x needs
OLDER = {
    "transformers446": ["transformers==4.46.2", "tokenizers==0.20.3", "huggingface_hub==0.36.2"],
    "transformers457": ["transformers==4.57.6", "tokenizers==0.22.2", "huggingface_hub==0.36.2"],
}
EXTRAS = ["accelerate", "peft"]
GENERATIONS: dict[str, dict[str, Any]] = {
    **{
        f"{alg}, padded": {"alg": alg, "padded": True}
        for alg in ("origin", "maskgit_plus", "topk_margin", "entropy", "entropy_bound")
    },
    "threshold": {"alg": "threshold", "threshold": 0.02, "padded": False},
    "factor": {"alg": "factor", "factor": 0.5, "padded": False},
    "prefix cache": {"alg": "entropy", "block_length": 4, "cache": "prefix", "padded": True},
    "dual cache": {"alg": "entropy", "block_length": 4, "cache": "dual", "padded": True},
    "remasking": {"alg": "maskgit_plus", "remask": "remdm", "steps": 24, "padded": False},
    "drawn": {"alg": "entropy", "temperature": 0.7, "top_p": 0.9, "alg_temp": 0.3, "padded": True},
    "penalty, few steps": {"alg": "maskgit_plus", "pad_penalty": 3.0, "steps": 5, "padded": False},
    "more steps than tokens": {"alg": "entropy", "top_k": 20, "steps": 40, "padded": True},
}


def install(folder: Path, packages: list[str]) -> Path:
    """Packages of one version in a folder of their own; nothing that is installed is touched."""
    done = folder / "COMPLETE"
    if not done.is_file():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*command, "--target", str(folder), *packages], check=True)
        done.touch()
    return folder


def overlays(cache: Path) -> list[Path]:
    """Folders with older versions."""
    named = [Path(part) for part in os.environ.get("DREAM_TRANSFORMERS", "").split(":") if part]
    return named or [install(cache / name, [*parts, *_HUB]) for name, parts in OLDER.items()]


def run_version(overlay: Path | None, extras: Path, request: Path, work: Path) -> dict[str, Any]:
    """The worker under one version; its numbers."""
    work.mkdir()
    result = work / "result.npz"
    environment = {
        **os.environ,
        "PYTHONPATH": "" if overlay is None else str(overlay),
        "HF_MODULES_CACHE": str(work / "modules"),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    # Extras come last: what an overlay or the environment has wins over them.
    start = f"import sys, runpy; sys.path.append({str(extras)!r}); sys.argv = sys.argv[1:]; "
    start += "runpy.run_path(sys.argv[0], run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", start, str(WORKER), str(request), str(result)],
        env=environment,
        cwd=work,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{overlay or 'the installed version'} failed:\n{done.stderr[-3000:]}")
    print(done.stdout.strip().replace("\n", "; "), flush=True)
    with np.load(result) as stored:
        return {name: stored[name] for name in stored.files}


def make_request(work: Path, exports: dict[str, Exported]) -> Path:
    """Ids, masks and cases; values of the weights beside it."""
    generator = torch.Generator().manual_seed(7)
    first = next(iter(exports.values()))
    ids = torch.randint(0, first.num_tokens - 10, (2, 24), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, :7] = 0
    folders = []
    for name, exported in exports.items():
        values = work / f"{name}-values.npz"
        np.savez(values, **{n: t.numpy() for n, t in exported.tensors.items()})
        stored = "torch.bfloat16" if name == "bf16" else "torch.float32"
        folders.append(
            {
                "path": str(exported.folder),
                "name": name,
                "values": str(values),
                "stored": stored,
                "dtypes": ["fp32", "bf16", "fp16"],
            }
        )
    common = {"max_new_tokens": 12, "steps": 12, "temperature": 0.0, "seed": 3}
    request = {
        "folders": folders,
        "input_ids": ids.tolist(),
        "attention_mask": mask.tolist(),
        "prompt": ids[:, :10].tolist(),
        "prompt_mask": mask[:, :10].tolist(),
        "generations": {name: {**common, **case} for name, case in GENERATIONS.items()},
        "text": "def f(x):\n\treturn 'naïve 漢字'  # ok\n",
    }
    path = work / "request.json"
    path.write_text(json.dumps(request), encoding="utf-8")
    return path


def compare(reference: dict[str, Any], found: dict[str, Any]) -> tuple[float, int]:
    """Largest difference of fp32 logits; number of generated tokens, which are all equal.

    Raises:
        SystemExit: something differs, or one of the two was not tried.
    """
    optional = {name for name in {*reference, *found} if name.startswith("device_map")}
    if (missing := reference.keys() ^ found.keys()) - optional:
        raise SystemExit(f"only one version has {sorted(missing)[0]}")
    largest, tokens = 0.0, 0
    for name in sorted(reference.keys() & found.keys()):
        here, there = reference[name], found[name]
        if "logits" not in name:
            if not np.array_equal(here, there):
                raise SystemExit(f"{name}: {int((here != there).sum())} tokens differ")
            tokens += here.size
            continue
        distance = float(np.abs(here - there).max())
        # bf16 and fp16 hold fewer digits: the same kernels give the same bits there too.
        if not distance <= TOLERANCE:
            raise SystemExit(f"{name} differ by {distance:.3g}, more than {TOLERANCE:g}")
        largest = max(largest, distance)
    return largest, tokens


def main() -> int:
    """Export, run every version, compare with the installed one."""
    cache = cache_folder()
    older = overlays(cache)
    extras = install(cache / "extras", EXTRAS)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        exports = {
            "fp32": make_export(work, "fp32"),
            "tied": make_export(work, "tied", tied=True),
            "bf16": make_export(work, "bf16", dtype="bf16"),
        }
        request = make_request(work, exports)
        reference = run_version(None, extras, request, work / "installed")
        for number, overlay in enumerate(older):
            found = run_version(overlay, extras, request, work / f"older{number}")
            largest, tokens = compare(reference, found)
            print(
                f"  against the installed version: {len(found)} results, logits within "
                f"{largest:.2g}, {tokens} tokens equal",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
