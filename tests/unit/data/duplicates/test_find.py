"""Passes over duplicates: which copy stays, the same for any shards, workers and interruptions."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.cli import main
from megatron_dream.data.document import Document
from megatron_dream.data.duplicates import (
    DropList,
    ExactSigner,
    MinhashParameters,
    NearSigner,
    find_duplicates,
    load_drop_list,
    pass_source,
)
from megatron_dream.data.duplicates import groups as groups_module
from megatron_dream.data.duplicates.find import PassSource
from megatron_dream.data.filters.length import LengthOptions
from megatron_dream.data.filters.spec import FilterSpec
from megatron_dream.data.inspection import inspect_data
from megatron_dream.data.readers import read_shard, text_adapter
from megatron_dream.errors import DataError, UserError
from megatron_dream.tokenizer.train import train_sentencepiece


def source_of(folder: Path, name: str, texts: list[str], shard_bytes: int = 200) -> PassSource:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    return pass_source([path], text_adapter("text"), name=name, shard_bytes=shard_bytes)


def documents(source: PassSource) -> list[Document]:
    return [
        outcome
        for shard in source.shards
        for outcome in read_shard(
            shard, source.files, source.adapter, source.limits, source=source.name
        )
        if isinstance(outcome, Document)
    ]


def found(
    sources: list[PassSource], folder: Path, signer: object = ExactSigner, **more: int
) -> DropList:
    result = find_duplicates(sources, folder, signer, quiet=True, **more)  # type: ignore[arg-type]
    assert result is not None
    return result


def kept(sources: list[PassSource], drop: DropList) -> list[tuple[str, str]]:
    return [(s.name, d.text) for s in sources for d in documents(s) if d not in drop]


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(st.lists(st.integers(0, 12), max_size=25), min_size=1, max_size=3),
    shard_bytes=st.integers(20, 400),
)
def test_the_first_copy_stays_whatever_the_shards(
    tmp_path_factory: pytest.TempPathFactory, texts: list[list[int]], shard_bytes: int
) -> None:
    folder = tmp_path_factory.mktemp("pass")
    named = [[f"text number {n}" for n in part] + ["always"] for part in texts]
    sources = [source_of(folder, f"s{i}", part, shard_bytes) for i, part in enumerate(named)]
    expected: list[tuple[str, str]] = []
    seen = set()
    for source, part in zip(sources, named, strict=True):
        for text in part:
            if text not in seen:
                seen.add(text)
                expected.append((source.name, text))
    drop = found(sources, folder / "list")
    assert kept(sources, drop) == expected
    assert len(drop) == sum(map(len, named)) - len(expected)


def test_many_slices_find_what_one_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"t{n % 70}" for n in range(200)]
    sources = [source_of(tmp_path, "s", texts)]
    one = found(sources, tmp_path / "one")
    monkeypatch.setattr(groups_module, "SLICE_ROWS", 7)
    many = found(sources, tmp_path / "many")
    assert one._ids[:] == many._ids[:] and len(one) == 130


def test_two_workers_find_what_one_finds(tmp_path: Path) -> None:
    sources = [source_of(tmp_path, "s", [f"t{n % 70}" for n in range(200)])]
    one = found(sources, tmp_path / "one")
    two = found(sources, tmp_path / "two", workers=2)
    assert one._ids[:] == two._ids[:]


def test_filters_go_first(tmp_path: Path) -> None:
    """What another filter drops must not make a document that stays a needless copy."""
    texts = ["same  ", "same", "x"]
    source = source_of(tmp_path, "s", texts)
    normalised = partial(ExactSigner, "trailing_whitespace")
    drop = found([source], tmp_path / "plain", normalised)
    assert kept([source], drop) == [("s", "same  "), ("s", "x")]
    short = FilterSpec("length", LengthOptions(max_characters=4))
    limited = PassSource("s", source.files, source.shards, source.adapter, (short,))
    drop = found([limited], tmp_path / "limited", normalised)
    assert ("s", "same") in kept([source], drop)


class Stopped(UserError):
    """Stands for a kill."""


class StoppingSigner(ExactSigner):
    """Stops the pass in the middle of a shard."""

    def sign(self, text: str) -> bytes | None:
        if text == "t60":
            raise Stopped("stopped")
        return super().sign(text)


def test_a_stopped_pass_goes_on_and_another_one_is_refused(tmp_path: Path) -> None:
    sources = [source_of(tmp_path, "s", [f"t{n}" for n in range(100)] + ["t5"])]
    with pytest.raises(Stopped):
        found(sources, tmp_path / "list", StoppingSigner)
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "list.work").glob("*.sig")}
    assert 0 < len(done) < len(sources[0].shards) and not (tmp_path / "list").exists()
    with pytest.raises(DataError, match="normalisation"):
        found(sources, tmp_path / "list", partial(ExactSigner, "trailing_whitespace"))
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in done.items())
    assert len(found(sources, tmp_path / "list")) == 1
    assert not (tmp_path / "list.work").exists()


def test_a_damaged_list_is_refused(tmp_path: Path) -> None:
    found([source_of(tmp_path, "s", ["a", "a", "b", "b"])], tmp_path / "list")
    ids = tmp_path / "list" / "ids.bin"
    content = ids.read_bytes()
    ids.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match="altered"):
        load_drop_list(tmp_path / "list")


def program(rng: np.random.Generator, words: int = 120) -> list[str]:
    return [f"name_{n}" for n in rng.integers(0, 5000, words)]


def test_near_duplicates_are_found_and_others_are_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    originals = [program(rng) for _ in range(40)]
    texts = [" ".join(words) for words in originals]
    changed = []
    for words in originals[:20]:
        copy = list(words)
        copy[60] = "another"
        changed.append(" ".join(copy))
    half = [" ".join(words[:60] + program(rng, 60)) for words in originals[20:]]
    sources = [source_of(tmp_path, "a", texts), source_of(tmp_path, "b", changed + half)]
    drop = found(sources, tmp_path / "near", partial(NearSigner, MinhashParameters()))
    stays = kept(sources, drop)
    assert [text for name, text in stays if name == "a"] == texts
    # One word of 120 changes 5 of 116 shingles: similarity 111 / 121 = 0.92, found with 1 - 2e-5.
    assert not [text for name, text in stays if name == "b" and text in changed]
    # Half of the words: similarity 56 / 176 = 0.32, found with 0.2%.
    assert len([text for name, text in stays if name == "b"]) >= 19


def test_a_chain_of_near_copies_is_one_group_and_its_first_stays(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    words, texts = program(rng), []
    for step in range(12):
        words[step * 9] = f"changed_{step}"
        texts.append(" ".join(words))
    sources = [source_of(tmp_path, "s", texts)]
    drop = found(sources, tmp_path / "near", partial(NearSigner, MinhashParameters()))
    assert kept(sources, drop)[0] == ("s", texts[0]) and len(kept(sources, drop)) <= 2


def test_a_mixture_without_its_copies(tmp_path: Path) -> None:
    """The commands as a person types them: a recipe, the pass over it, then preprocessing by its list."""
    for name, texts in (("first", ["a = 1", "b = 2"]), ("second", ["b = 2", "c = 3", "c = 3"])):
        source_of(tmp_path, name, texts)
    source_of(tmp_path, "words", ["def add(a, b):\n    return a + b\n" * 30])
    model = train_sentencepiece([tmp_path / "words.jsonl"], 300, tmp_path / "t.model")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"tokenizer: {model.path}\noutput: {tmp_path / 'out'}\ntoken_budget: 1000\n"
        f"filters: [{{duplicates: {{list: {tmp_path / 'copies'}}}}}]\nsources:\n"
        + "".join(
            f"  - {{name: {name}, text: text, weight: 0.5, input: [{tmp_path / name}.jsonl]}}\n"
            for name in ("first", "second")
        )
    )
    assert (
        main(["find-duplicates", "--recipe", str(recipe), "--output", str(tmp_path / "copies")])
        == 0
    )
    assert main(["preprocess", "--recipe", str(recipe)]) == 0
    counts = [
        inspect_data([tmp_path / "out" / name])[0].lengths.size for name in ("first", "second")
    ]
    assert counts == [2, 1]
    sidecar = json.loads((tmp_path / "out" / "second.json").read_text())
    assert sidecar["dropped"] == 2
    # Another list is another job: what was made with the old one is not taken for it.
    source_of(tmp_path, "second", ["b = 3", "c = 3", "c = 3"])
    words = ["find-duplicates", "--recipe", str(recipe), "--output", str(tmp_path / "copies")]
    assert main(words) == 0
    assert main(["preprocess", "--recipe", str(recipe)]) == 2
