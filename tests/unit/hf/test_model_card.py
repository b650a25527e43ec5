"""The model card repeats what a run notes of its data."""

from megatron_dream.checkpoint.metadata import CheckpointMetadata
from megatron_dream.config.schema import ModelConfig, SourceConfig
from megatron_dream.data.contamination import contamination_of
from megatron_dream.hf.model_card import model_card


def card(**trained: object) -> str:
    metadata = CheckpointMetadata(model={}, trained=trained)
    return model_card(
        metadata, ModelConfig(), {}, name="m", dtype="fp32", fingerprint=None, mask_token_id=None
    )


def test_it_says_whether_the_data_was_decontaminated(tmp_path):
    (tmp_path / "code.json").write_text('{"decontaminated_against": ["HumanEval"]}')
    code = SourceConfig(prefix=str(tmp_path / "code"))
    web = SourceConfig(prefix=str(tmp_path / "web"))  # files from elsewhere
    both, one = contamination_of([code, web]), contamination_of([code])
    assert "| training data | not decontaminated (web) |" in card(**{"training data": both})
    assert "| training data | decontaminated against HumanEval |" in card(**{"training data": one})
    assert str(tmp_path) not in both
