"""What a generation starts from: prompts, masks to fill, padding and positions, checked.

Shapes: R prompts, P their padded length, B = R x num_return_sequences rows, S = P + max_new_tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .sampling_config import SamplingConfig


@dataclass
class Canvas:
    """The rows before the first step.

    Attributes:
        x_BS: int64, prompt then masks.
        real_BS: bool, False on left padding.
        attention_mask_BS: int64, None where no row is padded.
        position_ids_BS: int64: cumsum(attention_mask) - 1, padded ones 1; None with the mask.
        num_masks_B: int64 on the CPU, positions to fill.
        keys: (prompt number, sample number) of each row, for its random numbers.
        prompt_length: P.
    """

    x_BS: torch.Tensor
    real_BS: torch.Tensor
    attention_mask_BS: torch.Tensor | None
    position_ids_BS: torch.Tensor | None
    num_masks_B: torch.Tensor
    keys: list[tuple[int, int]]
    prompt_length: int


def build_canvas(
    input_ids_RP: torch.Tensor,
    attention_mask_RP: torch.Tensor | None,
    config: SamplingConfig,
    row_ids: Sequence[int] | None = None,
    max_position: int | None = None,
) -> Canvas:
    """Append the masks, repeat for ``num_return_sequences``, check what a caller can get wrong.

    Args:
        input_ids_RP: int64; masks inside are filled too.
        attention_mask_RP: 1 real, 0 padding on the left; None: no padding.
        config: resolved.
        row_ids: number of each prompt among all prompts of the run; default 0, 1, ...
        max_position: longest sequence the model knows.

    Raises:
        ValueError: one sentence.
    """
    _check_ids(input_ids_RP, config)
    prompts, length = input_ids_RP.shape
    size = length + config.max_new_tokens
    if max_position is not None and size > max_position:
        raise ValueError(
            f"prompt of {length} tokens and {config.max_new_tokens} new ones exceed the model's "
            f"{max_position} positions: shorten the prompt or lower max_new_tokens."
        )
    if row_ids is None:
        row_ids = range(prompts)
    if len(row_ids) != prompts:
        raise ValueError(
            f"row_ids has {len(row_ids)} entries for {prompts} prompts: give one each."
        )
    real_RP = _check_padding(input_ids_RP, attention_mask_RP)
    new = (0, config.max_new_tokens)
    pad = torch.nn.functional.pad
    x_BS = pad(input_ids_RP, new, value=config.mask_token_id)
    real_BS = pad(real_RP, new, value=True)
    _check_first(x_BS, real_BS, config)
    copies = config.num_return_sequences
    x_BS, real_BS = x_BS.repeat_interleave(copies, 0), real_BS.repeat_interleave(copies, 0)
    mask_BS, position_BS = None, None
    if not bool(real_BS.all()):
        mask_BS = real_BS.long()
        position_BS = (mask_BS.cumsum(-1) - 1).masked_fill(~real_BS, 1)
    return Canvas(
        x_BS=x_BS,
        real_BS=real_BS,
        attention_mask_BS=mask_BS,
        position_ids_BS=position_BS,
        num_masks_B=((x_BS == config.mask_token_id) & real_BS).sum(-1).cpu(),
        keys=[(int(row), copy) for row in row_ids for copy in range(copies)],
        prompt_length=length,
    )


def pad_left(
    prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts of different lengths as a batch: ids and attention mask, both int64 [R, P]."""
    size = max(map(len, prompts))
    ids = [[pad_id] * (size - len(prompt)) + list(prompt) for prompt in prompts]
    real = [[0] * (size - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(real, device=device)


def _check_ids(input_ids: torch.Tensor, config: SamplingConfig) -> None:
    if input_ids.dim() != 2 or input_ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"input_ids is {input_ids.dtype} {list(input_ids.shape)}: "
            "give whole numbers of shape [rows, tokens]."
        )
    if not input_ids.numel():
        return
    low, high = int(input_ids.min()), int(input_ids.max())
    if low < 0 or (config.num_tokens is not None and high >= config.num_tokens):
        wrong = low if low < 0 else high
        raise ValueError(
            f"input_ids holds {wrong}, which is no token: "
            "check that prompt and model use the same tokenizer."
        )


def _check_padding(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    if attention_mask is None:
        return torch.ones_like(input_ids, dtype=torch.bool)
    if attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask is {list(attention_mask.shape)}, input_ids {list(input_ids.shape)}: "
            "give both the same shape."
        )
    real = attention_mask.to(input_ids.device).bool()
    wrong = (real[:, :-1] & ~real[:, 1:]).any(-1).nonzero()
    if len(wrong):
        raise ValueError(
            f"row {int(wrong[0])} of attention_mask has a 0 after a 1: pad prompts on the left."
        )
    return real


def _check_first(x_BS: torch.Tensor, real_BS: torch.Tensor, config: SamplingConfig) -> None:
    """Nothing predicts a row's first token, so it must be given."""
    if not x_BS.numel():
        return
    first_B1 = real_BS.long().argmax(-1, keepdim=True)
    first_is_mask = (x_BS.gather(-1, first_B1) == config.mask_token_id) & real_BS.any(-1, True)
    if bool(first_is_mask.any()):
        raise ValueError(
            f"row {int(first_is_mask.squeeze(-1).nonzero()[0])} begins with a mask, which nothing "
            "predicts: put a token before it, such as BOS."
        )
