"""What the tiny sweeps stand on: renderings that are right by the judge, recipes and sweeps that load."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from megatron_dream.config.load import load_config
from megatron_dream.config.validate import validate
from megatron_dream.evaluation.sweeps.spec import read_sweep
from megatron_dream.rl.problems import of_line
from megatron_dream.sandbox import Judge, Limits
from megatron_dream.sandbox.formats import program_of, value_of

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "examples" / "tiny" / "sweeps"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"sweeps_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


renderings, make = load("renderings"), load("make")


@pytest.fixture(scope="module")
def rendered() -> Any:
    _, heldout = make.rl_problems.split(0, 62, 1)
    return heldout, renderings.render(heldout)


def test_every_rendering_is_right_by_its_own_tests(rendered: Any) -> None:
    questions, forms = rendered
    counts = {len(found) for found in forms.values()}
    assert len(counts) == 1 and counts.pop() > 45
    by_prompt = {question.prompt: question for question in questions}
    asked, wanted = [], []
    for name in ("function", "stdin"):
        for number, form in enumerate(forms[name]):
            problem = of_line(form.line(number), name).problem
            wrong = by_prompt[form.prompt.removeprefix("print ")].wrong
            wrong = wrong if name == "function" else renderings.script(wrong)
            asked += [(program_of(form.response), problem), (wrong, problem)]
            wanted += [True, False]
    with Judge(1, Limits(cpu=2, wall=20.0), "process") as judge:
        verdicts = [verdict.passed for verdict in judge.verdicts(asked)]
    assert verdicts == wanted
    for number, form in enumerate(forms["output"]):
        assert value_of(form.response) == of_line(form.line(number), "output").wanted()


def test_a_step_is_the_inner_list() -> None:
    program = "def f(xs): return sum([v*3 for v in xs if v>5])"
    assert renderings.inner_value(program, [6, 1, 7]) == [18, 21]
    assert renderings.inner_value("def f(xs): return [v for v in xs]", [1]) is None
    assert renderings.script("def f(n):\n while n>5: n-=3\n return n") == (
        "n=int(input())\nwhile n>5: n-=3\nprint(n)"
    )
    assert renderings.line_of([1, 2]) == "1 2\n" and renderings.line_of("ab") == "ab\n"


@pytest.mark.parametrize("name", make.PARTS[1:])
def test_a_models_recipe_loads_and_validates(name: str) -> None:
    config = load_config(FOLDER / "models" / f"{name}.yaml")
    validate(config, "pretrain" if name == "start" else "sft")
    assert config.model.max_position_embeddings >= 128
    assert config.checkpoint.run_folder == f"work/sweeps/runs/{name}"


def test_the_baseline_has_the_same_flops() -> None:
    base, ar = make.recipe("base"), make.recipe("ar")
    spent = base.training.train_steps * make.flops_of_step(base)
    assert abs(make.equal_steps() * make.flops_of_step(ar) / spent - 1) < 0.002
    assert make.equal_steps() > base.training.train_steps  # its rows are shorter


@pytest.mark.parametrize(
    "name", ["temperature", "penalty", "canvas", "steps", "speed", "renderings"]
)
def test_a_sweep_reads_and_has_cells(name: str) -> None:
    sweep = read_sweep(FOLDER / f"{name}.yaml")
    cells = sweep.kind.cells()
    assert len({cell.key for cell in cells}) == len(cells) >= 12
    assert sweep.note
