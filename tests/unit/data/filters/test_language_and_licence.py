"""Languages by field or file name; licences by SPDX identifier, list and expression."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_dream.data.filters.language import LANGUAGE_OF_SUFFIX
from megatron_dream.data.filters.licence import evaluate
from megatron_dream.data.filters.permissive import LICENCE_SETS
from tests.unit.data.filters.documents import decide

PYTHON = {"allow": ["Python"]}


@pytest.mark.parametrize(
    ("options", "file", "fields", "stays"),
    [
        (PYTHON, "a.py", {}, True),
        (PYTHON, "A.PY", {}, True),
        (PYTHON, "a.py.gz", {}, True),
        (PYTHON, "a.js", {}, False),
        (PYTHON, "corpus.jsonl.zst", {"language": "python"}, True),
        (PYTHON, "corpus.jsonl.zst", {"language": "Java"}, False),
        (PYTHON, "corpus.jsonl.zst", {}, False),
        (PYTHON, "Makefile", {}, False),
        (PYTHON, ".py", {}, False),
        (PYTHON, "a.js", {"language": "Python"}, True),  # the field goes before the name
        ({**PYTHON, "by": "suffix"}, "a.js", {"language": "Python"}, False),
        ({**PYTHON, "by": "field"}, "a.py", {}, False),
        ({**PYTHON, "unknown": "keep"}, "Makefile", {}, True),
        ({**PYTHON, "field": "lang"}, "x.jsonl", {"lang": "Python"}, True),
        (PYTHON, "x.jsonl", {"language": ["Python", "C"]}, True),
        (PYTHON, "x.jsonl", {"language": ["C", "Rust"]}, False),
        (PYTHON, "x.jsonl", {"language": 3}, False),
        ({"deny": ["c"], **PYTHON}, "x.jsonl", {"language": ["Python", "C"]}, False),
        ({"deny": ["python"]}, "a.py", {}, False),
        ({"deny": ["python"]}, "a.js", {}, True),
        ({"allow": [".pyx"]}, "a.pyx", {}, True),
        ({"allow": [".pyx"]}, "a.py", {}, False),
        ({"allow": ["en"]}, "x.jsonl", {"language": "en"}, True),
    ],
)
def test_languages(options, file, fields, stays):
    assert (decide({"languages": options}, "text", file, **fields) is None) is stays


def test_no_suffix_has_two_languages():
    assert LANGUAGE_OF_SUFFIX[".py"] == "python" and LANGUAGE_OF_SUFFIX[".h"] == "c"
    assert all(suffix.startswith(".") for suffix in LANGUAGE_OF_SUFFIX)


PERMISSIVE = {"allow": ["permissive"]}
ANY = {**PERMISSIVE, "match": "any"}


@pytest.mark.parametrize(
    ("options", "licence", "stays"),
    [
        (PERMISSIVE, "MIT", True),
        (PERMISSIVE, "mit", True),
        (PERMISSIVE, "Apache-2.0", True),
        (PERMISSIVE, "GPL-3.0-only", False),
        (PERMISSIVE, "AGPL-3.0", False),
        (PERMISSIVE, ["MIT", "Apache-2.0"], True),
        (PERMISSIVE, ["MIT", "GPL-3.0"], False),
        (ANY, ["MIT", "GPL-3.0"], True),
        (ANY, ["LGPL-3.0", "GPL-3.0"], False),
        (PERMISSIVE, [], False),
        (PERMISSIVE, None, False),
        (PERMISSIVE, "", False),
        (PERMISSIVE, "NOASSERTION", False),
        (PERMISSIVE, ["LicenseRef-scancode-unknown-license-reference"], False),
        (PERMISSIVE, ["MIT", "NOASSERTION"], False),
        (ANY, ["MIT", "NOASSERTION"], True),
        ({**PERMISSIVE, "unknown": "keep"}, None, True),
        ({**PERMISSIVE, "unknown": "keep"}, ["MIT", "NOASSERTION"], True),
        ({**PERMISSIVE, "unknown": "keep"}, "GPL-3.0", False),
        (PERMISSIVE, "MIT OR GPL-2.0-only", True),
        (PERMISSIVE, "MIT AND GPL-2.0-only", False),
        (PERMISSIVE, "(MIT OR GPL-2.0-only) AND BSD-3-Clause", True),
        (PERMISSIVE, "MIT or GPL-2.0-only and GPL-3.0-only", True),  # AND binds closer
        (PERMISSIVE, "Apache-2.0 WITH LLVM-exception", True),
        (PERMISSIVE, "GPL-2.0-only WITH Classpath-exception-2.0", False),
        (PERMISSIVE, "Apache-2.0+", True),
        (PERMISSIVE, "MIT OR", False),
        (PERMISSIVE, "(" * 5000, False),
        ({"allow": ["CC-BY-4.0"]}, "cc-by-4.0", True),
        ({"allow": ["CC-BY-4.0", "permissive"]}, ["CC-BY-4.0", "ISC"], True),
        ({"allow": ["CC-BY-4.0"]}, "MIT", False),
        ({"deny": ["GPL-3.0-only"]}, ["MIT", "GPL-3.0-only"], False),
        ({"deny": ["GPL-3.0-only"]}, ["MIT"], True),
        ({"deny": ["GPL-3.0-only"]}, "MIT OR GPL-3.0-only", True),  # the other may be chosen
        ({"deny": ["MIT"], **PERMISSIVE}, "ISC AND MIT", False),
    ],
)
def test_licences(options, licence, stays):
    reason = decide({"licences": options}, "text", licence=licence)
    assert (reason is None) is stays, reason


def test_the_field_is_named_by_the_recipe():
    options = {**PERMISSIVE, "field": "detected_licenses"}
    assert decide({"licences": options}, "x", detected_licenses=["MIT"], licence="GPL-3.0") is None
    assert decide({"licences": options}, "x", licence="MIT") == "licence unknown"


def test_the_permissive_set_holds_no_copyleft():
    names = LICENCE_SETS["permissive"]
    assert {"mit", "apache-2.0", "bsd-3-clause", "isc", "0bsd", "zlib", "psf-2.0"} <= names
    assert not [name for name in names if "gpl" in name.split("-")[0] or name.startswith("mpl-")]


EXPRESSIONS = st.recursive(
    st.sampled_from(["A", "B"]),
    lambda inner: st.tuples(inner, st.sampled_from([" AND ", " OR "]), inner).map(
        lambda parts: f"({''.join(parts)})"
    ),
    max_leaves=8,
)


@given(EXPRESSIONS, st.booleans(), st.booleans())
def test_expressions_are_those_of_python(expression, a, b):
    """SPDX's AND, OR and brackets are Python's."""
    expected = eval(expression.lower(), {"a": a, "b": b})
    assert evaluate(expression, {"a": a, "b": b}.__getitem__) is expected


@given(st.text(alphabet="()ANDORWIH +-", max_size=60))
def test_no_text_is_too_strange(expression):
    assert evaluate(expression, lambda name: True) in (True, False)
