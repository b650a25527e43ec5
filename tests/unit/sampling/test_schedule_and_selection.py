"""How many open, and which: exact values at the borders of each rule."""

import pytest
import torch

from megatron_dream.sampling import SamplingConfig, diffusion_generate
from megatron_dream.sampling.schedule import Schedule
from megatron_dream.sampling.selection import select
from tests.unit.sampling.plain_definition import BOS, MASK, TinyModel


def test_the_last_time_is_eps():
    """With eps 0.5 and 2 steps: times 1, 0.75, 0.5; a quarter opens, then the rest."""
    schedule = Schedule(2, 0.5)
    assert schedule.times.tolist() == [1.0, 0.75, 0.5]
    masked = torch.tensor([100, 7])
    assert schedule.quota(0, masked).tolist() == [25, 1]
    assert schedule.quota(1, masked).tolist() == [100, 7]
    # a longer schedule shows the share of a step in the middle: 1 - 0.7 / 0.8
    assert float(Schedule(5, 0.5).share(2)) == pytest.approx(1 - 0.7 / 0.8, abs=1e-6)


def test_eps_reaches_the_schedule_of_a_generation():
    """Nearly all time is left at eps 0.9: of 10 masks none open before the last of 4 steps."""
    config = SamplingConfig(
        mask_token_id=MASK, max_new_tokens=10, steps=4, eps=0.9, output_history=True
    )
    output = diffusion_generate(TinyModel(), torch.tensor([[BOS]]), config=config)
    assert output.history.steps.tolist() == [3] * 10


def test_the_product_is_rounded_to_float32_before_it_is_cut():
    """Step 52 of 54, 76 masks: 37 by float32, 36 by a wider product of the same two numbers."""
    schedule = Schedule(54, 1e-3)
    assert schedule.quota(52, torch.tensor([76])).tolist() == [37]
    assert int(76 * float(schedule.share(52))) == 36


@pytest.mark.parametrize(
    "changes, confidence, expected",
    [
        # float32's 0.9 is below 0.9 and must count as 0.9
        ({"alg": "threshold", "threshold": 0.9}, [0.9, 0.89, 0.95], [1, 0, 1]),
        ({"alg": "threshold", "threshold": 0.5}, [0.25, 0.5, 0.25], [0, 1, 0]),
        ({"alg": "threshold", "threshold": 0.5}, [0.25, 0.375, 0.125], [0, 1, 0]),
        # (n + 1)(1 - c): 0.5, 1.5, 3
        ({"alg": "factor", "factor": 1.5}, [0.5, 0.75, 0.25], [1, 1, 0]),
        ({"alg": "factor", "factor": 1.4}, [0.5, 0.75, 0.25], [0, 1, 0]),
        ({"alg": "factor", "factor": 0.0}, [0.5, 0.75, 0.25], [0, 1, 0]),
        # the largest n counts, though a smaller one fails: 2 (1 - c) = 1 and 3 (1 - c) = 1.5
        ({"alg": "factor", "factor": 0.5}, [0.5, 0.5, 0.5], [1, 0, 0]),
        # entropies before the last of the prefix: 0, 0.5, 1
        ({"alg": "entropy_bound", "entropy_bound": 0.5}, [-0.5, -0.5, -0.5], [1, 1, 0]),
        ({"alg": "entropy_bound", "entropy_bound": 0.4}, [-0.5, -0.5, -0.5], [1, 0, 0]),
        ({"alg": "entropy_bound", "entropy_bound": 1.0}, [-9.0, -0.25, -0.5], [1, 1, 1]),
    ],
)
def test_adaptive_rules_at_their_borders(changes, confidence, expected):
    """A fourth position, surest of all, is no candidate and changes nothing."""
    config = SamplingConfig(mask_token_id=0, **changes)
    confidence = torch.tensor([[*confidence, 1.0]])
    masked = torch.tensor([[True, True, True, False]])
    for is_last, opened in ((False, [*expected, 0]), (True, [1, 1, 1, 0])):
        found = select(confidence, masked, torch.tensor([0]), None, is_last, config)
        assert found.long().tolist() == [opened]


def test_counted_rules_open_the_surest_from_left_to_right():
    config = SamplingConfig(mask_token_id=0, alg="maskgit_plus")
    confidence = torch.tensor([[0.5, 0.7, 0.5, 0.5], [0.1, 0.2, 0.3, 0.4]])
    masked = torch.tensor([[True, True, True, True], [True, True, False, True]])
    opened = select(confidence, masked, torch.tensor([3, 1]), None, False, config)
    assert opened.long().tolist() == [[1, 1, 1, 0], [0, 0, 0, 1]]
