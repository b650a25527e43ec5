"""``megatron-dream serve``: what is refused before a model is loaded."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from megatron_dream.cli import build_parser
from megatron_dream.errors import ConfigError, ModelFolderError
from megatron_dream.serving.command import run_serve
from megatron_dream.serving.limits import Limits


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text("0123456789abcdef\n")
    return path


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"host": "0.0.0.0"}, "--key-file FILE, or --insecure"),
        ({"host": "::"}, "--key-file FILE, or --insecure"),
        ({"max_batch": 0}, "--max-batch is 0"),
        ({"grace": -1}, "--grace is -1"),
        ({"port": 70000}, "--port 70000"),
        ({"host": "256.1.1.1", "insecure": True}, "cannot be listened at"),
    ],
)
def test_refusals(options: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=sentence):
        run_serve(tmp_path, **{"port": 0, **options})


@pytest.mark.parametrize("key", ["", "short", "with a space in between", "ü" * 20])
def test_keys_that_are_none(key_file: Path, key: str) -> None:
    key_file.write_text(key)
    with pytest.raises(ConfigError, match="holds no key"):
        run_serve("model", 0, "0.0.0.0", key_file=key_file)


def test_key_and_insecure_exclude_each_other(key_file: Path) -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        run_serve("model", 0, key_file=key_file, insecure=True)


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="Address already in use"):
            run_serve(tmp_path / "no_model", taken.getsockname()[1])


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="does not exist"):
        run_serve(tmp_path / "none", 0)


def test_help_tells_the_defaults() -> None:
    """They stand in the help in words; this holds them equal."""
    text = build_parser()[1]["serve"].format_help()
    for name in ("max_batch", "max_queue", "max_tokens", "max_steps", "max_choices"):
        assert f"({getattr(Limits, name)})" in " ".join(text.split()), name
