"""``training.deterministic``: what it sets, and what it does not go with."""

import pytest
import torch

from megatron_dream.config.schema import TrainingConfig
from megatron_dream.errors import ConfigError
from megatron_dream.training.determinism import SWITCHES, set_determinism


@pytest.fixture(autouse=True)
def as_before():
    """The switch of the whole process goes back."""
    yield
    torch.use_deterministic_algorithms(False)


def test_without_it_nothing_is_set():
    environment = {}
    set_determinism(TrainingConfig(), environment)
    assert not environment and not torch.are_deterministic_algorithms_enabled()


def test_every_switch_is_set_and_a_persons_own_choice_stays():
    environment = {"NCCL_ALGO": "Tree"}
    set_determinism(TrainingConfig(deterministic=True), environment)
    assert torch.are_deterministic_algorithms_enabled()
    assert set(environment) == set(SWITCHES) and environment["NCCL_ALGO"] == "Tree"
    assert environment["NVTE_ALLOW_NONDETERMINISTIC_ALGO"] == "0"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NVTE_ALLOW_NONDETERMINISTIC_ALGO", "1"),
        ("NCCL_ALGO", "NVLS"),
        ("CUBLAS_WORKSPACE_CONFIG", ":0:0"),
        ("FLASH_ATTENTION_DETERMINISTIC", "0"),
    ],
)
def test_an_environment_that_contradicts_is_refused(name, value):
    with pytest.raises(ConfigError, match=f"{name} .* it is {value} in the environment; unset it"):
        set_determinism(TrainingConfig(deterministic=True), {name: value})
