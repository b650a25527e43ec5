"""What may begin from which weights."""

from __future__ import annotations

import dataclasses

import pytest

from megatron_dream.checkpoint.metadata import CheckpointMetadata
from megatron_dream.errors import CheckpointError
from megatron_dream.training.identity import check_initial_weights

HERE = CheckpointMetadata(model={"num_layers": 2}, mask_token_id=7)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shift": False}, "shift is False there and True here; set diffusion.shift: false that"),
        ({"mask_token_id": 8}, "mask_token_id is 8 there and 7 here; use the tokenizer that"),
    ],
)
def test_other_weights_are_refused_with_what_to_do(change: dict[str, object], words: str) -> None:
    saved = dataclasses.replace(HERE, **change)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=words):
        check_initial_weights(saved, HERE, "weights", override=False)
    check_initial_weights(saved, HERE, "weights", override=True)
    with pytest.raises(CheckpointError, match="make the model equal"):
        other = dataclasses.replace(saved, model={"num_layers": 3})
        check_initial_weights(other, HERE, "weights", override=True)
