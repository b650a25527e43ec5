"""From the logits of the positions that may open to a token and a confidence for each.

Order (SPEC 7): forbid, PAD penalty, temperature, top_p, top_k, softmax in fp32, choose, confidence
from these same probabilities. Shapes: N positions of all rows, one after the other; V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from .filters import top_k_filter, top_p_filter, wide_float
from .sampling_config import SamplingConfig

# Positions whose logits are made and worked on at once: bounds memory (256 of 152k words, with the copies
# that choosing makes, are 0.6 GB in fp32), whatever the batch.
ROWS_AT_ONCE = 256

# Which confidence an algorithm orders by.
_CONFIDENCE = {
    "origin": "maskgit_plus",  # for the history only
    "threshold": "maskgit_plus",
    "factor": "maskgit_plus",
    "entropy_bound": "entropy",
}


@dataclass
class Choice:
    """What was chosen at N positions.

    Attributes:
        tokens_N: int64.
        confidence_N: float32, the algorithm's: a probability, a margin, or minus the entropy, nats.
        probability_N: float32, of the chosen token.
    """

    tokens_N: torch.Tensor
    confidence_N: torch.Tensor
    probability_N: torch.Tensor


def choose(
    logits: Iterable[torch.Tensor],
    penalty_N: torch.Tensor | None,
    uniforms_N: torch.Tensor | None,
    config: SamplingConfig,
) -> Choice:
    """Choose a token at every position.

    Args:
        logits: already shifted, any float, [., V] each, one after the other N in all. One part at a time
            is in memory where they are made as they are asked for.
        penalty_N: nats off PAD's logit, float32; None: no penalty.
        uniforms_N: one number in [0, 1) a position; None at temperature 0.
        config: resolved.

    Raises:
        ValueError: the model's logits are not numbers.
    """
    parts, start = [], 0
    for logits_NV in logits:
        here = slice(start, start + len(logits_NV))
        penalty = None if penalty_N is None else penalty_N[here]
        uniforms = None if uniforms_N is None else uniforms_N[here]
        parts.append(_choose_rows(logits_NV, penalty, uniforms, config))
        start = here.stop
    choice = Choice(*(torch.cat(column) for column in zip(*parts, strict=True)))
    if bool(choice.probability_N.isnan().any()):
        raise ValueError("the model's logits hold NaN: check its weights and precision.")
    return choice


def _choose_rows(
    logits_NV: torch.Tensor,
    penalty_N: torch.Tensor | None,
    uniforms_N: torch.Tensor | None,
    config: SamplingConfig,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    temperature = config.temperature or 0.0
    early = None if config.penalty_after_temperature else penalty_N
    late = penalty_N if config.penalty_after_temperature else None
    allowed_NV = _forbid(logits_NV, config)
    scaled_NV = _penalise(allowed_NV, early, config)
    if temperature > 0:
        scaled_NV = scaled_NV / temperature
    scaled_NV = _penalise(scaled_NV, late, config)
    if config.top_p is not None:
        scaled_NV = top_p_filter(scaled_NV, config.top_p)
    if config.top_k:
        scaled_NV = top_k_filter(scaled_NV, config.top_k)
    probs_NV = torch.softmax(scaled_NV, dim=-1)
    if uniforms_N is None:
        tokens_N = probs_NV.argmax(-1)
    else:
        tokens_N = _draw(probs_NV, uniforms_N)
    if config.confidence_from == "raw":
        probs_NV = torch.softmax(_penalise(allowed_NV, penalty_N, config), dim=-1)
    chosen_N = probs_NV.gather(-1, tokens_N[:, None]).squeeze(-1)
    return tokens_N, _confidence(probs_NV, chosen_N, config.alg), chosen_N


def _forbid(logits_NV: torch.Tensor, config: SamplingConfig) -> torch.Tensor:
    """A float32 copy with minus infinity at M, at ids that are no token, and at forbidden ones."""
    logits_NV = logits_NV.to(torch.float32, copy=True)
    vocabulary = logits_NV.shape[-1]
    if config.num_tokens is not None:
        logits_NV[:, config.num_tokens :] = float("-inf")
    for token in (config.mask_token_id, *config.forbidden_token_ids):
        if token is not None and token < vocabulary:
            logits_NV[:, token] = float("-inf")
    return logits_NV


def _penalise(
    logits_NV: torch.Tensor, penalty_N: torch.Tensor | None, config: SamplingConfig
) -> torch.Tensor:
    if penalty_N is None:
        return logits_NV
    logits_NV = logits_NV.clone()
    logits_NV[:, config.pad_token_id] -= penalty_N
    return logits_NV


def _draw(probs_NV: torch.Tensor, uniforms_N: torch.Tensor) -> torch.Tensor:
    """Invert the cumulative distribution, in the order of ids; never a token of probability 0."""
    total_NV = probs_NV.to(wide_float(probs_NV)).cumsum(-1)
    end_N = total_NV[:, -1]
    target_N = uniforms_N.to(total_NV.dtype) * end_N
    target_N = torch.minimum(target_N, torch.nextafter(end_N, torch.zeros_like(end_N)))
    return torch.searchsorted(total_NV, target_N[:, None], right=True).squeeze(-1)


def _confidence(probs_NV: torch.Tensor, chosen_N: torch.Tensor, alg: str) -> torch.Tensor:
    """maskgit_plus: the chosen token's; topk_margin: p1 - p2; entropy: sum p log(p + 1e-10)."""
    kind = _CONFIDENCE.get(alg, alg)
    if kind == "maskgit_plus":
        return chosen_N
    if kind == "topk_margin":
        best_N2 = probs_NV.topk(2, dim=-1).values
        return best_N2[:, 0] - best_N2[:, 1]
    return (probs_NV * torch.log(probs_NV + 1e-10)).sum(-1)
