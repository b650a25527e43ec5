"""The agent's words and signals, and which ends of a rank it hears of."""

from __future__ import annotations

import signal
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from megatron_dream import exit_codes, under_agent
from megatron_dream.cluster import agent

WORDS = [
    *("--nodes", "2", "--ranks-per-node", "8", "--id", "7_1.0", "--endpoint", "n0:10007"),
    *("--save-seconds", "99", "--logs", "/run/logs", "--", "pretrain", "--config", "c.yaml"),
]


def test_torchrun_knows_the_words_it_is_called_with() -> None:
    from torch.distributed.run import get_args_parser

    options = agent.parse(WORDS)
    words = [*agent.agent_options(options), "-m", "megatron_dream.under_agent", *options.command]
    found = get_args_parser().parse_args(words)
    assert (found.nnodes, found.nproc_per_node, found.rdzv_id) == ("2:2", "8", "7_1.0")
    assert found.shutdown_timeout == 99 and found.log_dir == "/run/logs/agents"
    assert found.training_script == "megatron_dream.under_agent"
    assert found.training_script_args == ["pretrain", "--config", "c.yaml"]


def test_an_absent_or_older_agent_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(agent._MODULES, "nvrx", ("no_such_launcher", "no_such_launcher"))
    assert agent.main(["--agent", "nvrx", *WORDS]) == exit_codes.BAD_INPUT
    assert "pip install 'megatron-dream[ft]'" in capsys.readouterr().err
    from torch.distributed import run

    parser = run.get_args_parser()
    del parser._option_string_actions["--shutdown-timeout"]
    monkeypatch.setattr(run, "get_args_parser", lambda: parser)
    assert agent.main(WORDS) == exit_codes.BAD_INPUT
    assert "does not know --shutdown-timeout=99" in capsys.readouterr().err


@pytest.fixture
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in agent._SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_a_second_signal_does_not_break_the_wait_for_a_save() -> None:
    heard: list[int] = []
    module = types.SimpleNamespace(
        _terminate_process_handler=lambda number, frame: heard.append(number)
    )
    agent.listen_once(module)
    signal.raise_signal(signal.SIGUSR1)
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.raise_signal(number)
    assert heard == [signal.SIGTERM]


def test_the_handler_that_is_wrapped_is_torchs() -> None:
    import importlib

    command_line, multiprocessing = agent._MODULES["torchrun"]
    assert callable(importlib.import_module(command_line).main)
    assert callable(getattr(importlib.import_module(multiprocessing), agent._HANDLER))


@pytest.mark.parametrize(
    ("code", "seen", "written"),
    [
        (exit_codes.DONE, 0, "0\n"),
        (exit_codes.AGAIN, 0, "75\n"),
        (exit_codes.BAD_INPUT, 0, "2\n"),
        (exit_codes.INTERRUPTED, 0, "130\n"),
        (exit_codes.FOUND, 1, None),
        (exit_codes.HANG, exit_codes.HANG, None),
    ],
)
def test_ends_that_no_other_start_would_mend(
    code: int, seen: int, written: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DREAM_LOGS", str(tmp_path))
    monkeypatch.setattr(under_agent, "command", lambda: code)
    assert under_agent.main() == seen
    ended = tmp_path / "ended"
    assert (ended.read_text() if ended.exists() else None) == written


def test_after_the_end_ranks_are_not_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank that failed behind the others' end brings all of them back: they see that it is over."""
    monkeypatch.setenv("DREAM_LOGS", str(tmp_path))
    calls: list[Any] = []
    monkeypatch.setattr(under_agent, "command", lambda: calls.append(1) or exit_codes.AGAIN)
    assert [under_agent.main() for _ in range(2)] == [0, 0]
    assert len(calls) == 1 and (tmp_path / "ended").read_text() == "75\n"


def test_a_rank_that_its_agent_told_to_end_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its peer is gone, so that it fails behind the signal (Watch.__exit__ raises)."""

    def fails() -> int:
        raise SystemExit(exit_codes.AGAIN)

    monkeypatch.setenv("DREAM_LOGS", str(tmp_path))
    monkeypatch.setattr(under_agent, "command", fails)
    with pytest.raises(SystemExit):
        under_agent.main()
    assert not (tmp_path / "ended").exists()
