"""Generation resumes: no sample twice, none lost, the same bytes whatever was killed, on any ranks."""

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import threading

import pytest

from megatron_dream.errors import ConfigError, DataError
from megatron_dream.evaluation.benchmarks.base import Ask, Task
from megatron_dream.evaluation.benchmarks.registry import benchmark
from megatron_dream.evaluation.harness import command, lm_eval_tasks
from megatron_dream.evaluation.harness.command import Evaluation
from megatron_dream.evaluation.harness.flops import Shape
from megatron_dream.evaluation.harness.models import Made, Model, Row
from megatron_dream.evaluation.harness.records import SampleFile, check_run, read_samples
from megatron_dream.evaluation.harness.run import Place, generate, plan_batches, seed_of
from megatron_dream.evaluation.harness.settings import Settings, published
from megatron_dream.sandbox import Outcome, Problem, Verdict

TASKS = [Task(f"t{n}", Ask(text="x" * (n % 5)), None) for n in range(11)]
SETTINGS = Settings(sampling={"max_new_tokens": 4}, num_samples=3, seed=7)


class Killed(Exception):
    pass


class Echo(Model):
    """Answers depend on the row, its seed and who is in its batch, as rounding does."""

    kind, shape = "diffusion", Shape(1, 1, 1, 1)

    def __init__(self, dies_after=None):
        self.asked, self._left = [], dies_after

    def encode(self, task, settings):
        return Row(tuple(range(len(task.ask.text) + 1)))

    def answer(self, rows, seeds, tasks, settings):
        if self._left == 0:
            raise Killed
        self._left = None if self._left is None else self._left - 1
        self.asked += [(task.id, seed) for task, seed in zip(tasks, seeds, strict=True)]
        company = "-".join(task.id for task in tasks)
        return [Made(f"{s} in {company}", 4, 2, 8.0, 1.0, (0, 1, 1, 0)) for s in seeds]


def texts(folder):
    return {key: sample["answer"] for key, sample in read_samples(folder).items()}


def run(folder, model=None, place=None, settings=SETTINGS):
    folder.mkdir(exist_ok=True)
    generate(model or Echo(), "echo", TASKS, settings, folder, 4, place, quiet=True)


def test_every_sample_once(tmp_path):
    model = Echo()
    run(tmp_path / "a", model)
    found = read_samples(tmp_path / "a")
    assert set(found) == {(task.id, sample) for task in TASKS for sample in range(3)}
    assert len(model.asked) == len(set(model.asked)) == 33
    seeds = {sample["seed"] for sample in found.values()}
    assert len(seeds) == 33


@pytest.mark.parametrize("kills", [[1], [0, 2, 1], [4, 3]])
def test_a_killed_run_goes_on_without_repeating_and_ends_alike(tmp_path, kills):
    run(tmp_path / "whole")
    for batches in kills:
        with pytest.raises(Killed):
            run(tmp_path / "killed", Echo(dies_after=batches))
    made_before = set(read_samples(tmp_path / "killed"))
    assert len(made_before) == 4 * sum(kills)
    last = Echo()
    run(tmp_path / "killed", last)
    assert texts(tmp_path / "killed") == texts(tmp_path / "whole")
    assert len(last.asked) == 33 - len(made_before)  # whole batches were left
    lines = [line for file in (tmp_path / "killed").glob("samples.*") for line in file.open()]
    assert len(lines) == 33
    nothing = Echo()
    run(tmp_path / "killed", nothing)
    assert nothing.asked == []


def test_a_torn_batch_is_run_again_and_only_the_rest_is_written(tmp_path):
    """The kill came while a line was being written: the batch's company must be as before."""
    run(tmp_path / "whole")
    run(tmp_path / "torn")
    (file,) = (tmp_path / "torn").glob("samples.*")
    content = file.read_bytes()
    lines = content.splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:6]) + lines[6][:-9])
    model = Echo()
    run(tmp_path / "torn", model)
    assert texts(tmp_path / "torn") == texts(tmp_path / "whole")
    assert len(model.asked) == 33 - 4 and len(file.read_bytes().splitlines()) == 33


def test_ranks_share_the_work_and_another_number_of_them_goes_on(tmp_path):
    run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "shared", Echo(dies_after=2))
    barrier = threading.Barrier(3)
    models = [Echo() for _ in range(3)]
    threads = [
        threading.Thread(
            target=run, args=(tmp_path / "shared", model, Place(rank, 3, lambda: barrier.wait(60)))
        )
        for rank, model in enumerate(models)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts(tmp_path / "shared") == texts(tmp_path / "whole")
    assert sum(len(model.asked) for model in models) == 33 - 8
    assert all(model.asked for model in models)


def test_more_samples_leave_the_earlier_ones_seeds(tmp_path):
    few = plan_batches(Echo(), "echo", TASKS, Settings(num_samples=1), 4)
    many = plan_batches(Echo(), "echo", TASKS, Settings(num_samples=9), 4)
    seeds = {item.key: item.seed for batch in many for item in batch}
    assert all(seeds[item.key] == item.seed for batch in few for item in batch)


def test_seeds_differ_by_everything_that_names_a_sample():
    names = [
        (0, "a", "t", 0),
        (1, "a", "t", 0),
        (0, "b", "t", 0),
        (0, "a", "u", 0),
        (0, "a", "t", 1),
    ]
    assert len({seed_of(*name) for name in names}) == 5
    assert all(0 <= seed_of(*name) < 1 << 63 for name in names)
    assert seed_of(0, "humaneval", "HumanEval/0", 0) == seed_of(0, "humaneval", "HumanEval/0", 0)


def test_another_evaluation_is_not_continued(tmp_path):
    check_run(tmp_path, {"seed": 1, "model": "a"})
    check_run(tmp_path, {"seed": 1, "model": "a"})
    with pytest.raises(
        ConfigError, match=r"another evaluation \(seed 1, now 2\); give another --output"
    ):
        check_run(tmp_path, {"seed": 2, "model": "a"})


def test_two_evaluations_do_not_write_one_file(tmp_path):
    with SampleFile(tmp_path, 0), pytest.raises(ConfigError, match="being written by another"):
        SampleFile(tmp_path, 0)
    with SampleFile(tmp_path, 0) as file:
        file.append([{"task_id": "a", "sample_index": 0}])
    assert list(read_samples(tmp_path)) == [("a", 0)]


def test_a_line_that_is_no_sample_is_told(tmp_path):
    (tmp_path / "samples.00000.jsonl").write_text(json.dumps({"task_id": "a"}) + os.linesep)
    with pytest.raises(DataError, match="line 1: no sample; remove the line"):
        read_samples(tmp_path)


def test_settings_are_the_published_ones():
    assert published("livecodebench", "instruct").sampling == {
        "max_new_tokens": 768, "steps": 768, "temperature": 0.1, "top_p": 0.95, "alg": "entropy",
        "cache": "prefix",
    }  # fmt: skip
    assert published("humaneval", "base").sampling["temperature"] == 0.2
    assert published("bigcodebench_hard_complete", "base").sampling["alg"] == "maskgit_plus"
    changed = published("humaneval", "base").with_options({"max_new_tokens": 64})
    assert (changed.sampling["steps"], changed.sampling["top_p"]) == (64, 0.9)
    for wrong in ({"gap": "wide"}, {"gap": "0"}, {"num_samples": 0}, {"seed": -1}):
        with pytest.raises(ConfigError, match="--"):
            Settings(**wrong)


def test_samples_of_nobody_knows_what_are_not_continued(tmp_path):
    (tmp_path / "samples.00000.jsonl").write_text("")
    with pytest.raises(ConfigError, match=r"samples without run.json"):
        check_run(tmp_path, {"seed": 1})


@pytest.mark.parametrize(
    "code, is_fatal", [(errno.ENOSYS, False), (errno.ENOLCK, False), (errno.EIO, True)]
)
def test_file_systems_without_locks(tmp_path, monkeypatch, code, is_fatal):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match=os.strerror(code)) if is_fatal else contextlib.nullcontext():
        with SampleFile(tmp_path, 0) as file:
            file.append([{"task_id": "a", "sample_index": 0}])
        assert list(read_samples(tmp_path)) == [("a", 0)]


def test_steps_are_rows_only_where_they_have_a_say(tmp_path):
    common = {
        "model": tmp_path,
        "suite": "x",
        "style": "base",
        "data": tmp_path,
        "output": tmp_path,
    }
    wanted = Evaluation(**common, steps=(4, 8))
    assert [s.sampling["steps"] for s in wanted.settings("humaneval")] == [4, 8]
    assert len(wanted.settings("infilling_single")) == 1  # the gap grows, a token a step
    oracle = dataclasses.replace(wanted, gap="oracle").settings("infilling_single")
    assert [s.sampling["steps"] for s in oracle] == [4, 8]


class Lost:
    """A judge whose places are all down."""

    def verdicts(self, programs):
        return (Verdict(Outcome.INFRASTRUCTURE, detail="no place") for _ in programs)


def test_an_evaluation_of_which_every_judgement_is_lost_does_not_end_well(tmp_path, capsys):
    problem = Problem("HumanEval/0", "function", tests="", functions=("f",))
    record = {"entry_point": "f", "prompt": "def f():\n"}
    task = Task(problem.task_id, Ask(text=record["prompt"]), problem, record)
    with SampleFile(tmp_path, 0) as file:
        file.append(
            {"task_id": task.id, "sample_index": n, "answer": "    return 1\n"} for n in range(2)
        )
    wanted = Evaluation(tmp_path, "humaneval", "base", tmp_path, tmp_path)
    kind = benchmark("humaneval", "base")
    result = command._judge(wanted, kind, [task], tmp_path, Lost(), 4)
    assert (result.scores, result.num_lost, result.note) == (None, 2, "no sample could be judged")
    assert command._report(wanted, {"humaneval": [result]}, {}) == 1
    assert "2 samples could not be judged" in capsys.readouterr().out


def test_lm_evals_cache_is_not_continued_with_other_settings(tmp_path, monkeypatch):
    """It knows texts alone, and would give the old answers."""
    asked = []
    monkeypatch.setattr(Evaluation, "overlay", lambda self: "overlay")
    monkeypatch.setattr(command, "fingerprint", lambda path: "weights")
    monkeypatch.setattr(
        lm_eval_tasks, "run_lm_eval", lambda *_, **named: asked.append(named) or {"piqa": 1}
    )
    wanted = Evaluation(tmp_path, "general", "base", tmp_path, tmp_path / "out", batch_size=5)
    for _ in range(2):
        assert command._lm_eval(wanted, ["lm_eval:piqa"]) == {"piqa": 1}
    # 32 rows of a likelihood at least; lm_eval itself would take 1
    assert [named["batch_size"] for named in asked] == [32, 32]
    for change, told in (({"mc_num": 8}, "arguments"), ({"seed": 1}, "arguments")):
        with pytest.raises(ConfigError, match=f"another evaluation .{told}"):
            command._lm_eval(dataclasses.replace(wanted, **change), ["lm_eval:piqa"])
    monkeypatch.setattr(command, "fingerprint", lambda path: "others")
    with pytest.raises(ConfigError, match="another evaluation .model 'weights', now 'others'"):
        command._lm_eval(wanted, ["lm_eval:piqa"])
    assert len(asked) == 2
