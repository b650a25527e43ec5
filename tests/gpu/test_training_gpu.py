"""What one GPU must show: the CPU's numbers, in fp32, and a bf16 run that goes on from a checkpoint.

Run by ``make gpu-check``. Not part of CI, which has no GPU.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "parallel"))

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_losses_on_the_gpu(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from layout_jobs import Case, losses
    from pool import WorkerPool

    torch.backends.cuda.matmul.allow_tf32 = False
    case = Case(steps=5, training={"precision": precision})
    found = losses(case)
    monkeypatch.setenv("MEGATRON_DREAM_DEVICE", "cpu")
    pool = WorkerPool(1)
    try:
        expected = pool.run(losses, 1, case=Case(steps=5))[0]
    finally:
        pool.close()
    assert found == pytest.approx(expected, rel=1e-4 if precision == "fp32" else 3e-2)


def test_checkpoint_round_trip_on_the_gpu(tmp_path: Path) -> None:
    from layout_jobs import Case, resume, save_then_continue

    case = Case(steps=6, training={"precision": "bf16"})
    expected = save_then_continue(case, str(tmp_path), 2, 2, "fully_reshardable")
    # Attention's backward pass adds by atomics on a GPU: bf16 losses repeat to some digits only.
    assert resume(case, str(tmp_path), 2) == pytest.approx(expected, rel=2e-3)
