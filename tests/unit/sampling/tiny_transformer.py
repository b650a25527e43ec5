"""A small transformer with rotary grouped-query attention in float64, once fast, once by hand.

``TinyTransformer`` offers what caches need (cache.py: StatesModel). ``PlainCache`` runs the same weights
for one row with lists of keys and values a column, no cache class, no batch: what is kept and what is
written anew is spelled out.
"""

import math

import torch

from megatron_dream.sampling.cache import KeyValueCache

HEADS, GROUPS, SIZE, LAYERS = 4, 2, 6, 2


class TinyTransformer:
    takes_static_cache = True

    def __init__(self, seed=0, vocabulary=24):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(shape, generator=generator, dtype=torch.float64) * 0.5

        hidden = HEADS * SIZE
        self.table = draw(vocabulary, hidden) * 2
        self.layers = [
            {
                "q": draw(hidden, HEADS * SIZE),
                "k": draw(hidden, GROUPS * SIZE),
                "v": draw(hidden, GROUPS * SIZE),
                "o": draw(HEADS * SIZE, hidden),
                "m": draw(hidden, hidden),
            }
            for _ in range(LAYERS)
        ]
        self.head = draw(hidden, vocabulary)
        self.passes = []  # (rows, first column, columns) of each

    def sampler_states(
        self, input_ids_BQ, key_mask_BS, position_ids_BQ, cache=None, start=0, low=0, high=None
    ):
        rows, length = input_ids_BQ.shape
        self.passes.append((rows, start, length))
        if position_ids_BQ is None:
            position_ids_BQ = torch.arange(start, start + length).expand(rows, length)
        cache = cache or KeyValueCache(length)
        if not cache.rows:
            cache.begin(rows, length)
        h = self.table[input_ids_BQ]
        for number, weights in enumerate(self.layers):
            x = normed(h)
            q = rotated((x @ weights["q"]).view(rows, length, HEADS, SIZE), position_ids_BQ)
            k = rotated((x @ weights["k"]).view(rows, length, GROUPS, SIZE), position_ids_BQ)
            v = (x @ weights["v"]).view(rows, length, GROUPS, SIZE)
            k, v = cache.write(number, start, k.transpose(1, 2), v.transpose(1, 2))
            k, v = (one.repeat_interleave(HEADS // GROUPS, dim=1) for one in (k, v))
            scores = q.transpose(1, 2) @ k.transpose(-1, -2) / math.sqrt(SIZE)
            if key_mask_BS is not None:
                scores = scores.masked_fill(~key_mask_BS[:, None, None, :], -math.inf)
            mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(rows, length, -1)
            h = h + mixed @ weights["o"]
            h = h + torch.tanh(normed(h) @ weights["m"])
        return normed(h)[:, low:high]

    def sampler_logits(self, states_NH):
        return (torch.round(states_NH @ self.head / 1e-6) * 1e-6).float()

    def forward(self, input_ids, attention_mask=None, position_ids=None):
        mask = None if attention_mask is None else attention_mask.bool()
        return self.sampler_logits(self.sampler_states(input_ids, mask, position_ids))


def normed(x):
    return x / x.pow(2).mean(-1, keepdim=True).add(1e-6).sqrt()


def rotated(x_BQND, position_ids_BQ):
    rate = 0.1 ** (torch.arange(0, SIZE, 2).double() / SIZE)
    angle = position_ids_BQ[..., None, None].double() * rate
    even, odd = x_BQND[..., 0::2], x_BQND[..., 1::2]
    turned = (even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos())
    return torch.stack(turned, dim=-1).flatten(-2)


class PlainCache:
    """Logits of one row by SPEC 7's words on caches; ``logits_of`` for ``plain_generate``."""

    def __init__(self, model, config, prompt):
        self.model, self.config = model, config.resolved()
        self.has_masks_inside = config.mask_token_id in prompt
        self.prompt_length = len(prompt)
        self.first = self.epoch = None

    def logits_of(self, x, first, end, step):
        epoch = step // self.config.cache_refresh if self.config.cache_refresh else 0
        in_prompt = self.has_masks_inside and first == self.prompt_length
        window = self.config.suffix_window
        size = len(x) if window is None else min(len(x), end + window)
        is_full = self.first != first or self.epoch != epoch or in_prompt
        if is_full:
            self.first, self.epoch = first, epoch
            self.keys = [[None] * size for _ in range(LAYERS)]
            self.values = [[None] * size for _ in range(LAYERS)]
            columns = range(size)
        elif self.config.cache == "prefix":
            columns = range(first - 1, size)
        else:
            columns = range(first - 1, end)
        if self.config.border == "kept" and not is_full:
            columns = columns[1:]
        hidden = self.run(x, columns)
        if is_full:
            self.border = hidden[first - 1]
        hidden.setdefault(first - 1, self.border)
        logits = torch.full((len(x), self.model.head.shape[1]), math.nan)
        for column, state in hidden.items():
            logits[column] = self.model.sampler_logits(state[None])[0]
        return logits

    def run(self, x, columns):
        state = {c: self.model.table[x[c]] for c in columns}
        for number, weights in enumerate(self.model.layers):
            queries = {}
            for c in columns:
                at, n = torch.tensor([[c]]), normed(state[c])
                shape = (1, 1, -1, SIZE)
                queries[c] = rotated((n @ weights["q"]).view(shape), at)[0, 0]
                self.keys[number][c] = rotated((n @ weights["k"]).view(shape), at)[0, 0]
                self.values[number][c] = (n @ weights["v"]).view(-1, SIZE)
            for c in columns:
                mixed = []
                for head in range(HEADS):
                    group = head // (HEADS // GROUPS)
                    keys = torch.stack([k[group] for k in self.keys[number]])
                    values = torch.stack([v[group] for v in self.values[number]])
                    weight = (keys @ queries[c][head] / math.sqrt(SIZE)).softmax(0)
                    mixed.append(weight @ values)
                h = state[c] + torch.cat(mixed) @ weights["o"]
                state[c] = h + torch.tanh(normed(h) @ weights["m"])
        return {c: normed(h) for c, h in state.items()}
