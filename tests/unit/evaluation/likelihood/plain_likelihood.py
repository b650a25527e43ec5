"""SPEC 9 once more, slowly: one draw, one token, one order at a time; no shared code but the masks drawn."""

import itertools
import math

import torch

from megatron_dream.evaluation.likelihood.draws import plan_masks


def log_probability(model, ids, position):
    """Of ``ids[position]`` as the model sees it masked with all others that are."""

    def of(masked, mask_id):
        row = [mask_id if i in masked else token for i, token in enumerate(ids)]
        logits = model.forward(torch.tensor([row]), None, None)[0, position - 1].double()
        return float(logits[ids[position]] - torch.logsumexp(logits, -1))

    return of


class Plain:
    """One context and continuation."""

    def __init__(self, model, mask_id, eos_id, context, continuation):
        self.model, self.mask_id = model, mask_id
        self.ids = [*context, *continuation, eos_id]
        self.scored = list(range(max(1, len(context)), len(self.ids) - 1))
        self._known = {}

    def log_p(self, position, masked):
        key = position, frozenset(masked)
        if key not in self._known:
            of = log_probability(self.model, self.ids, position)
            self._known[key] = of(key[1], self.mask_id)
        return self._known[key]

    def order(self, order):
        """log p of opening the scored tokens in this order."""
        masked, total = set(self.scored), 0.0
        for position in order:
            total += self.log_p(position, masked)
            masked.remove(position)
        return total

    def orders(self):
        return [self.order(order) for order in itertools.permutations(self.scored)]

    def bound(self):
        values = self.orders()
        return sum(values) / len(values)

    def exact(self):
        values = self.orders()
        return math.log(sum(map(math.exp, values)) / len(values))

    def chain(self):
        return self.order(self.scored)

    def estimate(self, draws, mc_num, seed, question=0):
        plan = plan_masks(draws, len(self.scored), mc_num, seed, question)
        total = 0.0
        for mask, weight in zip(plan.masks_ML.tolist(), plan.weights_M.tolist(), strict=True):
            masked = {p for p, is_masked in zip(self.scored, mask, strict=True) if is_masked}
            total += weight * sum(self.log_p(position, masked) for position in masked)
        return total
