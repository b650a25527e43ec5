"""Each rule drops what it is for and keeps what is near it; its options; hostile sources."""

import json

import pytest

from megatron_dream.data.filters import FilterSpec
from megatron_dream.data.filters.repetition import RepetitionOptions
from megatron_dream.data.sft.conversation import TextSample
from megatron_dream.data.sft.rules import RULES, RuleOptions, RuleSet, rule_options
from megatron_dream.errors import ConfigError, DataError

ASKED = "Write a function that adds two numbers."
LOOP = "I will now add the numbers. " * 40


@pytest.fixture(scope="module")
def rules():
    return RuleSet(RuleOptions())


@pytest.mark.parametrize(
    ("prompt", "response", "rule"),
    [
        ("q", "a", None),
        (" \n", "a", "empty"),
        ("q", "\t ", "empty"),
        ([{"role": "system", "content": "be kind"}], "a", "empty"),
        ([{"role": "user", "content": ""}], "a", "empty"),
        ([], "a", "empty"),
        (ASKED, "I would rather not.", "no_code"),
        ("Tell me about functions.", "I would rather not.", None),
        ([{"role": "user", "content": ASKED}], "I would rather not.", "no_code"),
        (ASKED, "Add them: `a + b`.", None),
        (ASKED, "```python\nx = 1\n", "unclosed_fence"),
        (ASKED, "```python\nx = 1\n```", None),
        (ASKED, "```python\nx = = 1\n```", "python_syntax"),
        (ASKED, "```py\nx = 1\n```\n```py\ndef f(:\n```", "python_syntax"),
        (ASKED, "```java\nint x = = 1\n```", None),
        (ASKED, "def f(:\n    pass", "python_syntax"),
        (ASKED, "def f(a, b):\n    return a + b", None),
        ("q", LOOP, "repetition"),
        ("q", "aye aye aye", None),  # too short to tell
    ],
)
def test_each_rule(rules, prompt, response, rule):
    found = rules.fault(TextSample(prompt, response))
    assert (found and found[0]) == rule


@pytest.mark.parametrize(
    "source",
    [
        "(" * 100_000,
        "x = " + "-" * 50_000 + "1",
        "[" * 300 + "]" * 300,
        "x = 'a\0b'",
        "f'" + "{" * 5000,
    ],
)
def test_a_hostile_source_is_dropped_and_the_next_one_judged(rules, source):
    found = rules.fault(TextSample(ASKED, f"```python\n{source}\n```"))
    assert found is not None and found[0] == "python_syntax"
    assert rules.fault(TextSample(ASKED, "```python\nx = 1\n```")) is None


def test_half_a_surrogate_in_a_fence_is_no_crash(rules):
    assert rules.fault(TextSample(ASKED, "```python\nx = '\ud800'\n```"))[0] == "python_syntax"


def test_contamination_sees_prompt_and_response_together(tmp_path):
    words = [f"word{n}" for n in range(20)]
    path = tmp_path / "set.jsonl"
    path.write_text(
        json.dumps(
            {
                "task_id": "T/0",
                "prompt": " ".join(words[:10]) + " ",
                "canonical_solution": " ".join(words[10:]),
                "test": "assert",
                "entry_point": "f",
            }
        )
    )
    rules = RuleSet(rule_options((), (), [f"mine={path}"]))
    assert rules.options.evaluation_sets == ["mine"]
    halves = TextSample(" ".join(words[3:10]), " ".join(words[10:16]))
    assert rules.fault(halves) == ("contaminated", "in mine T/0")
    assert (
        rules.fault(TextSample(" ".join(words[4:10]), " ".join(words[10:16]))) is None
    )  # 12 tokens
    skipped = RuleSet(rule_options(["contaminated"], (), [str(path)]))
    assert skipped.fault(halves) is None and skipped.options.evaluation_sets == []


def test_the_order_of_rules_decides_which_is_named(rules):
    assert rules.fault(TextSample(ASKED, "```python\nx = = 1\n"))[0] == "unclosed_fence"
    relaxed = RuleSet(RuleOptions(skipped=("unclosed_fence",)))
    assert relaxed.fault(TextSample(ASKED, "```python\nx = = 1\n")) is None


def test_options_of_filters():
    strict = FilterSpec("repetition", RepetitionOptions(lines=0.0))
    options = rule_options((), [strict], ())
    response = "\n".join(["one more line of words"] * 2 + [f"a{n} b{n} c{n}" for n in range(20)])
    assert RuleSet(options).fault(TextSample("q", response)) == ("repetition", "lines over 0")
    assert RuleSet(RuleOptions()).fault(TextSample("q", response)) is None


@pytest.mark.parametrize("name", ["empty", "exact_duplicates", ""])
def test_a_rule_that_cannot_be_skipped(name):
    with pytest.raises(ConfigError, match="exact_duplicate"):
        rule_options([name], (), ())


def test_other_filters_are_refused():
    with pytest.raises(ConfigError, match="parseable is no filter of SFT samples"):
        rule_options((), [FilterSpec.of("parseable")], ())
    twice = FilterSpec("repetition", RepetitionOptions())
    with pytest.raises(ConfigError, match="given twice"):
        rule_options((), [twice, twice], ())


def test_a_missing_evaluation_set_is_named(tmp_path):
    with pytest.raises(DataError, match="no such evaluation set"):
        RuleSet(rule_options((), (), [str(tmp_path / "none.jsonl")]))


def test_contamination_is_off_without_sets():
    assert "contaminated" not in RuleOptions().active
    assert set(RuleOptions().active) == set(RULES) - {"contaminated"}
