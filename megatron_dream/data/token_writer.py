"""Writing ``P.bin``, ``P.idx``, ``P.json`` and ``P.rejects.jsonl`` so that all are there or none.

The token files are megatron-core's IndexedDatasetBuilder's own bytes. Everything is written under
temporary names beside the final ones; the sidecar ``P.json`` comes last and says that all is
complete.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any

import numpy as np

from megatron_dream.data.sources import Reject
from megatron_dream.errors import DataError
from megatron_dream.files import fsync_folder, write_json


def prefix_path(prefix: Path | str, ending: str) -> Path:
    """``prefix`` + ``ending``, where ``prefix`` may hold dots."""
    return Path(f"{prefix}{ending}")


class TokenWriter:
    """A context: documents go in, ``commit`` makes the files, leaving without it leaves nothing.

    Attributes:
        tokens: ids written so far.
        documents: documents written so far.
        rejected: records noted so far.
        dtype: uint16 below 65,500 tokens, else int32.
    """

    def __init__(self, prefix: Path | str, vocab_size: int) -> None:
        """Open temporary files beside ``prefix``; its folder is made."""
        from megatron_dream.device import import_megatron

        import_megatron()  # here, not above: worker processes import this package and need no engine
        from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

        self.prefix = Path(prefix)
        if str(prefix).endswith(os.sep) or self.prefix.is_dir():
            raise DataError(
                f"{prefix}: the output prefix is a folder; add a name, such as {self.prefix / 'train'}."
            )
        self.prefix.parent.mkdir(parents=True, exist_ok=True)
        self.dtype = np.dtype(DType.optimal_dtype(vocab_size))
        self._builder = IndexedDatasetBuilder(str(self._temporary(".bin")), dtype=self.dtype.type)
        self._rejects: IO[str] | None = None
        self.tokens = self.documents = self.rejected = 0

    def __enter__(self) -> TokenWriter:
        """Nothing more to open."""
        return self

    def __exit__(self, *error: object) -> None:
        """Remove whatever has no final name yet."""
        self._builder.data_file.close()
        if self._rejects is not None:
            self._rejects.close()
        for ending in (".bin", ".idx", ".rejects.jsonl"):
            self._temporary(ending).unlink(missing_ok=True)

    def add_document(self, ids: np.ndarray) -> None:
        """Append one document, ids int32[n]."""
        self._builder.add_document(ids, [int(ids.size)])
        self.tokens += int(ids.size)
        self.documents += 1

    def add_reject(self, reject: Reject) -> None:
        """Note a record that was left out."""
        if self._rejects is None:
            self._rejects = open(self._temporary(".rejects.jsonl"), "w", encoding="utf-8")
        self._rejects.write(reject.as_json() + "\n")
        self.rejected += 1

    def commit_rejects(self) -> Path | None:
        """Give the list of rejects its name; an older list goes."""
        final = prefix_path(self.prefix, ".rejects.jsonl")
        if self._rejects is None:
            final.unlink(missing_ok=True)
            return None
        self._rejects.close()
        self._publish(".rejects.jsonl")
        return final

    def commit(self, sidecar: dict[str, Any]) -> None:
        """Make the files final. A crash in between leaves no index, so nobody reads a mixture."""
        self._builder.finalize(str(self._temporary(".idx")))
        self.commit_rejects()
        for ending in (".json", ".idx"):
            prefix_path(self.prefix, ending).unlink(missing_ok=True)
        self._publish(".bin")
        self._publish(".idx")
        write_json(prefix_path(self.prefix, ".json"), sidecar)

    def _publish(self, ending: str) -> None:
        temporary = self._temporary(ending)
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, prefix_path(self.prefix, ending))
        fsync_folder(self.prefix.parent)

    def _temporary(self, ending: str) -> Path:
        return self.prefix.with_name(f".{self.prefix.name}{ending}.{os.getpid()}.tmp")
