"""megatron-core's GPTModel with the head and loss on masked rows only."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .head import IGNORED_LABEL, HeadOutput, RowLoss, masked_cross_entropy, padded_row_count


def _with_zeros(weights_N: Tensor, num_last: int) -> Tensor:
    """The same with its last ``num_last`` entries 0."""
    if num_last:
        weights_N[weights_N.numel() - num_last :] = 0.0
    return weights_N


@cache
def dream_model_class() -> Any:
    """The model class; made on first use, since megatron-core must be imported through device.py."""
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.tensor_parallel import (
        copy_to_tensor_model_parallel_region,
        gather_from_sequence_parallel_region,
    )

    class DreamGPTModel(GPTModel):
        """GPTModel whose last stage returns a HeadOutput when labels are given.

        ``labels`` [B, S] hold IGNORED_LABEL where no loss is; ``loss_mask`` [B, S] holds fp32
        weights. Without labels it returns logits [B, S, V / TP] as GPTModel does, or, for the
        sampler, the final hidden states [S, B, H] (states.py).

        Attributes:
            real_vocab_size: rows of the table that are tokens.
            head_chunk_rows: rows of logits alive at once.
            head_row_multiple: rows of weight 0 are added up to a multiple of it; 0: none.
            layer_spec: name of its layers.
            has_fused_head: the head's cross-entropy is Liger's (fused_softmax.py).
            returns_states: see above.
            temperature: that logits are divided by before the loss.
            row_loss_of: makes the loss of the rows whose indices [N] into [B x S] it is given
                (head.py); None: the cross-entropy.
        """

        real_vocab_size: int
        head_chunk_rows: int
        layer_spec: str
        head_row_multiple = 0
        has_fused_head = False
        returns_states = False
        temperature = 1.0
        row_loss_of: Callable[[Tensor], RowLoss] | None = None

        def _postprocess(
            self,
            hidden_states: Tensor,
            *args: Any,
            labels: Tensor | None = None,
            loss_mask: Tensor | None = None,
            **kwargs: Any,
        ) -> Any:
            if self.returns_states:
                return hidden_states
            if labels is None or not self.post_process:
                return super()._postprocess(
                    hidden_states, *args, labels=labels, loss_mask=loss_mask, **kwargs
                )
            return self._masked_loss(hidden_states, labels, loss_mask)

        def _masked_loss(
            self, hidden_SBH: Tensor, labels_BS: Tensor, weights_BS: Tensor
        ) -> HeadOutput:
            tp_group = self.pg_collection.tp
            if self.config.sequence_parallel:
                # The backward pass sums the ranks' parts of the gradient while it scatters them.
                hidden_SBH = gather_from_sequence_parallel_region(
                    hidden_SBH, tensor_parallel_output_grad=True, group=tp_group
                )
            labels_SB = labels_BS.t().reshape(-1)
            rows = (labels_SB != IGNORED_LABEL).nonzero().squeeze(1)
            count = rows.numel()
            num_added = padded_row_count(count, self.head_row_multiple) - count
            # The first row stands for them: it is finite, and its loss is multiplied by 0.
            rows = torch.nn.functional.pad(rows, (0, num_added))
            hidden_NH = hidden_SBH.flatten(0, 1).index_select(0, rows)
            if not self.config.sequence_parallel:
                hidden_NH = copy_to_tensor_model_parallel_region(hidden_NH, group=tp_group)
            weight = (
                self.shared_embedding_or_output_weight()
                if self.share_embeddings_and_output_weights
                else self.output_layer.weight
            )
            batch, length = labels_BS.shape
            rows_BS = (rows % batch) * length + rows // batch
            loss_sum, cross_entropy, is_correct = masked_cross_entropy(
                hidden_NH,
                weight,
                labels_SB[rows].clamp(min=0),
                _with_zeros(weights_BS.t().reshape(-1)[rows], num_added),
                vocab_size=self.real_vocab_size,
                first_column=tp_group.rank() * weight.shape[0],
                chunk_rows=min(self.head_chunk_rows, labels_SB.numel()),
                group=tp_group if tp_group.size() > 1 else None,
                has_other_use=self.share_embeddings_and_output_weights and self.pre_process,
                temperature=self.temperature,
                is_fused=self.has_fused_head,
                row_loss=None if self.row_loss_of is None else self.row_loss_of(rows_BS),
            )
            return HeadOutput(loss_sum, cross_entropy[:count], is_correct[:count], rows_BS[:count])

    return DreamGPTModel
