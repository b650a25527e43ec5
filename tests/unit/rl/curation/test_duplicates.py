"""Near duplicates of prompts, with an encoder made on the spot and with a hashing one that is exact."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from megatron_dream.errors import ModelFolderError
from megatron_dream.rl.curation import duplicates
from megatron_dream.rl.curation.duplicates import Duplicates
from megatron_dream.rl.curation.embedding import TransformerEmbedder
from megatron_dream.rl.curation.schemas.wording import ask_for_script
from megatron_dream.rl.curation.vector_store import VectorStore
from megatron_dream.rl.problems import RlProblem
from tests.unit.rl.curation.helpers import decide, function, value


class HashingEmbedder:
    """Words to places and signs; texts of the same words, in any order, have similarity 1."""

    size = 64

    def __init__(self) -> None:
        self.num_texts = 0

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.num_texts += len(texts)
        vectors = np.zeros((len(texts), self.size), np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            for word in text.split():
                digest = hashlib.sha256(word.encode()).digest()
                vector[digest[0] % self.size] += 1 if digest[1] % 2 else -1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def identity(self) -> dict[str, Any]:
        return {}


def asked(*prompts: str) -> list[RlProblem]:
    return [function(f"p{k}", text) for k, text in enumerate(prompts)]


def asked_for_values(*prompts: str) -> list[RlProblem]:
    return [RlProblem(f"p{k}", "output", text, answer="1") for k, text in enumerate(prompts)]


def test_the_first_of_near_prompts_stays(tmp_path: Path) -> None:
    problems = asked("sum a list", "reverse the text", "a list sum", "sum  A list.", "SUM a list")
    found = decide(Duplicates(0.85, HashingEmbedder), problems, tmp_path)
    assert {name: decision.reason for name, decision in found.items()} == {
        "p2": "near an earlier prompt",
        "p4": "same words as an earlier prompt",
    }
    assert found["p2"].detail == "1.000 p0" and found["p4"].detail == "p0"


def test_without_an_encoder_it_says_that_it_did_not_look(tmp_path: Path) -> None:
    notes: list[str] = []
    found = decide(Duplicates(0.85, None), asked("a b", "b a", "A  b"), tmp_path, notes)
    assert list(found) == ["p2"] and "--embeddings" in notes[0]


def test_case_and_spaces_count_where_a_value_is_asked_for(tmp_path: Path) -> None:
    prompts = ["f Abc ?", "f abc ?", "f a  bc ?", "f a bc ?", " f abc ?\n"]
    assert list(decide(Duplicates(0.85, None), asked_for_values(*prompts), tmp_path)) == ["p4"]
    # An encoder that sees no difference decides nothing of them.
    notes: list[str] = []
    problems = asked_for_values("a b", "b a", "a b")
    found = decide(Duplicates(0.85, HashingEmbedder), problems, tmp_path, notes)
    assert list(found) == ["p2"] and notes == [
        "2 prompts for a value were compared by their text only"
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Count `A` in it.", "Count `a` in it."),
        ('Print "A b".', 'Print "A  b".'),
        ("Print 'A'.", "Print 'a'."),
        ("What f(A) does.", "What f(a) does."),
        ("Do:\n    x\n", "Do:\n  x\n"),
    ],
)
def test_case_and_spaces_count_where_a_prompt_holds_code(
    one: str, other: str, tmp_path: Path
) -> None:
    assert decide(Duplicates(0.85, None), asked(one, other), tmp_path) == {}
    assert list(decide(Duplicates(0.85, None), asked(one, one + " "), tmp_path)) == ["p1"]


def test_what_was_added_to_questions_makes_them_no_copies(tmp_path: Path) -> None:
    problems = asked(ask_for_script("Add."), ask_for_script("Sort."))
    assert decide(Duplicates(0.85, HashingEmbedder), problems, tmp_path) == {}


def test_a_killed_run_goes_on_with_the_vectors_that_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "_TEXTS", 2)
    problems = asked("a b", "c d", "e f", "b a", "g h")
    embedder = HashingEmbedder()
    whole = embedder.embed

    def dies(texts: Sequence[str]) -> NDArray[np.float32]:
        if embedder.num_texts == 2:
            raise KeyboardInterrupt
        return whole(texts)

    monkeypatch.setattr(embedder, "embed", dies)
    with pytest.raises(KeyboardInterrupt):
        decide(Duplicates(0.85, lambda: embedder), problems, tmp_path)
    later = HashingEmbedder()
    assert list(decide(Duplicates(0.85, lambda: later), problems, tmp_path)) == ["p3"]
    assert later.num_texts == 3


def test_vectors_outlive_thresholds_and_other_prompts(tmp_path: Path) -> None:
    embedder = HashingEmbedder()
    decide(Duplicates(0.85, lambda: embedder, "e"), asked("a b", "c d", "e f"), tmp_path)
    assert embedder.num_texts == 3
    found = decide(
        Duplicates(0.5, lambda: embedder, "e"), asked("e f", "x", "b a", "a b"), tmp_path
    )
    assert embedder.num_texts == 5 and found["p3"].detail == "1.000 p2"
    decide(Duplicates(0.85, lambda: embedder, "other"), asked("a b"), tmp_path)
    assert embedder.num_texts == 6


def test_rows_that_a_kill_left_half_written_are_cut_away(tmp_path: Path) -> None:
    store = VectorStore(tmp_path / "v", 3)
    digests = [bytes([k]) * 32 for k in range(3)]
    vectors = np.arange(6, dtype=np.float32).reshape(2, 3)
    store.add(digests[:2], vectors)
    for name, rest in (("v.f16", b"half of a row, and more"), ("v.sha256", b"half")):
        with open(tmp_path / name, "ab") as stream:
            stream.write(rest)
    store = VectorStore(tmp_path / "v", 3)
    assert digests[1] in store and digests[2] not in store
    store.add(digests[2:], vectors[:1] + 10)
    rows = VectorStore(tmp_path / "v", 3).rows([digests[2], digests[0], digests[1]])
    assert len(rows) == 3
    np.testing.assert_array_equal(rows[0:3], [[10, 11, 12], [0, 1, 2], [3, 4, 5]])


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of random weights with a vocabulary of single words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(models.WordLevel({w: k for k, w in enumerate(words)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(
            BertConfig(
                vocab_size=len(words),
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=32,
                max_position_embeddings=40,
                initializer_range=1.0,
            )
        ).save_pretrained(folder)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 32}')
    return folder


def test_vectors_are_means_over_the_tokens_of_a_text_alone(encoder: Path) -> None:
    """Against the states of each window run without padding, averaged and made length 1 by hand."""
    from transformers import AutoModel, AutoTokenizer

    long = [*"z" * 60, *"abcdefghij"]
    texts = ["a b c d e f g", "h", "i j", " ".join(long)]
    embedder = TransformerEmbedder(encoder, batch_size=4)
    vectors = embedder.embed(texts)
    model, tokenizer = AutoModel.from_pretrained(encoder), AutoTokenizer.from_pretrained(encoder)
    for text, vector in zip(texts, vectors, strict=True):
        words = text.split()
        states = []
        for first in range(0, len(words), 30):  # of 32, which [CLS] and [SEP] are two of
            ids = tokenizer(" ".join(words[first : first + 30]), return_tensors="pt")
            with torch.no_grad():
                states.append(model.eval()(**ids).last_hidden_state[0])
        mean = torch.cat(states).mean(0)
        np.testing.assert_allclose(vector, (mean / mean.norm()).numpy(), atol=1e-5)
    assert embedder.size == 16
    np.testing.assert_allclose(TransformerEmbedder(encoder, 1).embed(texts), vectors, atol=1e-5)


def test_prompts_that_differ_after_the_first_window_are_no_copies(
    encoder: Path, tmp_path: Path
) -> None:
    start = " ".join("z" * 40)
    problems = asked(f"{start} a b c", f"{start} p q r", f"{start} a b ö")
    near = Duplicates(1 - 1e-4, lambda: TransformerEmbedder(encoder))
    assert decide(near, problems, tmp_path) == {}


def test_an_encoder_finds_copies_of_other_spacing(encoder: Path, tmp_path: Path) -> None:
    problems = asked("a b c", "x y z", "a b q c", "c")
    near = Duplicates(1 - 1e-4, lambda: TransformerEmbedder(encoder))
    assert decide(near, problems, tmp_path) == {}
    problems = asked("a b c", "x y z", "a b c ö", "a b c ü")  # [UNK] both
    other = tmp_path / "other"
    other.mkdir()
    assert list(decide(near, problems, other)) == ["p3"]


def test_a_folder_without_an_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="config.json"):
        TransformerEmbedder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelFolderError, match="cannot be loaded"):
        TransformerEmbedder(tmp_path)


def test_no_problems_no_copies(tmp_path: Path) -> None:
    assert decide(Duplicates(0.85, HashingEmbedder), [], tmp_path) == {}
    assert decide(Duplicates(0.85, HashingEmbedder), [value("a")], tmp_path) == {}
