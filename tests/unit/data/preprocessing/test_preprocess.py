"""Preprocessing as a whole: megatron-core's bytes, on any workers, after any kill, or a sentence."""

import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import pytest

from megatron_dream.cli import main
from megatron_dream.data.preprocessing import preprocess
from megatron_dream.data.preprocessing.command import PreprocessOptions, plan_job
from megatron_dream.data.preprocessing.local_pool import LocalPool
from megatron_dream.data.preprocessing.run import run_job
from megatron_dream.data.readers import text_adapter
from megatron_dream.errors import DataError, UserError
from megatron_dream.tokenizer import load_tokenizer
from megatron_dream.tokenizer.train import train_sentencepiece

STDLIB = Path(sysconfig.get_path("stdlib"))
ENDINGS = (".bin", ".idx")


@pytest.fixture(scope="session")
def code_model(tmp_path_factory):
    output = tmp_path_factory.mktemp("tokenizer") / "code.model"
    train_sentencepiece([STDLIB / "json"], 600, output)
    return output


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Standard library source as records: some empty, some bad, in several shards of 200 kB."""
    path = tmp_path_factory.mktemp("corpus") / "c.jsonl"
    lines = []
    for number, file in enumerate(sorted(STDLIB.glob("*.py"))[:60]):
        lines.append(json.dumps({"text": file.read_text(encoding="utf-8", errors="replace")}))
        if number % 9 == 4:
            lines += ["", '{"text": ""}', '{"text": "\\ud800"}', "broken", '{"other": 1}']
    path.write_text("\n".join(lines))
    return path


def documents_of(path, key="text"):
    """What a plain reading gives: texts in order, and 1-based numbers of the bad lines."""
    texts, bad = [], []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)[key]
            text.encode()
            texts.append(text)
        except (ValueError, KeyError, TypeError):
            bad.append(number)
    return texts, bad


def built_by_hand(prefix, documents, dtype):
    """What megatron-core's builder writes for these documents, fed one by one."""
    from megatron_dream.device import import_megatron

    import_megatron()
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
    for ids in documents:
        builder.add_document(np.array(ids), [len(ids)])
    builder.finalize(f"{prefix}.idx")
    return contents(prefix)


def contents(prefix):
    return [Path(f"{prefix}{ending}").read_bytes() for ending in ENDINGS]


def write_records(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture(scope="session")
def expected(code_model, corpus, tmp_path_factory):
    tokenizer = load_tokenizer(code_model)
    texts, bad = documents_of(corpus)
    documents = [tokenizer.encode(text) + [tokenizer.eod_id] for text in texts if text]
    folder = tmp_path_factory.mktemp("expected")
    return built_by_hand(folder / "hand", documents, np.uint16), bad


@pytest.mark.parametrize("workers", [1, 3])
def test_bytes_are_the_builders(code_model, corpus, expected, tmp_path, workers, capsys):
    result = preprocess(
        [corpus],
        tmp_path / "out",
        code_model,
        append_eod=True,
        workers=workers,
        shard_bytes=200_000,
    )
    wanted, bad = expected
    assert contents(tmp_path / "out") == wanted
    rejects = list(map(json.loads, (tmp_path / "out.rejects.jsonl").read_text().splitlines()))
    assert [entry["line"] for entry in rejects] == bad
    assert result.rejected == len(bad) and result.empty == 7 and result.dtype == "uint16"
    names = sorted(found.name for found in tmp_path.iterdir())
    assert names == ["out.bin", "out.idx", "out.json", "out.rejects.jsonl"]
    assert "7 empty" in capsys.readouterr().out


def test_the_sidecar_tells_what_was_done(code_model, corpus, tmp_path):
    preprocess([corpus], tmp_path / "out", code_model, shard_bytes=200_000)
    sidecar = json.loads((tmp_path / "out.json").read_text())
    tokenizer = load_tokenizer(code_model)
    assert sidecar["tokenizer_fingerprint"] == tokenizer.fingerprint
    assert sidecar["append_eod"] is False and sidecar["mask_token_id"] == tokenizer.mask_id
    ids = (tmp_path / "out.bin").read_bytes()
    assert sidecar["tokens"] * 2 == len(ids) == sum(size for size, _ in sidecar["ranges"])
    assert len(sidecar["ranges"]) > 3
    import hashlib

    start = 0
    for size, digest in sidecar["ranges"]:
        assert hashlib.sha256(ids[start : start + size]).hexdigest() == digest
        start += size


def test_large_outputs_are_several_files(code_model, corpus, expected, tmp_path):
    result = preprocess(
        [corpus], tmp_path / "out", code_model, append_eod=True, max_file_bytes=300_000
    )
    assert len(result.prefixes) > 2
    joined = b"".join(contents(prefix)[0] for prefix in result.prefixes)
    assert joined == expected[0][0]
    again = preprocess(
        [corpus], tmp_path / "out", code_model, append_eod=True, max_file_bytes=300_000
    )
    assert (
        again.is_old and again.documents == result.documents and again.prefixes == result.prefixes
    )


def test_qwen2_ids_are_int32(shared_data, tmp_path):
    folder = shared_data / "qwen2_tokenizer"
    qwen2 = load_tokenizer(folder)
    texts = ["import os", "e\u0301\u0323 \u1e69 \U0001d16e", "<|im_start|>x<|mask|>", "\0\r\n  \t"]
    path = write_records(tmp_path / "r.jsonl", texts)
    assert preprocess([path], tmp_path / "out", folder, append_eod=True).dtype == "int32"
    documents = [[*qwen2.encode(text), 151643] for text in texts]
    assert contents(tmp_path / "out") == built_by_hand(tmp_path / "hand", documents, np.int32)


def test_literals_as_ids_are_counted(shared_data, tmp_path):
    from tokenizers import Tokenizer

    folder = shared_data / "qwen2_tokenizer"
    library = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = ["a<|im_start|>b <|im_start|>", "plain", "<|endoftext|>"]
    path = write_records(tmp_path / "r.jsonl", texts)
    preprocess([path], tmp_path / "out", folder, special_tokens_in_text="as_ids")
    documents = [library.encode(text).ids for text in texts]
    assert contents(tmp_path / "out") == built_by_hand(tmp_path / "hand", documents, np.int32)
    counted = json.loads((tmp_path / "out.json").read_text())["special_tokens_as_ids"]
    assert counted == {"<|im_start|>": 2, "<|endoftext|>": 1}


def test_a_mask_in_data_stops_the_run_and_names_the_document(code_model, tmp_path):
    path = write_records(tmp_path / "r.jsonl", ["fine", "bad <|mask|>"])
    with pytest.raises(DataError, match=r"r\.jsonl, record at position 17: .*<\|mask\|>"):
        preprocess([path], tmp_path / "out", code_model, special_tokens_in_text="as_ids")
    assert not (tmp_path / "out.bin").exists()


def run_until_killed(arguments, seconds):
    command = [sys.executable, "-m", "megatron_dream", "preprocess", *map(str, arguments)]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def test_killed_and_called_again(code_model, corpus, expected, tmp_path):
    """Killed once some parts are done; what they hold is not made again."""
    arguments = ["--input", corpus, "--output-prefix", tmp_path / "out", "--tokenizer", code_model]
    arguments += ["--append-eod", "--shard-mb", "0.05", "--max-rejects", "0.5"]
    command = [sys.executable, "-m", "megatron_dream", "preprocess", *map(str, arguments)]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    parts = tmp_path / "out.parts"
    while len(list(parts.glob("*.json"))) < 4:
        assert process.poll() is None
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in parts.glob("0*.json")}
    assert done and not (tmp_path / "out.idx").exists()
    before = time.time_ns()
    assert main(["preprocess", *map(str, arguments)]) == 0
    assert contents(tmp_path / "out") == expected[0]
    assert all(made < before for made in done.values()) and not parts.exists()


@pytest.mark.parametrize("ending", [".idx", ".json", ".rejects.jsonl"])
def test_killed_before_a_file_has_its_name(code_model, corpus, expected, tmp_path, ending):
    """Its temporary file is gone after the next call, one of another prefix is not."""
    prefix, others = tmp_path / "out", tmp_path / ".out2.json.77.tmp"
    others.touch()
    code = (
        "import os, sys\nfrom megatron_dream.cli import main\nreplace = os.replace\n"
        f"name = {str(prefix) + ending!r}\n"
        "os.replace = lambda a, b: os.kill(os.getpid(), 9) if str(b) == name else replace(a, b)\n"
        "main(sys.argv[1:])\n"
    )
    words = ["preprocess", "--input", corpus, "--output-prefix", prefix, "--tokenizer", code_model]
    words = [*map(str, words), "--append-eod", "--max-rejects", "0.5"]
    assert subprocess.run([sys.executable, "-c", code, *words]).returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(f".out{ending}.*.tmp"))) == 1
    assert main(words) == 0
    assert contents(prefix) == expected[0]
    assert list(tmp_path.glob(".*")) == [others]


def test_another_job_is_refused_by_name(code_model, corpus, tmp_path):
    preprocess([corpus], tmp_path / "out", code_model)
    old = contents(tmp_path / "out")
    with pytest.raises(DataError, match="append_eod false, now it is true.*--overwrite"):
        preprocess([corpus], tmp_path / "out", code_model, append_eod=True)
    assert contents(tmp_path / "out") == old
    preprocess([corpus], tmp_path / "out", code_model, append_eod=True, overwrite=True)
    assert contents(tmp_path / "out") != old


def test_changed_input_is_refused_by_name(code_model, tmp_path):
    path = write_records(tmp_path / "r.jsonl", ["a", "b"])
    with pytest.raises(DataError):  # leaves a folder of parts behind
        preprocess([path], tmp_path / "out", code_model, part="0/0")
    preprocess([path], tmp_path / "out", code_model, part="1/2")
    write_records(path, ["a", "b", "c"])
    with pytest.raises(DataError, match=r"begun with the input .*r\.jsonl"):
        preprocess([path], tmp_path / "out", code_model)


def test_tasks_of_an_array_leave_the_merge_to_a_last_call(code_model, corpus, expected, tmp_path):
    options = {"append_eod": True, "shard_bytes": 200_000}
    for task in (2, 0, 1):
        assert (
            preprocess([corpus], tmp_path / "out", code_model, part=f"{task}/3", **options) is None
        )
        assert not (tmp_path / "out.bin").exists()
    preprocess([corpus], tmp_path / "out", code_model, **options)
    assert contents(tmp_path / "out") == expected[0]


def test_too_many_bad_records(code_model, tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"text": "a"}\n' * 990 + "broken\n" * 30)
    with pytest.raises(DataError, match="30 of 1020 records are bad, more than --max-rejects 0.01"):
        preprocess([path], tmp_path / "out", code_model)
    assert json.loads((tmp_path / "out.rejects.jsonl").read_text().splitlines()[0])["line"] == 991
    assert preprocess([path], tmp_path / "out", code_model, max_reject_share=0.1).rejected == 30


def test_filters_drop_the_same_on_any_workers(code_model, tmp_path):
    path = write_records(tmp_path / "r.jsonl", [f"x = {n}\n" * (n % 7) for n in range(200)])
    (tmp_path / "f.yaml").write_text("filters:\n  - length: {min_characters: 20}\n")
    words = ["preprocess", "--input", str(path), "--tokenizer", str(code_model)]
    words += ["--filters", str(tmp_path / "f.yaml"), "--shard-mb", "0.001"]
    for workers in ("1", "2"):
        prefix = tmp_path / f"w{workers}"
        assert main([*words, "--output-prefix", str(prefix), "--workers", workers]) == 0
    assert contents(tmp_path / "w1") == contents(tmp_path / "w2")
    one, two = (json.loads((tmp_path / f"w{n}.json").read_text()) for n in "12")
    (counted,), (again,) = one["filters"]["filters"], two["filters"]["filters"]
    assert counted["dropped"] == one["dropped"] > 0 and counted["seen"] == 200
    assert {**counted, "seconds": 0} == {**again, "seconds": 0}
    assert len(counted["samples"]) == 5


def test_an_unknown_filter_is_named_with_its_line(code_model, tmp_path, capsys):
    path = write_records(tmp_path / "r.jsonl", ["a"])
    (tmp_path / "f.yaml").write_text("filters:\n  - lengths: {}\n")
    words = ["preprocess", "--input", str(path), "--tokenizer", str(code_model)]
    words += ["--output-prefix", str(tmp_path / "o"), "--filters", str(tmp_path / "f.yaml")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "f.yaml:2" in error and "length" in error


def test_nothing_left_is_an_error(code_model, tmp_path):
    path = write_records(tmp_path / "r.jsonl", ["", ""])
    with pytest.raises(DataError, match="no document is left to write.*2 empty"):
        preprocess([path], tmp_path / "out", code_model)
    assert not (tmp_path / "out.bin").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"workers": 0}, "--workers is 0"),
        ({"part": "3/3"}, "--part is '3/3'"),
        ({"json_key": "content"}, "content"),
        ({"dataset": "dclm-baselin"}, "dclm-baseline"),
        ({"dataset": "finemath", "template": "{x}"}, "leave --json-key and --template out"),
    ],
)
def test_impossible_arguments(code_model, tmp_path, changes, words):
    path = write_records(tmp_path / "r.jsonl", ["a"])
    with pytest.raises(UserError, match=words):
        preprocess([path], tmp_path / "out", code_model, **changes)
    with pytest.raises(DataError, match="prefix is a folder"):
        preprocess([path], tmp_path, code_model)


def test_a_tokenizer_that_is_not_there(tmp_path):
    path = write_records(tmp_path / "r.jsonl", ["a"])
    with pytest.raises(UserError, match=r"nowhere\.model"):
        preprocess([path], tmp_path / "out", tmp_path / "nowhere.model")


def test_a_full_disk_is_a_sentence_and_what_is_done_stays(corpus, code_model, tmp_path):
    """A limit on the size of files stands for the disk's end: the same calls fail."""
    words = [sys.executable, "-m", "megatron_dream", "preprocess", "--input", str(corpus)]
    words += ["--output-prefix", str(tmp_path / "o"), "--tokenizer", str(code_model)]
    words += ["--shard-mb", "0.2", "--max-rejects", "0.5"]
    limited = ["bash", "-c", 'ulimit -f 40; exec "$@"', "bash", *words]  # 40 kB a file
    done = subprocess.run(limited, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "make room and run the same command again" in done.stderr
    assert not (tmp_path / "o.bin").exists()
    subprocess.run(words, capture_output=True, timeout=240, check=True)
    expected = tmp_path / "expected"
    options = {"shard_bytes": 200_000, "max_reject_share": 0.5, "quiet": True}
    preprocess([corpus], expected, code_model, **options)
    for ending in ENDINGS:
        written = (tmp_path / "o").with_suffix(ending).read_bytes()
        assert written == expected.with_suffix(ending).read_bytes()


def test_workers_that_take_over_from_one_another_write_the_same(corpus, code_model, tmp_path):
    options = PreprocessOptions(shard_bytes=200_000, max_reject_share=0.5)
    written = []
    for name, growth in (("kept", 1 << 40), ("renewed", -(1 << 40))):  # never, after every shard
        plan = ([corpus], tmp_path / name, code_model, text_adapter("text"), options, True)
        with LocalPool(str(code_model), 2, growth) as pool:
            job = plan_job(*plan)
            assert len(job.shards) > 4
            assert run_job(job, pool, quiet=True).documents > 0
        written.append([(tmp_path / name).with_suffix(e).read_bytes() for e in ENDINGS])
    assert written[0] == written[1]


def test_parts_that_a_kill_left_behind_go_when_the_command_is_called_again(
    corpus, code_model, tmp_path
):
    options = {"max_reject_share": 0.5, "quiet": True}
    preprocess([corpus], tmp_path / "o", code_model, **options)
    parts = tmp_path / "o.parts"
    parts.mkdir()
    (parts / "000000.len").write_bytes(b"")
    assert preprocess([corpus], tmp_path / "o", code_model, **options).is_old
    assert not parts.exists()
