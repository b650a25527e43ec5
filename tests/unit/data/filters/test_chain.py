"""Chains: counting, samples and counters that add up over shards whatever the workers."""

import itertools
import json
import random

import pytest

from megatron_dream.data.document import Document, document_hash
from megatron_dream.data.filters import (
    Filter,
    FilterChain,
    build_filters,
    counters_table,
    merge_counters,
)
from megatron_dream.data.filters.chain import SAMPLES
from megatron_dream.errors import DataError
from tests.unit.data.filters.documents import document, numbered

SPECS = [{"length": {"min_characters": 3}}, {"personal_data": {"kinds": ["email"]}}, "repetition"]


def corpus(count=300):
    chance = random.Random(3)
    kinds = ["x", "a@b.org writes to c@d.org", "spam " * 50, "an ordinary sentence", ""]
    return numbered(chance.choices(kinds, k=count))


def without_seconds(counters):
    text = json.loads(json.dumps(counters))
    for entry in text["filters"]:
        assert entry.pop("seconds") >= 0
    return text


def test_filters_apply_in_order_and_count():
    chain = build_filters(SPECS)
    documents = corpus()
    reasons = [chain.apply(one) for one in documents]
    length, personal, repetition = chain.counters()["filters"]
    short = reasons.count("under 3 characters")
    assert (length["seen"], length["dropped"], length["kept"]) == (300, short, 300 - short)
    assert length["reasons"] == {"under 3 characters": short}
    assert personal["seen"] == repetition["seen"] == 300 - short
    assert personal["dropped"] == 0 and length["changed"] == 0
    assert personal["changed"] == sum("email@example.com" in one.text for one in documents)
    assert personal["details"] == {"masked email": 2 * personal["changed"]}
    assert repetition["dropped"] == reasons.count("top_2_gram over 0.2") > 0


def test_samples_are_those_with_the_lowest_hash():
    chain = build_filters(SPECS[:1])
    documents = numbered(["x"] * 100)
    for one in documents:
        chain.apply(one)
    (entry,) = chain.counters()["filters"]
    expected = sorted((document_hash(one.id, "sample"), one.id) for one in documents)[:SAMPLES]
    assert [(number, name) for number, name, _, _ in entry["samples"]] == expected
    assert entry["samples"][0][2:] == ["under 3 characters", "x"]


def test_a_sample_is_an_excerpt():
    chain = build_filters([{"length": {"max_characters": 3}}])
    chain.apply(document("y" * 100_000))
    assert len(chain.counters()["filters"][0]["samples"][0][3]) == 200


def test_samples_show_no_secret_and_can_be_written():
    chain = build_filters([{"length": {"max_characters": 3}}, "personal_data"])
    key = "ghp_" + "a1B2" * 9
    chain.apply(document(f"{'x' * 181} {key} x@y.org \ud800 8.8.8.8", "\udcff.py"))
    length, personal = chain.counters()["filters"]
    (sample,) = length["samples"]
    assert (
        "a1B2" not in sample[3]
        and sample[3].endswith("x <GITHUB_TOKEN> ema")
        and len(sample[3]) == 200
    )
    json.dumps(sample, ensure_ascii=False).encode()
    assert personal["details"] == {} and personal["seen"] == 0


@pytest.mark.parametrize("shards", [1, 2, 7, 300])
def test_counters_add_up_whatever_the_shards(shards):
    whole = build_filters(SPECS)
    for one in corpus():
        whole.apply(one)
    worker = build_filters(SPECS)  # one chain, shard after shard
    records = []
    for start in range(shards):
        for one in corpus()[start::shards]:
            worker.apply(one)
        records.append(json.loads(json.dumps(worker.take_counters())))
    random.Random(1).shuffle(records)
    assert without_seconds(merge_counters(records)) == without_seconds(whole.counters())
    halves = [merge_counters(part) for part in (records[::2], records[1::2])]
    assert without_seconds(merge_counters(halves)) == without_seconds(whole.counters())


def test_taken_counters_begin_anew():
    chain = build_filters(SPECS)
    for one in corpus():
        chain.apply(one)
    empty = build_filters(SPECS).counters()
    assert chain.take_counters() != empty and chain.counters() == empty


def test_merging_nothing_and_what_does_not_fit():
    one, other = build_filters(SPECS).counters(), build_filters(SPECS[:2]).counters()
    assert merge_counters([]) == merge_counters([{}, {}]) == {}
    assert merge_counters([{}, one]) == one
    with pytest.raises(DataError, match="overwrite"):
        merge_counters([one, other])
    assert counters_table({}) == []


def test_an_empty_chain_keeps_everything():
    chain = build_filters([])
    assert not chain and chain.apply(document("x")) is None and chain.fields == ()
    assert merge_counters([chain.counters()])["filters"] == [] and chain.table() == []


def test_fields_are_asked_for_once():
    specs = [
        {"languages": {"allow": ["en"]}},
        "parseable",
        {"licences": {"allow": ["MIT"]}},
        "dclm",
    ]
    fields = build_filters(specs).fields
    assert fields[:2] == ("language", "licence") and len(fields) == 3


def test_the_closing_table():
    chain = build_filters(SPECS)
    for one in corpus():
        chain.apply(one)
    head, first, *rest = chain.table()
    assert head.split() == ["filter", "seen", "dropped", "share", "changed", "documents/s"]
    name, seen, dropped, share, changed, rate = first.split()
    assert (name, seen, changed) == ("length", "300", "0") and float(rate.replace(",", "")) > 0
    assert float(share.rstrip("%")) == pytest.approx(100 * int(dropped) / 300, abs=0.005)
    assert f"  dropped {dropped}: under 3 characters" in rest and rest[-1] == "not decontaminated"
    assert any(line.startswith("  masked email: ") for line in rest)
    assert counters_table(chain.counters()) == chain.table()


def test_many_reasons_do_not_flood_the_table():
    class Picky(Filter):
        name = "picky"

        def apply(self, document):
            return f"reason {document.position}"

    chain = FilterChain([Picky()])
    for position in range(100):
        chain.apply(document("x", position=position))
    assert len(chain.table()) < 15 and "92 more" in "\n".join(chain.table())


def test_every_filter_decides_by_the_document_alone():
    """In any order, in any company: the same decisions and texts."""
    specs = [{"length": {"min_characters": 3}}, "dclm", "repetition", "personal_data", "parseable"]
    fields = {"fasttext_openhermes_reddit_eli5_vs_rw_v2_bigram_200k_train_prob": 0.45}
    texts = [
        "x = 1\n"
        + f"# padding that is not repeated {n}\n"
        + "".join(f"v{n}_{i} = {i}\n" for i in range(40))
        for n in range(40)
    ]
    texts += ["print 'x'" + " " * 300, "a@b.org " + "# " * 10, "ghp_" + "a1" * 18]
    made = lambda: [Document(text, "s", "a.py", n, n, dict(fields)) for n, text in enumerate(texts)]  # noqa: E731
    seen = []
    for order in (made(), made()[::-1], random.Random(2).sample(made(), len(texts))):
        chain = build_filters(specs)
        outcomes = {one.id: (chain.apply(one), one.text) for one in order}
        seen.append(outcomes)
    assert all(one == other for one, other in itertools.pairwise(seen))
    assert len({reason for reason, _ in seen[0].values()}) > 2
