"""Which layers stand where in a pipeline: even, uneven, with the embedding or head in a layer's place.

The same division as megatron-core's ``get_num_layers_to_build``, before anything is built, so that
layouts are refused by a sentence and the planner knows every stage.
"""

from __future__ import annotations

from megatron_dream.config.schema import ParallelConfig
from megatron_dream.errors import LayoutError

FIRST = "parallel.num_layers_in_first_pipeline_stage"
LAST = "parallel.num_layers_in_last_pipeline_stage"
EMBEDDING = "parallel.account_for_embedding_in_pipeline_split"
LOSS = "parallel.account_for_loss_in_pipeline_split"


def chunk_layers(parallel: ParallelConfig, num_layers: int) -> tuple[tuple[int, ...], ...]:
    """Layers of every model chunk: ``[stage][chunk]``.

    Chunk c of stage s comes at place c x PP + s of the whole model.

    Raises:
        LayoutError: the layers do not divide so; a sentence without its full stop.
    """
    pp = parallel.pipeline_model_parallel_size
    vp = parallel.virtual_pipeline_model_parallel_size or 1
    stages = _stage_places(parallel, num_layers)
    for stage, places in enumerate(stages):
        if places % vp:
            raise LayoutError(
                f"pipeline stage {stage} has {places} layers (with what counts as one), which VP {vp} "
                f"does not divide; choose a virtual pipeline size that divides it"
            )
    chunks = [[places // vp] * vp for places in stages]
    if pp > 1 and parallel.account_for_embedding_in_pipeline_split:
        chunks[0][0] -= 1
    if pp > 1 and parallel.account_for_loss_in_pipeline_split:
        chunks[-1][-1] -= 1
    return tuple(tuple(layers) for layers in chunks)


def _stage_places(parallel: ParallelConfig, num_layers: int) -> list[int]:
    """Layers of every stage, the embedding and the head counted where they take a layer's place."""
    pp = parallel.pipeline_model_parallel_size
    first = parallel.num_layers_in_first_pipeline_stage
    last = parallel.num_layers_in_last_pipeline_stage
    counted = {
        EMBEDDING: parallel.account_for_embedding_in_pipeline_split,
        LOSS: parallel.account_for_loss_in_pipeline_split,
    }
    given = [name for name, value in ((FIRST, first), (LAST, last)) if value is not None]
    given += [name for name, value in counted.items() if value]
    if pp == 1:
        if given:
            raise LayoutError(
                f"{given[0]} is set without a pipeline; leave it out or give PP at least 2"
            )
        return [num_layers]
    if first is None and last is None:
        return _even(num_layers, pp, sum(counted.values()), parallel)
    if any(counted.values()):
        raise LayoutError(
            f"{given[0]} says how many layers a stage has, and {given[-1]} has that counted; leave one out"
        )
    return _uneven(num_layers, pp, first, last)


def _even(num_layers: int, pp: int, counted: int, parallel: ParallelConfig) -> list[int]:
    chunks = pp * (parallel.virtual_pipeline_model_parallel_size or 1)
    if (num_layers + counted) % chunks:
        plus = f" + {counted} for embedding or head" if counted else ""
        raise LayoutError(
            f"model.num_layers {num_layers}{plus} is not divisible by PP {pp} x VP {chunks // pp} = "
            f"{chunks}; choose sizes that divide it, or {FIRST} and {LAST}"
        )
    return [(num_layers + counted) // pp] * pp


def _uneven(num_layers: int, pp: int, first: int | None, last: int | None) -> list[int]:
    rest = num_layers - (first or 0) - (last or 0)
    middle = pp - (first is not None) - (last is not None)
    if rest < 0 or (rest > 0) != (middle > 0) or (middle and rest % middle):
        raise LayoutError(
            f"model.num_layers {num_layers} less {first or 0} in the first and {last or 0} in the last "
            f"stage leaves {rest} for {middle} stages; change {FIRST if first else LAST}"
        )
    stages = [rest // middle] * middle if middle else []
    return ([first] if first is not None else []) + stages + ([last] if last is not None else [])
