"""Initial weights that are the same on every layout.

Each tensor is drawn whole, from a generator keyed by (seed, its global name), and cut to the rank's
part. megatron-core draws in the order in which a rank builds its layers, so that pipeline stages of
one seed would start from other weights than a single process.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..parallel import Ranks


def global_parameters(model: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Parameters of one model chunk under names that count layers over all stages, from 0."""
    offsets = {
        f"decoder.layers.{local}.": f"decoder.layers.{layer.layer_number - 1}."
        for local, layer in enumerate(model.decoder.layers)
    }
    for name, parameter in model.named_parameters():
        prefix = re.match(r"decoder\.layers\.\d+\.", name)
        yield (offsets[prefix[0]] + name[prefix.end() :] if prefix else name), parameter


def _draw(seed: int, name: str, shape: tuple[int, ...], std: float) -> Tensor:
    key = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key, "little"))
    return torch.empty(shape).normal_(0.0, std, generator=generator)


def _standard_deviation(name: str, std: float, num_layers: int) -> float:
    """Outputs of a residual branch start smaller, by sqrt(2 x layers) (GPT-2, Megatron-LM)."""
    is_branch_output = name.endswith(("linear_proj.weight", "linear_fc2.weight"))
    return std / math.sqrt(2 * num_layers) if is_branch_output else std


def _is_tied_copy(name: str, tied: bool) -> bool:
    """Whether this is the last stage's copy of the embedding table."""
    return tied and name == "output_layer.weight"


def initialize_weights(model: Any, *, seed: int, std: float, tp_rank: int, tp_size: int) -> None:
    """Draw the weights of one model chunk: matrices normal, norms one, biases zero.

    Args:
        model: unwrapped GPTModel.
        seed: of the run.
        std: standard deviation of matrices.
        tp_rank: this rank in its tensor-parallel group.
        tp_size: size of that group.
    """
    tied = model.share_embeddings_and_output_weights
    for name, parameter in global_parameters(model):
        if name.endswith("bias"):
            parameter.data.zero_()
            continue
        if parameter.dim() == 1:
            parameter.data.fill_(1.0)
            continue
        source = "embedding.word_embeddings.weight" if _is_tied_copy(name, tied) else name
        spread = _standard_deviation(source, std, model.config.num_layers)
        split = parameter.partition_dim if tp_size > 1 else None  # every matrix is cut
        shape = list(parameter.shape)
        # The table's padding depends on TP: rows are drawn for the real vocabulary, padding is
        # zero.
        rows = model.real_vocab_size if "layers" not in name else None
        if split is not None:
            shape[split] *= tp_size
        whole = _draw(seed, source, (rows, *shape[1:]) if rows else tuple(shape), spread)
        if rows and rows < shape[0]:
            whole = torch.cat([whole, whole.new_zeros(shape[0] - rows, shape[1])])
        if split is not None:
            # Gate and up projections stand in one matrix; each rank holds its part of both.
            halves = whole.chunk(2) if "linear_fc1" in name else (whole,)
            whole = torch.cat([half.chunk(tp_size, dim=split)[tp_rank] for half in halves])
        parameter.data.copy_(whole)


@torch.no_grad()
def set_rows_to_mean(chunks: list[Any], rows: list[int], num_rows: int, ranks: Ranks) -> None:
    """Set rows of the embedding and of the head to the mean of rows 0 .. num_rows - 1.

    For tokens that an autoregressive model never saw, such as the mask (SPEC 4). Every process
    calls this.

    Args:
        chunks: unwrapped model chunks of this process.
        rows: global ids to set.
        num_rows: how many ordinary rows stand before the first special one.
        ranks: this process's place.
    """
    tables = {
        id(parameter): parameter
        for chunk in chunks
        for name, parameter in chunk.named_parameters()
        if name in ("embedding.word_embeddings.weight", "output_layer.weight")
    }
    for table in tables.values():
        first = ranks.tp_rank * table.shape[0]
        mine = max(0, min(num_rows - first, table.shape[0]))
        total = table[:mine].double().sum(dim=0)
        if ranks.tp_size > 1:
            dist.all_reduce(total, group=ranks.tp_group)
        for row in rows:
            if first <= row < first + table.shape[0]:
                table[row - first] = (total / num_rows).to(table.dtype)
