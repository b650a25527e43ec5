"""FP8 weights: the bound that the module states, the products of a model, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from megatron_dream.sampling.fp8 import (
    E4M3,
    LARGEST,
    Fp8Linear,
    fp8_linear,
    to_fp8,
    use_fp8_weights,
)


def rounding_bound(values_RI: torch.Tensor) -> torch.Tensor:
    """What a number may be off by: a 16th of it, or, near zero, a 1024th of its row's scale."""
    scale_R1 = values_RI.abs().amax(-1, keepdim=True) / LARGEST
    # a little more: the division and the scale are rounded to fp32 themselves
    return torch.maximum(values_RI.abs() / 16, scale_R1 / 1024) * 1.0001


@given(
    seed=st.integers(0, 2**20),
    rows=st.integers(1, 5),
    spread=st.sampled_from([1e-3, 1.0, 30.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
@settings(max_examples=60, deadline=None)
def test_every_number_keeps_the_bound(
    seed: int, rows: int, spread: float, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, 40, generator=generator) * spread
    values = (values * 10 ** (4 * torch.rand(rows, 40, generator=generator) - 3)).to(dtype)
    eighth, scale = to_fp8(values)
    assert eighth.dtype == E4M3 and scale.shape == (rows, 1) and scale.dtype == torch.float32
    back = eighth.double() * scale.double()
    assert bool(((back - values.double()).abs() <= rounding_bound(values.double())).all())
    assert torch.equal(eighth.float().abs().amax(-1), torch.full((rows,), LARGEST))


def test_rows_of_zeros_and_of_one_huge_number() -> None:
    values = torch.zeros(3, 16)
    values[1, 3], values[2, 5] = 3e38, -1e-30
    eighth, scale = to_fp8(values)
    back = eighth.float() * scale
    assert bool(back.isfinite().all()) and bool((back[0] == 0).all())
    assert back[1, 3] == pytest.approx(3e38, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_product_keeps_the_bound(dtype: torch.dtype, has_bias: bool) -> None:
    """|y - y8| <= sum of |x| b(w) + b(x) |w| + b(x) b(w), b the bound of one number, and its own rounding."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 7, 64, generator=generator).to(dtype)
    weight = torch.randn(48, 64, generator=generator) * 0.3
    bias = torch.randn(48, generator=generator).to(dtype) if has_bias else None
    found = fp8_linear(x, *to_fp8(weight), bias)
    assert found.dtype == dtype and found.shape == (2, 7, 48)
    wide, wide_w = x.double(), weight.double()
    wanted = wide @ wide_w.t() + (0 if bias is None else bias.double())
    off_x = rounding_bound(wide.flatten(0, 1)).view_as(wide)
    off_w = rounding_bound(wide_w)
    bound = wide.abs() @ off_w.t() + off_x @ wide_w.abs().t() + off_x @ off_w.t()
    own = {torch.float32: 1e-5, torch.bfloat16: 2**-7}[dtype] * (wanted.abs() + bound)
    error = (found.double() - wanted).abs()
    assert bool((error <= bound + own).all())
    relative = float((error**2).mean().sqrt() / (wanted**2).mean().sqrt())
    assert 0.005 < relative < 0.05  # it is FP8, and works as FP8 does


def test_a_weight_per_output_has_its_own_scale() -> None:
    """One large output must not push the others below what e4m3 can hold."""
    weight = torch.randn(16, 32, generator=torch.Generator().manual_seed(2))
    weight[0] *= 1e6
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(3))
    found, wanted = fp8_linear(x, *to_fp8(weight)), x @ weight.t()
    assert bool(
        ((found - wanted).pow(2).mean(0).sqrt() < 0.12 * wanted.pow(2).mean(0).sqrt()).all()
    )


def layers() -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList(
        [nn.Sequential(nn.Linear(32, 16), nn.SiLU(), nn.Linear(16, 32, bias=False))]
    )


def test_layers_are_put_into_fp8_in_place() -> None:
    model = layers()
    x = torch.randn(5, 32)
    model.requires_grad_(False)
    wanted = model[0](x)
    assert use_fp8_weights(model) == 2
    assert isinstance(model[0][0], Fp8Linear) and not [p for p in model.parameters() if p.dim() > 1]
    found = model[0](x)
    assert float((found - wanted).pow(2).mean().sqrt() / wanted.pow(2).mean().sqrt()) < 0.06
    assert not torch.equal(found, wanted)
    again = model.to(torch.bfloat16)[0](x.bfloat16())
    assert float((again - wanted).pow(2).mean().sqrt() / wanted.pow(2).mean().sqrt()) < 0.08


def test_what_cannot_be_put_into_fp8_is_refused_and_left() -> None:
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 24))
    with pytest.raises(ValueError, match="multiples of 16, but 1 is 32 x 24: leave the weights"):
        use_fp8_weights(model)
    assert isinstance(model[0], nn.Linear)
    with pytest.raises(ValueError, match="no linear layers"):
        use_fp8_weights(nn.SiLU())
