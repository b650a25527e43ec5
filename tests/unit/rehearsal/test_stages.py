"""The stages after pretraining: their own data, their own rules, rows of their own lengths."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_dream.config.load import load_config
from megatron_dream.config.schema import RunConfig, SourceConfig
from megatron_dream.data.sft.prepare import prepare_sft
from megatron_dream.errors import UserError
from megatron_dream.rehearsal.command import rehearse
from megatron_dream.rl.problems import RlProblem
from megatron_dream.sandbox import Problem

RECIPES = {"sft": ("dream_coder_7b/sft.yaml", 64), "rl": ("dream_coder_7b/rl.yaml", 64)}


def test_sft_opens_its_samples(
    make_config: Callable[..., RunConfig], run_files: Path, tmp_path: Path
) -> None:
    lines = [json.dumps({"prompt": f"say {n}", "response": f"{n}" * 3}) for n in range(40)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    prepare_sft([tmp_path / "pairs.jsonl"], tmp_path / "pairs", run_files / "t.model", quiet=True)
    config = make_config(training__eval_interval=0, data__valid=[])
    config.data.train = [SourceConfig(str(tmp_path / "pairs"))]
    config.data.sequence_length = 128
    report = rehearse(config, "sft", 16)
    assert report.data is not None and report.data.variable_lengths and report.data.index_hash
    assert [(name, rows) for name, rows, _ in report.data.sources] == [("pairs", 40)]
    config.data.sequence_length = 16
    with pytest.raises(UserError, match=r"pairs has a sample of \d+ tokens"):
        rehearse(config, "sft", 16)


def test_rl_reads_its_problems(make_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    problem = Problem("p", "function", tests="assert f(1) == 2", functions=("f",))
    path = tmp_path / "problems.jsonl"
    path.write_text(RlProblem("p", "function", "Write f.", problem).to_line() + "\n")
    config = make_config(
        training__eval_interval=0, training__global_batch_size=1, data__train=[], data__valid=[],
        rl__problems=[str(path)], rl__prompts_per_step=8, rl__group_size=4,
        rl__max_prompt_length=400, rl__response_length=16,
    )  # fmt: skip
    report = rehearse(config, "rl", 16)
    assert report.problems is not None and report.problems.startswith("1 problems from 1 files")
    assert report.layout.global_batch_size == 64
    assert any("prompts_per_step 8 is below DP 16" in line for line in report.warnings)
    config.rl.ratio = "sequence"
    with pytest.raises(UserError, match="rl.ratio: sequence needs both masks"):
        rehearse(config, "rl", 16)
    config.rl.problems = [str(tmp_path / "gone.jsonl")]
    config.rl.ratio = "token"
    with pytest.raises(UserError, match=r"gone\.jsonl does not exist"):
        rehearse(config, "rl", 16)


@pytest.mark.parametrize("stage", RECIPES)
def test_the_recipes_without_their_files(repository_root: Path, stage: str) -> None:
    """Seven billion parameters, in no memory to speak of."""
    name, size = RECIPES[stage]
    config = load_config(repository_root / "examples" / name)
    report = rehearse(config, stage, size, with_files=False)
    assert report.parameters > 7e9 and len(report.save.by_rank) == size
