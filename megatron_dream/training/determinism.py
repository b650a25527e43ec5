"""``training.deterministic``: the same bits from the same start on the same layout, on a GPU too.

On a GPU some operations add in an order that differs from run to run: attention's backward pass, scattered
additions, cuBLAS with several streams, all-reduces whose algorithm NCCL chooses anew. Each has a switch, and
all must be set before the first kernel. What a checkpoint does not hold cannot be brought back: dropout's
random state is refused.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from types import MappingProxyType

import torch

from ..config.schema import TrainingConfig
from ..errors import ConfigError

# Name, what it is set to, and every value that a person may have set instead.
SWITCHES = MappingProxyType(
    {
        "CUBLAS_WORKSPACE_CONFIG": (":4096:8", (":4096:8", ":16:8")),
        "NCCL_ALGO": ("Ring", ("Ring", "Tree", "CollnetDirect", "CollnetChain", "^NVLS")),
        "NVTE_ALLOW_NONDETERMINISTIC_ALGO": ("0", ("0",)),
        "FLASH_ATTENTION_DETERMINISTIC": ("1", ("1",)),
    }
)


def set_determinism(
    training: TrainingConfig, environment: MutableMapping[str, str] = os.environ
) -> None:
    """Set the switches, or leave all as it is; before process groups and the first kernel.

    Raises:
        ConfigError: a variable of the environment contradicts.
    """
    if not training.deterministic:
        return
    for name, (value, allowed) in SWITCHES.items():
        found = environment.get(name)
        if found is not None and found not in allowed:
            raise ConfigError(
                f"training.deterministic needs {name} to be {' or '.join(allowed)}, and it is {found} in the "
                f"environment; unset it, or set training.deterministic to false."
            )
        environment.setdefault(name, value)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
