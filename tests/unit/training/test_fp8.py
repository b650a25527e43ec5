"""FP8 history of modules that hold it as Transformer Engine's do; it cannot be installed here."""

from types import SimpleNamespace

import torch
from torch import nn

from megatron_dream.training.faults.fp8 import Fp8History


class StandIn(nn.Module):
    """``fp8_meta`` as in transformer_engine.pytorch.module.base after the first forward pass."""

    def __init__(self, has_history=True):
        super().__init__()
        self.fp8_meta = {"fp8_checkpoint": False, "recipe": object(), "num_gemms": 1}
        if has_history:
            self.begin()

    def begin(self):
        for part in ("scaling_fwd", "scaling_bwd"):
            self.fp8_meta[part] = SimpleNamespace(
                scale=torch.ones(3), amax_history=torch.zeros(4, 3)
            )

    def tensors(self):
        return [
            getattr(self.fp8_meta[part], name)
            for part in ("scaling_fwd", "scaling_bwd")
            for name in ("scale", "amax_history")
        ]

    def step(self, value):
        """In place, as its kernels do: global buffers hold the same tensors."""
        for tensor in self.tensors():
            tensor.add_(value)


def test_a_skipped_update_leaves_no_trace():
    model = nn.Sequential(StandIn(), nn.Linear(2, 2), StandIn())
    history = Fp8History([model])
    for value in (1.0, 2.0):
        history.save()
        model[0].step(value)
        model[2].step(value)
    before = [tensor.clone() for part in (model[0], model[2]) for tensor in part.tensors()]
    live = [tensor for part in (model[0], model[2]) for tensor in part.tensors()]
    history.save()
    model[0].step(float("inf"))
    model[2].step(7.0)
    history.restore()
    for tensor, expected in zip(live, before, strict=True):  # the same tensors, the old values
        assert torch.equal(tensor, expected)


def test_history_that_begins_in_a_bad_step_begins_anew():
    module = StandIn(has_history=False)
    history = Fp8History([module])
    history.save()
    module.begin()
    module.step(5.0)
    history.restore()
    assert torch.equal(module.fp8_meta["scaling_fwd"].scale, torch.ones(3))
    assert torch.equal(module.fp8_meta["scaling_bwd"].amax_history, torch.zeros(4, 3))


def test_reset_is_the_beginning():
    module = StandIn()
    module.step(3.0)
    Fp8History([module]).reset()
    assert torch.equal(module.fp8_meta["scaling_fwd"].amax_history, torch.zeros(4, 3))


def test_recipes_without_history_and_models_without_fp8():
    module = StandIn(has_history=False)
    module.fp8_meta["scaling_fwd"] = SimpleNamespace(recipe="current scaling")
    model = nn.Sequential(module, nn.Linear(2, 2))
    history = Fp8History([model])
    history.save()
    history.restore()
    history.reset()
