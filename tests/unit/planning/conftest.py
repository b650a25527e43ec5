import pytest

from megatron_dream.config.load import load_config


@pytest.fixture(scope="session")
def make_run():
    """A run's configuration; fields as on the command line, with __ for the dot."""

    def make(preset="qwen2.5-coder-7b", **fields):
        base = {
            "model.preset": preset,
            "data.sequence_length": "2048",
            "training.global_batch_size": "768",
            "training.train_steps": "1000",
        }
        base |= {name.replace("__", "."): str(value) for name, value in fields.items()}
        return load_config(None, list(base.items()))

    return make
