"""Text that is sent is never taken back, and at the end it is the decoded text."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from megatron_dream.serving.answer import Answer
from megatron_dream.tokenizer import load_tokenizer
from megatron_dream.tokenizer.base import Tokenizer


@pytest.fixture(scope="module", params=["sentencepiece", "huggingface"])
def either(
    request: pytest.FixtureRequest, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Tokenizer:
    """Both libraries; they put bytes together differently."""
    if request.param == "sentencepiece":
        return tokenizer
    folder = tmp_path_factory.mktemp("huggingface") / "t"
    tokenizer.save_huggingface(folder)
    return load_tokenizer(folder)


def fill(answer: Answer, ids: Sequence[int], order: Sequence[int], mask: int) -> list[str]:
    """Open ``ids`` one after the other; the texts after each."""
    canvas, texts = [mask] * len(ids), []
    for place in order:
        canvas[place] = ids[place]
        answer.update(canvas)
        texts.append(answer.text)
    return texts


def test_grows_only_and_ends_whole(either: Tokenizer) -> None:
    draw = random.Random(3)
    tokens = [n for n in range(either.vocab_size) if n != either.mask_id]
    parts = [n for n in tokens if either.is_part(n)]
    assert len(parts) > 100
    for _ in range(1500):
        ids = [draw.choice(draw.choice((parts, tokens))) for _ in range(10)]
        order = draw.sample(range(10), 10)
        answer = Answer(either, ())
        texts = fill(answer, ids, order, either.mask_id)
        assert all(b.startswith(a) for a, b in zip(texts, texts[1:], strict=False))
        assert texts[-1] == either.decode(ids, skip_special_tokens=True)
        assert answer.finish_reason == "length" and answer.num_tokens == 10


def test_text_comes_before_the_end(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("def f(self):")
    answer = Answer(tokenizer, ())
    texts = fill(answer, ids, range(len(ids)), tokenizer.mask_id)
    assert texts[0] and texts == sorted(texts, key=len)
    # From the right nothing is certain until the last token is there.
    answer = Answer(tokenizer, ())
    texts = fill(answer, ids, range(len(ids) - 1, -1, -1), tokenizer.mask_id)
    assert texts == [""] * (len(ids) - 1) + ["def f(self):"]


def test_end_token_ends_though_masks_follow(tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode("ab"), tokenizer.eos_id]
    canvas = [*ids, tokenizer.mask_id, tokenizer.mask_id]
    answer = Answer(tokenizer, [tokenizer.eos_id])
    assert answer.update(canvas)
    assert (answer.text, answer.finish_reason, answer.num_tokens) == ("ab", "stop", len(ids))
    # Before a mask that stands in front of it, it ends nothing.
    answer = Answer(tokenizer, [tokenizer.eos_id])
    answer.update([ids[0], tokenizer.mask_id, tokenizer.eos_id])
    assert answer.finish_reason is None


def test_stop_string_over_several_tokens_is_never_sent(tokenizer: Tokenizer) -> None:
    text = "x = 1\n\ndef g"
    ids = tokenizer.encode(text)
    answer = Answer(tokenizer, (), ["\n\ndef", "never"])
    texts = fill(answer, ids, range(len(ids)), tokenizer.mask_id)
    assert texts[-1] == "x = 1" and answer.finish_reason == "stop"
    assert not any("\n" in t for t in texts)
    # What only looked like a stop string arrives in the end.
    answer = Answer(tokenizer, (), ["\n\ndeg"])
    assert fill(answer, ids, range(len(ids)), tokenizer.mask_id)[-1] == text


def test_nothing_is_certain_while_tokens_may_close(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("ab")
    answer = Answer(tokenizer, (), may_close_again=True)
    assert not answer.update(ids) and answer.text == ""
    assert answer.update(ids, is_last=True) and answer.text == "ab"
