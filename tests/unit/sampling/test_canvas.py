"""The rows before the first step, value by value."""

import dataclasses

import torch

from megatron_dream.sampling import SamplingConfig, diffusion_generate
from megatron_dream.sampling.canvas import build_canvas
from tests.unit.sampling.plain_definition import BOS, MASK, TinyModel

CONFIG = SamplingConfig(mask_token_id=MASK, max_new_tokens=2, num_return_sequences=2)
# padding that holds the mask's id: it is padding all the same
PROMPTS = torch.tensor([[MASK, MASK, BOS, MASK], [BOS, 1, 2, 3]])
REAL = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])


def test_left_padding_positions_and_masks():
    canvas = build_canvas(PROMPTS, REAL, CONFIG, row_ids=[5, 9])
    first, second = [MASK, MASK, BOS, MASK, MASK, MASK], [BOS, 1, 2, 3, MASK, MASK]
    assert canvas.x_BS.tolist() == [first, first, second, second]
    assert canvas.keys == [(5, 0), (5, 1), (9, 0), (9, 1)]
    assert canvas.attention_mask_BS.tolist() == [[0, 0, 1, 1, 1, 1]] * 2 + [[1] * 6] * 2
    assert canvas.position_ids_BS.tolist() == [[1, 1, 0, 1, 2, 3]] * 2 + [list(range(6))] * 2
    assert canvas.num_masks_B.tolist() == [3, 3, 2, 2]
    assert canvas.prompt_length == 4


def test_without_padding_the_model_gets_neither_mask_nor_positions():
    for real in (None, torch.ones_like(REAL)):
        canvas = build_canvas(PROMPTS[1:], None if real is None else real[1:], CONFIG)
        assert canvas.attention_mask_BS is None and canvas.position_ids_BS is None


def test_padding_is_never_filled():
    for alg in ("entropy", "origin", "threshold"):
        config = dataclasses.replace(CONFIG, alg=alg, steps=3, seed=0)
        output = diffusion_generate(TinyModel(), PROMPTS, REAL, config=config)
        assert (output.sequences[:2, :2] == MASK).all()
        assert not (output.sequences[:, 2:] == MASK).any()
