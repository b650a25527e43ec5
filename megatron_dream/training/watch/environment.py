"""Environment variables that help on a cluster: which, why, and what the user set stays.

``doctor`` shows them, a training command sets those that are not set before it starts, and the Slurm
scripts export them with ``python -m megatron_dream.training.watch.environment --run-folder RUN``.
Imports nothing heavy.
"""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Setting:
    """One variable.

    Attributes:
        name: of the variable.
        value: that it should have.
        why: in a few words.
        given: what the user set; None: nothing.
    """

    name: str
    value: str
    why: str
    given: str | None = None


_SETTINGS = (
    (
        "CUDA_DEVICE_MAX_CONNECTIONS",
        "1",
        "kernels start in the order of their launch, so that communication overlaps with computation",
    ),
    (
        "PYTORCH_ALLOC_CONF",
        "expandable_segments:True",
        "less memory lost between blocks of unlike sizes",
    ),
    (
        "NCCL_GRAPH_REGISTER",
        "0",
        "such blocks move, and a CUDA graph's replay would use memory that NCCL registered before",
    ),
    (
        "TORCH_NCCL_ASYNC_ERROR_HANDLING",
        "3",
        "an error or time-out in NCCL ends the process instead of leaving it waiting",
    ),
    (
        "TORCH_FR_BUFFER_SIZE",
        "2000",
        "the flight recorder keeps the last 2,000 collectives of a rank",
    ),
    ("TORCH_NCCL_DUMP_ON_TIMEOUT", "1", "the recorder is written out when a collective times out"),
    ("NCCL_DEBUG", "WARN", "NCCL says what went wrong, and nothing else"),
)
_IN_RUN_FOLDER = (
    (
        "TORCH_FR_DUMP_TEMP_FILE",
        "stacks/nccl_trace_rank_",
        "where the recorder is written, by rank",
    ),
    ("NCCL_DEBUG_FILE", "stacks/nccl.%h.%p", "NCCL's own words, a file a process"),
)
_OLDER = {
    "PYTORCH_ALLOC_CONF": "PYTORCH_CUDA_ALLOC_CONF",
    "TORCH_FR_BUFFER_SIZE": "TORCH_NCCL_TRACE_BUFFER_SIZE",
    "TORCH_FR_DUMP_TEMP_FILE": "TORCH_NCCL_DEBUG_INFO_TEMP_FILE",
}
_USERS_OWN = (
    ("NCCL_SOCKET_IFNAME", "the network interface of NCCL's start; a cluster's own"),
    ("GLOO_SOCKET_IFNAME", "the same for gloo"),
    ("NCCL_IB_HCA", "the InfiniBand adapters; a cluster's own"),
    ("OMP_NUM_THREADS", "CPU threads of a rank: its share of the node's cores; set before Python"),
)


def settings(
    environment: MutableMapping[str, str] = os.environ, run_folder: Path | str | None = None
) -> list[Setting]:
    """What should be set, with what the user set already.

    Args:
        environment: to look into.
        run_folder: of a run; None: what is written to files is left out.
    """
    wanted = list(_SETTINGS)
    if run_folder is not None:
        folder = Path(run_folder).absolute()
        wanted += [(name, str(folder / value), why) for name, value, why in _IN_RUN_FOLDER]
    found = [Setting(name, value, why, environment.get(name)) for name, value, why in wanted]
    # Older names of the same; both at once are warned of, or an error.
    old = {name for name, older in _OLDER.items() if environment.get(older)}
    found = [one for one in found if one.name not in old]
    return found


def users_own(environment: MutableMapping[str, str] = os.environ) -> list[Setting]:
    """What only the user can know; shown, never set."""
    return [Setting(name, "", why, environment.get(name)) for name, why in _USERS_OWN]


def apply(
    environment: MutableMapping[str, str] = os.environ, run_folder: Path | str | None = None
) -> list[Setting]:
    """Set what is not set; returns what was set here."""
    new = [one for one in settings(environment, run_folder) if one.given is None]
    for one in new:
        environment[one.name] = one.value
    return new


def main(words: Sequence[str] | None = None) -> int:
    """Print lines for a shell to evaluate: exports of what is not set yet."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--run-folder", metavar="RUN")
    options = parser.parse_args(words)
    for one in settings(run_folder=options.run_folder):
        if one.given is None:
            print(f"export {one.name}={shlex.quote(one.value)}  # {one.why}")
        else:
            print(f"# {one.name} is {shlex.quote(one.given)} as you set it; ours: {one.value}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
