"""import-hf, export-hf and verify-export one after the other, as a user types them.

One process runs all of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.warm import WarmStarter

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
from megatron_dream.errors import UserError
from megatron_dream.hf import export_hf, import_hf, verify_export

folder, work = Path(sys.argv[1]), Path(sys.argv[2])
checkpoint, exported, rounded = work / "checkpoint", work / "exported", work / "rounded"

def attempt(function, *args, **kwargs):
    try:
        return function(*args, **kwargs)
    except UserError as error:
        return [type(error).__name__, str(error)]

def tensors(path):
    found = {}
    for file in sorted(path.glob("*.safetensors")):
        found |= load_file(file)
    return found

import_hf(folder, checkpoint, tp=2, pp=2)
export_hf(checkpoint, exported)
export_hf(checkpoint, rounded, dtype="bf16")
before, after = tensors(folder), tensors(exported)
out = {
    "equal": before.keys() == after.keys() and all(
        torch.equal(before[n], after[n]) for n in before),
    "verify": attempt(verify_export, exported, checkpoint),
    "verify rounded": attempt(verify_export, rounded, checkpoint),
    "again": attempt(export_hf, checkpoint, exported) is None,
    "into something else": attempt(export_hf, checkpoint, folder.parent),
    "bad dtype": attempt(export_hf, checkpoint, work / "x", dtype="fp8"),
    "existing": attempt(import_hf, folder, checkpoint),
}
name, file = "model.norm.weight", sorted(exported.glob("*.safetensors"))[-1]
content = load_file(file)
content[name][0] += 1.0
save_file(content, file, metadata={"format": "pt"})
out["altered export"] = attempt(verify_export, exported, checkpoint)
(rounded / "modeling_dream.py").write_text("raise RuntimeError('broken')")
out["broken code"] = attempt(verify_export, rounded, checkpoint)
weights = next(checkpoint.glob("*.distcp"))
data = bytearray(weights.read_bytes())
data[len(data) // 2] ^= 1
weights.write_bytes(data)
out["altered checkpoint"] = attempt(export_hf, checkpoint, work / "y")
out["left over"] = sorted(p.name for p in work.iterdir())
print(json.dumps(out))
"""


def run_script(folder: Path, work: Path, warm: WarmStarter) -> dict[str, Any]:
    done = warm.run_code(SCRIPT, str(folder), str(work))
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_round_trip(make_folder: Callable[..., Path], tmp_path: Path, warm: WarmStarter) -> None:
    folder, work = make_folder(tied=True), tmp_path / "work"
    work.mkdir()
    found = run_script(folder, work, warm)
    assert found["equal"]
    assert found["verify"] == 0 and found["verify rounded"] == 0 and found["again"]
    expected = {
        "into something else": ("ModelFolderError", "no earlier export"),
        "bad dtype": ("ConfigError", "fp8"),
        "existing": ("CheckpointError", "exists"),
        "altered export": ("DifferenceFoundError", "differ from the checkpoint's by"),
        "broken code": ("ModelFolderError", "RuntimeError: broken"),
        "altered checkpoint": ("CheckpointError", "altered"),
    }
    for case, (kind, part) in expected.items():
        assert found[case][0] == kind and part in found[case][1], found[case]
        assert "\n" not in found[case][1]
    assert found["left over"] == ["checkpoint", "exported", "rounded"]
    metadata = json.loads((work / "checkpoint/megatron_dream.json").read_text())
    assert metadata["objective"] == "diffusion" and metadata["mask_token_id"] == 51
    card = (work / "exported/README.md").read_text()
    assert "imported_from | folder" in card and str(tmp_path) not in card
