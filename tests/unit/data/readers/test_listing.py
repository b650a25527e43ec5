"""Which files are found, in which order, and what is kept out."""

import json
import logging
import os
import sys

import fsspec
import pytest

from megatron_dream.data.readers import (
    DATA_SUFFIXES,
    content_of,
    list_inputs,
    plan_shards,
    read_shard,
    text_adapter,
)
from megatron_dream.errors import DataError, MissingDependencyError
from tests.unit.data.readers.files_of_lines import line, save_to_disk, texts


def names(*inputs, **options):
    return [file.name for file in list_inputs(inputs, **options)]


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "root"
    for name in ("b/z.py", "b/a.py", "a/c.py", "top.py", "notes.txt", "b/deep/x.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


ORDER = ["top.py", "a/c.py", "b/a.py", "b/z.py", "b/deep/x.py"]


def test_folders_files_and_globs_in_one_order(tree):
    assert names(tree) == ORDER
    assert names(tree, suffixes=[".txt"]) == ["notes.txt"]
    assert names(f"{tree}/**/*.py") == ORDER
    assert names(f"{tree}/b/*.py") == ["a.py", "z.py"]
    assert names(tree / "notes.txt") == [str(tree / "notes.txt")]
    assert names(f"file://{tree}") == ORDER


def test_lists_name_anything(tree, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text(f"# ours\nroot/b/*.py\n\n{tree}/top.py\nroot/a\n")
    paths = [file.path for file in list_inputs([f"@{listed}"])]
    assert paths == [str(tree / name) for name in ("b/a.py", "b/z.py", "top.py", "a/c.py")]
    listed.write_text("root/a\nroot/../../secret\n")
    with pytest.raises(DataError, match=r"list\.txt, line 2: root/\.\./\.\./secret has"):
        list_inputs([f"@{listed}"])
    with pytest.raises(DataError, match="the list cannot be read"):
        list_inputs(["@" + str(tmp_path / "absent")])


def test_links_that_lead_out_are_left_out(tree, tmp_path, caplog):
    (tmp_path / "secret.py").write_text("s")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/o.py").write_text("o")
    (tree / "out.py").symlink_to(tmp_path / "secret.py")
    (tmp_path / "rootless").mkdir()
    (tmp_path / "rootless/r.py").write_text("r")
    (tree / "near.py").symlink_to(tmp_path / "rootless/r.py")
    (tree / "inside.py").symlink_to(tree / "a/c.py")
    (tree / "folder").symlink_to(tmp_path / "other")
    (tree / "loop").symlink_to(tree)
    with caplog.at_level(logging.WARNING):
        assert names(tree) == ["inside.py", *ORDER]
    assert "out.py is a link that leads out of" in caplog.text
    assert "folder is a link to a folder" in caplog.text
    assert "out.py" not in names(f"{tree}/*.py")
    with pytest.raises(DataError, match="no file fits"):
        list_inputs([f"{tree}/fold*/*.py"])
    assert len(list_inputs([tree / "out.py"])) == 1  # named itself: that is a wish


def test_a_folder_of_nothing_but_links_says_so(tmp_path):
    (tmp_path / "blob").write_text("x")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot/a.jsonl").symlink_to(tmp_path / "blob")
    with pytest.raises(DataError, match="all 1 files in it are links that lead out"):
        list_inputs([tmp_path / "snapshot"], [".jsonl"])


@pytest.mark.parametrize("path", ["{0}/a/../../secret.py", "{0}/../*.py", "memory://a/../b.jsonl"])
def test_dots_behind_a_folder_are_refused(tree, path):
    with pytest.raises(DataError, match=r"`\.\.` behind a folder's name"):
        list_inputs([path.format(tree)])


def test_dots_in_front_name_a_place(tree, monkeypatch):
    monkeypatch.chdir(tree / "a")
    assert [file.path for file in list_inputs(["../b"])] == [
        "../b/a.py",
        "../b/z.py",
        "../b/deep/x.py",
    ]


def test_missing_inputs_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        list_inputs([tmp_path / "absent"])
    (tmp_path / "a.jsonl.gz").write_text("")
    with pytest.raises(DataError, match=r"no file that ends in \.py.*there are \.jsonl\.gz"):
        list_inputs([tmp_path])
    with pytest.raises(DataError, match="No input"):
        list_inputs([])
    with pytest.raises(DataError, match="no file fits"):
        list_inputs([f"{tmp_path}/*.parquet"])


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("a.jsonl", ("jsonl", None)),
        ("x/a.JSON.GZ", ("jsonl", "gz")),
        ("a.jsonl.zstd", ("jsonl", "zst")),
        ("a.parquet", ("parquet", None)),
        ("data-0.arrow", ("arrow", None)),
        ("a.py", ("text", None)),
        ("a.py.gz", ("text", "gz")),
        ("Makefile", ("text", None)),
        ("jsonl", ("text", None)),
    ],
)
def test_names_tell_the_content(name, wanted):
    assert content_of(name) == wanted


def test_identity_changes_with_the_file(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("1")
    before = list_inputs([path])[0].identity()
    assert list_inputs([path])[0].identity() == before
    path.write_text("2")
    path.touch()
    os.utime(path, ns=(1, 1))
    assert list_inputs([path])[0].identity() != before
    json.dumps(before)


def test_folders_that_datasets_saved_are_read_by_their_state(tmp_path):
    root = save_to_disk(tmp_path / "d/train", [[{"text": "a"}], [{"text": "b"}]])
    save_to_disk(tmp_path / "d/test", [[{"text": "c"}]])
    (tmp_path / "d/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    (root / "cache-1.arrow").write_bytes(b"not of the set")
    files = list_inputs([tmp_path / "d"])
    assert [f.name.split("/")[0] for f in files] == ["train", "train", "test"]
    found = [o for s in plan_shards(files) for o in read_shard(s, files, text_adapter())]
    assert texts(found) == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["../../secret.arrow", "/etc/passwd", "..", "absent.arrow", None])
def test_a_state_that_names_other_places_is_refused(tmp_path, name):
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    with pytest.raises(DataError, match="beside it"):
        list_inputs([tmp_path])


def test_two_roots_with_the_same_names_keep_them_apart(tmp_path, caplog):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.py").write_text(name)
    assert names(tmp_path / "one", tmp_path / "two") == ["one/a.py", "two/a.py"]
    assert names(tmp_path / "one", tmp_path / "one") == ["a.py", "a.py"]
    assert "named twice" in caplog.text


@pytest.fixture
def bucket():
    system = fsspec.filesystem("memory")
    for name in ("b/z.jsonl", "a.jsonl", "b/a.jsonl.gz", "x.txt"):
        system.pipe(f"/bucket/{name}", line(name) + b"\n")
    yield system
    system.rm("/bucket", recursive=True)


def test_remote_folders_globs_and_files(bucket):
    url = "memory://bucket"
    assert names(url, suffixes=DATA_SUFFIXES) == ["a.jsonl", "b/a.jsonl.gz", "b/z.jsonl"]
    assert names(f"{url}/**/*.jsonl") == ["a.jsonl", "b/z.jsonl"]
    (file,) = list_inputs([f"{url}/b/z.jsonl"])
    assert file.is_remote and file.size == len(line("b/z.jsonl")) + 1
    assert file.stamp  # when it was made
    found = [o for s in plan_shards([file]) for o in read_shard(s, [file], text_adapter())]
    assert texts(found) == ["b/z.jsonl"]
    with pytest.raises(DataError, match="no such file"):
        list_inputs([f"{url}/absent"])
    with pytest.raises(DataError, match="no file there fits"):
        list_inputs([url], [".arrow"])


def test_remote_lines_are_read_by_ranges(bucket):
    data = b"".join(line(str(i)) + b"\n" for i in range(500))
    bucket.pipe("/bucket/big.jsonl", data)
    files = list_inputs(["memory://bucket/big.jsonl"])
    shards = plan_shards(files, 1000)
    assert len(shards) > 5
    found = [o for s in shards for o in read_shard(s, files, text_adapter())]
    assert texts(found) == [str(i) for i in range(500)]


def test_absent_packages_say_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingDependencyError, match="pip install fsspec"):
        list_inputs(["memory://a"])
    monkeypatch.undo()
    with pytest.raises(DataError, match="Protocol not known"):
        list_inputs(["nosuch://a"])


def test_zst_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    path = tmp_path / "r.jsonl.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd")
    files = list_inputs([path])
    with pytest.raises(MissingDependencyError, match="pip install zstandard"):
        list(read_shard(plan_shards(files)[0], files, text_adapter()))
