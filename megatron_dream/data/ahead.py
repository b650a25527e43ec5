"""Buffers copied to the GPU one ahead: the copy of the next runs beside the work on this one.

Without DALI the loader's workers leave buffers in pinned memory. Copied at its turn, a buffer's transfer
would stand in the stream before the step that reads it; here it goes through a stream of its own as soon
as the buffer before it is handed out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from .. import device as devices
from ..errors import UserError

_END: Any = object()


class CopiedAhead(Iterator[Any]):
    """What ``source`` gives: tensors on ``device``, a user's error as it is.

    Args:
        source: tensors in pinned memory, ready when they are asked for: the next one is taken before this
            one is handed out.
        device: where they go.
    """

    def __init__(self, source: Iterator[Any], device: torch.device) -> None:
        self.source, self._device = source, device
        self._stream = devices.side_stream()
        self._next: Any = _END
        self._has_begun = False

    def __next__(self) -> Any:
        if not self._has_begun:
            self._has_begun, self._next = True, self._take()
        item = self._next
        if item is _END:
            raise StopIteration
        if not isinstance(item, UserError):
            computing = devices.current_stream()
            computing.wait_stream(self._stream)
            if item.is_cuda:
                item.record_stream(computing)  # its memory is the other stream's
        self._next = self._take()
        return item

    def _take(self) -> Any:
        item = next(self.source, _END)
        if item is _END or isinstance(item, UserError):
            return item
        with devices.on_stream(self._stream):
            return item.to(self._device, non_blocking=True)
