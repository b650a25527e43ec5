"""The estimated policy gradient against the exact one, where all responses can be counted.

3 tokens, length 3: a table of 27 logits is the model; its conditional p(token | what stands open) are exact
marginals of that table. For such a model the chain rule gives log p(y) in any order, so that the mean over
masks of (1/t) sum over masked of log p is log p(y) itself, and the estimator's mean is the gradient of the
expected reward. Weight 1/t, times in (0, 1), a response's mean over its 3 tokens times 3.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from megatron_dream.diffusion.noise import NoiseStream
from megatron_dream.rl.objective import (
    aggregated,
    coupled_halves,
    independent_halves,
    policy_loss,
    token_weights,
)

VOCAB, LENGTH = 3, 3
RESPONSES = torch.tensor(list(itertools.product(range(VOCAB), repeat=LENGTH)))
REWARD = torch.tensor([float(a == 1) + float(b == c) for a, b, c in RESPONSES.tolist()])
GROUP = 8


def log_conditionals(table: torch.Tensor) -> torch.Tensor:
    """[27 responses, 8 masks, 3]: log p(token | the unmasked ones), 0 where not masked."""
    log_p = table.log_softmax(0)
    found = torch.zeros(27, 8, LENGTH)
    for bits in range(8):
        masked = [bool(bits >> n & 1) for n in range(LENGTH)]
        kept = [n for n in range(LENGTH) if not masked[n]]
        agrees = (RESPONSES[:, None, kept] == RESPONSES[None, :, kept]).all(-1)  # [27, 27]
        known = torch.logsumexp(log_p.masked_fill(~agrees, -torch.inf), 1)
        for n in range(LENGTH):
            if masked[n]:
                same = agrees & (RESPONSES[:, None, n] == RESPONSES[None, :, n])
                joint = torch.logsumexp(log_p.masked_fill(~same, -torch.inf), 1)
                found[:, bits, n] = joint - known
    return found


def exact_gradient(table: torch.Tensor) -> torch.Tensor:
    table = table.clone().requires_grad_()
    (table.softmax(0) * REWARD).sum().backward()
    assert table.grad is not None
    return table.grad


@pytest.mark.parametrize("draw", [coupled_halves, independent_halves])
def test_the_estimate_is_the_exact_gradient_within_its_error(draw: object) -> None:
    generator = torch.Generator().manual_seed(4)
    table = torch.randn(27, generator=generator, dtype=torch.float64).float()
    noise, estimates = NoiseStream(7, "rl"), []
    jacobian = torch.autograd.functional.jacobian(log_conditionals, table)  # [27, 8, 3, 27]
    mean = (table.softmax(0) * REWARD).sum()
    for step in range(6000):
        drawn = torch.multinomial(table.softmax(0), GROUP, replacement=True, generator=generator)
        halves = draw(noise, step, LENGTH, (0.0, 1.0))  # type: ignore[operator]
        advantage = REWARD[drawn] - mean  # a baseline that the responses do not change
        rows = [(h, g, n) for h in range(2) for g in range(GROUP) for n in range(LENGTH)]
        half, number, place = np.array(rows).T
        weight = np.array([token_weights(halves[h], "inverse_t")[n] for h, _, n in rows])
        kept = weight > 0
        weight, half, number, place = weight[kept], half[kept], number[kept], place[kept]
        total = aggregated(weight, np.zeros_like(half), half, number, "sequence_mean")
        loss = policy_loss(torch.zeros(len(number)), advantage[number])
        bits = [sum(1 << n for n in range(LENGTH) if one.masked_L[n]) for one in halves]
        by_token = jacobian[drawn[number], torch.tensor(bits)[half], place]  # [N, 27]
        slope = torch.from_numpy(total).float() * loss.slope_N
        count = np.bincount(number, minlength=GROUP)[number]  # which the mean was taken over
        estimates.append(-(slope * torch.from_numpy(count) / 2) @ by_token)
    found = torch.stack(estimates)
    error = found.std(0) / len(estimates) ** 0.5
    exact = exact_gradient(table)
    z = (found.mean(0) - exact) / error
    assert (z.abs() < 4.5).all() and z.square().mean() < 2.0, z
    assert error.max() < 0.1 * exact.abs().max()  # or agreement would say nothing
