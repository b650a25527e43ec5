"""A block's forward pass as one CUDA graph, over keys and values that stay where they are.

Between two passes of a block only numbers change: tokens, positions, which columns are run and which may
be attended to. They go into tensors of fixed place and shape; what is launched is recorded once and
replayed without Python. Rows are rounded up, so that few graphs serve a batch that shrinks; columns that
are read are rounded up and masked. On a CPU the same tensors go through a plain call, so that a test
there is of the same path. Shapes as in cache.py.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from .cache import KeyValueCache

logger = logging.getLogger(__name__)

COLUMN_UNIT = (
    64  # columns that are read, and that a prefix pass runs, are rounded up to multiples of it
)


class Graphed:
    """A function of tensors that stay where they are: on a GPU one CUDA graph, on a CPU a plain call.

    The first call on a GPU runs it once, which loads kernels and makes workspaces, then records it. What
    it returns is written again by the next call, and may be by another graph of the same pool.

    Args:
        function: without arguments; launches the same work at every call, and may be run twice.
        device: of its tensors.
        pool: memory that graphs share which never run at the same time (``graph_pool``).
        is_required: what cannot be recorded raises; else it is told and called plainly from then on.
    """

    def __init__(
        self,
        function: Callable[[], torch.Tensor],
        device: torch.device,
        pool: Any = None,
        is_required: bool = True,
    ) -> None:
        self._function, self._device = function, device
        self._pool, self._is_required = pool, is_required
        self._is_plain = device.type != "cuda"
        self._graph: Any = None
        self._output: torch.Tensor | None = None

    def __call__(self) -> torch.Tensor:
        """Run it."""
        if self._graph is None and not self._is_plain:
            with torch.cuda.device(self._device):
                self._record()
        if self._is_plain or self._output is None:
            return self._function()
        self._graph.replay()
        return self._output

    def _record(self) -> None:
        before, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(before)
        with torch.cuda.stream(aside):
            self._function()
        before.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads, such as one that pins memory, may go on using the GPU.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                self._output = self._function()
        except RuntimeError as error:
            if self._is_required:
                raise
            self._is_plain, self._output = True, None
            first = (str(error).splitlines() or [type(error).__name__])[0]
            logger.warning("no CUDA graph of the model's pass (%s); it is called plainly", first)
            return
        self._graph = graph


def graph_pool(device: torch.device) -> Any:
    """Memory that several graphs share; None on a CPU."""
    return torch.cuda.graph_pool_handle() if device.type == "cuda" else None


class StaticCache(KeyValueCache):
    """A cache whose place is taken once; a recorded pass writes it at columns that a tensor names.

    Args:
        rows: at most.
        columns: at most, those included that a pass runs beyond the canvas.
    """

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__(columns)
        self._most_rows = rows
        self.columns_Q: torch.Tensor | None = None  # that a recorded pass writes

    @contextlib.contextmanager
    def recorded(self, columns_Q: torch.Tensor, rows: int, limit: int) -> Iterator[None]:
        """Within: passes write these columns and read those below ``limit``, in so many rows."""
        before = self.rows, self.limit
        self.columns_Q, self.rows, self.limit = columns_Q, rows, limit
        try:
            yield
        finally:
            self.columns_Q = None
            self.rows, self.limit = before

    def write(
        self, layer: int, start: int, keys_BKQD: torch.Tensor, values_BKQD: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As KeyValueCache's; in a recorded pass ``start`` is not read."""
        if self.columns_Q is None:
            return super().write(layer, start, keys_BKQD, values_BKQD)
        keys, values = (held[: self.rows] for held in self._layers[layer])
        keys.index_copy_(2, self.columns_Q, keys_BKQD)
        values.index_copy_(2, self.columns_Q, values_BKQD)
        return keys[:, :, : self.limit], values[:, :, : self.limit]

    def _room(self, like_BKQD: torch.Tensor) -> torch.Tensor:
        # Zeros: what is masked has weight 0, and 0 times a NaN of fresh memory is NaN.
        heads, size = like_BKQD.shape[1], like_BKQD.shape[3]
        return like_BKQD.new_zeros((self._most_rows, heads, self.columns, size))


class BlockGraphs:
    """Passes of blocks, a graph for each (rows, columns run, columns read) that occurs.

    Args:
        model: whose ``sampler_states`` takes a static cache (cache.py: StatesModel).
        rows: of the batch.
        columns: of the canvas.
        width: columns of a block's pass; None: of the block and all after it.
        device: of the canvas.
        is_required: see Graphed.

    Attributes:
        cache: that full passes fill.
    """

    def __init__(
        self,
        model: Any,
        rows: int,
        columns: int,
        width: int | None,
        device: torch.device,
        is_required: bool,
    ) -> None:
        self._model, self._width = model, width
        self._device, self._is_required = device, is_required
        self._pool = graph_pool(device)
        # The last block may be shorter than its pass, which then runs columns beyond the canvas.
        beyond = COLUMN_UNIT if width is None else width
        self.cache = StaticCache(rounded_rows(rows), _rounded(columns) + beyond)
        self._passes: dict[tuple[int, int, int], _BlockPass] = {}

    def run(
        self,
        ids_RQ: torch.Tensor,
        key_mask_RL: torch.Tensor | None,
        positions_RQ: torch.Tensor | None,
        start: int,
    ) -> torch.Tensor:
        """Final hidden states [R, Q, H] of columns ``start``, start + 1, ...; valid until the next run.

        Args:
            ids_RQ: int64. Fewer than ``width`` only where they end with ``limit``.
            key_mask_RL: bool, below the cache's limit L; None: all may be attended to.
            positions_RQ: None: the columns' numbers.
            start: number of the first column.
        """
        rows, size = ids_RQ.shape
        width = _rounded(size) if self._width is None else self._width
        key = (rounded_rows(rows), width, _rounded(self.cache.limit))
        if key not in self._passes:
            self._passes[key] = _BlockPass(self, *key)
        states: torch.Tensor = self._passes[key](ids_RQ, key_mask_RL, positions_RQ, start)
        return states[:rows, :size]


class _BlockPass:
    """One graph and the tensors that it reads."""

    def __init__(self, owner: BlockGraphs, rows: int, width: int, limit: int) -> None:
        self._cache, device = owner.cache, owner._device
        self.ids_BQ = torch.zeros((rows, width), dtype=torch.int64, device=device)
        self.positions_BQ = torch.zeros_like(self.ids_BQ)
        self.key_mask_BL = torch.zeros((rows, limit), dtype=torch.bool, device=device)
        self.columns_Q = torch.zeros(width, dtype=torch.int64, device=device)
        self._steps_Q = torch.arange(width, device=device)
        # Not a method: a cycle would keep the cache until Python collects garbage.
        run = partial(_run, owner._model, owner.cache, limit, self.ids_BQ, self.key_mask_BL)
        self._graphed = Graphed(
            partial(run, self.positions_BQ, self.columns_Q), device, owner._pool, owner._is_required
        )

    def __call__(
        self,
        ids_RQ: torch.Tensor,
        key_mask_RL: torch.Tensor | None,
        positions_RQ: torch.Tensor | None,
        start: int,
    ) -> torch.Tensor:
        """Put the numbers in and run. What is put into rows and columns beyond is never read."""
        rows, size = ids_RQ.shape
        torch.add(self._steps_Q, start, out=self.columns_Q)
        self.ids_BQ[:rows, :size] = ids_RQ
        self.positions_BQ.copy_(self.columns_Q.expand_as(self.positions_BQ))
        if positions_RQ is not None:
            self.positions_BQ[:rows, :size] = positions_RQ
        real = self._cache.limit
        self.key_mask_BL[:, :real] = True
        self.key_mask_BL[:, real:] = False
        if key_mask_RL is not None:
            self.key_mask_BL[:rows, :real] = key_mask_RL
        return self._graphed()


def _run(
    model: Any,
    cache: StaticCache,
    limit: int,
    ids_BQ: torch.Tensor,
    key_mask_BL: torch.Tensor,
    positions_BQ: torch.Tensor,
    columns_Q: torch.Tensor,
) -> torch.Tensor:
    """What a graph is of."""
    with cache.recorded(columns_Q, len(ids_BQ), limit):
        states: torch.Tensor = model.sampler_states(ids_BQ, key_mask_BL, positions_BQ, cache)
    return states


def rounded_rows(rows: int) -> int:
    """Up to 1, 2, 4, 8, then multiples of 8."""
    return 1 << (rows - 1).bit_length() if rows <= 8 else -(-rows // 8) * 8


def _rounded(columns: int) -> int:
    return -(-columns // COLUMN_UNIT) * COLUMN_UNIT
