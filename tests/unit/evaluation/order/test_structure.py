"""What counts as structure, and which segments a text has."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.evaluation.order.structure import NO_SEGMENT, Layout, layout_of
from tests.unit.evaluation.order.constructed import CODE, PROSE, tokens_of


def told(text: str, prefix: str = "") -> tuple[Layout, list[str]]:
    tokens = tokens_of(text)
    return layout_of(prefix, tokens), tokens


def of_kind(layout: Layout, tokens: list[str], kind: str) -> list[str]:
    return [token.strip() for token, one in zip(tokens, layout.kinds, strict=True) if one == kind]


def segments(layout: Layout, tokens: list[str]) -> list[str]:
    texts: dict[int, str] = {}
    for token, segment in zip(tokens, layout.segments, strict=True):
        texts[segment] = texts.get(segment, "") + token
    texts.pop(NO_SEGMENT, None)
    return [texts[number].strip() for number in range(len(texts))]


def test_code_by_statements_and_headers() -> None:
    lines = ["@cached", "def f(a,", "      b):", "    x = [a,", "         b]  # both", "    if x:"]
    lines += ["        g(x)", "    else:", "        return None", ""]
    layout, tokens = told("\n".join(lines))
    assert layout.is_code
    found = [" ".join(text.split()) for text in segments(layout, tokens)]
    assert found[0] == "@cached" and found[1].startswith("def f(a,") and found[1].endswith("b):")
    assert found[2].startswith("x = [a,") and found[2].endswith("# both")
    assert found[3:] == ["if x:", "g(x)", "else:", "return None"]
    structure = of_kind(layout, tokens, "structure")
    for token in ("def", "f", "(", "a", "[", "]", "if", "else", "return", "None"):
        assert token in structure
    assert of_kind(layout, tokens, "other") == [
        *("@", "cached", "x", "=", "a", ",", "b", "#", "both", "x", ":", "g", "x", ":")
    ]


def test_comments_are_no_part_of_a_header() -> None:
    lines = ["def f(a):  # of (all)", "", "    # if it is", "    # so", "    for x in a:"]
    text = "\n".join([*lines, "        # then", "        g(x)", ""])
    layout, tokens = told(text)
    assert [text.replace(" ", "") for text in segments(layout, tokens)] == [
        *("deff(a):#of(all)", "#ifitis", "#so", "forxina:", "#then", "g(x)")
    ]
    assert of_kind(layout, tokens, "structure") == [*"def f ( a ) : for in ( )".split()]
    layout, tokens = told("x = [1,\n     # both\n     2]\n")
    assert len(segments(layout, tokens)) == 1


def test_the_prefix_says_how_the_sample_is_read() -> None:
    layout, tokens = told("\n    return total\n", prefix="def add(a, b):\n    total = a + b")
    assert layout.is_code and segments(layout, tokens) == ["return total"]
    assert of_kind(layout, tokens, "structure") == ["return"]


def test_words_of_strings_and_comments_are_no_keywords() -> None:
    layout, tokens = told("x = 'return if'  # for all (of them)\n")
    assert layout.is_code and of_kind(layout, tokens, "structure") == []


@pytest.mark.parametrize(
    "broken",
    ["def f(a):\n    y = g(a\n    return y)\n", "def f(a:\n    y = [a\n    for x in y\n"],
)
def test_broken_code_goes_line_by_line(broken: str) -> None:
    layout, tokens = told(broken)
    assert layout.is_code
    assert len(segments(layout, tokens)) == len(broken.splitlines())
    structure = of_kind(layout, tokens, "structure")
    assert "def" in structure and "f" in structure and ("return" in structure or "for" in structure)


def test_what_parses_is_taken_by_ast_and_the_rest_by_lines() -> None:
    layout, tokens = told("x = [1,\n     2]\ny = (3,\nz = 4\n")
    found = [" ".join(text.split()) for text in segments(layout, tokens)]
    assert found == ["x = [1,2]", "y = (3,", "z = 4"]


def test_prose_by_lines() -> None:
    layout, tokens = told("Steps:\n- read the list\n- for each, print it (once).\n\nDone")
    assert not layout.is_code
    assert segments(layout, tokens) == [
        *("Steps:", "- read the list", "- for each, print it (once).", "Done")
    ]
    assert of_kind(layout, tokens, "structure") == [
        *("Steps", ":", "-", "read", "-", "for", ",", "(", ")", ".", "Done")
    ]
    assert not told(PROSE)[0].is_code and told(CODE)[0].is_code


def test_fences_part_prose_from_code() -> None:
    layout, tokens = told(
        "Here it is now\n```python\nfor x in y:\n    print(x)\n```\nfor all of us\n"
    )
    assert layout.is_code
    found = segments(layout, tokens)
    assert found == ["Here it is now", "for x in y:", "print(x)", "for all of us"]
    structure = of_kind(layout, tokens, "structure")
    assert structure == ["Here", "for", "in", "(", ")", "for"]


def test_blanks_are_layout() -> None:
    layout = layout_of("", ["x", " =", " ", "1", "\n", "   "])
    assert [kind == "layout" for kind in layout.kinds] == [False, False, True, False, True, True]
    assert layout.segments == [0, 0, NO_SEGMENT, 0, NO_SEGMENT, NO_SEGMENT]


def test_columns_beyond_ascii() -> None:
    layout, tokens = told("naïve = 'ß'; größe = (1)\n")
    assert segments(layout, tokens) == ["naïve = 'ß';", "größe = (1)"]
    assert of_kind(layout, tokens, "structure") == ["(", ")"]


def test_tokens_that_split_a_character() -> None:
    """The tokenizer shows such bytes by number: in a name they must not end the code."""
    tokens = [
        "na",
        "<0xC3>",
        "<0xAF>",
        "ve",
        " =",
        " (",
        "1",
        ")",
        "\n",
        "y",
        " =",
        " [",
        "]",
        "\n",
    ]
    layout = layout_of("", tokens)
    assert layout.is_code and max(layout.segments) == 1
    assert of_kind(layout, tokens, "structure") == ["(", ")", "[", "]"]
    assert layout.kinds[1:3] == ["other", "other"]


@pytest.mark.parametrize(
    "code",
    [
        "def f(a):\n    if a:\n        g(a)\n    return a\n",
        # nothing of these parses: their lines tell that they are code
        "x = (\nimport os\n",
        "y = [a\nif a:\n",
        "z = (\nelse:\n",
        "z = (\nreturn x\n",
    ],
)
def test_line_ends_of_windows(code: str) -> None:
    layout, tokens = told(code)
    others = [token.replace("\n", "\r\n") for token in tokens]
    other = layout_of("", others)
    assert layout.is_code and other.is_code
    for kind in ("structure", "other"):
        assert of_kind(layout, tokens, kind) == of_kind(other, others, kind)
    assert [" ".join(one.split()) for one in segments(layout, tokens)] == [
        " ".join(one.split()) for one in segments(other, others)
    ]


def test_a_name_and_a_colon_are_no_code() -> None:
    assert not told("Answer: 42\nBecause it is so.\n")[0].is_code
    assert told("answer: int = 42\nBecause it is so.\n")[0].is_code


text = st.text(
    st.sampled_from("def class():[]{}\n\r\t \x0c\x00'\"#\\:=.,aßé😀\u2028\ud800x1`@"), max_size=60
)


@given(text, st.lists(text, max_size=6))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read(prefix: str, tokens: list[str]) -> None:
    layout = layout_of(prefix, tokens)
    assert len(layout.kinds) == len(layout.segments) == len(tokens)
    for token, kind, segment in zip(tokens, layout.kinds, layout.segments, strict=True):
        is_blank = not token.strip()
        assert (kind == "layout") == is_blank
        assert is_blank <= (segment == NO_SEGMENT)
    numbers = [segment for segment in layout.segments if segment != NO_SEGMENT]
    assert set(numbers) == set(range(len(set(numbers))))
