"""Jobs of test_memory_model.py: real bytes of one rank, by category."""

from __future__ import annotations

from typing import Any

from layout_jobs import Case, Run, _steps


class SavedTensors:
    """Bytes of unique storages that autograd holds for the backward pass, now and at the most.

    Storages of ``excluded`` tensors do not count. Sizes are read each time, since recomputation of norms
    empties a storage and fills it again.
    """

    def __init__(self, excluded: list[Any]) -> None:
        self._excluded = {tensor.untyped_storage().data_ptr() for tensor in excluded}
        self._live: dict[int, list[Any]] = {}
        self.peak = 0

    def pack(self, tensor: Any) -> Any:
        """Called by autograd for each tensor that it keeps."""
        storage = tensor.untyped_storage()
        entry = self._live.setdefault(storage._cdata, [storage, 0])
        entry[1] += 1
        self._measure()
        return _Held(self, storage._cdata, tensor)

    def release(self, key: int) -> None:
        """One holder less."""
        entry = self._live[key]
        entry[1] -= 1
        if entry[1] == 0:
            del self._live[key]

    def _measure(self) -> None:
        total = sum(
            storage.nbytes()
            for storage, _ in self._live.values()
            if storage.data_ptr() not in self._excluded
        )
        self.peak = max(self.peak, total)


class _Held:
    def __init__(self, owner: SavedTensors, key: int, tensor: Any) -> None:
        self.owner, self.key, self.tensor = owner, key, tensor

    def __del__(self) -> None:
        self.owner.release(self.key)


def _bytes(tensors: list[Any]) -> int:
    unique = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in unique.values())


def measured(case: Case) -> dict[str, int]:
    """Bytes on this rank of weights, gradient buffers, optimizer and saved activations (peak)."""
    import torch

    run = Run(case)
    parameters = [p for chunk in run.model for p in chunk.parameters()]
    buffers = [b for chunk in run.model for b in chunk.buffers]
    saved = SavedTensors([*parameters, *(p.main_grad for p in parameters)])
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda held: held.tensor):
        report = run.forward_backward(run.iterators())
    _steps(run, 0, 1)  # the optimizer makes its state at its first step
    inner = [o.optimizer for o in getattr(run.optimizer, "chained_optimizers", [run.optimizer])]
    own = [
        tensor
        for optimizer in inner
        for group in optimizer.param_groups
        for p in group["params"]
        for tensor in (p, *(v for k, v in optimizer.state[p].items() if k != "step"))
    ]
    weights = {p.untyped_storage().data_ptr() for p in parameters}
    own = [tensor for tensor in own if tensor.untyped_storage().data_ptr() not in weights]
    return {
        "weights": _bytes(parameters),
        "gradients": sum(b.grad_data.numel() * b.grad_data.element_size() for b in buffers),
        "optimizer": _bytes(own),
        "saved": saved.peak,
        "masked": report.masked_tokens,
        "stage": run.ranks.pp_rank,
    }
