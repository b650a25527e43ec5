"""The command line as a user types it: bad input is one sentence and exit code 2."""

import json
import os
import subprocess
import sys
import time

import pytest
import yaml

from megatron_dream import cli
from megatron_dream.errors import ConfigError, DataError, DifferenceFoundError


def call(root, *words, **environment):
    """Run the program in a process of its own; return exit code, output, error output."""
    variables = {**os.environ, **environment}
    command = [sys.executable, "-m", "megatron_dream", *words]
    done = subprocess.run(command, cwd=root, env=variables, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def run(capsys):
    """Run the program in this process; return exit code, output, error output."""

    def run(*words):
        try:
            code = cli.main(list(words))
        except SystemExit as end:  # argparse's --help and --version
            code = end.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("model: {preset: tiny}\noptimizer: {lr: 1e-4}\n")
    return path


@pytest.mark.parametrize(
    "words, expected",
    [
        ([], "COMMAND"),
        (["pretrian"], "nearest one is megatron-dream pretrain."),
        (["import"], "nearest one is megatron-dream import-hf."),
        (["tokenizer"], "COMMAND"),
        (["tokenizer", "trian"], "nearest one is megatron-dream tokenizer train."),
        (["tokenizer", "train", "--inptu", "x"], "the nearest one is --input"),
        (["--vresion"], "the nearest one is --version"),
        (["doctor", "--jsn"], "the nearest one is --json"),
        (["doctor", "more"], "unrecognized arguments: more"),
        (["pretrain", "--confg", "x"], "the nearest one is --config"),
        (["pretrain"], "required: --config"),
        (["pretrain", "--config", "/no/such.yaml"], "no such configuration file"),
        (["sample", "m"], "--prompt"),
        (["sample", "m", "--prompt", "a", "--jsonl", "b"], "not allowed with"),
        (["sample", "m", "--prompt", "a", "--stesp", "3"], "the nearest one is --steps"),
        (["sample", "m", "--prompt", "a", "--steps", "x"], "invalid int value: 'x'"),
        (["sample", "m", "--prompt", "a", "--cache", "x"], "invalid choice: 'x'"),
        (["sample", "m", "--prompt", "a", "--alg", "x"], "--alg: invalid choice: 'x'"),
        (
            ["sample", "m", "--prompt", "a", "--confidence-from", "x"],
            "choose from 'filtered', 'raw'",
        ),
        (
            ["sample", "m", "--prompt", "a", "--cache-refresh", "2"],
            "--cache-refresh is 2 without a",
        ),
        (["sample", "m", "--prompt", "a", "--batch-size", "0"], "--batch-size is 0"),
        (["infill", "m"], "--prefix"),
        (["infill", "m", "--prefix", "a", "--length", "0"], "--length is 0"),
        (["infill", "m", "--prefix", "a", "--cache", "dual"], "--cache is not a flag"),
        (["infill", "m", "--file", "/no/such.py"], "/no/such.py is no file"),
        (["chat"], "MODEL"),
        (["chat", "m", "--top-p", "2"], "--top-p is 2"),
        (["chat", "/no/such", "--steps", "8"], "/no/such does not exist"),
        (["sample", "m", "--prompt", "a", "--compat", "x"], "--compat: invalid choice: 'x'"),
        (["sample", "m", "--prompt", "a", "--factor", "x"], "--factor: invalid float value: 'x'"),
        (["sample", "m", "--prompt", "a", "--factor", "-1"], "error: --factor is -1"),
        (["sample", "m", "--prompt", "a", "--entropy-bound", "nan"], "--entropy-bound is nan"),
        (["sample", "m", "--prompt", "a", "--num-return-sequences", "0"], "--num-return-sequences"),
        (
            ["sample", "m", "--prompt", "a", "--pad-penalty-factor", "2"],
            "--pad-penalty-factor is 2",
        ),
        (["reshard", "a", "b", "--tp", "2"], "required: --pp"),
    ],
)
def test_a_wrong_command_is_one_sentence(run, words, expected):
    code, out, err = run(*words)
    assert code == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and expected in err


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--modle.preset", "tiny"], "--modle.preset is not a field; the nearest one is model"),
        (["--model.num_layer", "2"], "the nearest one is model.num_layers"),
        (["--model.num_layers", "two"], "--model.num_layers must be a whole number"),
        (["--model.num_layers"], "--model.num_layers: the value is missing"),
        (["--model.num_layers", "--print-config"], "--model.num_layers: the value is missing"),
        (["--data.train.0.weight", "2"], "data.train has 0 entries"),
    ],
)
def test_a_wrong_override_is_one_sentence(run, config_file, words, expected):
    code, out, err = run("pretrain", "--config", str(config_file), *words)
    assert code == 2 and out == ""
    assert err.startswith("error: --") and err.count("\n") == 1 and expected in err


def test_a_wrong_file_is_named_with_its_line(run, config_file):
    config_file.write_text("model:\n  preset: tiny\n  preset: tiny\n")
    code, _, err = run("pretrain", "--config", str(config_file), "--print-config")
    assert code == 2 and f"{config_file}:3: model.preset is given twice" in err


def test_print_config_shows_it_resolved(run, config_file):
    words = ["--optimizer.lr=-2e-4", "--data.train", "[{prefix: 'a b'}]", "--training.seed", "7"]
    code, out, err = run("pretrain", "--config", str(config_file), *words, "--print-config")
    shown = yaml.safe_load(out)
    assert (code, err) == (0, "")
    assert shown["model"]["hidden_size"] == 192 and shown["optimizer"]["lr"] == -2e-4
    assert shown["data"]["train"][0]["prefix"] == "a b" and shown["training"]["seed"] == 7


def stub(monkeypatch, module, name, result):
    """Put a function into a module that is made for it; record its calls."""
    calls = []

    def function(*arguments, **options):
        calls.append((arguments, options))
        if isinstance(result, BaseException):
            raise result
        return result

    replacement = type(sys)(module)
    setattr(replacement, name, function)
    monkeypatch.setitem(sys.modules, module, replacement)
    return calls


TRAIN = ("megatron_dream.training.run", "pretrain")
RUN = ["pretrain", "--config"]


@pytest.mark.parametrize(
    "result, code",
    [
        (None, 0),
        (1, 1),
        (True, 0),
        (ConfigError("wrong"), 2),
        (DifferenceFoundError("differs"), 1),
        (FileNotFoundError(2, "No such file or directory", "x/y"), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(run, monkeypatch, config_file, result, code):
    stub(monkeypatch, *TRAIN, result)
    found, _, err = run(*RUN, str(config_file))
    assert found == code and "Traceback" not in err


def test_a_bug_keeps_its_traceback(monkeypatch, config_file):
    stub(monkeypatch, *TRAIN, ValueError("an ordinary bug"))
    with pytest.raises(ValueError, match="ordinary bug"):
        cli.main([*RUN, str(config_file)])


def test_a_refusal_of_the_sampler_is_an_error_of_the_user(run, monkeypatch):
    names = {"__name__": "megatron_dream.sampling.decode"}
    exec("def run_sample(**options):\n    raise ValueError('steps is 0; give 1 or more.')", names)
    stub(monkeypatch, "megatron_dream.evaluation.sample_command", "run_sample", None)
    module = sys.modules["megatron_dream.evaluation.sample_command"]
    monkeypatch.setattr(module, "run_sample", names["run_sample"])
    code, _, err = run("sample", "m", "--prompt", "x")
    assert (code, err) == (2, "error: steps is 0; give 1 or more.\n")


def test_only_rank_0_prints_what_all_ranks_find(run, monkeypatch, config_file):
    stub(monkeypatch, *TRAIN, ConfigError("impossible layout."))
    assert run(*RUN, str(config_file))[2] == "error: impossible layout.\n"
    monkeypatch.setenv("RANK", "3")
    assert run(*RUN, str(config_file))[::2] == (2, "")
    stub(monkeypatch, *TRAIN, DataError("a.bin is too short."))
    assert run(*RUN, str(config_file))[::2] == (2, "error: rank 3: a.bin is too short.\n")


def test_sample_passes_on_only_what_was_given(run, monkeypatch):
    calls = stub(monkeypatch, "megatron_dream.evaluation.sample_command", "run_sample", None)
    words = ["--prompt", "def f(x):\n", "--steps", "8", "--alg-temp", "0.5", "--page", "p.html"]
    assert run("sample", "model", *words)[0] == 0
    (_, options) = calls[0]
    assert {name: str(value) for name, value in options.items()} == {
        "model": "model",
        "prompt": "def f(x):\n",
        "steps": "8",
        "alg_temp": "0.5",
        "page": "p.html",
    }


def test_help_starts_fast_and_imports_nothing_heavy(repository_root):
    start = time.monotonic()
    code, out, _ = call(repository_root, "--help")
    assert code == 0 and "pretrain" in out and time.monotonic() - start < 5
    script = "import sys, megatron_dream.cli as c; c.build_parser(); print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", script], cwd=repository_root, text=True)
    assert not {"torch", "numpy", "megatron", "rich", "transformers", "yaml"} & set(loaded.split())


def test_doctor_names_what_is_missing_and_how_to_get_it(repository_root):
    code, out, err = call(repository_root, "doctor", "--json")
    rows = {row["name"]: row for row in json.loads(out)["rows"]}
    assert code == 0, err
    expected = ["device", "torch", "megatron-core", "Transformer Engine", "apex (NVIDIA)", "DALI"]
    expected += ["MPI", "mpirun", "Slurm", "bubblewrap", "user namespaces", "Chromium", "cores"]
    expected += ["memory", "AVX512-BF16"]
    assert set(expected) <= set(rows)
    assert all(row["install"] for row in rows.values() if not row["is_present"])
    assert all(row["purpose"] for row in rows.values())
    assert "unrelated" in rows["apex (NVIDIA)"]["install"]


def test_doctor_survives_a_broken_transformer_engine(repository_root, tmp_path):
    """Without cuDNN its import raises RuntimeError, not ImportError."""
    package = tmp_path / "transformer_engine"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('no cuDNN')")
    (tmp_path / "apex.py").write_text("")
    path = os.pathsep.join([str(tmp_path), str(repository_root)])
    code, out, _ = call(repository_root, "doctor", "--json", PYTHONPATH=path)
    rows = {row["name"]: row for row in json.loads(out)["rows"]}
    assert code == 0
    assert "no cuDNN" in rows["Transformer Engine"]["version"]
    assert "nothing to do with NVIDIA's" in rows["! apex"]["version"]
    assert "unrelated" in rows["apex (NVIDIA)"]["version"]


def test_doctor_reports_a_missing_requirement(monkeypatch, capsys):
    from megatron_dream import doctor

    rows = [doctor.Row("torch", doctor.ABSENT, False, "tensors", "make setup", is_required=True)]
    monkeypatch.setattr(doctor, "collect", lambda: rows)
    assert doctor.run_doctor() == 1
    assert "make setup" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, verb",
    [
        (["--loader", "hf", "--saver", "mcore", "--target-tensor-parallel-size", "2"], "import-hf"),
        (["--loader", "mcore", "--saver", "hf", "--tokenizer-model", "t"], "export-hf"),
        (["--loader", "mcore", "--saver", "mcore"], "reshard"),
    ],
)
def test_convert_script_calls_the_verb(repository_root, tmp_path, words, verb):
    """The command line is replaced by one that prints its words and answers 7."""
    script = repository_root / "tools" / "checkpoint" / "convert.py"
    replaced = (
        "import runpy, sys, megatron_dream.cli as c; c.main = lambda w: print(*w) or 7;"
        f"sys.argv = ['convert.py', *{words!r}, '--load-dir', 'A', '--save-dir', 'B'];"
        f"runpy.run_path({str(script)!r}, run_name='__main__')"
    )
    command = [sys.executable, "-c", replaced]
    done = subprocess.run(command, cwd=repository_root, capture_output=True, text=True)
    assert done.returncode == 7, done.stderr
    assert done.stdout.startswith(f"{verb} A B")
