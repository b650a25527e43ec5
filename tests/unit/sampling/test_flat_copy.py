"""The files work beside the remote code of an exported folder: flat, torch and stdlib only."""

import ast
import importlib.util
import re
import shutil
import sys
from pathlib import Path

import torch

import megatron_dream.sampling as sampling
from tests.unit.sampling.plain_definition import BOS, MASK, TinyModel

FOLDER = Path(sampling.__file__).parent
FILES = sorted(path for path in FOLDER.glob("*.py") if path.name != "__init__.py")


def test_imports_are_torch_standard_library_or_flat():
    names = {path.stem for path in FILES}
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                roots = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                roots = {node.module.split(".")[0]}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 1 and node.module in names, path
                continue
            else:
                continue
            assert roots <= sys.stdlib_module_names | {"torch"}, path


def test_remote_code_loader_finds_every_file():
    """transformers follows lines that begin with `from .x import`, from generation.py and infill.py on.

    modeling_dream.py names the others itself.
    """
    found, queue = set(), ["generation", "infill"]
    while queue:
        name = queue.pop()
        if name not in found:
            found.add(name)
            text = (FOLDER / f"{name}.py").read_text()
            queue += re.findall(r"^\s*from\s+\.(\S+)\s+import", text, flags=re.MULTILINE)
    assert found == {path.stem for path in FILES} - {"text", "kernels", "fp8"}


def test_a_flat_copy_generates_the_same(tmp_path):
    package = tmp_path / "exported_folder"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for path in FILES:
        shutil.copy(path, package / path.name)
    spec = importlib.util.spec_from_file_location(
        "exported_folder", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    sys.modules["exported_folder"] = importlib.util.module_from_spec(spec)
    try:
        module = importlib.import_module("exported_folder.generation")
        settings = importlib.import_module("exported_folder.sampling_config")
        choices = dict(mask_token_id=MASK, max_new_tokens=6, temperature=1.0, seed=5)
        prompt = torch.tensor([[BOS, 3]])
        copied = module.diffusion_generate(
            TinyModel(1), prompt, config=settings.SamplingConfig(**choices)
        )
        ours = sampling.diffusion_generate(
            TinyModel(1), prompt, config=sampling.SamplingConfig(**choices)
        )
        assert torch.equal(copied.sequences, ours.sequences)
    finally:
        for name in [name for name in sys.modules if name.startswith("exported_folder")]:
            del sys.modules[name]
