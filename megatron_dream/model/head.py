"""Output layer and cross-entropy on the rows that carry loss, in chunks.

Neither all rows nor all logits exist at once: peak memory is one [chunk_rows, V / TP] buffer,
whatever t was drawn. The gradients are computed beside the loss while a chunk's softmax is at hand,
so that the head's matrix product is not repeated in the backward pass.

Let e = exp(logits - max), Z = sum e over the whole vocabulary. Then CE = log Z - (logit[label] -
max) and dCE/dlogits = e / Z - onehot(label) = (e - Z onehot) / Z. The factor w / Z is one number a
row and is put on the small side of both products: grad_h = (w / Z) ((e - Z onehot) W), grad_W = (e
- Z onehot)^T ((w / Z) h).

The table's gradient is the largest tensor of a small model, so each pass over it counts: it goes
from here into data parallelism's gradient buffer at once, in that buffer's precision.

Shapes: N rows with loss, C rows of a chunk, H hidden, V vocabulary rows of this tensor-parallel
    rank.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ..sampling.kernels import linear
from .fused_softmax import fused_statistics

IGNORED_LABEL = -100

# What a row's loss is where it is not the cross-entropy itself: from the cross-entropies [C] of some of
# the N rows, and which of them, to losses [C] and their derivatives by the cross-entropy [C].
RowLoss = Callable[[Tensor, slice], tuple[Tensor, Tensor]]


class HeadOutput(NamedTuple):
    """What the last pipeline stage returns in training.

    ``loss_sum`` alone carries a gradient. The others describe the N rows with loss.
    """

    loss_sum: Tensor  # [] fp32: sum of weight x cross-entropy, or x the rows' own loss
    cross_entropy: Tensor  # [N] fp32, nats
    is_correct: Tensor  # [N] bool: the label has the highest logit
    rows: Tensor  # [N] index into the flattened [B x S] micro-batch


def padded_row_count(count: int, multiple: int) -> int:
    """Rows that the head runs on where ``count`` carry loss: rounded up, so that shapes repeat.

    Args:
        count: rows with loss; none stay none.
        multiple: of which the result is one; 0 or 1: ``count`` itself.
    """
    return count if multiple < 2 else -(-count // multiple) * multiple


class _ChunkStatistics(NamedTuple):
    cross_entropy_C: Tensor
    is_correct_C: Tensor
    normalizer_C: Tensor


def _softmax_statistics(
    logits_CV: Tensor, local_labels_C: Tensor, group: dist.ProcessGroup | None
) -> _ChunkStatistics:
    """Turn ``logits_CV`` into e - Z onehot in place and return the loss of each row.

    ``local_labels_C`` is the label's column on this rank, or -1 where another rank has it.
    """
    top_C = logits_CV.amax(dim=1)
    if group is not None:
        dist.all_reduce(top_C, op=dist.ReduceOp.MAX, group=group)
    logits_CV.sub_(top_C.unsqueeze(1))
    is_here_C = local_labels_C >= 0
    columns_C1 = local_labels_C.clamp(min=0).unsqueeze(1)
    label_logit_C = logits_CV.gather(1, columns_C1).squeeze(1) * is_here_C
    normalizer_C = logits_CV.exp_().sum(dim=1)
    if group is not None:
        sums_2C = torch.stack([normalizer_C, label_logit_C])
        dist.all_reduce(sums_2C, group=group)
        normalizer_C, label_logit_C = sums_2C[0], sums_2C[1]
    logits_CV.scatter_add_(1, columns_C1, (-normalizer_C * is_here_C).unsqueeze(1))
    return _ChunkStatistics(normalizer_C.log() - label_logit_C, label_logit_C == 0, normalizer_C)


class _MaskedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        table_VH: Tensor,
        labels_N: Tensor,
        row_weight_N: Tensor,
        num_columns: int,
        first_column: int,
        chunk_rows: int,
        group: dist.ProcessGroup | None,
        has_other_use: bool,
        row_loss: RowLoss | None,
        temperature: float,
        is_training: bool,
        is_fused: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        num_rows, weight_VH = hidden_NH.shape[0], table_VH[:num_columns]
        # Asked for outside: autograd does not tell in here whether it is on.
        needs_gradient = is_training and any(ctx.needs_input_grad[:2])
        cross_entropy_N = hidden_NH.new_empty(num_rows, dtype=torch.float32)
        loss_sum = cross_entropy_N.new_zeros(())
        is_correct_N = torch.empty(num_rows, dtype=torch.bool, device=hidden_NH.device)
        grad_hidden_NH = torch.empty_like(hidden_NH) if needs_gradient else None
        grad_weight_VH = (
            torch.empty_like(weight_VH, dtype=torch.float32) if needs_gradient else None
        )
        if num_rows == 0 and grad_weight_VH is not None:
            grad_weight_VH.zero_()
        local_labels_N = labels_N - first_column
        elsewhere_N = (local_labels_N < 0) | (local_labels_N >= num_columns)
        local_labels_N = local_labels_N.masked_fill(elsewhere_N, -1)
        for start in range(0, num_rows, chunk_rows):
            rows = slice(start, min(start + chunk_rows, num_rows))
            hidden_CH = hidden_NH[rows]
            logits_CV = linear(hidden_CH, weight_VH).float()
            if temperature != 1.0:
                logits_CV.div_(temperature)
            if is_fused:
                found = fused_statistics(logits_CV, local_labels_N[rows], needs_gradient)
                statistics = _ChunkStatistics(*found, torch.ones_like(found[0]))
            else:
                statistics = _softmax_statistics(logits_CV, local_labels_N[rows], group)
            cross_entropy_N[rows] = statistics.cross_entropy_C
            is_correct_N[rows] = statistics.is_correct_C
            weight_C = row_weight_N[rows]
            if row_loss is None:
                loss_C, slope_C = statistics.cross_entropy_C, weight_C
            else:
                loss_C, slope_C = row_loss(statistics.cross_entropy_C, rows)
                slope_C = slope_C * weight_C
            loss_sum += (loss_C * weight_C).sum()
            if grad_hidden_NH is None or grad_weight_VH is None:
                del logits_CV
                continue
            scale_C1 = (slope_C / statistics.normalizer_C / temperature).unsqueeze(1)
            if hidden_CH.dtype == torch.float32:
                grad_hidden_NH[rows] = scale_C1 * linear(logits_CV, weight_VH.t())
                # Added in place, without a tensor of the table's size in between, which would cost more
                # than linear() saves; beta = 0 ignores what the fresh tensor holds.
                grad_weight_VH.addmm_(
                    logits_CV.t(), scale_C1 * hidden_CH, beta=0.0 if start == 0 else 1.0
                )
            else:
                # Scaled first: (e - Z onehot) / Z lies in [-1, 1], where low precision is at its
                # best.
                grad_logits_CV = logits_CV.mul_(scale_C1).to(hidden_CH.dtype)
                grad_hidden_NH[rows] = grad_logits_CV @ weight_VH
                part_VH = grad_logits_CV.t() @ hidden_CH
                if start == 0:
                    grad_weight_VH.copy_(part_VH)
                else:
                    grad_weight_VH.add_(part_VH)
            del logits_CV  # before the next chunk makes its own
        if needs_gradient:
            ctx.save_for_backward(grad_hidden_NH, grad_weight_VH)
        ctx.table, ctx.has_other_use = table_VH, has_other_use
        ctx.mark_non_differentiable(cross_entropy_N, is_correct_N)
        return loss_sum, cross_entropy_N, is_correct_N

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Any, ...]:
        grad_hidden_NH, grad_weight_VH = ctx.saved_tensors
        upstream = grad_outputs[0]
        grad_hidden = grad_hidden_NH * upstream.to(grad_hidden_NH.dtype)
        grad_table = None
        if ctx.needs_input_grad[1]:
            grad_table = _give_table_gradient(
                ctx.table, grad_weight_VH, upstream, ctx.has_other_use
            )
        return grad_hidden, grad_table, *(None,) * 11


def _give_table_gradient(
    table_VH: Tensor, grad_VH: Tensor, upstream: Tensor, has_other_use: bool
) -> Tensor | None:
    """Add ``upstream * grad_VH`` to the gradient buffer, or return it where there is none.

    With a buffer, autograd must still pass over the parameter, since data parallelism waits for
    that: another use of the table sees to it, or a tensor that nobody reads.
    """
    buffer = getattr(table_VH, "main_grad", None)
    if buffer is None:
        grad_table = torch.zeros_like(table_VH)
        torch.mul(grad_VH, upstream, out=grad_table[: grad_VH.shape[0]])
        return grad_table
    buffer[: grad_VH.shape[0]].add_(grad_VH.mul_(upstream))
    if has_other_use:
        return None
    table_VH.grad_added_to_main_grad = True  # read by megatron-core's hook
    return torch.empty_like(table_VH)


def masked_cross_entropy(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    labels_N: Tensor,
    row_weight_N: Tensor,
    *,
    vocab_size: int,
    first_column: int = 0,
    chunk_rows: int = 256,
    group: dist.ProcessGroup | None = None,
    has_other_use: bool = False,
    row_loss: RowLoss | None = None,
    temperature: float = 1.0,
    is_fused: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted sum of cross-entropies of N rows, without ever holding N x V logits.

    Args:
        hidden_NH: rows to predict from. Its gradient is this rank's part of the sum over the
            vocabulary.
        weight_VH: this rank's rows of the output table, padding rows included. Where it has
            megatron-core's ``main_grad``, its gradient goes there and not to ``grad``.
        labels_N: global token ids.
        row_weight_N: fp32 weight of each row.
        vocab_size: real size; padding rows of the table take no part in the softmax.
        first_column: id of this rank's first row of the table.
        chunk_rows: rows of logits alive at once.
        group: tensor-parallel group, or None where the table is whole.
        has_other_use: the table is this stage's embedding too and gets a gradient from there.
        temperature: that logits are divided by.
        row_loss: what is summed in place of the cross-entropies; None: they themselves.
        is_fused: softmax and cross-entropy by Liger's kernel (fused_softmax.py); the table is whole then.

    Returns:
        (loss sum [] with gradient, cross-entropy [N], is_correct [N]).

    Raises:
        ValueError: is_fused with a tensor-parallel group.
    """
    if is_fused and group is not None:
        raise ValueError(
            "Liger's kernel sees one rank's columns only: give is_fused without a group."
        )
    num_columns = max(0, min(weight_VH.shape[0], vocab_size - first_column))
    return _MaskedCrossEntropy.apply(
        hidden_NH,
        weight_VH,
        labels_N,
        row_weight_N,
        num_columns,
        first_column,
        chunk_rows,
        group,
        has_other_use,
        row_loss,
        temperature,
        torch.is_grad_enabled(),
        is_fused,
    )
