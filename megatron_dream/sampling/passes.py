"""Forward passes: which rows and columns a step runs, and the logits of the positions that may open.

Without a cache a pass runs all columns of the rows that may open something. With one, the first pass
of a block runs all columns and fills it; the others run, by ``cache``,

    prefix  the block and all after it; keys and values before the block are kept
    dual    the block alone; those after it are kept too

and one column more on the left, whose hidden state predicts the block's first position and whose keys
and values are written anew (``border: kept`` uses its state of the full pass). The cached modes are
approximations: kept columns do not know of what has opened since. ``cache_refresh: 1`` runs all columns
at every step and is exact. Rows do not depend on one another: who is in a pass changes a row's numbers
by no more than the rounding of kernels that choose by shape. On a GPU the passes between two full ones
are CUDA graphs (graphs.py). Shapes as in cache.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from .blocks import Block
from .cache import KeyValueCache, StatesModel
from .canvas import Canvas
from .decode import ROWS_AT_ONCE
from .graphs import BlockGraphs
from .sampling_config import SamplingConfig


class Passes:
    """Runs the model.

    Args:
        model: with ``sampler_states``, or only callable for logits; then there is no cache.
        canvas: of the generation.
        config: resolved.

    Attributes:
        num_forward: passes so far.
        num_columns: rows times columns that they ran.

    Raises:
        ValueError: a cache is asked for, or CUDA graphs are, that the model cannot have.
    """

    def __init__(self, model: Any, canvas: Canvas, config: SamplingConfig) -> None:
        self.num_forward = self.num_columns = 0
        self._canvas, self._config = canvas, config
        self._call: Callable[..., Any] = model if callable(model) else model.forward
        self._states: StatesModel | None = model if isinstance(model, StatesModel) else None
        if config.cache != "none" and self._states is None:
            raise ValueError(
                f"cache {config.cache!r} needs a model with sampler_states, which "
                f"{type(model).__name__} has not: leave cache out, or export the model with this version."
            )
        self._graphs = self._make_graphs(model)
        columns = canvas.x_BS.shape[1]
        self._cache = KeyValueCache(columns) if self._graphs is None else self._graphs.cache

    def _make_graphs(self, model: Any) -> BlockGraphs | None:
        """What runs the blocks; None: plain calls."""
        config, x_BS = self._config, self._canvas.x_BS
        wanted = config.cuda_graphs == "on" or (config.cuda_graphs == "auto" and x_BS.is_cuda)
        if config.cache == "none" or not wanted:
            return None
        if not getattr(model, "takes_static_cache", False):
            if config.cuda_graphs == "on":
                raise ValueError(
                    f"cuda_graphs is 'on', but passes of {type(model).__name__} cannot be recorded as it "
                    "is: leave cuda_graphs out, or sample an exported folder on one device."
                )
            return None
        rows, columns = x_BS.shape
        length = min(config.block_length or columns, max(config.max_new_tokens, 1))
        width = length + (config.border == "rewritten") if config.cache == "dual" else None
        is_required = config.cuda_graphs == "on"
        return BlockGraphs(model, rows, columns, width, x_BS.device, is_required)

    def begin(self, block: Block, masked_BS: torch.Tensor) -> None:
        """Go on to a block."""
        self._block = block
        # These have masks inside the prompt, which no cache may hold still: they go without one.
        self._uncached_B = masked_BS[:, : block.first].any(-1)
        self._held_R: torch.Tensor | None = None  # rows that the cache is of
        self._border_R1H: torch.Tensor | None = None  # their state at the left neighbour, if kept
        self._epoch = 0  # of refreshing

    def whole_logits(self, x_BS: torch.Tensor) -> torch.Tensor:
        """Unshifted logits [B, S, V] of everything, for hooks."""
        canvas = self._canvas
        return self._logits_of_all(x_BS, canvas.attention_mask_BS, canvas.position_ids_BS)

    def logits(
        self, step: int, x_BS: torch.Tensor, wanted_BS: torch.Tensor, unfinished_B: torch.Tensor
    ) -> Iterator[torch.Tensor]:
        """Logits that predict the wanted positions, row after row, in parts [., V] made when asked for.

        Args:
            step: of the block.
            x_BS: the canvas.
            wanted_BS: bool, never at a row's first column, some true.
            unfinished_B: bool, rows that may open something in this block, now or later.
        """
        if self._states is None:
            return iter(self._without_states(x_BS, wanted_BS).split(ROWS_AT_ONCE))
        states_NH = self._states_of(self._states, step, x_BS, wanted_BS, unfinished_B)
        return map(self._states.sampler_logits, states_NH.split(ROWS_AT_ONCE))

    def _states_of(
        self,
        model: StatesModel,
        step: int,
        x_BS: torch.Tensor,
        wanted_BS: torch.Tensor,
        unfinished_B: torch.Tensor,
    ) -> torch.Tensor:
        """States that predict the wanted positions, [N, H], from the cache and without it."""
        wants_B = wanted_BS.any(-1)
        if self._config.cache == "none":
            return self._uncached(model, x_BS, wants_B, wanted_BS)
        cached_B = wanted_BS.new_zeros(wants_B.shape)
        if bool((wants_B & ~self._uncached_B).any()):
            cached_B = unfinished_B & ~self._uncached_B
        others_B = wants_B & ~cached_B
        if not bool(others_B.any()):
            return self._cached(model, step, x_BS, cached_B, wanted_BS)
        others_MH = self._uncached(model, x_BS, others_B, wanted_BS)
        if not bool((wants_B & cached_B).any()):
            return others_MH
        from_cache_N = cached_B[wanted_BS.nonzero()[:, 0]]
        states_NH = others_MH.new_empty((len(from_cache_N), others_MH.shape[-1]))
        states_NH[from_cache_N] = self._cached(model, step, x_BS, cached_B, wanted_BS)
        states_NH[~from_cache_N] = others_MH
        return states_NH

    def _without_states(self, x_BS: torch.Tensor, wanted_BS: torch.Tensor) -> torch.Tensor:
        rows_R, limit = wanted_BS.any(-1).nonzero().squeeze(-1), self._block.limit
        canvas, every = self._canvas, len(wanted_BS)
        mask_BS, positions_BS = canvas.attention_mask_BS, canvas.position_ids_BS
        logits = self._logits_of_all(
            _part(x_BS, rows_R, every, 0, limit),
            None if mask_BS is None else _part(mask_BS, rows_R, every, 0, limit),
            None if positions_BS is None else _part(positions_BS, rows_R, every, 0, limit),
        )
        rows_N, columns_N = wanted_BS[rows_R].nonzero(as_tuple=True)
        return logits[rows_N, columns_N - 1]

    def _logits_of_all(
        self,
        x_BS: torch.Tensor,
        mask_BS: torch.Tensor | None,
        positions_BS: torch.Tensor | None,
    ) -> torch.Tensor:
        self._count(x_BS)
        output = self._call(input_ids=x_BS, attention_mask=mask_BS, position_ids=positions_BS)
        logits: torch.Tensor = getattr(output, "logits", output)
        return logits

    def _uncached(
        self,
        model: StatesModel,
        x_BS: torch.Tensor,
        rows_B: torch.Tensor,
        wanted_BS: torch.Tensor,
    ) -> torch.Tensor:
        """States that predict the wanted positions of some rows, by a pass over all columns."""
        rows_R = rows_B.nonzero().squeeze(-1)
        rows_N, columns_N = wanted_BS[rows_R].nonzero(as_tuple=True)
        low, high = _span(columns_N - 1)
        states = self._run(model, x_BS, rows_R, (0, self._block.limit), (low, high), None)
        return states[rows_N, columns_N - 1 - low]

    def _cached(
        self,
        model: StatesModel,
        step: int,
        x_BS: torch.Tensor,
        rows_B: torch.Tensor,
        wanted_BS: torch.Tensor,
    ) -> torch.Tensor:
        """The same by the cache, which is filled where it is not, or is due to be filled again."""
        block, config = self._block, self._config
        rows_R = rows_B.nonzero().squeeze(-1)
        rows_N, columns_N = wanted_BS[rows_R].nonzero(as_tuple=True)
        columns_N = columns_N - 1  # that predict them
        low, high = _span(columns_N)
        border, kept = block.first - 1, config.border == "kept"
        epoch = step // config.cache_refresh if config.cache_refresh else 0
        held_R = self._held_R
        place_R = None if held_R is None else _places(rows_R, held_R)
        if held_R is None or place_R is None or epoch != self._epoch:
            self._held_R, self._epoch = rows_R, epoch
            self._cache.begin(len(rows_R), block.limit)
            low = min(low, border) if kept else low
            states = self._run(model, x_BS, rows_R, (0, block.limit), (low, high), self._cache)
            self._border_R1H = states[:, border - low : border - low + 1] if kept else None
            return states[rows_N, columns_N - low]
        if len(rows_R) < len(held_R):
            self._cache.keep(place_R)
            self._held_R = rows_R
            if self._border_R1H is not None:
                self._border_R1H = self._border_R1H[place_R]
        run = (border + kept, block.limit if config.cache == "prefix" else block.end)
        low = max(low, run[0])
        wanted = (low, max(high, low + 1))
        if self._graphs is None:
            states = self._run(model, x_BS, rows_R, run, wanted, self._cache)
        else:
            states = self._replay(self._graphs, x_BS, rows_R, run, wanted)
        if self._border_R1H is None:
            return states[rows_N, columns_N - low]
        states = torch.cat([self._border_R1H, states], dim=1)
        return states[rows_N, torch.where(columns_N == border, 0, columns_N - low + 1)]

    def _run(
        self,
        model: StatesModel,
        x_BS: torch.Tensor,
        rows_R: torch.Tensor,
        columns: tuple[int, int],
        wanted: tuple[int, int],
        cache: KeyValueCache | None,
    ) -> torch.Tensor:
        """Run columns [start, end) of some rows; states of the wanted ones among them."""
        start = columns[0]
        ids, key_mask, positions = self._inputs(x_BS, rows_R, columns)
        self._count(ids)
        if key_mask is not None and bool(key_mask.all()):
            key_mask = None
        low, high = wanted[0] - start, wanted[1] - start
        return model.sampler_states(ids, key_mask, positions, cache, start, low, high)

    def _replay(
        self,
        graphs: BlockGraphs,
        x_BS: torch.Tensor,
        rows_R: torch.Tensor,
        columns: tuple[int, int],
        wanted: tuple[int, int],
    ) -> torch.Tensor:
        """The same over the cache of ``graphs``; what comes back is valid until the next pass."""
        ids, key_mask, positions = self._inputs(x_BS, rows_R, columns)
        self._count(ids)
        states = graphs.run(ids, key_mask, positions, columns[0])
        return states[:, wanted[0] - columns[0] : wanted[1] - columns[0]]

    def _inputs(
        self, x_BS: torch.Tensor, rows_R: torch.Tensor, columns: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Tokens, keys that may be attended to and positions of some rows and columns."""
        (start, end), canvas, every = columns, self._canvas, len(x_BS)
        key_mask, positions = None, canvas.position_ids_BS
        if canvas.attention_mask_BS is not None:
            key_mask = _part(canvas.real_BS, rows_R, every, 0, self._block.limit)
        if positions is not None:
            positions = _part(positions, rows_R, every, start, end)
        return _part(x_BS, rows_R, every, start, end), key_mask, positions

    def _count(self, ids: torch.Tensor) -> None:
        self.num_forward += 1
        self.num_columns += ids.numel()


def _part(
    values_BS: torch.Tensor, rows_R: torch.Tensor, every: int, start: int, end: int
) -> torch.Tensor:
    """Some rows and columns; no copy where all rows stay."""
    return (values_BS if len(rows_R) == every else values_BS[rows_R])[:, start:end]


def _span(columns_N: torch.Tensor) -> tuple[int, int]:
    return int(columns_N.min()), int(columns_N.max()) + 1


def _places(rows_R: torch.Tensor, held_R: torch.Tensor) -> torch.Tensor | None:
    """Where rows are among those held, both ascending; None where one is not."""
    places = torch.searchsorted(held_R, rows_R).clamp(max=len(held_R) - 1)
    return places if bool((held_R[places] == rows_R).all()) else None
