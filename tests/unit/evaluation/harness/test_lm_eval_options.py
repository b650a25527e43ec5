"""What lm_eval's tasks ask of a generation, and that its cache is never another evaluation's."""

from pathlib import Path

import pytest

from megatron_dream.errors import ConfigError
from megatron_dream.evaluation.harness import command, lm_eval_tasks
from megatron_dream.evaluation.harness.command import Evaluation
from megatron_dream.evaluation.harness.lm_eval_options import asked_sampling, stops_of
from megatron_dream.evaluation.harness.overlay import Overlay
from megatron_dream.evaluation.harness.scores import Estimate


@pytest.mark.parametrize(
    "options, wanted",
    [
        ({}, {"max_new_tokens": 256}),
        ({"max_gen_toks": 32, "max_tokens": 8}, {"max_new_tokens": 32}),
        ({"max_completion_tokens": 8}, {"max_new_tokens": 8}),
        ({"do_sample": False, "temperature": 0.7, "top_p": 0.9}, {"max_new_tokens": 256}),
        ({"temperature": 0.0, "top_p": 0.9}, {"max_new_tokens": 256}),
        (
            {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 5},
            {"max_new_tokens": 256, "temperature": 0.7, "top_p": 0.9, "top_k": 5},
        ),
        ({"temperature": "0.7"}, {"max_new_tokens": 256, "temperature": 0.7}),
    ],
)
def test_a_tasks_own_sampling(options, wanted):
    assert asked_sampling(options) == wanted


def test_stops():
    assert stops_of({"until": "Q:"}) == ["Q:"]
    assert stops_of({"until": ["Q:", "", "</s>"]}) == ["Q:", "</s>"]
    assert stops_of({}) == stops_of({"until": None}) == []


def test_another_models_answers_are_not_taken_from_the_cache(tmp_path, monkeypatch):
    """lm_eval's cache knows a request by its text alone."""
    asked = []

    def run_lm_eval(overlay, model, tasks, folder, **options):
        asked.append((folder, options["batch_size"], options["model_args"].get("steps")))
        return {tasks[0]: Estimate(0.5, 0.4, 0.6)}

    monkeypatch.setattr(lm_eval_tasks, "run_lm_eval", run_lm_eval)
    monkeypatch.setattr(command, "fingerprint", lambda path: f"content of {path.name}")
    monkeypatch.setattr(Evaluation, "overlay", lambda self: Overlay(Path("python")))

    def measure(model, **options):
        wanted = Evaluation(
            tmp_path / model, "general", "base", tmp_path, tmp_path / "out", **options
        )
        return command._lm_eval(wanted, ["lm_eval:piqa", "lm_eval:gsm8k_cot"])

    assert measure("a", steps=(64,)) == measure("a", steps=(64,))
    assert [(batch, steps) for _, batch, steps in asked[:2]] == [(32, None), (8, 64)]
    with pytest.raises(ConfigError, match="another evaluation"):
        measure("b", steps=(64,))
    with pytest.raises(ConfigError, match="mc_num"):
        measure("a", steps=(64,), mc_num=8)
