"""A tiny model whose texts have reasons to appear in different orders, for order_labels.py.

Three kinds of text, told by the first token of the prompt. Nothing says in which order to open them; the
sampler opens what the model is surest of.

    walk        digits that go up by 1 or 2 at each token, a new line after 8 or 9: a token can be
                guessed from the one before it alone
    form        three lines ``if (ddd): f[ddd]`` with digits that nothing tells: all but them is sure
                from the start
    two walks   two lines, each a walk from a digit of the prompt: two ends to go on from
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from megatron_dream.evaluation.order import OrderRecord
from megatron_dream.sampling.generation import diffusion_generate
from megatron_dream.sampling.sampling_config import SamplingConfig
from tests.unit.sampling.tiny_transformer import TinyTransformer

TEXTS = [*(f" {n}" for n in range(10)), "\n", "if", " (", ")", ":", " f", "[", "]"]
NEW_LINE = 10
TEXTS += [*map(str, range(10))]  # digits without a blank before them: 18 to 27
MASK, PAD, BOS, KINDS = 28, 29, 30, (31, 32, 33)
VOCABULARY = 34
LENGTH = 42  # tokens of a text
PROMPT = 4  # BOS, kind, two digits

Draw = np.random.Generator


def walk(draw: Draw) -> tuple[list[int], list[int]]:
    """A prompt's digits and a text."""
    start = int(draw.integers(0, 8))
    digit, text = start, []
    while len(text) < LENGTH:
        if digit >= 8:
            text.append(NEW_LINE)
            digit = int(draw.integers(0, 3))
        else:
            digit += int(draw.integers(1, 3))
        text.append(digit)
    return [start, start], text[:LENGTH]


def form(draw: Draw) -> tuple[list[int], list[int]]:
    """Likewise."""
    text: list[int] = []
    while len(text) < LENGTH:
        digits = (18 + draw.integers(1, 10, 6)).tolist()
        text += [11, 12, *digits[:3], 13, 14, 15, 16, *digits[3:], 17, NEW_LINE]
    return draw.integers(0, 10, 2).tolist(), text[:LENGTH]


def two_walks(draw: Draw) -> tuple[list[int], list[int]]:
    """Likewise."""
    starts = draw.integers(0, 10, 2).tolist()
    text: list[int] = []
    for start, count in zip(starts, (20, 21), strict=True):
        text += ((start + draw.integers(1, 3, count).cumsum()) % 10).tolist()
        text += [NEW_LINE] * (count == 20)
    return starts, text


MAKERS: dict[str, Callable[[Draw], tuple[list[int], list[int]]]] = {
    "walk": walk,
    "form": form,
    "two walks": two_walks,
}


def rows(draw: Draw, count: int) -> np.ndarray:
    """int64 [count, PROMPT + LENGTH], the kinds in turn."""
    found = []
    for number in range(count):
        kind = number % len(KINDS)
        given, text = list(MAKERS.values())[kind](draw)
        found.append([BOS, KINDS[kind], *given, *text])
    return np.array(found)


def trained(steps: int) -> TinyTransformer:
    """Masked diffusion, uniform weight, on fresh texts."""
    model = TinyTransformer(seed=0, vocabulary=VOCABULARY)
    weights = [model.table, model.head, *(w for layer in model.layers for w in layer.values())]
    for weight in weights:
        weight.requires_grad_(True)
    optimizer = torch.optim.Adam(weights, lr=4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    draw = np.random.default_rng(1)
    for _ in range(steps):
        clean = rows(draw, 48)
        is_masked = np.zeros(clean.shape, dtype=bool)
        t = (np.arange(48) + draw.random(48))[draw.permutation(48), None] / 48
        is_masked[:, PROMPT:] = draw.random((48, LENGTH)) < t
        noisy = torch.from_numpy(np.where(is_masked, MASK, clean))
        states = model.sampler_states(noisy, None, None)[:, :-1]
        chosen = torch.from_numpy(is_masked[:, 1:])
        logits = states[chosen] @ model.head
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(clean[:, 1:])[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    for weight in weights:
        weight.requires_grad_(False)
    print(f"toys: loss {loss.item():.3f} after {steps} steps", flush=True)
    return model


def histories(steps: int, each: int) -> dict[str, list[OrderRecord]]:
    """Generations of the product's sampler, ``each`` of every kind, by the surest first."""
    model, draw = trained(steps), np.random.default_rng(2)
    found: dict[str, list[OrderRecord]] = {}
    config = SamplingConfig(
        max_new_tokens=LENGTH,
        steps=LENGTH,
        alg="entropy",
        temperature=1.0,
        seed=0,
        output_history=True,
        mask_token_id=MASK,
        pad_token_id=PAD,
        eos_token_id=PAD,
        bos_token_id=BOS,
        num_tokens=VOCABULARY,
        forbidden_token_ids=(PAD, BOS, *KINDS),
    )
    for kind, (name, maker) in zip(KINDS, MAKERS.items(), strict=True):
        prompts = [[BOS, kind, *maker(draw)[0]] for _ in range(each)]
        output = diffusion_generate(model, torch.tensor(prompts), config=config)
        assert output.history is not None
        steps_of = output.history.opened_step[:, PROMPT:].tolist()
        texts = [[TEXTS[token] for token in row] for row in output.sequences[:, PROMPT:].tolist()]
        settings = {"alg": "entropy", "temperature": 1.0, "max_new_tokens": LENGTH}
        found[name] = [
            OrderRecord("", text, opened, LENGTH, settings=settings, where=f"{name} {n}")
            for n, (text, opened) in enumerate(zip(texts, steps_of, strict=True), start=1)
        ]
    return found
