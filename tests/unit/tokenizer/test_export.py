"""Exported tokenizer folders: the same ids here, in `tokenizers`, and in transformers."""

import json
import os
import random
import sysconfig
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.tokenizer import load_tokenizer
from megatron_dream.tokenizer.train import train_sentencepiece

STDLIB = Path(sysconfig.get_path("stdlib"))
FILES = "added_tokens merges special_tokens_map tokenizer tokenizer_config vocab".split()


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A SentencePiece tokenizer, and the Hugging Face one made of it."""
    folder = tmp_path_factory.mktemp("export")
    names = ("asyncio", "email", "json", "unittest")
    model = train_sentencepiece([STDLIB / name for name in names], 2000, folder / "code.model")
    model.save_huggingface(folder / "out")
    return model, load_tokenizer(folder / "out")


def test_all_files_are_there(pair):
    folder = Path(pair[1].path).parent
    assert set(FILES) <= {path.stem for path in folder.iterdir()}
    assert (folder / "tokenizer.model").is_file()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    named = [config[f"{name}_token"] for name in ("bos", "eos", "pad", "mask")]
    assert named == ["<|beginoftext|>", "<|endoftext|>", "<|endoftext|>", "<|mask|>"]
    num_merges = len(json.loads((folder / "tokenizer.json").read_text())["model"]["merges"])
    lines = (folder / "merges.txt").read_text().splitlines()[1:]
    assert len(lines) == num_merges and all(line.count(" ") == 1 for line in lines)


def test_kind_changes_fingerprint_and_ids_do_not(pair):
    model, fast = pair
    assert (model.kind, fast.kind) == ("sentencepiece", "huggingface")
    assert model.fingerprint == fast.fingerprint
    assert model.vocab_size == fast.vocab_size
    for name in ("pad_id", "bos_id", "mask_id", "expand_id", "im_start_id"):
        assert getattr(model, name) == getattr(fast, name)


def test_same_ids_on_the_standard_library(pair):
    """Hundreds of files that the model was not trained on, tests and all."""
    model, fast = pair
    num_files = 0
    for path in sorted(STDLIB.glob("*.py")) + sorted((STDLIB / "test").glob("test_[a-e]*.py")):
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            continue
        assert model.encode(text) == fast.encode(text), path.name
        num_files += 1
    assert num_files > 250


def test_same_ids_on_hostile_texts(pair):
    model, fast = pair
    odd = st.sampled_from("\u2581 \t\r\n\0ab=_-<|>0xE2")

    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(st.text(st.one_of(odd, st.characters(codec="utf-8"))))
    def check(text):
        ids = model.encode(text)
        assert fast.encode(text) == ids
        assert fast.decode(ids) == text

    check()


@pytest.mark.parametrize("alphabet", [" ", " a", "ab", "=-", "se ", "\n ", "0x_", "tab(x=)."])
def test_same_ids_on_repetitions(pair, alphabet):
    """Equal scores side by side: the library takes the leftmost, the other the lowest rank."""
    model, fast = pair
    generator = random.Random(0)
    for length in range(1, 200):
        text = "".join(generator.choices(alphabet, k=length))
        assert model.encode(text) == fast.encode(text), repr(text)
        assert model.encode(alphabet * length) == fast.encode(alphabet * length)


def conversation_tests(folder, tokenizer):
    """What a consumer does with the folder, by transformers alone."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder)
    text = "def f(\u2581):\r\n\treturn  'x'  # \u00e9 \0 <|mask|>\n"
    ids = theirs(text)["input_ids"]
    assert ids == tokenizer.encode(text, special="as_token")
    assert theirs.decode(ids) == text
    names = ("bos", "eos", "pad", "mask")
    assert [getattr(theirs, f"{name}_token_id") for name in names] == [
        getattr(tokenizer, f"{name}_id") for name in names
    ]
    turns = [{"role": "user", "content": "hi "}]
    default = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    user = "<|im_start|>user\nhi <|im_end|>\n"
    rendered = theirs.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert rendered == f"{default}{user}<|im_start|>assistant\n"
    turns = [{"role": "system", "content": "S"}, *turns, {"role": "assistant", "content": "yo"}]
    assert theirs.apply_chat_template(turns, tokenize=False) == (
        f"<|im_start|>system\nS<|im_end|>\n{user}<|im_start|>assistant\nyo<|im_end|>\n"
    )


def test_transformers_loads_a_sentencepiece_export(pair):
    conversation_tests(Path(pair[1].path).parent, pair[0])


def test_transformers_loads_a_qwen2_export(shared_data, tmp_path):
    tokenizer = load_tokenizer(shared_data / "qwen2_tokenizer")
    tokenizer.save_huggingface(tmp_path)
    again = load_tokenizer(tmp_path)  # has Dream's tokens already
    assert again.fingerprint == tokenizer.fingerprint
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == (
        "Qwen2Tokenizer"
    )
    conversation_tests(tmp_path, tokenizer)
