"""Options that trade memory for time: contradictions, and what a machine cannot do, in one sentence."""

import sys

import pytest

from megatron_dream import device
from megatron_dream.config.layout import resolve_layout
from megatron_dream.config.load import load_config
from megatron_dream.config.validate import validate
from megatron_dream.errors import ConfigError, LayoutError, MissingDependencyError
from megatron_dream.training.features import check_features

BASE = {
    "model.preset": "tiny",
    "checkpoint.run_folder": "runs/x",
    "tokenizer.path": "t",
    "data.train": "[{prefix: a}]",
    "training.train_steps": "10",
    "training.global_batch_size": "8",
}
AWARE = {"optimizer.use_precision_aware_optimizer": "true"}


def run(**changes):
    return load_config(None, list({**BASE, **changes}.items()))


@pytest.mark.parametrize(
    "changes",
    [
        {"training.recompute": "selective", "training.recompute_modules": "[mlp, layernorm]"},
        {"training.recompute": "full", "training.recompute_method": "block"},
        {**AWARE, "optimizer.exp_avg_dtype": "fp8", "optimizer.exp_avg_sq_dtype": "bf16"},
        {
            **AWARE,
            "optimizer.main_grads_dtype": "bf16",
            "parallel.grad_reduce_in_fp32": "false",
        },
        {"optimizer.optimizer_cpu_offload": "true", "optimizer.optimizer_offload_fraction": "0.5"},
        {"training.offload_modules": "[core_attn, attn_proj]"},
        {"parallel.num_distributed_optimizer_instances": "2"},
    ],
)
def test_what_goes_together(changes):
    validate(run(**changes))


REFUSED = {
    "equal bits of timed kernels": (
        {"training.compile": "on", "training.deterministic": "true"},
        "picks kernels by timing them",
    ),
    "a fused head of a part of the vocabulary": (
        {"training.fused_cross_entropy": "true", "parallel.tensor_model_parallel_size": "2"},
        "needs the whole vocabulary on one rank, and parallel.tensor_model_parallel_size is 2",
    ),
    "no modules": (
        {"training.recompute": "selective", "training.recompute_modules": "[]"},
        "recompute_modules is empty",
    ),
    "a module twice": (
        {"training.recompute": "selective", "training.recompute_modules": "[mlp, mlp]"},
        "names a module twice",
    ),
    "modules of full": (
        {"training.recompute": "full", "training.recompute_modules": "[mlp]"},
        "recompute_modules belongs to",
    ),
    "method of none": ({"training.recompute_method": "block"}, "recompute_method belongs to"),
    "offload what full drops": (
        {"training.recompute": "full", "training.offload_modules": "[core_attn]"},
        "does not keep",
    ),
    "offload half of a pair": ({"training.offload_modules": "[attn_proj]"}, "add core_attn"),
    "types alone": ({"optimizer.exp_avg_dtype": "bf16"}, "only optimizer.use_precision_aware"),
    "aware in fp32": ({**AWARE, "training.precision": "fp32"}, "training.precision to bf16"),
    "aware, not sharded": (
        {**AWARE, "parallel.use_distributed_optimizer": "false"},
        "needs parallel.use_distributed_optimizer",
    ),
    "bf16 gradients kept in fp32": (
        {**AWARE, "optimizer.main_grads_dtype": "bf16"},
        "grad_reduce_in_fp32",
    ),
    "a share of nothing": (
        {"optimizer.optimizer_offload_fraction": "0.5"},
        "belongs to optimizer.optimizer_cpu_offload",
    ),
    "offload SGD": (
        {
            "optimizer.optimizer_cpu_offload": "true",
            "optimizer.optimizer": "sgd",
            "parallel.use_distributed_optimizer": "false",
        },
        "knows only adam",
    ),
    "instances of what is not shared out": (
        {
            "parallel.num_distributed_optimizer_instances": "2",
            "parallel.use_distributed_optimizer": "false",
        },
        "turn it on or give 1",
    ),
    "offload more than all": (
        {"optimizer.optimizer_offload_fraction": "1.5"},
        "above 0 and at most 1",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_contradictions(name):
    changes, match = REFUSED[name]
    with pytest.raises(ConfigError, match=match):
        validate(run(**changes))


def test_instances_must_divide_the_ranks():
    config = run(**{"parallel.num_distributed_optimizer_instances": "3"})
    with pytest.raises(LayoutError, match="3 does not divide DP 4 x CP 1"):
        resolve_layout(config, 4)


def test_fused_norms_have_nothing_to_recompute():
    config = run(
        **{
            "training.recompute": "selective",
            "training.recompute_modules": "[layernorm]",
            "model.layer_spec": "transformer_engine",
        }
    )
    with pytest.raises(LayoutError, match="nothing to recompute"):
        resolve_layout(config, 1)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"optimizer.optimizer_cpu_offload": "true"}, ConfigError, "there is no GPU here"),
        ({"training.offload_modules": "[core_attn]"}, ConfigError, "there is no GPU here"),
        (AWARE, MissingDependencyError, "Transformer Engine's optimizer"),
        ({"training.cuda_graphs": "true"}, ConfigError, "there is no GPU here"),
        ({"fp8.recipe": "current"}, MissingDependencyError, "fp8.recipe current is of"),
        ({"parallel.tp_comm_overlap": "true"}, MissingDependencyError, "do not work here"),
        (
            {"training.fused_cross_entropy": "true"},
            ConfigError,
            "a kernel for GPUs, and there is none",
        ),
        (
            {"training.gradient_accumulation_fusion": "on", "model.layer_spec": "local"},
            MissingDependencyError,
            "apex's fused_weight_gradient_mlp_cuda does not work here",
        ),
        (
            {"training.compile": "on", "model.layer_spec": "transformer_engine"},
            ConfigError,
            "which are fused already",
        ),
    ],
)
def test_what_a_cpu_cannot_do(changes, error, match, monkeypatch):
    monkeypatch.setenv("MEGATRON_DREAM_DEVICE", "cpu")
    with pytest.raises(error, match=match):
        check_features(run(**changes))


def test_a_gpu_can(monkeypatch):
    monkeypatch.setattr(device, "device_type", lambda: "cuda")
    monkeypatch.setattr(device, "has_transformer_engine", lambda: True)
    check_features(run(**AWARE, **{"optimizer.optimizer_cpu_offload": "true"}))
    offload = run(**{"training.offload_modules": "[core_attn]", "model.layer_spec": "local"})
    with pytest.raises(MissingDependencyError, match="Transformer Engine's layers only"):
        check_features(offload)


def test_kernels_by_name_are_missed_before_anything_is_built(monkeypatch):
    monkeypatch.setattr(device, "device_type", lambda: "cuda")
    monkeypatch.setattr(device, "can_compile", lambda: False)
    with pytest.raises(MissingDependencyError, match="finds no Triton"):
        check_features(run(**{"training.compile": "on", "model.layer_spec": "local"}))
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    with pytest.raises(MissingDependencyError, match="needs Liger's kernels"):
        check_features(run(**{"training.fused_cross_entropy": "true"}))
