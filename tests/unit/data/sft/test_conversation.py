"""Records to samples: prompts and messages, turns, and each kind of broken record."""

import pytest

from megatron_dream.data.readers.paths import RecordError
from megatron_dream.data.sft.conversation import SampleFields


def turn(role, content):
    return {"role": role, "content": content}


TALK = [
    turn("system", "s"),
    turn("user", "u1"),
    turn("assistant", "a1"),
    turn("user", "u2"),
    turn("assistant", "a2"),
]


def of_conversation(messages, turns="last"):
    fields = SampleFields(messages="messages", turns=turns)
    return [(s.prompt, s.response) for s in fields.samples({"messages": messages})]


def test_the_last_turn_is_learnt():
    assert of_conversation(TALK) == [(TALK[:4], "a2")]


def test_each_turn_is_cut_after_it():
    assert of_conversation(TALK, "each") == [(TALK[:2], "a1"), (TALK[:4], "a2")]
    assert of_conversation(TALK[:4], "each") == [(TALK[:2], "a1")]  # the question left is nobody's


def test_roles_in_any_case_and_human():
    talk = [turn("HUMAN", "u"), turn("ASSISTANT", "a")]
    assert of_conversation(talk) == [([turn("user", "u")], "a")]


def test_further_fields_of_a_message_are_left_out():
    talk = [{**turn("user", "u"), "id": 3}, turn("assistant", "a")]
    assert of_conversation(talk) == [([turn("user", "u")], "a")]


def test_a_prompt_may_be_messages():
    record = {"prompt": TALK[:2], "response": "r"}
    [sample] = SampleFields().samples(record)
    assert (sample.prompt, sample.response) == (TALK[:2], "r")
    assert sample.question == "u1" and sample.prompt_text == "s\n\nu1"


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("text", "field 'messages' is a string, not a list of messages"),
        (None, "field 'messages' is null, not a list of messages"),
        ([], "field 'messages': messages is no list of messages"),
        (["hello"], "field 'messages': message 1 is no object with role"),
        ([turn("robot", "x")], "message 1 is no object with role"),
        ([turn("user", "x"), turn("assistant", 3)], "message 2 is no object"),
        ([turn("user", "x"), {"role": "assistant"}], "message 2 is no object"),
        ([turn(7, "x")], "message 1 is no object"),
        (TALK[:4], "the last turn is not the assistant's"),
        ([turn("user", "x")], "no turn is the assistant's"),
    ],
)
def test_broken_conversations(messages, reason):
    with pytest.raises(RecordError, match=reason):
        of_conversation(messages)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"prompt": 3, "response": "r"}, "field 'prompt' is a number, not a string or a list"),
        ({"response": "r"}, "field 'prompt' is null"),
        ({"prompt": "p", "response": ["r"]}, "field 'response' is a list, not a string"),
        ({"prompt": "p"}, "field 'response' is null, not a string"),
        ({"prompt": TALK, "response": "r"}, "the last message is the assistant's own"),
        ({"prompt": [], "response": "r"}, "field 'prompt': messages is no list"),
        (
            {"prompt": RecordError("holds invalid UTF-8 at byte 2"), "response": "r"},
            "invalid UTF-8",
        ),
    ],
)
def test_broken_pairs(record, reason):
    with pytest.raises(RecordError, match=reason):
        SampleFields().samples(record)
