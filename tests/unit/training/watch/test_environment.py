"""Environment variables: what is set, and what is the user's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from megatron_dream.training.watch.environment import apply, settings, users_own


def test_what_the_user_set_stays() -> None:
    environment = {"NCCL_DEBUG": "INFO", "PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"}
    new = {one.name for one in apply(environment, "run")}
    assert environment["NCCL_DEBUG"] == "INFO" and "NCCL_DEBUG" not in new
    assert "PYTORCH_ALLOC_CONF" not in environment, "the older name of the same is set"
    assert environment["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"
    assert environment["TORCH_FR_DUMP_TEMP_FILE"].endswith("/run/stacks/nccl_trace_rank_")
    assert apply(environment, "run") == []
    assert all(one.why for one in [*settings({}, "run"), *users_own({})])
    assert not set(environment) & {one.name for one in users_own({})}, "those are never set"


def test_nccl_registers_no_memory_of_graphs_that_segments_move() -> None:
    # megatron-core asserts this for PYTORCH_CUDA_ALLOC_CONF alone, torch reads the newer name too.
    environment: dict[str, str] = {}
    apply(environment)
    assert "expandable_segments:True" in environment["PYTORCH_ALLOC_CONF"]
    assert environment["NCCL_GRAPH_REGISTER"] == "0"


def test_a_shell_can_take_them(repository_root: Path) -> None:
    module = "megatron_dream.training.watch.environment"
    script = (
        f'eval "$({sys.executable} -m {module} --run-folder "/a run")"; '
        'echo "$NCCL_DEBUG|$CUDA_DEVICE_MAX_CONNECTIONS|$NCCL_DEBUG_FILE"'
    )
    environment = {"NCCL_DEBUG": "INFO $x", "PYTHONPATH": str(repository_root), "PATH": "/bin"}
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "INFO $x|1|/a run/stacks/nccl.%h.%p\n"
    assert "torch" not in done.stderr
