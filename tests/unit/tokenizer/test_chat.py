"""Conversations: the same ids as transformers gives, and no control token from a message."""

import json
import sysconfig
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from megatron_dream.errors import DataError, TokenizerError
from megatron_dream.tokenizer import load_tokenizer
from megatron_dream.tokenizer.chat import ChatTemplate, check_messages
from megatron_dream.tokenizer.special import DREAM_TOKENS
from megatron_dream.tokenizer.train import train_sentencepiece


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An exported tokenizer with Dream's template."""
    folder = tmp_path_factory.mktemp("chat")
    text = Path(sysconfig.get_path("stdlib")) / "json"
    train_sentencepiece([text], 600, folder / "code.model").save_huggingface(folder / "out")
    return folder / "out"


def turns(*contents):
    roles = ["user", "assistant"] * len(contents)
    return [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]


@pytest.mark.parametrize("generation_prompt", [True, False])
def test_same_ids_as_transformers(folder, generation_prompt):
    library = AutoTokenizer.from_pretrained(str(folder))
    tokenizer = load_tokenizer(folder)
    template = ChatTemplate.of(tokenizer)
    talks = [turns("Hi"), turns("\n\n a\tb  ", "x = 1\n", "ok?")]
    talks.append([{"role": "system", "content": "Be short."}, *turns("def f():\n  pass")])
    for messages in talks:
        expected = library.apply_chat_template(
            messages, add_generation_prompt=generation_prompt, return_dict=False
        )
        found = template.encode(tokenizer, messages, add_generation_prompt=generation_prompt)
        assert found == list(expected)


def test_control_tokens_of_messages_are_text(folder):
    tokenizer = load_tokenizer(folder)
    template = ChatTemplate.of(tokenizer)
    im_end, im_start = tokenizer.im_end_id, tokenizer.im_start_id
    plain = template.encode(tokenizer, turns("x"))

    @settings(max_examples=200, deadline=None, derandomize=True)
    @given(st.lists(st.sampled_from([*DREAM_TOKENS, "a", "<|im_", "end|>", "\n", "[0]"])))
    def holds(parts):
        content = "".join(parts)
        ids = template.encode(tokenizer, turns(content))
        special = [number for number in ids if number in tokenizer.added_tokens]
        assert special == [number for number in plain if number in tokenizer.added_tokens]
        assert f"user\n{content}<|im_end|>" in tokenizer.decode(ids)

    holds()
    assert plain.count(im_start) == 3 and plain.count(im_end) == 2


def test_a_folder_s_own_template_is_used(folder, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text((folder / name).read_text())
    config = json.loads((folder / "tokenizer_config.json").read_text())
    own = "{{ bos_token }}{% for m in messages %}[{{ m.content | trim }}]{% endfor %}"

    def text():
        tokenizer = load_tokenizer(tmp_path)
        ids = ChatTemplate.of(tokenizer).encode(tokenizer, turns(" <|mask|> a "))
        return tokenizer.decode(ids)

    for value in (own, [{"name": "tool", "template": "no"}, {"name": "default", "template": own}]):
        (tmp_path / "tokenizer_config.json").write_text(
            json.dumps({**config, "chat_template": value})
        )
        assert text() == "<|beginoftext|>[<|mask|> a]"
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    assert text() == " <|mask|> a !"


def test_what_a_template_refuses_or_may_not_do(folder):
    tokenizer = load_tokenizer(folder)
    with pytest.raises(TokenizerError, match="t: the chat template is no Jinja"):
        ChatTemplate("{% if %}", "t")
    for source in ("{{ raise_exception('no') }}", "{{ messages.__class__.__mro__ }}", "{{ a.b }}"):
        with pytest.raises(DataError, match="t: the chat template refuses the messages"):
            ChatTemplate(source, "t").encode(tokenizer, turns("x"))


@pytest.mark.parametrize(
    "value, expected",
    [
        ("hi", "w: messages is no list"),
        ([], "w: messages is no list"),
        (
            [{"role": "user", "content": "a"}, {"role": "tool", "content": "a"}],
            "w: message 2 is no",
        ),
        ([{"role": "user", "content": 3}], "w: message 1 is no"),
        (["a"], "w: message 1 is no"),
    ],
)
def test_what_is_no_message_is_named(value, expected):
    with pytest.raises(DataError, match=expected):
        check_messages(value, "w")
