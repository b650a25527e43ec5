"""FP8 history, put back after a skipped update.

Delayed scaling (Transformer Engine) chooses each tensor's scale from the largest values of the last
steps. A bad step leaves its values there and in the scales, and would spoil the steps after it
although its update was skipped. Modules keep them in ``fp8_meta``: ``scaling_fwd`` and ``scaling_bwd``
with ``scale``, ``amax_history`` and in some releases ``scale_inv``; the global buffers that Transformer
Engine reduces hold the same tensors, so they are changed in place. Recipes without history (current
scaling, MXFP8) have no such tensors. Nothing is imported: where there is no Transformer Engine no
module has ``fp8_meta``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

_PARTS = ("scaling_fwd", "scaling_bwd")
_TENSORS = ("amax_history", "scale", "scale_inv")


def fp8_tensors(chunks: Iterable[nn.Module]) -> Iterator[tuple[str, Tensor]]:
    """Name (of ``_TENSORS``) and tensor of all FP8 history that the modules hold now."""
    for chunk in chunks:
        for module in chunk.modules():
            meta = getattr(module, "fp8_meta", None)
            if not isinstance(meta, dict):
                continue
            for part in _PARTS:
                for name in _TENSORS:
                    tensor = getattr(meta.get(part), name, None)
                    if isinstance(tensor, Tensor):
                        yield name, tensor


class Fp8History:
    """A copy of the FP8 history of a model's modules; empty and free of cost where there is none.

    Args:
        chunks: of this process.
    """

    def __init__(self, chunks: Sequence[nn.Module]) -> None:
        self._chunks = chunks
        self._saved: dict[int, tuple[Tensor, Tensor]] = {}  # by the live tensor's id

    @torch.no_grad()
    def save(self) -> None:
        """Remember the present history; before a step's first forward pass."""
        live = [tensor for _, tensor in fp8_tensors(self._chunks)]
        known = self._saved
        self._saved = {
            id(tensor): known.get(id(tensor)) or (tensor, torch.empty_like(tensor))
            for tensor in live
        }
        if live:
            copies = [copy for _, copy in self._saved.values()]
            torch._foreach_copy_(copies, [tensor for tensor, _ in self._saved.values()])

    @torch.no_grad()
    def restore(self) -> None:
        """Put back what ``save`` saw; history that began since is set to its beginning."""
        for name, tensor in fp8_tensors(self._chunks):
            if id(tensor) in self._saved:
                tensor.copy_(self._saved[id(tensor)][1])
            else:
                _begin(name, tensor)

    @torch.no_grad()
    def reset(self) -> None:
        """Begin anew, before a checkpoint brings its history (checkpoint/fp8_state.py)."""
        for name, tensor in fp8_tensors(self._chunks):
            _begin(name, tensor)
        self._saved = {}


def _begin(name: str, tensor: Tensor) -> None:
    """Transformer Engine's own beginning: no values seen, scale 1."""
    tensor.fill_(0.0 if name == "amax_history" else 1.0)
