"""``make quickstart`` and ``make test`` in a fresh clone without an environment, and their wall times.

Only what is committed is cloned. A folder ``shared`` beside the project is linked beside the clone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OURS = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME", "OMP_NUM_THREADS", "PYTHONWARNINGS")


def clean_environment() -> dict[str, str]:
    """This environment without what an activated one added."""
    active = Path(sys.prefix) / "bin"
    folders = os.environ.get("PATH", "").split(os.pathsep)
    path = os.pathsep.join(f for f in folders if Path(f) != active and Path(f, "..") != active)
    kept = {name: value for name, value in os.environ.items() if name not in OURS}
    return {**kept, "PATH": path}


def main() -> int:
    """Clone, run both, print the times."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "project"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        if (shared := ROOT.parent / "shared").exists():
            (Path(folder) / "shared").symlink_to(shared.resolve())
        times = {}
        for target in ("setup", "quickstart", "test"):
            started = time.monotonic()
            done = subprocess.run(["make", target], cwd=clone, env=clean_environment(), check=False)
            times[target] = time.monotonic() - started
            if done.returncode:
                print(f"make {target} failed with exit code {done.returncode}")
                return 1
    for target, seconds in times.items():
        print(f"make {target}: {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
