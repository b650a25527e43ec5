"""SPEC 7, once more, slowly: one row, one position at a time, no shared code.

Also a tiny model whose logits are exact multiples of a grid, hence the same in any batch.
"""

import math

import numpy as np
import torch

VOCABULARY = 24
MASK, PAD, BOS = 20, 21, 22
NUM_TOKENS = 23  # 23 is a padding row of the table


class TinyModel:
    """Random embeddings, both neighbours, the mean over all real positions; rounded float64."""

    def __init__(self, seed=0, grid=1e-3, scale=2.0, vocabulary=VOCABULARY):
        generator = torch.Generator().manual_seed(seed)
        shape = (5, vocabulary, vocabulary)
        self.tables = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
        self.by_position = torch.randn((64, vocabulary), generator=generator).double() * scale
        self.grid = grid
        self.calls = []

    def forward(self, input_ids, attention_mask, position_ids):
        self.calls.append(input_ids.clone())
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1]).expand_as(input_ids)
        own, left, right, mean, other = self.tables
        real = real.double()[..., None]
        width = input_ids.shape[1]
        h = own[input_ids] + self.by_position[position_ids % 64]
        before = (left[input_ids] * real).roll(1, 1)
        before[:, :1] = 0
        after = (right[input_ids] * real).roll(-1, 1)
        after[:, width - 1 :] = 0
        parity = (position_ids % 2 == 0)[..., None]
        pooled = torch.where(parity, mean[input_ids], other[input_ids]) * real
        h = (
            h
            + before
            + after
            + pooled.sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1)
        )
        return (torch.round(h / self.grid) * self.grid).float()


def plain_filter(logits, top_p, top_k):
    """Lists in, lists out."""
    logits = list(logits)
    if top_p is not None and top_p < 1:
        probs = torch.softmax(torch.tensor(logits), -1).tolist()
        order = sorted(range(len(logits)), key=lambda v: (-logits[v], v))
        total, kept = 0.0, []
        for v in order:
            if kept and total > top_p:
                break
            kept.append(v)
            total += probs[v]
        logits = [logits[v] if v in kept else -math.inf for v in range(len(logits))]
    if top_k:
        least = sorted(logits, reverse=True)[min(top_k, len(logits)) - 1]
        logits = [value if value >= least else -math.inf for value in logits]
    return logits


def plain_confidence(probs, token, alg):
    if alg in ("entropy", "entropy_bound"):
        probs = torch.tensor(probs)
        return float((probs * torch.log(probs + 1e-10)).sum())
    if alg == "topk_margin":
        first, second = sorted((np.float32(p) for p in probs), reverse=True)[:2]
        return float(first - second)
    return probs[token]


def plain_count(config, sorted_confidence, quota, is_last):
    n = len(sorted_confidence)
    if is_last:
        return n
    if config.alg == "threshold":
        fits = [c >= np.float32(config.threshold) for c in sorted_confidence]
        return max(1, sum(fits))
    if config.alg == "factor":
        fits = [
            k for k in range(1, n + 1) if (k + 1) * (1 - sorted_confidence[k - 1]) <= config.factor
        ]
        return max([1, *fits])
    if config.alg == "entropy_bound":
        h = [-c for c in sorted_confidence]
        return max([1, *(k for k in range(1, n + 1) if sum(h[: k - 1]) <= config.entropy_bound)])
    return quota


def plain_blocks(config):
    """[(end of the block among the new tokens, its number of steps)], by the definition's words."""
    new, steps = config.max_new_tokens, config.steps
    if not config.block_length or not new:
        return [(new, steps)]
    ends = list(range(config.block_length, new, config.block_length)) + [new]
    shares, done = [], 0
    for number, end in enumerate(ends):
        until = steps * end // new  # the share of the steps, of all blocks so far
        until = max(until, done + 1)
        until = min(until, steps - (len(ends) - 1 - number))
        shares.append((end, until - done))
        done = until
    return shares


def plain_generate(model, prompt, config, logits_of=None):
    """One row, temperature 0, not ``origin``.

    Args:
        logits_of: (x, block's first column, its end, step of the block) to logits [S, V]; default: the
            model on the whole canvas.

    Returns:
        (ids, {position: (step, confidence)})
    """
    config = config.resolved()
    x = list(prompt) + [MASK] * config.max_new_tokens
    canvas = x.count(MASK)
    opened, first, done = {}, len(prompt), 0
    for end, steps in plain_blocks(config):
        block = (first, len(prompt) + end, steps, done)
        _plain_block(model, x, config, canvas, block, opened, logits_of)
        first, done = len(prompt) + end, done + steps
    return x, opened


def _plain_block(model, x, config, canvas, block, opened, logits_of):
    first, end, steps, done = block
    times = torch.linspace(1, config.eps, steps + 1, dtype=torch.float32).numpy()
    for step in range(steps):
        masked = [i for i, token in enumerate(x) if token == MASK and i < end]
        is_last = step == steps - 1
        share = np.float32(1) - times[step + 1] / times[step]
        quota = int(np.float32(len(masked)) * share)
        if not masked:
            break
        if config.alg in ("maskgit_plus", "topk_margin", "entropy") and not quota and not is_last:
            continue
        if logits_of is None:
            logits = model.forward(torch.tensor([x]), None, None)[0]
        else:
            logits = logits_of(x, first, end, step)
        found = []
        for i in masked:
            row = logits[i - 1].clone()
            row[NUM_TOKENS:] = -math.inf
            row[MASK] = -math.inf
            if config.pad_penalty:
                row[PAD] -= (
                    torch.tensor(x.count(MASK) / canvas, dtype=torch.float32) * config.pad_penalty
                )
            raw = torch.softmax(row, -1).tolist()
            kept = plain_filter(row.tolist(), config.top_p, config.top_k)
            probs = torch.softmax(torch.tensor(kept), -1).tolist()
            token = max(range(len(probs)), key=lambda v: (probs[v], -v))
            source = raw if config.confidence_from == "raw" else probs
            found.append((plain_confidence(source, token, config.alg), i, token))
        found.sort(key=lambda entry: (-entry[0], entry[1]))
        count = plain_count(config, [c for c, _, _ in found], quota, is_last)
        for confidence, i, token in found[:count]:
            x[i] = token
            opened[i] = (done + step, confidence)
