"""Messages to people, to a real server and a real program."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from megatron_dream.config.load import load_config, to_yaml
from megatron_dream.config.schema import AlertsConfig, RunConfig, SourceConfig
from megatron_dream.config.validate import validate
from megatron_dream.errors import ConfigError
from megatron_dream.training.watch.alerts import Alerts
from tests.webhook import SECRET, Receiver


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    made = Receiver()
    monkeypatch.setenv("HOOK", made.address)
    yield made
    made.close()


def alerts_of(**given: object) -> Alerts:
    return Alerts(AlertsConfig(webhook_variable="HOOK", **given), "run")  # type: ignore[arg-type]


def test_a_webhook_gets_what_the_docs_say(receiver: Receiver, repository_root: Path) -> None:
    alerts = alerts_of()
    assert alerts.send("straggler", "rank 3 is slow", 70, rank=3)
    alerts.close(30)
    (body,) = receiver.bodies
    assert body["text"] == "[run] straggler at step 70: rank 3 is slow"
    assert (body["kind"], body["step"], body["run"]) == ("straggler", 70, "run")
    assert body["facts"] == {"rank": 3}
    documented = (repository_root / "docs" / "runbook.md").read_text(encoding="utf-8")
    for name in body:
        assert f"`{name}`" in documented, name


def test_one_kind_is_told_seldom_and_last_words_always(receiver: Receiver) -> None:
    alerts = alerts_of(min_interval_minutes=60)
    assert [alerts.send("nan", "x") for _ in range(3)] == [True, False, False]
    assert alerts.send("spike", "y"), "another kind"
    assert alerts.send("end", "1") and alerts.send("end", "2")
    alerts.close(30)
    assert [body["kind"] for body in receiver.bodies] == ["nan", "spike", "end", "end"]


def test_only_kinds_that_are_wanted(receiver: Receiver) -> None:
    alerts = alerts_of(kinds=["hang"])
    assert not alerts.send("nan", "x") and alerts.send("hang", "y")
    alerts.close(30)
    assert [body["kind"] for body in receiver.bodies] == ["hang"]


def test_a_receiver_that_hangs_holds_nothing_up(
    receiver: Receiver, capfd: pytest.CaptureFixture[str]
) -> None:
    receiver.may_answer.clear()
    alerts = alerts_of(timeout_seconds=0.3, min_interval_minutes=0)
    began = time.monotonic()
    for _ in range(1000):  # more than the queue holds
        alerts.send("nan", "x")
    assert time.monotonic() - began < 20  # a thousand time-outs would be 300 seconds
    alerts.close(0.1)
    assert time.monotonic() - began < 25
    said = ""
    while "alerts: webhook failed" not in said:  # or else the next test would hear it
        assert time.monotonic() - began < 60
        time.sleep(0.02)
        said += capfd.readouterr().err


@pytest.mark.parametrize("code", [404, 500])
def test_a_failure_is_said_once_without_the_address(
    receiver: Receiver, capfd: pytest.CaptureFixture[str], code: int
) -> None:
    receiver.code = code
    alerts = alerts_of(min_interval_minutes=0)
    alerts.send("nan", "x")
    alerts.send("nan", "y")
    alerts.close(30)
    said = capfd.readouterr().err
    assert len(receiver.bodies) == 2 and said.count("alerts:") == 1
    assert str(code) in said and "s3cr3t" not in said and "127.0.0.1" not in said


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HOOK", f"http://127.0.0.1:9/{SECRET}")
    alerts = alerts_of()
    assert alerts.send("failure", "x")
    alerts.close(30)
    said = capfd.readouterr().err
    assert "webhook failed" in said and "s3cr3t" not in said
    assert not Alerts(AlertsConfig(), "run").send("failure", "x")


def test_a_command_gets_the_message_on_its_input(tmp_path: Path) -> None:
    code = f"import sys; open({str(tmp_path / 'got')!r}, 'w').write(sys.stdin.read())"
    alerts = Alerts(AlertsConfig(command=[sys.executable, "-c", code]), "run")
    alerts.send("disk", "full", 3)
    alerts.close(60)
    assert json.loads((tmp_path / "got").read_text())["message"] == "full"


def test_a_command_that_fails_ends_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    for command in (["/no/such/program"], [sys.executable, "-c", "raise SystemExit(3)"]):
        alerts = Alerts(AlertsConfig(command=command), "run")
        alerts.send("disk", "full")
        alerts.close(60)
        assert "alerts: command" in capfd.readouterr().err


def config_with(**alerts: object) -> RunConfig:
    config = RunConfig(alerts=AlertsConfig(**alerts))  # type: ignore[arg-type]
    config.checkpoint.run_folder = config.tokenizer.path = "x"
    config.training.train_steps, config.data.train = 1, [SourceConfig(prefix="x")]
    return config


def test_an_address_in_the_configuration_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match=r"alerts\.webhook_variable") as refused:
        validate(config_with(webhook_variable=f"https://hooks.example/{SECRET}"))
    assert SECRET not in str(refused.value)
    with pytest.raises(ConfigError, match="nearest one is straggler"):
        validate(config_with(kinds=["stragler"]))


def test_the_variable_must_hold_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOOK", raising=False)
    with pytest.raises(ConfigError, match="HOOK, which is not set"):
        alerts_of()
    monkeypatch.setenv("HOOK", SECRET)
    with pytest.raises(ConfigError, match="no address") as refused:
        alerts_of()
    assert SECRET not in str(refused.value)


def test_the_saved_configuration_has_the_name_alone(receiver: Receiver) -> None:
    config = load_config(None, [("alerts.webhook_variable", "HOOK")])
    assert "HOOK" in to_yaml(config) and SECRET not in to_yaml(config)
