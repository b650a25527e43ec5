"""Matrix products by oneDNN are those of PyTorch, and are left to it where oneDNN cannot serve."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.sampling import kernels
from megatron_dream.sampling.kernels import MIN_PRODUCTS, Linear, is_served, linear, summed_outer

LARGE = (133, 128, 256)  # rows, inputs, outputs


def product_of(rows: int, inputs: int, outputs: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(rows * 7 + inputs)
    x = torch.randn(rows, inputs, generator=generator)
    weight = torch.randn(outputs, inputs, generator=generator)
    return x, weight, torch.randn(outputs, generator=generator)


@pytest.fixture
def no_onednn() -> Iterator[None]:
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    yield
    torch.backends.mkldnn.enabled = True  # type: ignore[assignment]


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 200),
    st.integers(1, 400),
    st.integers(1, 400),
    st.booleans(),
    st.sampled_from(["as it is", "rows apart", "weight turned", "three dimensions"]),
)
def test_a_product_equals_that_in_double_precision(
    rows: int, inputs: int, outputs: int, has_bias: bool, layout: str
) -> None:
    x, weight, bias = product_of(rows, inputs, outputs)
    if layout == "rows apart":
        x = torch.cat([x, x], dim=1)[:, :inputs]
    elif layout == "weight turned":
        weight = weight.t().contiguous().t()
    elif layout == "three dimensions":
        x = x[None]
    found = linear(x, weight, bias if has_bias else None)
    wanted = torch.nn.functional.linear(
        x.double(), weight.double(), bias.double() if has_bias else None
    )
    assert found.shape == wanted.shape and found.dtype == torch.float32
    assert torch.allclose(found.double(), wanted, rtol=1e-5, atol=1e-4)


def test_large_products_go_to_onednn_and_small_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = kernels._ONEDNN
    assert real is not None
    monkeypatch.setattr(kernels, "_ONEDNN", lambda *inputs: calls.append(1) or real(*inputs))
    x, weight, _ = product_of(*LARGE)
    linear(x, weight)
    assert len(calls) == 1
    linear(x[: MIN_PRODUCTS // weight.numel() - 1], weight)
    assert len(calls) == 1


def test_batches_of_all_sizes_have_few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN keeps what it compiled for a shape."""
    shapes = set()
    real = kernels._ONEDNN

    def noted(x: torch.Tensor, *others: object) -> torch.Tensor:
        shapes.add(x.shape)
        return real(x, *others)

    monkeypatch.setattr(kernels, "_ONEDNN", noted)
    x, weight, _ = product_of(4096, 64, 2048)
    for rows in range(1, 4097, 7):
        linear(x[:rows], weight[:, :64])
    assert 20 < len(shapes) < 60
    assert all(rows % 4 == 0 for rows, _ in shapes)


def test_a_server_compiles_nothing_later(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[torch.Size, torch.Size]] = []
    real = kernels._ONEDNN

    def noted(x: torch.Tensor, weight: torch.Tensor, *others: object) -> torch.Tensor:
        shapes.append((x.shape, weight.shape))
        return real(x, weight, *others)

    monkeypatch.setattr(kernels, "_ONEDNN", noted)
    model = torch.nn.Sequential(Linear(96, 256), Linear(256, 96))
    kernels.compile_for(model, 3000)
    ahead = set(shapes)
    assert len(ahead) == len(shapes) > 30
    with torch.no_grad():
        for rows in range(1, 3001, 13):
            model(torch.zeros(rows, 96))
    assert set(shapes) == ahead


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 300), st.integers(1, 90), st.integers(1, 90))
def test_a_weights_gradient_equals_that_in_double_precision(
    rows: int, inputs: int, outputs: int
) -> None:
    generator = torch.Generator().manual_seed(rows)
    grad = torch.randn(rows, outputs, generator=generator)
    x = torch.randn(rows, inputs, generator=generator)
    found = summed_outer(grad, x)
    torch.testing.assert_close(found.double(), grad.double().t() @ x.double(), rtol=1e-5, atol=1e-4)


def test_gradients_flow_through_a_layer() -> None:
    x, weight, bias = product_of(*LARGE)
    layer = Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    layer(x.requires_grad_()).square().sum().backward()
    assert x.grad is not None and layer.weight.grad is not None
    frozen = layer.requires_grad_(False)(x)
    assert frozen.requires_grad  # an input that wants a gradient gets one through frozen weights
    with torch.no_grad():
        assert torch.allclose(layer(x), frozen, rtol=1e-5, atol=1e-4)


class Quantized(torch.Tensor):
    """A weight that is more than its numbers."""


@pytest.mark.parametrize("what", ["float64", "bfloat16", "autocast", "subclass"])
def test_what_onednn_cannot_serve_is_pytorchs(what: str) -> None:
    x, weight, _ = product_of(*LARGE)
    assert is_served(x, weight)
    if what == "autocast":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not is_served(x, weight)
            assert linear(x, weight).dtype == torch.bfloat16
        return
    if what == "subclass":
        weight = weight.as_subclass(Quantized)
    else:
        x, weight = x.to(getattr(torch, what)), weight.to(getattr(torch, what))
    assert not is_served(x, weight)
    assert torch.equal(linear(x, weight), torch.nn.functional.linear(x, weight))


def test_it_can_be_switched_off(no_onednn: None) -> None:
    x, weight, _ = product_of(*LARGE)
    assert not is_served(x, weight)
    assert torch.equal(linear(x, weight), torch.nn.functional.linear(x, weight))


def test_a_torch_without_the_operator_is_served_by_pytorch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "_ONEDNN", None)
    x, weight, bias = product_of(*LARGE)
    assert torch.equal(linear(x, weight, bias), torch.nn.functional.linear(x, weight, bias))
