"""SentencePiece: exact round trips, ids after the vocabulary, refusals, and training."""

import io
import json
import pickle
import sysconfig
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from megatron_dream.errors import DataError, TokenizerError
from megatron_dream.tokenizer import check_vocab, load_tokenizer
from megatron_dream.tokenizer.special import DREAM_TOKENS
from megatron_dream.tokenizer.train import train_sentencepiece

STDLIB = Path(sysconfig.get_path("stdlib"))
HOSTILE = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("\u2581 \t\r\n\0<x0>_")))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    output = tmp_path_factory.mktemp("tokenizer") / "code.model"
    return train_sentencepiece([STDLIB / "json", STDLIB / "email"], 1000, output)


def test_round_trip_is_exact(model):
    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(HOSTILE)
    @example("a\r\n\tb\r\r\n  \0 \u2581\u2581 x\u2581")
    @example("\ufeff\u2028\x85\x1c\f\v \u00a0")
    @example("<0xE2><unk><s></s><|mask|>")
    @example("e\u0301 \U0001f600 \uffff\U0010ffff")
    def check(text):
        ids = model.encode(text)
        assert model.decode(ids) == text
        assert not set(ids) & set(model.added_tokens)

    check()


def test_special_tokens_follow_the_vocabulary(model):
    assert [model.encode(name, special="as_token") for name in DREAM_TOKENS] == [
        [model.num_pieces + offset] for offset in range(6)
    ]
    assert model.vocab_size == 1006
    assert model.pad_id == model.eos_id == model.eod_id == 1000
    assert (model.bos_id, model.mask_id, model.expand_id) == (1003, 1004, 1005)


def test_literals_stay_text_unless_asked(model):
    text = "x = '<|mask|>'"
    assert model.mask_id not in model.encode(text)
    as_token = model.encode(text, special="as_token")
    assert as_token.count(model.mask_id) == 1
    assert model.decode(as_token) == text
    assert model.decode(as_token, skip_special_tokens=True) == "x = ''"


def test_lines_encode_on_their_own(model):
    """Infilling relies on it: cut at a line's end, ids are those of the parts."""
    text = (STDLIB / "json" / "decoder.py").read_text(encoding="utf-8")
    parts = [model.encode(line) for line in text.splitlines(keepends=True)]
    assert model.encode(text) == [number for part in parts for number in part]


def test_digits_stand_alone(model):
    assert [model.token_text(n) for n in model.encode("1234")] == list("1234")


def test_token_text(model):
    assert model.token_text(model.mask_id) == "<|mask|>"
    assert "".join(map(model.token_text, model.encode("  def f(x):\n\treturn"))) == (
        "  def f(x):\n\treturn"
    )
    assert "".join(map(model.token_text, model.encode("\u2581"))) == "<0xE2><0x96><0x81>"


def test_batch_equals_single(model):
    texts = ["a b", "", "\u2581 c", "def"]
    assert model.encode_batch(texts) == [model.encode(text) for text in texts]
    assert model.encode_batch(["a b", ""]) == [model.encode("a b"), []]


def test_pickles_for_worker_processes(model):
    copy = pickle.loads(pickle.dumps(model))
    assert (copy.fingerprint, copy.encode("def f")) == (model.fingerprint, model.encode("def f"))


def test_fingerprint_does_not_depend_on_the_path(model, tmp_path):
    copy = tmp_path / "other.model"
    copy.write_bytes(Path(model.path).read_bytes())
    assert load_tokenizer(copy).fingerprint == model.fingerprint
    assert load_tokenizer(tmp_path).fingerprint == model.fingerprint  # a folder with one .model
    other = train_sentencepiece([STDLIB / "json"], 600, tmp_path / "small.model")
    assert other.fingerprint != model.fingerprint


def test_training_is_repeatable_and_reads_jsonl(tmp_path):
    records = tmp_path / "text.jsonl"
    source = (STDLIB / "argparse.py").read_text(encoding="utf-8")
    good = json.dumps({"code": source})
    records.write_text(f'{good}\nnot json\n{{"code": 3}}\n', encoding="utf-8")
    first = train_sentencepiece([records], 500, tmp_path / "a.model", json_key="code")
    train_sentencepiece([records], 500, tmp_path / "b.model", json_key="code")
    assert (tmp_path / "a.model").read_bytes() == (tmp_path / "b.model").read_bytes()
    single = train_sentencepiece(
        [records], 500, tmp_path / "c.model", json_key="code", num_threads=1
    )
    assert single.fingerprint == first.fingerprint  # the file differs: it names num_threads


def test_a_share_of_large_inputs_is_taken(tmp_path):
    path = STDLIB / "argparse.py"
    small = train_sentencepiece(
        [path], 400, tmp_path / "a.model", max_bytes=path.stat().st_size // 3
    )
    assert small.num_pieces == 400


@pytest.mark.parametrize("size", [100_000, 10, 0, -1])
def test_an_impossible_vocabulary_is_refused(tmp_path, size):
    with pytest.raises(TokenizerError, match=f"vocabulary of {size} "):
        train_sentencepiece([STDLIB / "json"], size, tmp_path / "x.model")
    assert list(tmp_path.iterdir()) == []


def test_training_without_text_is_refused(tmp_path):
    (tmp_path / "empty.py").write_text("\n\n")
    with pytest.raises(DataError, match="no text"):
        train_sentencepiece([tmp_path], 400, tmp_path / "x.model")
    with pytest.raises(DataError, match=r"no file that ends in \.jl"):
        train_sentencepiece([tmp_path], 400, tmp_path / "x.model", suffixes=[".jl"])


def test_lone_surrogates_are_refused(model):
    for encode in (model.encode, lambda text: model.encode_batch(["a", text])):
        with pytest.raises(DataError, match="surrogate"):
            encode("a\ud800")


def test_ids_outside_are_refused(model):
    for number in (-1, model.vocab_size):
        with pytest.raises(TokenizerError, match="outside"):
            model.decode([number])


def test_damaged_files_are_refused(model, tmp_path):
    raw = Path(model.path).read_bytes()
    for number, damaged in enumerate([b"", raw[: len(raw) // 2], b"\xff" * 40, b"hello there"]):
        path = tmp_path / f"{number}.model"
        path.write_bytes(damaged)
        with pytest.raises(TokenizerError, match=f"{number}.model"):
            load_tokenizer(path)
    with pytest.raises(TokenizerError, match="no such tokenizer"):
        load_tokenizer(tmp_path / "absent")
    with pytest.raises(TokenizerError, match=r"0\.model, 1\.model"):
        load_tokenizer(tmp_path)


def test_models_that_change_text_load_but_do_not_export(tmp_path):
    raw = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["def f(x): return x + 1"] * 20),
        model_writer=raw,
        vocab_size=40,
        model_type="bpe",
        minloglevel=2,
    )
    path = tmp_path / "foreign.model"
    path.write_bytes(raw.getvalue())
    foreign = load_tokenizer(path)
    assert foreign.decode(foreign.encode("def f")) == "def f"
    assert len(foreign.fingerprint) == 64
    with pytest.raises(TokenizerError, match="no byte fallback"):
        foreign.save_huggingface(tmp_path / "out")


def test_check_vocab_names_both_values(model):
    check_vocab(model, 1006, model.mask_id, model.fingerprint)
    check_vocab(model, 1024)
    with pytest.raises(TokenizerError, match=r"1005.*1000 rows"):
        check_vocab(model, 1000)
    with pytest.raises(TokenizerError, match=r"1004.*151666"):
        check_vocab(model, 1024, mask_token_id=151666)
    with pytest.raises(TokenizerError, match=f"{model.fingerprint[:16]}.*{'0' * 16}"):
        check_vocab(model, 1024, fingerprint="0" * 64)
