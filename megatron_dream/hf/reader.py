"""Reading the tensors of a Hugging Face folder: safetensors and JSON only, one tensor at a time.

No code of the folder is run and no pickle is opened. All names, shapes and types are compared with
what config.json promises before the first tensor is read.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelFolderError
from .model_config import FolderConfig, read_config, read_json
from .tensor_map import Index, huggingface_shapes

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def tensor_files(folder: Path) -> dict[str, list[str]]:
    """Which tensors the folder says are in which of its safetensors files.

    Returns:
        File name -> tensor names; an empty list where there is no index and the file decides.

    Raises:
        ModelFolderError: no safetensors, an unreadable index, or an index that leaves the folder.
    """
    index_path = folder / INDEX_NAME
    if not index_path.is_file():
        if not (folder / SINGLE_NAME).is_file():
            raise ModelFolderError(
                f"{folder} has neither {SINGLE_NAME} nor {INDEX_NAME}; give a folder with "
                f"safetensors (other formats are not read)"
            )
        _check_inside(folder, SINGLE_NAME, folder)
        return {SINGLE_NAME: []}
    weight_map = read_json(index_path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFolderError(f"{index_path} has no weight_map; get the file again")
    files: dict[str, list[str]] = {}
    for tensor, file in weight_map.items():
        if not isinstance(file, str):
            raise ModelFolderError(f"{index_path}: the file of {tensor} is {file!r}, not a name")
        files.setdefault(file, []).append(tensor)
    for file in files:
        _check_inside(folder, file, index_path)
    return files


def _check_inside(folder: Path, file: str, where: Path) -> None:
    """Refuse what leaves the folder; the hub's cache, whose snapshots are links to its blobs, is one."""
    named = Path(file)
    sentence = f"{where} leads to {file!r}, outside the folder; do not import it"
    if named.is_absolute() or ".." in named.parts or "\x00" in file:
        raise ModelFolderError(sentence)
    try:
        target, root = (folder / named).resolve(), folder.resolve()
    except (OSError, RuntimeError):
        raise ModelFolderError(sentence) from None
    is_snapshot = root.parent.name == "snapshots"
    in_blobs = is_snapshot and target.parent == root.parent.parent / "blobs"
    if not target.is_relative_to(root) and not in_blobs:
        raise ModelFolderError(sentence)
    if not target.is_file():
        raise ModelFolderError(f"{where} names {file}, which is missing; get the file")


class FolderReader:
    """An open Hugging Face folder; use it in a ``with`` block.

    Args:
        folder: with config.json and safetensors.

    Raises:
        ModelFolderError: one sentence with file, tensor, what was expected and what was found.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise ModelFolderError(f"{folder} is no folder; give a Hugging Face model folder")
        self.config: FolderConfig = read_config(self.folder)
        self._open_files: list[Any] = []
        self._file_of: dict[str, tuple[str, Any]] = {}
        try:
            for file, names in tensor_files(self.folder).items():
                self._open(file, names)
            self.dtypes = self._check_tensors()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> FolderReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files."""
        for handle in self._open_files:
            handle.__exit__(None, None, None)
        self._open_files, self._file_of = [], {}

    @property
    def is_bf16(self) -> bool:
        """Whether every tensor is bfloat16; anything else is imported as float32, which is exact."""
        return set(self.dtypes.values()) == {torch.bfloat16}

    def read(self, name: str, index: Index = (slice(None),)) -> Tensor:
        """A part of one tensor, in the folder's type; float16 comes as float32."""
        file, handle = self._file_of[name]
        try:
            part: Tensor = handle.get_slice(name)[index if len(index) > 1 else index[0]]
        except Exception as error:  # the library's own class is not exported by all its versions
            raise ModelFolderError(
                f"{self.folder / file}: {name} cannot be read ({error}); get the file again"
            ) from None
        return part.float() if part.dtype == torch.float16 else part

    def _open(self, file: str, names: list[str]) -> None:
        from safetensors import SafetensorError, safe_open

        path = self.folder / file
        try:
            handle = safe_open(str(path), framework="pt", device="cpu").__enter__()
        except (SafetensorError, OSError) as error:
            raise ModelFolderError(
                f"{path} is no complete safetensors file ({error}); get the file again"
            ) from None
        self._open_files.append(handle)
        present = set(handle.keys())
        listed = set(names) or present
        if missing := sorted(listed - present):
            raise ModelFolderError(
                f"{path} lacks {missing[0]}, which {INDEX_NAME} says it has; get the file again"
            )
        if extra := sorted(present - listed):
            raise ModelFolderError(
                f"{path} has a tensor {extra[0]}, which {INDEX_NAME} does not list there; get the "
                f"folder again"
            )
        self._file_of.update({name: (file, handle) for name in present})

    def _check_tensors(self) -> dict[str, torch.dtype]:
        expected = huggingface_shapes(self.config.model)
        if missing := [name for name in expected if name not in self._file_of]:
            raise ModelFolderError(
                f"{self.folder} lacks the tensor {missing[0]} of shape {list(expected[missing[0]])}; "
                f"get the folder again"
            )
        if extra := sorted(set(self._file_of) - set(expected)):
            file = self._file_of[extra[0]][0]
            raise ModelFolderError(
                f"{self.folder / file} has a tensor {extra[0]}, which config.json gives no place; "
                f"check model_type, num_hidden_layers and tie_word_embeddings in config.json"
            )
        return {name: self._check_tensor(name, shape) for name, shape in expected.items()}

    def _check_tensor(self, name: str, shape: tuple[int, ...]) -> torch.dtype:
        file, handle = self._file_of[name]
        header = handle.get_slice(name)
        found = tuple(header.get_shape())
        if found != shape:
            raise ModelFolderError(
                f"{self.folder / file}: {name} has shape {list(found)}, expected {list(shape)} by "
                f"config.json; get the folder again"
            )
        dtype = _DTYPES.get(header.get_dtype())
        if dtype is None:
            raise ModelFolderError(
                f"{self.folder / file}: {name} is of type {header.get_dtype()}, expected one of "
                f"{', '.join(_DTYPES)}; convert the folder first"
            )
        return dtype
