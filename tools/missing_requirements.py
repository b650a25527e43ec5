#!/usr/bin/env python3
"""Lines of a lock file that an image still needs: what it lacks, and what must be of the locked version.

    python tools/missing_requirements.py requirements/lock.txt

An image's torch, numpy and the packages that were compiled against them fit one another: whatever is there
stays, but for the packages named below. Standard library only.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

# Whose version the program's behaviour depends on: model code, tokenizers, file formats.
LOCKED = frozenset(
    (
        "megatron-core",
        "transformers",
        "tokenizers",
        "huggingface-hub",
        "safetensors",
        "sentencepiece",
    )
)
# Never taken from the lock file: the CUDA builds are the image's.
NEVER = ("torch", "triton", "nvidia-")


def canonical(name: str) -> str:
    """A distribution's name as the package index compares it."""
    return name.strip().lower().replace("_", "-").replace(".", "-")


def missing(lines: list[str], installed: dict[str, str]) -> list[str]:
    """Those of the pins ``name==version`` that are to be installed.

    Args:
        lines: of the lock file.
        installed: versions by canonical name.
    """
    chosen = []
    for line in lines:
        pin = line.partition("#")[0].strip()
        name, found, version = pin.partition("==")
        name = canonical(name)
        if not found or name.startswith(NEVER):
            continue
        if name not in installed or (name in LOCKED and installed[name] != version):
            chosen.append(pin)
    return chosen


def main() -> int:
    """Print them."""
    installed = {canonical(one.metadata["Name"]): one.version for one in metadata.distributions()}
    print(*missing(Path(sys.argv[1]).read_text(encoding="utf-8").splitlines(), installed), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
