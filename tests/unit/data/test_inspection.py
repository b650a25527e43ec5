"""Looking into token files: figures added up by hand, samples escaped, altered bytes found."""

import importlib.util
import json

import numpy as np
import pytest

from megatron_dream.data.inspection import html_report, inspect_data, text_report
from megatron_dream.data.preprocessing import preprocess
from megatron_dream.errors import DataError
from megatron_dream.tokenizer.train import train_sentencepiece

HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    text = folder / "t.jsonl"
    text.write_text(json.dumps({"text": "def add(a, b):\n    return a + b\n" * 30}))
    return train_sentencepiece([text], 300, folder / "t.model")


@pytest.fixture
def prefix(model, tmp_path):
    path = tmp_path / "r.jsonl"
    texts = [HOSTILE, "a", "def add(a, b):\n" * 40]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    preprocess([path], tmp_path / "out", model, append_eod=True, source="small", quiet=True)
    return tmp_path / "out"


def test_figures(model, prefix):
    (found,) = inspect_data([prefix], samples=5, check=True)
    texts = [HOSTILE, "a", "def add(a, b):\n" * 40]
    expected = [len(model.encode(text)) + 1 for text in texts]
    assert found.lengths.tolist() == expected and found.checked is True
    histogram = found.histogram()
    assert sum(documents for _, documents, _ in histogram) == 3
    assert sum(tokens for _, _, tokens in histogram) == sum(expected)
    for label, documents, _ in histogram:
        low, high = (int(part.replace(",", "")) for part in label.split(" to "))
        assert documents == sum(low <= length <= high for length in expected)
    lines = list(text_report([found], model))
    assert lines[0].startswith(f"small: 3 documents, {sum(expected)} tokens (100.0% of all)")
    assert any("checksums right" in line for line in lines)
    assert sorted(number for number, _ in found.samples) == [0, 1, 2]


def test_the_page_escapes_what_the_data_says(model, prefix):
    page = html_report(inspect_data([prefix], samples=3), model)
    assert "<script" not in page and "<img" not in page and "&lt;script&gt;" in page
    assert "default-src 'none'" in page


def test_an_altered_byte_is_found(prefix):
    path = prefix.with_suffix(".bin")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert inspect_data([prefix], check=True)[0].checked is False


def test_files_without_checksums(prefix):
    prefix.with_suffix(".json").unlink()
    assert inspect_data([prefix])[0].checked is None
    with pytest.raises(DataError, match="lists no checksums"):
        inspect_data([prefix], check=True)


def test_the_tool(model, prefix, repository_root, monkeypatch, capsys, tmp_path):
    spec = importlib.util.spec_from_file_location(
        "inspect_data_tool", repository_root / "tools" / "inspect_data.py"
    )
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    page = tmp_path / "page.html"
    words = [
        "inspect_data.py",
        str(prefix),
        "--tokenizer",
        model.path,
        "--check",
        "--html",
        str(page),
    ]
    monkeypatch.setattr("sys.argv", words)
    assert tool.main() == 0
    assert "3 documents" in capsys.readouterr().out and page.is_file()
    ids = np.fromfile(prefix.with_suffix(".bin"), dtype=np.uint16)
    ids[0] += 1
    ids.tofile(prefix.with_suffix(".bin"))
    assert tool.main() == 1
    monkeypatch.setattr("sys.argv", ["inspect_data.py", str(tmp_path / "nowhere")])
    assert tool.main() == 2


def test_tokens_are_counted_by_licence(model, tmp_path):
    path = tmp_path / "stack.jsonl"
    records = [
        ("a = 1", ["MIT"]),
        ("b = 22", ["MIT", "BSD-3-Clause"]),
        ("", ["MIT"]),
        ("c", ["MIT"]),
    ]
    lines = [json.dumps({"text": text, "detected_licenses": names}) for text, names in records]
    path.write_text("\n".join([*lines, json.dumps({"text": "none is told"})]) + "\n")
    preprocess([path], tmp_path / "out", model, dataset="stack-v2-train-smol", quiet=True)
    (found,) = inspect_data([tmp_path / "out"])
    mit = len(model.encode("a = 1")) + len(model.encode("c"))
    both = len(model.encode("b = 22"))
    assert set(found.licences) == {("MIT", 2, mit), ("BSD-3-Clause / MIT", 1, both)}
    assert any("BSD-3-Clause / MIT" in line for line in text_report([found], model))
    assert "BSD-3-Clause / MIT" in html_report([found], model)
