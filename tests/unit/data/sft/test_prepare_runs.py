"""prepare-sft as a run: the same files from any workers and shards, the split, kills, second runs."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from megatron_dream.data import preparing, sequence_writer
from megatron_dream.data.duplicates.find import done_by_workers
from megatron_dream.data.indexed import check_sidecar, inspect_token_files
from megatron_dream.data.sft.merging import prompt_uniform
from megatron_dream.data.sft.prepare import prepare_sft
from megatron_dream.errors import DataError
from megatron_dream.tokenizer import load_tokenizer
from tests.unit.data.sft.prepared import (
    ASKED,
    contents,
    names,
    pair,
    prepare,
    read_pairs,
    report,
)


def many(count):
    """Records of every fate: kept, dropped by each rule, broken, copies."""
    records = []
    for n in range(count):
        records.append(pair(f"What is {n % 37}?", f"It is {n}."))
        if n % 10 == 3:
            records += [pair(ASKED, "No."), pair("What is 3?", "It is 3."), pair(" ", "x")]
            records += [pair(ASKED, f"```python\nx{n} = = 1\n```"), pair("p", "word " * 300), b"{"]
    return records


SPLIT = {"valid_share": 0.2, "max_length": 300, "max_rejects": 1.0, "quiet": True}


@pytest.fixture(scope="module")
def one_worker(sft_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    prepare(folder, sft_model, many(400), **SPLIT, shard_bytes=5000)
    return folder


def test_the_same_files_from_any_workers(sft_model, tmp_path, one_worker):
    path = one_worker / "in.jsonl"
    prepare_sft([path], tmp_path / "out", sft_model, workers=2, shard_bytes=5000, **SPLIT)
    assert report(tmp_path / "out")["job"]["shards"] > 3
    assert contents(tmp_path) == contents(one_worker)


def test_the_same_samples_from_any_shards(sft_model, tmp_path, one_worker):
    prepare_sft([one_worker / "in.jsonl"], tmp_path / "out", sft_model, **SPLIT)
    found, wanted = contents(tmp_path), contents(one_worker)
    assert found.keys() == wanted.keys()
    for name in wanted:
        if not name.endswith(".json"):  # which names the number of shards
            assert found[name] == wanted[name], name
    here, there = report(tmp_path / "out"), report(one_worker / "out")
    assert here.pop("job")["shards"] == 1 and there.pop("job")["shards"] > 3
    assert here == there


def test_the_split_is_by_prompt_alone(sft_model, one_worker):
    train, valid = read_pairs(one_worker / "out"), read_pairs(one_worker / "out_valid")
    assert len(train) + len(valid) == 400 and valid
    prompts = [{tuple(prompt) for prompt, _ in side} for side in (train, valid)]
    assert not prompts[0] & prompts[1] and len(prompts[0] | prompts[1]) == 37
    assert len(prompts[1]) < 18  # 7.4 are expected
    for side, wanted in zip(prompts, (False, True), strict=True):
        for prompt in side:
            assert (prompt_uniform(np.array(prompt, np.int32)) < 0.2) is wanted
    # Input order inside each side: responses count upwards.
    tokenizer = load_tokenizer(sft_model)
    for side in (train, valid):
        numbers = [int(tokenizer.decode(r).split()[-1].rstrip(".")) for _, r in side]
        assert numbers == sorted(numbers)


def test_a_side_without_samples_is_refused(sft_model, tmp_path):
    with pytest.raises(DataError, match="out_valid.bin: no sample fell to this side"):
        prepare(tmp_path, sft_model, [pair("a", "b")], valid_share=1e-9)
    assert not (tmp_path / "out.bin").exists() and not (tmp_path / "out_valid.bin").exists()


def test_the_files_are_what_the_package_opens(sft_model, one_worker):
    tokenizer = load_tokenizer(sft_model)
    for name in ("out", "out_valid"):
        files = inspect_token_files(one_worker / name)
        check_sidecar(files, tokenizer.fingerprint, tokenizer.eod_id)
        assert files.num_sequences == 2 * files.sidecar["num_samples"]
        pairs = read_pairs(one_worker / name)
        assert files.sidecar["max_prompt_tokens"] == max(len(p) for p, _ in pairs)
        assert files.sidecar["max_response_tokens"] == max(len(r) for _, r in pairs)
        assert files.sidecar["max_row_tokens"] == max(len(p) + len(r) + 1 for p, r in pairs)
    with pytest.raises(DataError, match="another|was made with the tokenizer"):
        check_sidecar(files, "ff" * 32, tokenizer.eod_id)


def test_the_index_is_megatron_cores(one_worker):
    from megatron_dream.data.indexed import open_indexed

    dataset = open_indexed(inspect_token_files(one_worker / "out"))
    pairs = read_pairs(one_worker / "out")
    assert dataset.document_indices.tolist() == list(range(0, 2 * len(pairs) + 1, 2))
    assert [dataset[2 * n].tolist() for n in range(9)] == [p for p, _ in pairs[:9]]
    assert [dataset[2 * n + 1].tolist() for n in range(9)] == [r for _, r in pairs[:9]]


def test_a_second_run(sft_model, tmp_path, capsys):
    first = prepare(tmp_path, sft_model, [pair("a", "b")])
    assert prepare(tmp_path, sft_model, [pair("a", "b")], overwrite=True)["num_samples"] == 1
    before = contents(tmp_path)
    path = tmp_path / "in.jsonl"
    result = prepare_sft([path], tmp_path / "out", sft_model, max_rejects=1.0)
    assert result.is_old and "complete already, 1 samples" in capsys.readouterr().out
    with pytest.raises(DataError, match="exists and is of another run"):
        prepare_sft([path], tmp_path / "out", sft_model, max_length=99, quiet=True)
    assert contents(tmp_path) == before and first["num_samples"] == 1


def test_another_share_is_another_run(sft_model, tmp_path):
    records = [pair(f"p{n}", "r") for n in range(40)]
    prepare(tmp_path, sft_model, records, valid_share=0.5)
    assert (tmp_path / "out_valid.bin").exists()
    with pytest.raises(DataError, match="is of another run"):
        prepare_sft([tmp_path / "in.jsonl"], tmp_path / "out", sft_model, quiet=True)
    assert prepare(tmp_path, sft_model, records, overwrite=True)["num_samples"] == 40
    assert sorted(contents(tmp_path)) == ["out.bin", "out.idx", "out.json"]


def test_a_failing_overwrite_leaves_the_old_files(sft_model, tmp_path):
    prepare(tmp_path, sft_model, [pair("a", "b")], valid_share=0.0)
    before = contents(tmp_path)
    with pytest.raises(DataError, match="no sample is left"):
        prepare(tmp_path, sft_model, [pair("a", " ")], overwrite=True)
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before


def test_a_failure_while_files_get_their_names_is_gone_on_from(sft_model, tmp_path, one_worker):
    arguments = [one_worker / "in.jsonl"], tmp_path / "out", sft_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequence_writer, "write_sequence_index", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare_sft(*arguments, shard_bytes=5000, **SPLIT)
    assert not list(tmp_path.glob("*.idx")) and not list(tmp_path.glob("*.json"))
    prepare_sft(*arguments, shard_bytes=5000, **SPLIT)
    assert contents(tmp_path) == contents(one_worker)
    assert not (tmp_path / "out.parts").exists()


def test_parts_of_something_else_are_left_alone(sft_model, tmp_path):
    (tmp_path / "out.parts").mkdir()
    (tmp_path / "out.parts" / "manifest.json").write_text('{"version": 1}')
    with pytest.raises(DataError, match="out.parts is of something else"):
        prepare(tmp_path, sft_model, [pair("a", "b")])
    assert (tmp_path / "out.parts" / "manifest.json").exists()


def test_a_worker_that_dies_leaves_no_output(sft_model, tmp_path):
    records = [pair("a", f"b{n}") for n in range(300)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparing, "done_by_workers", dying_workers)
        with pytest.raises(DataError, match="a worker process died"):
            prepare(tmp_path, sft_model, records, workers=2, shard_bytes=2000)
    assert names(tmp_path) == ["in.jsonl", "out.parts"]


def dying_workers(units, do, workers):
    """Workers of which one is killed by its first shard."""
    yield from done_by_workers(units, die, workers)


def die(unit):
    """Ends the process as the kernel does when memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_killed_and_called_again(sft_model, tmp_path, one_worker):
    path = one_worker / "in.jsonl"
    code = (
        "import sys, time\nfrom megatron_dream.data.sft import prepare, prepare_job\n"
        "run = prepare_job.SftJob.run\n"
        "def slow(self, shard):\n    run(self, shard)\n    time.sleep(0.2)\n"
        "prepare_job.SftJob.run = slow\n"
        f"prepare.prepare_sft([{str(path)!r}], {str(tmp_path / 'out')!r}, {str(sft_model)!r}, "
        "valid_share=0.2, max_length=300, max_rejects=1.0, shard_bytes=5000)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    parts = tmp_path / "out.parts"
    while not (parts / "000001.json").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert names(tmp_path) == ["out.parts"]
    (tmp_path / ".out_valid.idx.77.tmp").touch()  # as of a kill while that was written
    made = {p.name: p.stat().st_mtime_ns for p in parts.glob("0*.json")}
    seen = []
    from megatron_dream.data.sft import prepare_job

    run = prepare_job.SftJob.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare_job.SftJob, "run", lambda job, n: (seen.append(n), run(job, n))[1])
        prepare_sft(
            [path],
            tmp_path / "out",
            sft_model,
            valid_share=0.2,
            max_length=300,
            max_rejects=1.0,
            shard_bytes=5000,
            quiet=True,
        )
    assert seen and min(seen) == len(made)  # went on where it was
    for name in ("out.bin", "out.idx", "out_valid.bin", "out.dropped.jsonl", "out.rejects.jsonl"):
        assert (tmp_path / name).read_bytes() == (one_worker / name).read_bytes(), name
    assert not parts.exists() and not list(tmp_path.glob(".*"))
