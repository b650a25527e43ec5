"""The environment in which other people's evaluators are installed, and running commands of it.

It is a virtual environment of its own over ours (requirements/evaluation.txt says how it is made), so that
evaluators bring their own versions and nothing of theirs is imported here. Evaluators run the programs
that a model wrote: they are shut in by bubblewrap, without network, with one folder to write to.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import ConfigError, DataError, MissingDependencyError
from ...launcher import VARIABLES

_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
ROOT = Path(__file__).resolve().parents[3]
_SAID = 2000  # characters of a failed command's last words


@dataclass(frozen=True)
class Overlay:
    """Where evaluators are installed.

    Attributes:
        python: the environment's interpreter.
        shuts_in: whether commands run under bubblewrap.
    """

    python: Path
    shuts_in: bool = True

    @classmethod
    def of(cls, folder: Path, shuts_in: bool = True) -> Overlay:
        """Of a virtual environment's folder, or of an interpreter.

        Raises:
            ConfigError: there is no interpreter.
        """
        python = folder / "bin" / "python" if folder.is_dir() else folder
        if not os.access(python, os.X_OK):
            raise ConfigError(
                f"{folder} is no virtual environment; make one by requirements/evaluation.txt."
            )
        return cls(python.absolute(), shuts_in)

    def has(self, module: str) -> bool:
        """Whether a module can be imported there."""
        code = f"import importlib.util as u, sys; sys.exit(u.find_spec({module!r}) is None)"
        return subprocess.run([self.python, "-c", code], capture_output=True).returncode == 0

    def run(
        self,
        arguments: Sequence[str],
        writable: Path,
        environment: Mapping[str, str] | None = None,
        timeout: float | None = None,
        shuts_in: bool | None = None,
    ) -> str:
        """Run ``python arguments``; what it printed.

        Args:
            arguments: after the interpreter.
            writable: the only folder that a shut-in command can write to, its home and cache as well.
            environment: further variables.
            timeout: seconds; None: none.
            shuts_in: None: as the overlay is. Commands that run a model and no program of its need not be.

        Raises:
            DataError: it failed; with its last words.
            MissingDependencyError: it is to be shut in, and bubblewrap is not there.
        """
        writable = writable.absolute()
        command = [str(self.python), *arguments]
        is_shut_in = self.shuts_in if shuts_in is None else shuts_in
        if is_shut_in:
            readable = (self.python.parent.parent, ROOT)
            command = [*bubblewrap(writable, readable), *command]
        kept = {k: v for k, v in os.environ.items() if k not in VARIABLES}
        hub = writable / ".cache" / "huggingface" if is_shut_in else hub_cache()
        home = {"HOME": str(writable), "XDG_CACHE_HOME": str(writable / ".cache"),
                "HF_HOME": kept.get("HF_HOME", str(hub))}  # fmt: skip
        try:
            done = subprocess.run(
                command,
                env={**kept, **home, **_OFFLINE, **(environment or {})},
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                cwd=writable,
            )
        except subprocess.TimeoutExpired:
            raise DataError(
                f"{' '.join(arguments[:2])} did not end within {timeout:.0f} s; give it fewer samples."
            ) from None
        if done.returncode:
            words = (done.stderr or done.stdout).strip()[-_SAID:]
            raise DataError(
                f"{' '.join(arguments[:2])} failed with exit code {done.returncode}: {words}"
            )
        return done.stdout


def hub_cache() -> Path:
    """Where the hub's libraries keep what this user has fetched, where HF_HOME does not say."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "huggingface"


def bubblewrap(writable: Path, readable: Sequence[Path] = ()) -> list[str]:
    """The words before a command that shut it in: all of the system read-only, no network, an empty /tmp.

    Args:
        writable: the only folder that it can write to.
        readable: folders that it needs, should they lie in /tmp.

    Raises:
        MissingDependencyError: there is no bubblewrap.
    """
    found = shutil.which("bwrap")
    if found is None:
        raise MissingDependencyError(
            "evaluators run programs that a model wrote and are shut in by bubblewrap, which is not there; "
            "install Debian's bubblewrap, or give --evaluators-open where the programs are trusted."
        )
    words = [
        found, "--unshare-all", "--die-with-parent", "--new-session", "--ro-bind", "/", "/",
        "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--tmpfs", "/run",
    ]  # fmt: skip
    for folder in readable:
        words += ["--ro-bind", str(folder), str(folder)]
    return [*words, "--bind", str(writable), str(writable), "--chdir", str(writable)]
