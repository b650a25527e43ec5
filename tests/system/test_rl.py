"""``rl`` as a user types it, on a model that knows two answers to each prompt: rewards, faults, resuming."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from megatron_dream.tokenizer.load import load_tokenizer
from tests.warm import WarmStarter, environment

Command = Callable[..., Any]
WORDS = (
    "1",
    "2",
    "3",
    "4",
    "5",
    "6",
)  # of one token each: the canvas of the start is that of rollouts
CANVAS = 36
STEPS = 4


def program(number: int, sign: str) -> str:
    return f"```python\ndef f(x): return x {sign} {number}\n```"


@pytest.fixture(scope="module")
def start(token_data: Path, tmp_path_factory: pytest.TempPathFactory, run_command: Command) -> Path:
    """A folder with a checkpoint ``start/run`` that answers right or wrong, and problems ``rl.jsonl``."""
    folder, draw = tmp_path_factory.mktemp("rl"), random.Random(0)
    with open(folder / "a.jsonl", "w") as stream:
        for n in range(192):
            number = n % len(WORDS)
            answer = program(number + 1, draw.choice("+-"))
            stream.write(json.dumps({"prompt": f"add {WORDS[number]}", "response": answer}) + "\n")
    run_command(
        "prepare-sft", "--input", str(folder / "a.jsonl"), "--output-prefix", str(folder / "a"),
        "--tokenizer", str(token_data / "t.model"), "--template", "none",
        "--skip-rule", "exact_duplicate", "repetition",
    )  # fmt: skip
    config = base_config(token_data, folder / "start")
    prompt_length = len(load_tokenizer(token_data / "t.model").encode("add 1"))
    config["data"] = {
        "train": [{"prefix": str(folder / "a")}],
        "sequence_length": 1 + prompt_length + CANVAS,
        "num_workers": 0,
        "cache_folder": str(folder / "cache"),
    }
    config["sft"] = {"truncation": "off", "pad": "max"}
    config["diffusion"] = {"weight": "cart"}
    config["optimizer"] = {"lr": 6e-3, "lr_warmup_fraction": 0.1}
    config["training"] |= {"train_steps": 500, "micro_batch_size": 32, "global_batch_size": 32}
    (folder / "sft.yaml").write_text(yaml.safe_dump(config))
    run_command("sft", "--config", str(folder / "sft.yaml"))
    write_problems(folder / "rl.jsonl", lambda n: f"assert f(0) == {n}\nassert f(7) == {7 + n}")
    write_problems(folder / "hopeless.jsonl", lambda n: "assert f(0) is None")
    return folder


def write_problems(path: Path, tests: Callable[[int], str]) -> None:
    with open(path, "w") as stream:
        for number, word in enumerate(WORDS, 1):
            inner = {"task_id": word, "prompt": "", "entry_point": "f", "test": tests(number)}
            line = {"id": word, "kind": "function", "prompt": f"add {word}", "problem": inner}
            stream.write(json.dumps(line) + "\n")


def base_config(token_data: Path, run: Path) -> dict[str, Any]:
    return {
        "model": {
            "num_layers": 2,
            "hidden_size": 64,
            "num_attention_heads": 4,
            "num_query_groups": 2,
            "ffn_hidden_size": 128,
            "rotary_base": 1000.0,
            "tie_word_embeddings": True,
        },
        "tokenizer": {"path": str(token_data / "t.model")},
        "training": {"precision": "fp32"},
        "checkpoint": {"run_folder": str(run)},
    }


@pytest.fixture
def rl_config(start: Path, token_data: Path, tmp_path: Path) -> Path:
    config = base_config(token_data, tmp_path / "run")
    config["rl"] = {
        "problems": [str(start / "rl.jsonl")],
        "valid": [str(start / "rl.jsonl")],
        "template": "none",
        "prompts_per_step": 4,
        "group_size": 6,
        "max_prompt_length": 12,
        "response_length": CANVAS,
        "alg": "entropy",
        "block_length": 0,
        "cache": "none",
        "top_p": 1.0,
        "rollout_rows": 12,
    }
    config["optimizer"] = {"lr": 5e-4, "lr_decay_style": "constant", "lr_warmup_fraction": 0.0}
    config["training"] |= {"train_steps": STEPS, "micro_batch_size": 12, "eval_interval": 4}
    config["training"]["eval_samples"] = 6
    config["checkpoint"] |= {"init_from": str(start / "start"), "save_interval": 2}
    path = tmp_path / "rl.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = (run / "log.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def samples(run: Path, step: int) -> list[dict[str, Any]]:
    lines = (run / "samples" / f"step-{step:08d}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines[1:]]


def patched(code: str, config: Path, *words: str) -> str:
    """A script that is ``megatron-dream rl`` after ``code``."""
    call = ["rl", "--config", str(config), *words]
    return (
        "import os, signal, sys\n"
        "from megatron_dream.rl import asking, loop\n"
        f"{code}\n"
        "from megatron_dream.cli import main\n"
        f"sys.exit(main({call!r}))\n"
    )


def test_a_run_judges_its_own_responses(rl_config: Path, run_command: Command) -> None:
    run_command("rl", "--config", str(rl_config))
    run = rl_config.parent / "run"
    steps = events(run, "step")
    assert [event["step"] for event in steps] == [1, 2, 3, 4]
    num_right = 0
    for number, event in enumerate(steps):
        made = samples(run, number)
        assert len(made) == 4 * 6
        num_right += sum(one["reward"] == 1.0 for one in made)
        for one in made:  # the judge is right about programs that can be judged by looking
            right = program(WORDS.index(one["problem"]) + 1, "+").strip()
            if one["text"].strip() == right:
                assert one["reward"] == 1.0
            if one["reward"] == 1.0:
                assert one["outcome"] == "passed" and "```" in one["text"]
            assert len(one["tokens"]) == len(one["opened"]) == CANVAS
        assert event["solve_mean"] == pytest.approx(sum(one["reward"] for one in made) / 24)
        assert event["solve_none"] + event["solve_all"] + event["solve_partial"] == pytest.approx(1)
        if event["informative_share"]:
            assert len(event["updates"]) == 2 and event["updates"][0]["ratio"] == 1.0
            assert event["substituted"] == round(4 * (1 - event["informative_share"]))
    assert num_right  # or nothing above was shown
    taught = [event for event in steps if event["informative_share"]]
    phases = {"rollout", "judge", "old_log_probabilities", "update"}
    assert set(taught[0]["seconds_by_phase"]) == phases
    (valid,) = events(run, "validation")
    assert 0.0 <= valid["solve_mean"] <= 1.0 and valid["problems"] == 6


def test_hopeless_problems_leave_the_weights_alone(
    rl_config: Path, start: Path, run_command: Command
) -> None:
    config = yaml.safe_load(rl_config.read_text())
    config["rl"]["problems"] = [str(start / "hopeless.jsonl")]
    config["training"]["train_steps"] = 2
    rl_config.write_text(yaml.safe_dump(config))
    run_command("rl", "--config", str(rl_config))
    run = rl_config.parent / "run"
    heads = [
        json.loads((run / "samples" / f"step-{step:08d}.jsonl").read_text().splitlines()[0])
        for step in range(2)
    ]
    assert heads[0]["weights"] == heads[1]["weights"]
    assert [event["skipped_steps"] for event in events(run, "step")] == [1, 2]
    assert len([e for e in events(run, "fault") if "no group" in e["message"]]) == 2
    # The checkpoint is of an optimizer that made no step; the run goes on from it.
    run_command("rl", "--config", str(rl_config), "--training.train_steps", "3")
    assert [event["skipped_steps"] for event in events(run, "step")] == [1, 2, 3]


def test_a_killed_sandbox_costs_no_sample(rl_config: Path, warm: WarmStarter) -> None:
    """Its servers are killed with programs in them: judged again, by new ones."""
    code = (
        "hand_in, calls = asking.Asking._hand_in, []\n"
        "def killing(self, *arguments):\n"
        "    yield from hand_in(self, *arguments)\n"
        "    calls.append(1)\n"
        "    if len(calls) in (3, 9):\n"
        "        for slot in self.grader._judge._all:\n"
        "            for server in list(slot._servers.values()):\n"
        "                server.process.kill()\n"
        "asking.Asking._hand_in = killing\n"
    )
    done = warm.run_code(patched(code, rl_config, "--training.train_steps", "1"))
    assert done.returncode == 0, done.stderr
    (event,) = events(rl_config.parent / "run", "step")
    assert event["infrastructure_errors"] == 0 and sum(event["outcomes"].values()) == 24


def test_a_sandbox_that_stays_dead_stops_the_run(rl_config: Path, warm: WarmStarter) -> None:
    code = (
        "from megatron_dream.sandbox import judge, slot, Verdict, Outcome\n"
        "slot.Slot.judge = lambda *a: Verdict(Outcome.INFRASTRUCTURE, detail='it is gone')\n"
    )
    done = warm.run_code(patched(code, rl_config, "--training.train_steps", "1"))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "judgements failed" in done.stderr and "it is gone" in done.stderr
    assert "rl.max_infrastructure_share" in done.stderr
    again = warm.run_code(patched("", rl_config, "--training.train_steps", "1"))
    assert again.returncode == 0, again.stderr  # the sandbox is mended: judged anew
    assert "judged before" not in again.stderr


def test_rewards_that_are_no_numbers_are_no_rewards(rl_config: Path, warm: WarmStarter) -> None:
    code = (
        "reward_of, calls = asking.reward_of, []\n"
        "def odd(outcome):\n"
        "    calls.append(1)\n"
        "    return float('nan') if len(calls) in (2, 5) else reward_of(outcome)\n"
        "asking.reward_of = odd\n"
    )
    done = warm.run_code(patched(code, rl_config, "--training.train_steps", "1"))
    assert done.returncode == 0, done.stderr
    (event,) = events(rl_config.parent / "run", "step")
    assert event["infrastructure_errors"] == 2 and event["gradient_is_finite"]
    assert event["solve_mean"] == event["solve_mean"]


def test_bad_updates_send_the_run_back_without_their_problems(
    rl_config: Path, warm: WarmStarter
) -> None:
    """NaN in both updates of the step that asks ordinals 8 to 11; the disk takes no samples meanwhile."""
    code = (
        "from megatron_dream.training import loop as base\n"
        "norm = base.gradient_norm\n"
        "def bad(optimizer):\n"
        "    return float('nan') if loop.RlLoop.now._ordinals()[0] == 8 else norm(optimizer)\n"
        "base.gradient_norm = bad\n"
        "step, write = loop.RlLoop._one_step, loop.write_samples\n"
        "def one_step(self):\n"
        "    loop.RlLoop.now = self\n"
        "    step(self)\n"
        "def full(path, head, samples):\n"
        "    if loop.RlLoop.now._ordinals()[0] == 8: raise OSError(28, 'No space left on device')\n"
        "    write(path, head, samples)\n"
        "loop.RlLoop._one_step, loop.write_samples = one_step, full\n"
    )
    words = ["--faults.patience", "1", "--faults.rollback_extra_steps", "0"]
    done = warm.run_code(patched(code, rl_config, *words))
    assert done.returncode == 0, done.stderr
    run = rl_config.parent / "run"
    faults = events(run, "fault")
    assert [e["kind"] for e in faults if e["kind"] != "empty_batch"] == [
        "samples_lost", "not_finite", "not_finite", "rollback",
    ]  # fmt: skip
    assert "step_00000002" in faults[-1]["message"] and "[[8, 12]]" in faults[-1]["message"]
    assert [event["step"] for event in events(run, "step")] == [1, 2, 3, 3, 4]
    head = json.loads((run / "samples" / "step-00000002.jsonl").read_text().splitlines()[0])
    assert head["settings"]["skipped"] == [[8, 12]]


@pytest.mark.parametrize("split", ["tensor", "pipeline"])
def test_two_processes_of_one_replica(rl_config: Path, run_command: Command, split: str) -> None:
    words = [f"--parallel.{split}_model_parallel_size", "2", "--training.train_steps", "1"]
    run_command("rl", "--config", str(rl_config), *words, processes=2)
    (event,) = events(rl_config.parent / "run", "step")
    assert len(samples(rl_config.parent / "run", 0)) == 24 and event["infrastructure_errors"] == 0


def test_a_signal_during_rollouts_leaves_them_to_the_next_start(
    rl_config: Path, warm: WarmStarter
) -> None:
    """TERM in step 2: its samples are kept, no update is made of them, the checkpoint is of step 1."""
    code = (
        "write = loop.RlLoop._write\n"
        "def told(self, *arguments):\n"
        "    write(self, *arguments)\n"
        "    if self.step == 1:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "loop.RlLoop._write = told\n"
    )
    done = warm.run_code(patched(code, rl_config, "--training.train_steps", "2"))
    run = rl_config.parent / "run"
    assert done.returncode == 75, done.stderr
    assert [event["step"] for event in events(run, "step")] == [1]
    assert (run / "checkpoints" / "latest").read_text().strip() == "step_00000001"
    before = samples(run, 1)
    again = warm.run_code(patched("", rl_config, "--training.train_steps", "2"))
    assert again.returncode == 0, again.stderr
    assert "step 2: samples that were judged before are used" in again.stderr
    assert samples(run, 1) == before and [e["step"] for e in events(run, "step")] == [1, 2]


KILLING = (
    "groups = loop.RlLoop._groups\n"
    "def killing(self, *arguments):\n"  # samples are judged and written, no update has begun
    "    if self.step == 2 and self.ranks.rank == 1:\n"
    "        os.kill(os.getpid(), signal.SIGKILL)\n"
    "    return groups(self, *arguments)\n"
    "loop.RlLoop._groups = killing\n"
)


def run_two(tmp_path: Path, code: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "script.py"
    script.write_text(code)
    words = ["--nproc_per_node", "2", "--master_port", "0", "--rdzv_backend", "c10d"]
    words += ["--rdzv_endpoint", "localhost:0", str(script)]
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_killed_between_rollout_and_update_it_goes_on_exactly(
    rl_config: Path, tmp_path: Path
) -> None:
    """Two data-parallel ranks; one dies by SIGKILL in step 3, whose samples are judged and on disk."""
    config = yaml.safe_load(rl_config.read_text())
    runs = {}
    for name in ("whole", "killed"):
        config["checkpoint"]["run_folder"] = str(tmp_path / name)
        runs[name] = tmp_path / f"{name}.yaml"
        runs[name].write_text(yaml.safe_dump(config))
    whole = run_two(tmp_path, patched("", runs["whole"]))
    assert whole.returncode == 0, whole.stderr
    killed = run_two(tmp_path, patched(KILLING, runs["killed"]))
    assert killed.returncode != 0
    assert [event["step"] for event in events(tmp_path / "killed", "step")] == [1, 2]
    assert len(samples(tmp_path / "killed", 2)) == 24
    written = os.stat(tmp_path / "killed" / "samples" / "step-00000002.jsonl").st_mtime_ns
    again = run_two(tmp_path, patched("", runs["killed"]))
    assert again.returncode == 0, again.stderr
    assert "samples that were judged before are used" in again.stderr
    kept = tmp_path / "killed" / "samples" / "step-00000002.jsonl"
    assert os.stat(kept).st_mtime_ns == written  # not made again
    expected, found = (events(tmp_path / name, "step") for name in ("whole", "killed"))
    for one, other in zip(expected, found, strict=True):
        for name in (
            "loss",
            "grad_norm",
            "solve_mean",
            "updates",
            "substituted",
            "consumed_samples",
        ):
            assert one[name] == other[name], name
    for step in range(STEPS):
        first, second = (
            (tmp_path / name / "samples" / f"step-{step:08d}.jsonl").read_text()
            for name in ("whole", "killed")
        )
        assert first == second
