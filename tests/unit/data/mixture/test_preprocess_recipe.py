"""preprocess --recipe: the bytes of one command a source, what it refuses, what it says."""

import contextlib
import gzip
import io
import json
import runpy
import sys
import sysconfig
from pathlib import Path

import pytest

from megatron_dream.cli import main
from megatron_dream.data.contamination import contamination_words, decontaminated_against
from megatron_dream.data.filters import FilterSpec
from megatron_dream.data.preprocessing import preprocess
from megatron_dream.tokenizer.train import train_sentencepiece

STDLIB_JSON = Path(sysconfig.get_path("stdlib")) / "json"
TEXT = "def f_{0}(x):\n    return x * {0} + 1\n"
SCORE = "fasttext_openhermes_reddit_eli5_vs_rw_v2_bigram_200k_train_prob"


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    for name in ("web", "code"):
        (folder / name).mkdir()
    web = [{"text": TEXT.format(n) * 12, SCORE: (n % 50) / 100} for n in range(120)]
    (folder / "web" / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in web))
    code = [{"content": TEXT.format(n) * (n % 4 + 1)} for n in range(80)]
    (folder / "code" / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in code))
    train_sentencepiece([STDLIB_JSON], 400, folder / "tok.model")
    return folder


def write_recipe(raw: Path, folder: Path, extra: str = "") -> Path:
    path = folder / "r.yaml"
    path.write_text(
        f"""\
tokenizer: {raw}/tok.model
output: {folder}/data
token_budget: 1M
{extra}
sources:
  - name: web
    dataset: dclm-baseline
    suffixes: [.jsonl]
    input: [{raw}/web]
    weight: 0.5
    filters: [dclm]
  - name: code
    text: content
    input: ["{raw}/code/*.jsonl"]
    weight: 0.5
"""
    )
    return path


def contents(prefix) -> list[bytes]:
    return [Path(f"{prefix}{ending}").read_bytes() for ending in (".bin", ".idx")]


COMMON = "filters: [{length: {min_characters: 60}}]"


@pytest.fixture(scope="module")
def done(raw, tmp_path_factory):
    """(recipe, what the command printed) of a mixture that is preprocessed."""
    folder = tmp_path_factory.mktemp("done")
    recipe = write_recipe(raw, folder, COMMON)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["preprocess", "--recipe", str(recipe), "--shard-mb", "0.01"]) == 0
    return recipe, printed.getvalue()


def test_bytes_are_those_of_a_command_for_each_source(raw, done, tmp_path):
    made = done[0].parent / "data"
    (tmp_path / "f.yaml").write_text(COMMON + "\n")
    words = ["--input", f"{raw}/code/*.jsonl", "--json-key", "content", "--append-eod"]
    words += ["--filters", str(tmp_path / "f.yaml"), "--tokenizer", str(raw / "tok.model")]
    assert main(["preprocess", *words, "--output-prefix", str(tmp_path / "alone")]) == 0
    assert contents(made / "code") == contents(tmp_path / "alone")
    preprocess(
        [raw / "web"],
        tmp_path / "web",
        raw / "tok.model",
        append_eod=True,
        dataset="dclm-baseline",
        suffixes=[".jsonl"],
        filters=[FilterSpec.of({"length": {"min_characters": 60}}), FilterSpec.of("dclm")],
        source="web",  # part of the ids by which dclm draws
        quiet=True,
    )
    assert contents(made / "web") == contents(tmp_path / "web")
    dropped = {one["name"]: one["dropped"] for one in sidecar(done[0], "web")["filters"]["filters"]}
    assert 20 < dropped["dclm"] < 118 and dropped["length"] == 0


def test_what_it_prints(done):
    lines = done[1].splitlines()
    assert lines[0] == "web, source 1 of 2:" and "code, source 2 of 2:" in lines
    assert lines[-1].startswith("2 sources: ") and lines[-1].endswith("tokens; not decontaminated.")


def test_a_finished_source_is_passed_over_and_a_changed_one_refused(raw, done, capsys):
    recipe = done[0]
    words = ["preprocess", "--recipe", str(recipe), "--source", "code", "--shard-mb", "0.01"]
    made = (recipe.parent / "data" / "code.bin").stat().st_mtime_ns
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "complete already" in out and "web" not in out
    assert (recipe.parent / "data" / "code.bin").stat().st_mtime_ns == made
    other = recipe.with_name("other.yaml")
    other.write_text(recipe.read_text().replace("text: content", "template: '{content}'"))
    words[2] = str(other)
    assert main(words) == 2
    assert "code.bin exists and was made with adapter" in capsys.readouterr().err


def test_tasks_of_an_array(raw, done, tmp_path):
    words = ["preprocess", "--recipe", str(write_recipe(raw, tmp_path, COMMON)), "--source", "code"]
    words += ["--shard-mb", "0.005"]
    for task in (1, 0):
        assert main([*words, "--part", f"{task}/2"]) == 0
        assert not (tmp_path / "data" / "code.bin").exists()
    assert main(words) == 0
    assert contents(tmp_path / "data" / "code") == contents(done[0].parent / "data" / "code")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--recipe", "R", "--input", "x"], "--input and --recipe"),
        (["--recipe", "R", "--output-prefix", "x"], "--output-prefix and --recipe"),
        (["--recipe", "R", "--tokenizer", "x"], "--tokenizer and --recipe"),
        (["--recipe", "R", "--filters", "x"], "--filters and --recipe"),
        (["--recipe", "R", "--append-eod"], "--append-eod and --recipe"),
        (["--recipe", "R", "--special-tokens-in-text", "as_ids"], "--special-tokens-in-text and"),
        (["--recipe", "R", "--source", "cod"], "the nearest one is code"),
        (["--source", "code"], "give --recipe FILE with it"),
        (["--input", "x"], "--output-prefix is missing"),
        (["--input", "x", "--output-prefix", "y"], "--tokenizer is missing"),
        ([], "--input is missing; give it, or --recipe"),
    ],
)
def test_flags_that_do_not_go_together(raw, tmp_path, capsys, words, error):
    recipe = str(write_recipe(raw, tmp_path))
    assert main(["preprocess", *[recipe if word == "R" else word for word in words]]) == 2
    captured = capsys.readouterr().err
    assert error in captured and captured.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_missing_input_is_found_before_any_work(raw, tmp_path, capsys):
    recipe = write_recipe(raw, tmp_path)
    recipe.write_text(recipe.read_text().replace(f"{raw}/code", f"{raw}/nowhere"))
    assert main(["preprocess", "--recipe", str(recipe)]) == 2
    error = capsys.readouterr().err
    assert f"{recipe}:12: sources.1: the input of code is not there" in error
    assert not (tmp_path / "data").exists()


def test_the_script_takes_a_recipe(raw, tmp_path, monkeypatch, capsys, repository_root):
    words = ["preprocess_data.py", "--recipe", str(write_recipe(raw, tmp_path)), "--source", "cod"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(repository_root / "tools" / "preprocess_data.py"), run_name="__main__")
    assert ended.value.code == 2 and "the nearest one is code" in capsys.readouterr().err


def sidecar(recipe, name):
    return json.loads((recipe.parent / "data" / f"{name}.json").read_text())


def test_sidecars_tell_of_evaluation_sets(raw, tmp_path, capsys):
    record = {"task_id": "HumanEval/0", "prompt": "p " * 30, "canonical_solution": "return nothing"}
    record |= {"test": "assert something that no document holds at all", "entry_point": "f"}
    with gzip.open(tmp_path / "HumanEval.jsonl.gz", "wt") as stream:
        stream.write(json.dumps(record) + "\n")
    sets = f"[{{path: {tmp_path}/HumanEval.jsonl.gz}}]"
    recipe = write_recipe(raw, tmp_path, f"filters: [{{decontamination: {{sets: {sets}}}}}]")
    words = ["preprocess", "--recipe", str(recipe), "--source", "code"]
    words += ["--max-file-gb", "0.000003"]
    assert main(words) == 0
    assert "; decontaminated against HumanEval." in capsys.readouterr().out
    for name in ("code_00000", "code_00001"):
        assert decontaminated_against(sidecar(recipe, name)) == ["HumanEval"]
    assert main(["plan-data", "--recipe", str(recipe)]) == 0
    assert "Training data: decontaminated against HumanEval." in capsys.readouterr().out
    recipe.write_text(recipe.read_text().replace("HumanEval.jsonl.gz", "nothing.gz"))
    assert main([*words, "--overwrite"]) == 2
    assert "nothing.gz is not there" in capsys.readouterr().err


def test_without_filters_the_sidecar_and_the_command_say_so(raw, tmp_path, capsys):
    recipe = write_recipe(raw, tmp_path)
    assert main(["preprocess", "--recipe", str(recipe), "--source", "code"]) == 0
    assert sidecar(recipe, "code")["decontaminated_against"] == []
    assert "\nnot decontaminated\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        ({}, "not decontaminated"),
        ({"a": [], "b": []}, "not decontaminated"),
        ({"a": ["H"], "b": []}, "not decontaminated (b)"),
        ({"a": ["H", "M"], "b": ["M", "H"]}, "decontaminated against H, M"),
        ({"a": ["H", "M"], "b": ["M"]}, "decontaminated against M"),
        (
            {"a": ["H"], "b": ["M"]},
            "not decontaminated as a whole: its sources share no evaluation set",
        ),
    ],
)
def test_words_for_a_mixture(sources, words):
    assert contamination_words(sources.items()) == words


@pytest.mark.parametrize(
    ("values", "sets"),
    [
        (None, []),
        ({}, []),
        ({"filters": {}}, []),
        ({"filters": {"filters": [], "decontaminated_against": ["H"]}}, ["H"]),
        ({"decontaminated_against": ["M"], "filters": {}}, ["M"]),
        ({"decontaminated_against": "H"}, []),
    ],
)
def test_what_a_sidecar_tells(values, sets):
    assert decontaminated_against(values) == sets
