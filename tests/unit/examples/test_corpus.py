"""The quickstart's corpus: what is left out, how it is split, what is held out."""

import ast
import importlib.util
import json
import sys

import pytest

FUNCTION = '''
def add_up(values, start=0):
    """Sum of values, one by one, for those that come after the start."""
    total = start
    for value in values:
        if value > start:
            total += value
    return total
'''


@pytest.fixture(scope="module")
def corpus(repository_root):
    path = repository_root / "examples" / "tiny" / "corpus.py"
    spec = importlib.util.spec_from_file_location("tiny_corpus", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def library(tmp_path):
    """A small library with one of everything that has to be left out."""
    files = {
        f"mod{n}.py": "".join(f"a{n}_{k} = b{n}_{k}(c{n}_{k})\n" for k in range(60)) + FUNCTION
        for n in range(60)
    }
    files["encodings/cp1.py"] = files["test/test_x.py"] = files["pkg/tests/t.py"] = FUNCTION
    files["table.py"] = "T = [" + ", ".join(map(str, range(3000))) + "]\n"
    files["zcopy.py"] = files["mod3.py"] + "# one more line\n"
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "latin.py").write_bytes(b"x = '\xe9'\n" * 50)
    return tmp_path


def test_what_is_left_out(corpus, library):
    records, _ = corpus.collect(library)
    paths = {record["path"] for split in records.values() for record in split}
    assert paths == {f"mod{number}.py" for number in range(60)}


def test_collecting_is_deterministic(corpus, library):
    assert corpus.collect(library) == corpus.collect(library)


def test_a_package_never_straddles(corpus, library):
    for number in range(20):
        for name in ("a.py", "deep/b.py"):
            path = library / f"pkg{number}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            body = "\n".join(f"{name[0]}{number}_{n} = call_{n}(v{n * 7})" for n in range(60))
            path.write_text(f"import os{number}\n{body}\n")
    records, _ = corpus.collect(library)
    tops = {
        split: {record["path"].split("/")[0] for record in found}
        for split, found in records.items()
    }
    assert tops["valid"] and not tops["train"] & tops["valid"]


def test_near_duplicates(corpus):
    seen = corpus.NearDuplicates()
    text = "\n".join(f"name_{n} = function_{n}(argument_{n})" for n in range(200))
    assert not seen.is_near(text)
    assert seen.is_near(text)
    assert seen.is_near(text.replace("name_7 ", "other "))
    assert not seen.is_near("\n".join(f"def g{n}(x): return x - {n}" for n in range(200)))


def test_heldout_functions_are_whole_and_documented(corpus):
    records = [{"path": "a.py", "text": "import os\n" + FUNCTION}]
    (function,) = corpus.heldout_functions(records, 5)
    code = function["prefix"] + function["middle"] + function["suffix"]
    assert code == FUNCTION[1:]
    assert ast.get_docstring(ast.parse(code).body[0])
    assert '"""' in function["prefix"] and function["middle"] and function["suffix"]
    assert corpus.heldout_functions(records, 0) == []


def test_the_command_writes_the_same_files_twice(corpus, library, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus.sysconfig, "get_paths", lambda: {"stdlib": str(library)})
    written = []
    for name in ("one", "two"):
        monkeypatch.setattr(sys, "argv", ["corpus.py", "--output", str(tmp_path / "out" / name)])
        corpus.main()
        folder = tmp_path / "out" / name
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[1]
    assert {"train.jsonl", "valid.jsonl", "functions.jsonl"} <= set(written[0])
    record = json.loads(written[0]["train.jsonl"].splitlines()[0])
    assert set(record) == {"text", "path"}


@pytest.mark.parametrize(
    ("name", "twin"),
    [("decimal", "_pydecimal"), ("io", "_pyio"), ("threading", "_threading_local"),
     ("collections", "_collections_abc"), ("strptime", "_strptime")],
)  # fmt: skip
def test_private_twins_share_a_split(corpus, name, twin):
    assert corpus.family(name) == corpus.family(twin) == name
    assert corpus.split_of(name) == corpus.split_of(twin)


def test_names_of_underscores_keep_a_family(corpus):
    assert corpus.family("__future__") == "future"
    assert corpus.family("__") == "__"


def test_lines_are_those_of_the_parser(corpus):
    text = "x = 1\n\x0c\n" + "y = '\u2028 \x1c'\n" + FUNCTION
    (entry,) = corpus.heldout_functions([{"text": text, "path": "m.py"}], 1)
    whole = entry["prefix"] + entry["middle"] + entry["suffix"]
    assert whole == FUNCTION.lstrip("\n")
    assert ast.parse(whole).body[0].name == "add_up"
