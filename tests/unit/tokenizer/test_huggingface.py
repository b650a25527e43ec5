"""Hugging Face tokenizers: Dream's tokens at SPEC's ids, fingerprints, refusals."""

import copy
import json
import pickle
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.errors import DataError, TokenizerError
from megatron_dream.tokenizer import load_tokenizer
from megatron_dream.tokenizer.fast_json import fingerprint_json
from megatron_dream.tokenizer.huggingface import HuggingFaceTokenizer


@pytest.fixture(scope="module")
def qwen2(shared_data):
    return load_tokenizer(shared_data / "qwen2_tokenizer")


@pytest.fixture
def tiny():
    """A tokenizer.json of a few characters."""
    merges = [["a", "b"], ["ab", "c"]]
    vocab = {text: n for n, text in enumerate(["a", "b", "c", "ab", "abc", "x"])}
    return {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }


def added(number, content):
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": content, "special": True, **flags}


def test_qwen2_gets_dreams_tokens(qwen2):
    assert (qwen2.pad_id, qwen2.eos_id, qwen2.eod_id) == (151643, 151643, 151643)
    assert (qwen2.im_start_id, qwen2.im_end_id) == (151644, 151645)
    assert (qwen2.bos_id, qwen2.mask_id, qwen2.expand_id) == (151665, 151666, 151667)
    assert qwen2.vocab_size == 151668


def test_no_literal_becomes_a_token(qwen2):
    """Also those that Qwen2.5 does not mark special, such as <|fim_prefix|>."""
    for token in qwen2.added_tokens.values():
        ids = qwen2.encode(f"a {token.content} b")
        assert max(ids) < 151643
        assert qwen2.decode(ids) == f"a {token.content} b"
        assert token.id in qwen2.encode(f"a {token.content} b", special="as_token")


def test_skipping_keeps_tokens_that_are_not_special(qwen2):
    ids = qwen2.encode("<|im_start|>a<tool_call>b<|mask|>", special="as_token")
    assert qwen2.decode(ids, skip_special_tokens=True) == "a<tool_call>b"


def test_round_trip(qwen2):
    """Exact for text in NFC, which is what Qwen2's normaliser makes of any text."""

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(st.text(st.characters(codec="utf-8")))
    def check(text):
        if unicodedata.is_normalized("NFC", text):
            assert qwen2.decode(qwen2.encode(text)) == text

    check()


def test_token_text(qwen2):
    assert [qwen2.token_text(n) for n in qwen2.encode(" def\n")] == [" def", "\n"]
    assert "".join(qwen2.token_text(n) for n in qwen2.encode("\u2581")).startswith("<0xE2>")
    assert qwen2.token_text(151667) == "<|expand|>"


def test_batch_pickle_and_surrogates(tiny):
    tokenizer = HuggingFaceTokenizer(tiny, "here")
    assert tokenizer.encode_batch(["abc", "", "x"]) == [[4], [], [5]]
    clone = pickle.loads(pickle.dumps(tokenizer))
    assert clone.encode("abx") == [3, 5] and clone.fingerprint == tokenizer.fingerprint
    with pytest.raises(DataError, match="surrogate"):
        tokenizer.encode("a\udfff")


def test_other_vocabularies_get_missing_tokens_at_the_end(tiny):
    tiny["added_tokens"] = [added(6, "<|mask|>"), added(7, "<|endoftext|>")]
    tokenizer = HuggingFaceTokenizer(tiny, "here")
    assert (tokenizer.mask_id, tokenizer.pad_id) == (6, 7)  # were there, keep their ids
    assert (tokenizer.im_start_id, tokenizer.bos_id, tokenizer.expand_id) == (8, 10, 11)
    assert tokenizer.vocab_size == 12


@pytest.mark.parametrize("change", ["taken", "elsewhere"])
def test_a_conflict_on_qwen2s_ids_is_refused(tiny, change):
    tiny["model"]["vocab"]["<|endoftext|>"] = 151643
    name = "<|foo|>" if change == "taken" else "<|mask|>"
    tiny["model"]["vocab"][name] = 151666 if change == "taken" else 151664
    with pytest.raises(TokenizerError, match=r"id 151666 must be <\|mask\|>, but .*(foo|151664)"):
        HuggingFaceTokenizer(tiny, "here")


def test_fingerprint_ignores_what_does_not_change_ids(tiny):
    expected = fingerprint_json(tiny)
    other = copy.deepcopy(tiny)
    other["model"]["merges"] = ["a b", "ab c"]
    other["model"].update(dropout=None, fuse_unk=False)
    other["model"]["vocab"] = dict(reversed(other["model"]["vocab"].items()))
    other.update(padding={"length": 8}, decoder={"type": "Fuse"})
    assert fingerprint_json(json.loads(json.dumps(other, indent=3))) == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["model"]["merges"].reverse(),
        lambda content: content["model"]["vocab"].update(a=1, b=0),
        lambda content: content.update(normalizer={"type": "NFC"}),
        lambda content: content["added_tokens"].append(added(6, "<|mask|>")),
        lambda content: content["model"].update(byte_fallback=True),
    ],
)
def test_fingerprint_sees_what_changes_ids(tiny, change):
    expected = fingerprint_json(tiny)
    change(tiny)
    assert fingerprint_json(tiny) != expected


@pytest.mark.parametrize(
    "content", ["", "[1]", "{}", '{"model": {"vocab": {"a": "x"}}}', '{"model": {"vocab": {}}}']
)
def test_malformed_folders_are_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_gaps_before_added_ids_are_refused(tiny):
    """The library would hand out the next free id and shift all that follow."""
    tiny["added_tokens"] = [added(9, "<|mask|>")]
    with pytest.raises(TokenizerError, match="cannot have id"):
        HuggingFaceTokenizer(tiny, "here")
