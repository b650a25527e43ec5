"""Ids to texts, from a local folder as the bucket."""

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from megatron_dream.data.readers import corpus
from megatron_dream.data.readers.blob_ids import BlobReference
from megatron_dream.data.readers.blob_store import BlobStore, LeftOutError, decode
from megatron_dream.data.readers.software_heritage import FetchOptions, fetch_contents
from megatron_dream.errors import ConfigError, DataError
from tests.unit.data.readers.files_of_lines import read_all, texts, write_parquet


def git_id(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Bucket:
    """A folder of gzip objects."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.url = f"file://{folder}"

    def put(self, data, name=None, packed=None):
        name = name or git_id(data)
        (self.folder / name).write_bytes(gzip.compress(data) if packed is None else packed)
        return name


@pytest.fixture
def bucket(tmp_path):
    return Bucket(tmp_path / "content")


def listed(folder, rows, name="ids.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def options(bucket, **values):
    return FetchOptions(**{"bucket": bucket.url, "threads": 4, "wait_seconds": 0.0, **values})


def left_out(output):
    lines = output.with_name(output.name + ".fetch") / "left_out.jsonl"
    return [json.loads(line) for line in lines.read_text().splitlines()]


@pytest.mark.parametrize("kind", ["jsonl.zst", "parquet"])
@pytest.mark.parametrize("ids", ["jsonl", "parquet"])
def test_texts_in_the_order_of_their_ids_with_their_fields(tmp_path, bucket, kind, ids):
    rows = [
        {
            "blob_id": bucket.put(f"x = {i}\n".encode()),
            "src_encoding": "UTF-8",
            "language": "Python",
            "repo_name": "a/b",
            "path": f"/{i}.py",
            "score": 3.5,
            "int_score": 4,
            "length_bytes": 6,
            "detected_licenses": ["MIT"],
            "license_type": "permissive",
            "other": {"x": 1},
        }
        for i in range(25)
    ]
    path = tmp_path / "ids.parquet"
    path = write_parquet(path, rows) if ids == "parquet" else listed(tmp_path, rows)
    output = tmp_path / "texts"
    report = fetch_contents([path], output, options(bucket, part_ids=10, output_format=kind))
    assert (report.ids, report.written, report.left_out) == (25, 25, {})
    assert len(list(output.iterdir())) == 3
    found = read_all(
        output, adapter=corpus("stack-edu"), suffixes=(kind,), fields=("licence", "path", "quality")
    )
    assert texts(found) == [f"x = {i}\n" for i in range(25)]
    assert found[3].fields == {"licence": ["MIT"], "path": "/3.py", "quality": 3.5}
    if kind == "parquet":
        assert "other" not in pq.read_schema(next(output.iterdir())).names


def test_repositories_with_lists_of_files(tmp_path, bucket):
    files = [{"blob_id": bucket.put(b"one"), "path": "/1"}, {"blob_id": bucket.put(b"two")}]
    rows = [{"repo_name": "a/b", "num_files": 2, "files": files}, {"repo_name": "c/d", "files": []}]
    path = write_parquet(tmp_path / "ids.parquet", rows)
    output = tmp_path / "texts"
    assert fetch_contents([path], output, options(bucket)).written == 2
    found = read_all(output, suffixes=(".zst",), fields=("repo_name", "path"))
    assert texts(found) == ["one", "two"]
    assert [o.fields for o in found] == [{"repo_name": "a/b", "path": "/1"}, {"repo_name": "a/b"}]


def test_what_is_left_out_is_counted_and_listed(tmp_path, bucket):
    good = bucket.put("é".encode("latin-1"))
    rows = [
        {"blob_id": good, "src_encoding": "ISO-8859-1"},
        {"blob_id": "b" * 40, "src_encoding": "UTF-8"},
        {"blob_id": good, "src_encoding": "UTF-8"},
        {"blob_id": good, "src_encoding": "no-such"},
        {"blob_id": good, "src_encoding": "zlib"},
        {"blob_id": bucket.put(b"other", name="c" * 40)},
        {"blob_id": bucket.put(b"", name="d" * 40, packed=b"no gzip")},
        {"blob_id": bucket.put(b"", name="e" * 40, packed=gzip.compress(b"x" * 99)[:-9])},
        {"blob_id": bucket.put(b"x" * 2000)},
        {"blob_id": "../../etc/passwd"},
        {"blob_id": None},
        {"content": "x"},
        {"blob_id": bucket.put(b"plain sha1", name=hashlib.sha1(b"plain sha1").hexdigest())},
        {"blob_id": bucket.put(b"any name", name="swh-1")},
        {"blob_id": bucket.put(b"")},
    ]
    output = tmp_path / "texts"
    path = listed(tmp_path, rows)
    with open(path, "a") as stream:
        stream.write("{broken\n")
    report = fetch_contents([path], output, options(bucket, max_bytes=1000))
    assert texts(read_all(output, suffixes=(".zst",))) == ["é", "plain sha1", "any name", ""]
    assert report.left_out == {
        "missing": 1,
        "undecodable": 3,
        "damaged": 3,
        "too_large": 1,
        "bad_record": 4,
    }
    assert report.ids == 16 == report.written + sum(report.left_out.values())
    lost = left_out(output)
    assert [(item["kind"], item["record"]) for item in lost[:2]] == [
        ("missing", 1),
        ("undecodable", 2),
    ]
    assert lost[0]["blob_id"] == "b" * 40 and lost[0]["file"] == str(path)
    assert "16 ids: 4 texts" in report.line() and "1 missing" in report.line()


@pytest.mark.parametrize(
    ("data", "encoding", "text"),
    [
        ("é".encode("utf-16"), "UTF-16", "é"),
        (b"\xef\xbb\xbfa", "UTF-8", "a"),
        ("привет".encode("cp1251"), "windows-1251", "привет"),
        ("中".encode("gb18030"), "GB18030", "中"),
    ],
)
def test_encodings(data, encoding, text):
    assert decode(data, encoding) == text


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (b"\xff", "utf-8"),
        (b"+2AA-", "utf-7"),
        (b"a", "hex"),
        (b"a", "a\0b"),
        (b"\xd8\0\0\0", "utf-16-be"),
    ],
)
def test_no_such_text(data, encoding):
    with pytest.raises(LeftOutError) as caught:
        decode(data, encoding)
    assert caught.value.kind == "undecodable"


def many(tmp_path, bucket, count=60):
    rows = [{"blob_id": bucket.put(b"text %d" % i)} for i in range(count)]
    rows[7] = {"blob_id": "f" * 40}
    return listed(tmp_path, rows)


def content_of(output):
    state = output.with_name(output.name + ".fetch")
    files = [*output.iterdir(), *(f for f in state.iterdir() if "manifest" not in f.name)]
    return {file.name: file.read_bytes() for file in files}


def test_finished_parts_are_not_fetched_again(tmp_path, bucket):
    path = many(tmp_path, bucket)
    output, whole = tmp_path / "texts", tmp_path / "whole"
    settings = options(bucket, part_ids=10)
    expected = fetch_contents([path], whole, settings)
    fetch_contents([path], output, settings)
    (output / "00000-000002.jsonl.zst").unlink()  # as a kill would leave it
    (tmp_path / "texts.fetch/00000-000004.json").unlink()
    for file in bucket.folder.iterdir():
        number = int(gzip.decompress(file.read_bytes()).split()[1])
        if number // 10 not in (2, 4):
            file.unlink()
    assert fetch_contents([path], output, settings) == expected
    assert content_of(output) == content_of(whole)


def test_threads_change_nothing(tmp_path, bucket):
    path = many(tmp_path, bucket)
    for threads in (1, 7):
        settings = options(bucket, part_ids=25, threads=threads)
        fetch_contents([path], tmp_path / f"t{threads}", settings)
    assert content_of(tmp_path / "t1") == content_of(tmp_path / "t7")


def test_other_lists_or_options_are_refused(tmp_path, bucket):
    path = many(tmp_path, bucket)
    fetch_contents([path], tmp_path / "texts", options(bucket))
    with pytest.raises(DataError, match=r"texts\.fetch was begun with other part_ids"):
        fetch_contents([path], tmp_path / "texts", options(bucket, part_ids=3))
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match="other inputs"):
        fetch_contents([path], tmp_path / "texts", options(bucket))


class FailingSystem:
    """A store whose connection fails some times for each object."""

    def __init__(self, failures):
        self.failures, self.calls = failures, 0

    def cat_file(self, path):
        self.calls += 1
        if self.calls <= self.failures:
            raise ConnectionError("reset")
        return gzip.compress(b"content")


@pytest.mark.parametrize(("failures", "works"), [(0, True), (2, True), (3, False)])
def test_a_failing_connection_is_tried_again_and_is_no_missing_blob(bucket, failures, works):
    store = BlobStore(bucket.url, max_bytes=100, attempts=3, wait_seconds=0.0)
    store._system = FailingSystem(failures)
    blob = BlobReference("swh-1", "UTF-8", {}, 0)
    if works:
        assert store.text(blob) == "content"
    else:
        with pytest.raises(DataError, match="3 attempts: reset; run the same command again"):
            store.text(blob)


def test_lists_that_are_none(tmp_path, bucket):
    path = write_parquet(tmp_path / "a.parquet", [{"text": "x"}])
    with pytest.raises(DataError, match="neither blob_id nor files; it has 'text'"):
        fetch_contents([path], tmp_path / "texts", options(bucket))
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match="is no list of ids"):
        fetch_contents([tmp_path / "a.txt"], tmp_path / "other", options(bucket))
    for name in ("threads", "part_ids"):
        with pytest.raises(ConfigError, match=f"{name} is 0"):
            options(bucket, **{name: 0})


def command(repository_root, *arguments):
    tool = repository_root / "tools/fetch_swh.py"
    environment = {**os.environ, "PYTHONPATH": str(repository_root)}
    return subprocess.Popen(
        [sys.executable, str(tool), *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_command_killed_and_resumed(tmp_path, bucket, repository_root):
    path = many(tmp_path, bucket, 3000)
    fetch_contents([path], tmp_path / "whole", options(bucket, part_ids=50))
    arguments = ("--input", path, "--output", tmp_path / "texts", "--bucket", bucket.url)
    arguments += ("--part-ids", "50", "--threads", "2")
    process = command(repository_root, *arguments)
    state = tmp_path / "texts.fetch"
    for _ in range(3):
        done = len(list(state.glob("*.json")))
        while process.poll() is None and len(list(state.glob("*.json"))) < done + 5:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        process = command(repository_root, *arguments)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "3,000 ids: 2,999 texts" in output and "left_out.jsonl" in output
    assert content_of(tmp_path / "texts") == content_of(tmp_path / "whole")


def test_the_command_says_what_is_wrong(tmp_path, repository_root):
    process = command(repository_root, "--input", tmp_path / "no", "--output", tmp_path / "o")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and errors.startswith("error: ") and "no such file" in errors
