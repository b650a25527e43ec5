"""Keys and values of earlier passes, and what a model must offer to be sampled with them.

Shapes: B rows, K heads of keys and values, S columns of the canvas, Q columns that are run, D head,
H hidden, N positions, V vocabulary.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch


class KeyValueCache:
    """Rotated keys and values of every layer and column, written in place.

    A column that is run again overwrites its own; attention reads all columns below ``limit``. Room is
    taken when a layer is first written, and kept from block to block.
    """

    def __init__(self, columns: int) -> None:
        """Make an empty one for a canvas of so many columns."""
        self.columns = columns
        self.rows = 0
        self.limit = columns
        self._layers: list[tuple[torch.Tensor, torch.Tensor]] = []

    def begin(self, rows: int, limit: int) -> None:
        """Forget what is held; the next pass writes ``rows`` rows and all columns below ``limit``."""
        self.rows, self.limit = rows, limit

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with these of the rows, int64, in ascending order; the others have left."""
        for keys, values in self._layers:
            for held in (keys, values):
                held[: len(rows)] = held[rows]
        self.rows = len(rows)

    def write(
        self, layer: int, start: int, keys_BKQD: torch.Tensor, values_BKQD: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put Q columns from ``start`` on, and return all that attention may read: [B, K, limit, D]."""
        if layer == len(self._layers):
            self._layers.append((self._room(keys_BKQD), self._room(values_BKQD)))
        elif self._layers[layer][0].shape[0] < self.rows:
            self._layers[layer] = (self._room(keys_BKQD), self._room(values_BKQD))
        keys, values = self._layers[layer]
        end = start + keys_BKQD.shape[2]
        keys[: self.rows, :, start:end] = keys_BKQD
        values[: self.rows, :, start:end] = values_BKQD
        return keys[: self.rows, :, : self.limit], values[: self.rows, :, : self.limit]

    def _room(self, like_BKQD: torch.Tensor) -> torch.Tensor:
        heads, size = like_BKQD.shape[1], like_BKQD.shape[3]
        return like_BKQD.new_empty((self.rows, heads, self.columns, size))


@runtime_checkable
class StatesModel(Protocol):
    """A model that can be asked for hidden states first and for logits of a few of them after.

    One with ``takes_static_cache = True`` beside these methods can be recorded as a CUDA graph: it takes
    positions from ``position_ids_BQ`` alone where they are given, hands ``start`` to the cache and to
    nothing else, waits for no number of the device and lies on one.
    """

    def sampler_states(
        self,
        input_ids_BQ: torch.Tensor,
        key_mask_BS: torch.Tensor | None,
        position_ids_BQ: torch.Tensor | None,
        cache: KeyValueCache | None = None,
        start: int = 0,
        low: int = 0,
        high: int | None = None,
    ) -> torch.Tensor:
        """Run columns start to start + Q - 1; final hidden states [B, high - low, H] of some of them.

        Args:
            input_ids_BQ: int64, the columns to run.
            key_mask_BS: bool, columns that may be attended to; None: all. What a column that may not
                gets back is never read.
            position_ids_BQ: of the same columns; None: their numbers.
            cache: written at these columns and read at all; None: the columns attend to one another.
            start: number of the first.
            low: the first, counted from ``start``, whose state is asked for; of the others the last
                layer needs keys and values only.
            high: one past the last; None: Q.
        """

    def sampler_logits(self, states_NH: torch.Tensor) -> torch.Tensor:
        """Logits [N, V] of some of these states."""
