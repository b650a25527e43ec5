"""The documentation against the code: links, files, tests, verbs, the recipe, the worked example."""

import math
import re
from pathlib import Path

import pytest

from megatron_dream.cli import build_parser
from megatron_dream.config.layout import resolve_layout
from megatron_dream.config.load import load_config
from megatron_dream.config.presets import resolve_model
from megatron_dream.config.schema import DiffusionConfig, ModelConfig
from megatron_dream.config.validate import validate
from megatron_dream.training.throughput import flops_per_token, layer_parameters

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
RECIPE = ROOT / "examples" / "dream_coder_7b" / "pretrain.yaml"
MAY_BE_ABSENT = {"docs/images/page.png"}  # the quickstart's screenshot
LATER = re.compile(r"\blater\b|\bcomes? with\b|\bnot there yet\b")

# SPEC 4: the published weights of the sources
WEIGHTS = {
    "dclm_filtered": 0.17,
    "wikibook": 0.02,
    "finemath": 0.05,
    "openmathinstruct": 0.025,
    "tinygsm": 0.025,
    "tulu": 0.005,
    "natural_reasoning": 0.005,
    "open_coder_anneal": 0.15,
    "stack_v2_smol": 0.40,
    "stack_edu_py": 0.15,
}
# what is published; every other line of the recipe must be marked as ours
PUBLISHED = {"preset", "objective", "weight", "init_from"}


def of_every_page(test):
    return pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])(test)


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)


def code_lines(text: str) -> list[tuple[str, str]]:
    """(code, the line it stands in) of fenced lines and inline spans."""
    found, is_fenced = [], False
    for line in text.splitlines():
        if line.startswith("```"):
            is_fenced = not is_fenced
        elif is_fenced:
            found.append((line, line))
        else:
            found += [(span, line) for span in re.findall(r"`([^`]+)`", line)]
    return found


def anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@of_every_page
def test_links_resolve(page: Path) -> None:
    text = without_code(page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            assert target.startswith("https://"), target
            continue
        name, _, fragment = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if path.is_relative_to(ROOT) and str(path.relative_to(ROOT)) in MAY_BE_ABSENT:
            continue
        assert path.exists(), f"{page.name}: {target}"
        assert not fragment or fragment in anchors(path), f"{page.name}: {target}"


@of_every_page
def test_verbs_exist_or_are_marked_as_later(page: Path) -> None:
    _, verbs = build_parser()
    for code, line in code_lines(page.read_text(encoding="utf-8")):
        for words in re.findall(r"(?:^|[\s/])megatron-dream ([a-z][a-z-]*(?: [a-z]+)?)", code):
            known = words in verbs or words.split()[0] in verbs
            assert known or LATER.search(line), f"{page.name}: megatron-dream {words}"


def test_the_readme_names_every_verb() -> None:
    _, verbs = build_parser()
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [verb for verb in verbs if f"megatron-dream {verb} " not in text]


@of_every_page
def test_files_and_tests_that_are_named_exist(page: Path) -> None:
    tests = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "tests").rglob("*.py"))
    for code, _ in code_lines(page.read_text(encoding="utf-8")):
        for path in re.findall(r"(?<![\w./-])((?:\w+/)+\w+\.(?:py|json|yaml))\b", code):
            places = [ROOT / path, ROOT / "megatron_dream" / path]
            is_written_by_a_run = path.startswith(("docs/results/", "exports/", "work/"))
            assert is_written_by_a_run or any(p.exists() for p in places), f"{page.name}: {path}"
        for name in re.findall(r"::(test_\w+)", code):
            assert f"def {name}(" in tests, f"{page.name}: {name}"


@of_every_page
def test_functions_that_are_named_exist(page: Path) -> None:
    for code, _ in code_lines(page.read_text(encoding="utf-8")):
        match = re.fullmatch(r"((?:\w+/)+\w+\.py): ([\w.]+)", code)
        if match is None:
            continue
        source = (ROOT / "megatron_dream" / match[1]).read_text(encoding="utf-8")
        for name in match[2].split("."):
            assert re.search(rf"(?:def|class) {name}\b", source), f"{page.name}: {code}"


def test_the_recipe_loads_and_validates() -> None:
    config = load_config(RECIPE)
    validate(config, "pretrain")
    for processes in (8, 16, 32, 64, 96):
        assert resolve_layout(config, processes).global_batch_size == 960


def test_the_recipe_is_the_published_one() -> None:
    config = load_config(RECIPE)
    weights = {
        s.prefix.removeprefix("data/").removesuffix("_text"): s.weight for s in config.data.train
    }
    assert weights == WEIGHTS
    assert math.isclose(sum(weights.values()), 1.0)
    tokens = config.training.global_batch_size * config.data.sequence_length
    assert tokens == 1_966_080
    assert config.training.train_steps == math.ceil(322e9 / tokens)
    assert (config.optimizer.lr, config.optimizer.lr_warmup_fraction) == (1e-5, 0.01)
    assert (config.diffusion.weight, config.diffusion.cart_p) == ("cart", 0.1)


def test_every_line_that_is_not_published_is_marked() -> None:
    for line in RECIPE.read_text(encoding="utf-8").splitlines():
        field = re.match(r"\s+(\w+): \S", line)
        if field is None:
            continue
        assert ("# ours" in line) != (field[1] in PUBLISHED), line


def test_the_worked_example_is_what_the_code_computes() -> None:
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    model = resolve_model(ModelConfig(preset="qwen2.5-coder-7b"))

    def number(pattern: str) -> int:
        found = re.search(pattern, text)
        assert found is not None, pattern
        return int(found[1].replace(",", ""))

    assert number(r"a layer\s+=\s+([\d,]+) weights") == layer_parameters(model)
    total = number(r"in all\s+=\s+([\d,]+) FLOP a token")
    assert total == round(flops_per_token(model, DiffusionConfig(), 2048))
    parts = [number(rf"\n    {name}.*=\s+([\d,]+)\n") for name in ("layers", "attention", "head")]
    assert sum(parts) == total
    causal = number(r"needs ([\d,]+) FLOP a token")
    assert causal == round(flops_per_token(model, DiffusionConfig(objective="ar"), 2048))
