"""Fields of the GPU path that contradict one another are refused by name, and others pass."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.config.gpu_options import gpu_faults, has_one_width
from megatron_dream.config.load import load_config
from megatron_dream.config.schema import RunConfig
from megatron_dream.config.validate import validate
from megatron_dream.errors import ConfigError

GOOD = (
    ("model.preset", "tiny"),
    ("tokenizer.path", "tokenizer.model"),
    ("data.train", "[{prefix: a}]"),
    ("training.train_steps", "10"),
    ("checkpoint.run_folder", "runs/a"),
)
TP = "parallel.tensor_model_parallel_size"
OVERLAP = {TP: 2, "parallel.sequence_parallel": "true", "parallel.tp_comm_overlap": "true"}
DELAYED = {"fp8.recipe": "delayed"}

REFUSED = {
    "option without recipe": ({"fp8.margin": 1}, "fp8.margin is set and fp8.recipe is none"),
    "fp32": ({**DELAYED, "training.precision": "fp32"}, "set it to bf16"),
    "local": ({**DELAYED, "model.layer_spec": "local"}, "model.layer_spec is local"),
    "history": (
        {"fp8.recipe": "current", "fp8.amax_history": 16},
        "belongs to fp8.recipe: delayed",
    ),
    "bf16 layers": ({**DELAYED, "fp8.last_layers_bf16": 1}, "recipe to current"),
    "ring alone": ({"parallel.cp_comm_type": "p2p"}, "where nothing is sent"),
    "ring of local layers": (
        {
            "parallel.cp_comm_type": "p2p",
            "parallel.context_parallel_size": 2,
            "model.layer_spec": "local",
        },
        "the local attention gathers",
    ),
    "overlap alone": ({"parallel.tp_comm_overlap": "true"}, "TP is 1, sequence_parallel False"),
    "overlap of local layers": ({**OVERLAP, "model.layer_spec": "local"}, "layer_spec is local"),
    "overlap of blocks": ({**OVERLAP, "fp8.recipe": "blockwise"}, "do not take blocks"),
    "graphs of documents": (
        {"training.cuda_graphs": "true", "data.document_masks": "true"},
        "without documents or padding",
    ),
    "graphs and recomputation": (
        {"training.cuda_graphs": "true", "training.recompute": "full"},
        "set training.recompute to none",
    ),
    "graphs and dropout": (
        {"training.cuda_graphs": "true", "model.hidden_dropout": 0.1},
        "one draw of dropout",
    ),
    "widths": (
        {"training.round_widths_to": 48, "data.sequence_length": 64},
        "64 / 48 = 1.33; choose a divisor",
    ),
}
REFUSED_IN_SFT = {
    "overlap": (OVERLAP, "one buffer for one width"),
    "graphs": ({"training.cuda_graphs": "true"}, "records one shape"),
}


def config_of(fields):
    return load_config(None, [*GOOD, *((name, str(value)) for name, value in fields.items())])


@pytest.mark.parametrize("case", REFUSED)
def test_a_contradiction_is_refused(case):
    fields, words = REFUSED[case]
    with pytest.raises(ConfigError) as caught:
        validate(config_of(fields))
    assert words in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize("case", REFUSED_IN_SFT)
def test_what_needs_one_width_is_refused_where_widths_vary(case):
    fields, words = REFUSED_IN_SFT[case]
    with pytest.raises(ConfigError, match=words):
        validate(config_of(fields), "sft")


@pytest.mark.parametrize(
    "width", [{"sft.width": "max"}, {"training.round_widths_to": 512, "data.sequence_length": 512}]
)
def test_one_width_lets_sft_overlap(width):
    validate(config_of({**OVERLAP, **width}), "sft")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"fp8.recipe": "current"}, "rl trains local ones"),
        ({"training.round_widths_to": 64}, "no meaning in rl"),
    ],
)
def test_what_is_not_of_rl(fields, words):
    assert any(words in fault for fault in gpu_faults(config_of(fields), "rl"))


@pytest.mark.parametrize(
    "fields",
    [
        {**DELAYED, "fp8.margin": 1, "fp8.amax_history": 16, "fp8.amax_compute": "most_recent"},
        {"fp8.recipe": "current", "fp8.first_layers_bf16": 1, "fp8.last_layers_bf16": 1},
        {"fp8.recipe": "blockwise", "fp8.format": "hybrid"},
        {"fp8.recipe": "mxfp8"},
        {**OVERLAP, "fp8.recipe": "current"},
        {"training.cuda_graphs": "true"},
        {"parallel.cp_comm_type": "p2p", "parallel.context_parallel_size": 2},
        {"training.round_widths_to": 64, "training.round_head_rows_to": 100},
    ],
)
def test_what_fits_together_passes(fields):
    validate(config_of(fields))


@settings(max_examples=200, deadline=None)
@given(
    stage=st.sampled_from(["pretrain", "sft", "rl"]),
    width=st.sampled_from(["micro_batch", "max"]),
    rounded=st.sampled_from([0, 16, 64]),
    cp=st.sampled_from([1, 2]),
    documents=st.booleans(),
    overlap=st.booleans(),
    graphs=st.booleans(),
)
def test_nothing_that_varies_is_let_through(stage, width, rounded, cp, documents, overlap, graphs):
    """Overlap and graphs pass only where every micro-batch has data.sequence_length tokens a row."""
    config = RunConfig()
    config.data.sequence_length, config.data.document_masks = 64, documents
    config.training.round_widths_to, config.sft.width = rounded, width
    config.parallel.context_parallel_size = cp
    config.parallel.tensor_model_parallel_size, config.parallel.sequence_parallel = 2, True
    config.parallel.tp_comm_overlap, config.training.cuda_graphs = overlap, graphs
    faults = list(gpu_faults(config, stage))
    rows_vary = stage != "pretrain" and rounded < 64 and not (stage == "sft" and width == "max")
    packed_varies = cp > 1 and (documents or stage != "pretrain")
    assert has_one_width(config, stage) == (not rows_vary and not packed_varies)
    if (overlap or graphs) and (rows_vary or packed_varies):
        assert faults
    if graphs and (documents or stage != "pretrain"):
        assert faults
    if not overlap and not graphs:
        assert bool(faults) == (stage == "rl" and rounded > 0)
