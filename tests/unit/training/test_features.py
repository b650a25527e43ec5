"""Which device can multiply in FP8 by which recipe; the conditions are Transformer Engine's."""

import pytest

from megatron_dream import device
from megatron_dream.config.schema import RunConfig
from megatron_dream.errors import ConfigError
from megatron_dream.training.features import check_features, why_no_fp8

AMPERE, ADA, HOPPER, BLACKWELL, CONSUMER = (8, 0), (8, 9), (9, 0), (10, 0), (12, 0)
TABLE = [
    ("delayed", AMPERE, (12, 9), "needs compute capability 9.0 (Hopper), or 8.9 (Ada)"),
    ("delayed", ADA, (12, 0), "CUDA 12.1, and this device has 8.9, torch CUDA 12.0"),
    ("current", ADA, (12, 1), None),
    ("current", HOPPER, (12, 0), None),
    ("delayed", CONSUMER, (12, 9), None),
    ("blockwise", ADA, (13, 0), "needs compute capability 9.0 (Hopper) and CUDA 12.9"),
    ("blockwise", HOPPER, (12, 8), "this device has 9.0, torch CUDA 12.8"),
    ("blockwise", HOPPER, (12, 9), None),
    ("blockwise", HOPPER, (12, 10), None),  # a version is no decimal number
    ("mxfp8", HOPPER, (13, 0), "needs compute capability 10.x (Blackwell)"),
    ("mxfp8", BLACKWELL, (12, 9), None),
    ("mxfp8", CONSUMER, (13, 0), "this device has 12.0"),
]


@pytest.mark.parametrize(("recipe", "capability", "cuda", "words"), TABLE)
def test_a_recipe_on_a_device(recipe, capability, cuda, words):
    reason = why_no_fp8(recipe, capability, cuda)
    assert (reason is None) if words is None else (words in reason)


def test_it_is_refused_before_anything_is_built(monkeypatch):
    monkeypatch.setattr(device, "device_type", lambda: "cuda")
    monkeypatch.setattr(device, "compute_capability", lambda: AMPERE)
    monkeypatch.setattr(device, "cuda_version", lambda: (12, 9))
    config = RunConfig()
    config.model.layer_spec, config.fp8.recipe = "transformer_engine", "current"
    with pytest.raises(ConfigError, match="^fp8.recipe current needs compute capability 9.0"):
        check_features(config)
    monkeypatch.setattr(device, "compute_capability", lambda: HOPPER)
    check_features(config)
