"""What a step reports, on numbers small enough to add by hand."""

import pytest
import torch

from megatron_dream.model.head import HeadOutput
from megatron_dream.training.metrics import StepReport, micro_batch_sums


def sums_of(t, cross_entropy, rows, cp_rank=0):
    """Two rows of four positions; ``rows`` are flat positions of the predicted tokens."""
    batch = {
        "labels": torch.zeros(2, 4, dtype=torch.long),
        "flags_full": torch.tensor([[1, 0, 0, 0], [1, 0, 0, 5]], dtype=torch.uint8),
        "t": torch.tensor(t, dtype=torch.float32),
        "source": torch.tensor([1, 0], dtype=torch.int32),
        "num_maskable": torch.tensor([3, 2], dtype=torch.int32),
    }
    values = torch.tensor(cross_entropy)
    output = HeadOutput(values.sum(), values, torch.ones(len(rows)) > 0, torch.tensor(rows))
    num_tokens = torch.tensor(len(rows), dtype=torch.int32)
    return micro_batch_sums(output, batch, num_tokens, num_sources=2, cp_rank=cp_rank, t_min=1e-3)


def test_sums_by_hand():
    report = StepReport.of(sums_of([0.25, 0.75], [1.0, 2.0, 6.0], [0, 1, 5]), ["a", "b"])
    assert (report.rows, report.masked_tokens, report.maskable_tokens) == (2, 3, 5)
    assert report.real_tokens == 7
    assert report.masked_cross_entropy == pytest.approx(3.0)
    assert report.bound_per_token == pytest.approx((3 / 0.25 + 6 / 0.75) / 5)
    by_source = {entry["name"]: entry for entry in report.by_source}
    assert by_source["b"]["masked_tokens"] == 2 and by_source["a"]["cross_entropy"] == 6.0


def test_the_bound_of_a_complement_below_t_min_is_finite():
    report = StepReport.of(sums_of([1e-9, 0.5], [1.0], [0]), ["a", "b"])
    assert report.bound_per_token == pytest.approx(1000 / 5)


def test_whole_rows_are_counted_by_one_context_parallel_rank():
    both = sums_of([0.5, 0.5], [1.0], [0]) + sums_of([0.5, 0.5], [3.0], [1], cp_rank=1)
    report = StepReport.of(both, ["a", "b"])
    assert report.rows == 2 and report.masked_tokens == 2 and report.maskable_tokens == 5
