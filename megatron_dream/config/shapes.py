"""What multiples FP8 products ask of their shapes: one function for the data path and for the refusal.

A layer's products have M = s b / CP rows (after sequence parallelism's gather; each rank's shard has
M / TP) and hidden, heads, query groups and FFN over TP as columns. Sources, Transformer Engine 2.11:
pytorch/utils.py (assert_dim_for_fp8_exec, of the shard: rows 8, columns 16), common/gemm/cublaslt_gemm.cu
(leading dimensions 16; the weight's gradient has the rows inside, hence rows 16 too), ``is_quantizable``
of the MXFP8 and block quantisers (a shard that is gathered in FP8: 32 and 128 in both directions),
module/base.py (MXFP8 shards in the buffers of tp_comm_overlap: 128).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import gcd, lcm

from megatron_dream.config.schema import ModelConfig, RunConfig


@dataclass(frozen=True)
class Multiples:
    """Of what the sides of FP8 products must be multiples.

    Attributes:
        rows: M of every product.
        columns: input and output widths of every product.
        shard_rows: rows of what sequence parallelism gathers, on each rank.
        shard_columns: its columns.
    """

    rows: int = 1
    columns: int = 1
    shard_rows: int = 1
    shard_columns: int = 1


_BY_RECIPE = {
    "none": Multiples(),
    "delayed": Multiples(16, 16, 8, 16),
    "current": Multiples(16, 16, 8, 16),
    "blockwise": Multiples(16, 16, 128, 128),
    "mxfp8": Multiples(32, 32, 32, 32),
}


@dataclass(frozen=True)
class Requirement:
    """That ``value``, which ``words`` names with its operands, is a multiple of ``multiple``."""

    words: str
    value: int
    multiple: int

    @property
    def is_met(self) -> bool:
        """Whether it holds."""
        return self.value % self.multiple == 0

    def equation(self) -> str:
        """Such as "rows s 100 x b 1 / CP 1 = 100 is 6.25 x 16"."""
        times = f"{self.value / self.multiple:.4f}".rstrip("0").rstrip(".")
        return f"{self.words} = {self.value} is {times} x {self.multiple}"


def multiples_of(recipe: str, *, overlaps: bool = False) -> Multiples:
    """The multiples of a recipe of ``fp8.recipe``; ``overlaps`` is ``parallel.tp_comm_overlap``."""
    asked = _BY_RECIPE[recipe]
    return replace(asked, shard_rows=128) if overlaps and recipe == "mxfp8" else asked


def shape_requirements(
    recipe: str,
    model: ModelConfig,
    *,
    width: int,
    micro_batch_size: int,
    tp: int,
    cp: int,
    sequence_parallel: bool,
    overlaps: bool = False,
) -> Iterator[Requirement]:
    """All that the products of a layer ask of a micro-batch and of the model.

    Args:
        recipe: of ``fp8.recipe``.
        model: resolved.
        width: tokens of a row, whole (s). Must be divisible as the layout asks.
        micro_batch_size: rows (b).
        tp: tensor-parallel size.
        cp: context-parallel size.
        sequence_parallel: whether activations are shards between products.
        overlaps: whether they are gathered during the products.
    """
    asked = multiples_of(recipe, overlaps=overlaps)
    rows = width * micro_batch_size // cp
    words = f"rows s {width} x b {micro_batch_size} / CP {cp}"
    yield Requirement(words, rows, asked.rows)
    yield from (Requirement(name, value, asked.columns) for name, value in _columns(model, tp))
    if sequence_parallel:
        yield Requirement(f"{words} / TP {tp}", rows // tp, asked.shard_rows)
        yield Requirement(
            "gathered columns model.hidden_size", model.hidden_size, asked.shard_columns
        )


def _columns(model: ModelConfig, tp: int) -> Iterator[tuple[str, int]]:
    """Names and widths of the sides of a layer's products that are no rows."""
    head = model.hidden_size // model.num_attention_heads
    heads, groups = model.num_attention_heads, model.num_query_groups
    yield "columns model.hidden_size", model.hidden_size
    yield (
        f"columns of qkv (heads {heads} + 2 x groups {groups}) x {head} / TP {tp}",
        (heads + 2 * groups) * head // tp,
    )
    yield f"columns of attention heads {heads} x {head} / TP {tp}", heads * head // tp
    yield f"columns model.ffn_hidden_size / TP {tp}", model.ffn_hidden_size // tp


def row_unit(config: RunConfig, micro_batch_size: int) -> int:
    """The smallest width of which every multiple meets what the layout and FP8 ask of rows.

    SP cuts a row (or a packed batch) over TP, CP into 2 x CP chunks; FP8 asks s b / CP and, under SP,
    s b / CP / TP to be multiples. ``training.round_widths_to`` counts too.

    Args:
        config: of the run.
        micro_batch_size: b; 1 where the rows of a micro-batch are packed into one.
    """
    parallel = config.parallel
    asked = multiples_of(config.fp8.recipe, overlaps=parallel.tp_comm_overlap)
    tp, cp = parallel.tensor_model_parallel_size, parallel.context_parallel_size
    shards = tp if parallel.sequence_parallel else 1
    unit = shards * (2 * cp if cp > 1 else 1)
    in_rows = lcm(cp * asked.rows, cp * shards * (asked.shard_rows if shards > 1 else 1))
    unit = lcm(unit, in_rows // gcd(in_rows, micro_batch_size))
    return lcm(unit, max(1, config.training.round_widths_to))
