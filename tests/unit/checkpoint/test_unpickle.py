"""A file of a checkpoint that wants to run code is refused, whatever the environment says."""

import pathlib
import pickle

import pytest
import torch

from megatron_dream import device
from megatron_dream.checkpoint.unpickle import check_metadata, restricted_reading
from megatron_dream.errors import CheckpointError


class Attack:
    """Makes a file when it is unpickled."""

    def __init__(self, target: pathlib.Path) -> None:
        self.target = target

    def __reduce__(self):
        return (pathlib.Path.touch, (self.target,))


def test_metadata(tmp_path):
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Attack(tmp_path / "ran")))
    with pytest.raises(CheckpointError, match="malicious or foreign"):
        check_metadata(tmp_path / ".metadata")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("environment", ["0", "1"])
def test_common_state(tmp_path, monkeypatch, environment):
    device.import_megatron()
    from megatron.core.dist_checkpointing.strategies.common import TorchCommonLoadStrategy

    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", environment)
    torch.save({"state": Attack(tmp_path / "ran")}, tmp_path / "common.pt")
    with pytest.raises(CheckpointError, match="no tensor or plain value"), restricted_reading():
        TorchCommonLoadStrategy().load_common(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_plain_values_are_read(tmp_path):
    device.import_megatron()
    from megatron.core.dist_checkpointing.strategies.common import TorchCommonLoadStrategy

    torch.save({"step": 3, "rate": torch.tensor(0.5)}, tmp_path / "common.pt")
    with restricted_reading():
        assert TorchCommonLoadStrategy().load_common(str(tmp_path))["step"] == 3
