"""Personal data and keys: what is masked, and the look-alikes of ordinary code that stay.

Keys are put together here, so that no scanner takes this file for a leak.
"""

import base64
import json
import random
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_dream.data.filters import build_filters
from megatron_dream.data.filters.personal import KINDS, load_formatter, mask_emails, mask_ips
from megatron_dream.errors import MissingDependencyError
from tests.unit.data.filters.documents import document

CHANCE = random.Random(11)
PEM_BODY = "\n".join("MIIEpAIBAAKCAQEA" + "q7Zc" * 12 for _ in range(6))


def letters(count, alphabet=string.ascii_letters + string.digits):
    return "".join(CHANCE.choices(alphabet, k=count))


def part(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def pem(label, body=PEM_BODY):
    return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----"


def token(header):
    return f"{part(header)}.{part({'sub': '1234567890'})}.{letters(43)}"


def masked(text, **options):
    """The text afterwards, and what was counted."""
    chain = build_filters([{"personal_data": options}])
    one = document(text)
    assert chain.apply(one) is None
    (counted,) = chain.counters()["filters"]
    assert counted["changed"] == (one.text != text)
    return one.text, counted["details"]


KEYS = [
    ("aws_access_key", "AKIA" + "IOSFODNN7EXAMPLE"),
    ("aws_access_key", "ASIA" + letters(16, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")),
    ("github_token", "ghp_" + letters(36)),
    ("github_token", "gho_" + letters(36)),
    ("github_token", "ghs_" + letters(36)),
    ("github_token", "ghr_" + letters(76)),
    ("github_token", "github_pat_" + letters(22) + "_" + letters(59)),
    ("slack_token", "xoxb-" + "123456789012-1234567890123-" + letters(24)),
    ("slack_token", "xoxp-" + "2398475486-2348975623-2348975623-" + letters(32)),
    ("google_api_key", "AIza" + letters(33) + "-_"),
    ("stripe_live_key", "sk_live_" + letters(24)),
    ("stripe_live_key", "rk_live_" + letters(99)),
    ("openai_key", "sk-" + letters(20) + "T3BlbkFJ" + letters(20)),
    ("openai_key", "sk-proj-" + letters(60) + "-" + letters(60) + "_" + letters(20)),
    ("openai_key", "sk-svcacct-" + letters(100)),
    ("huggingface_token", "hf_" + letters(34)),
    ("private_key", pem("RSA PRIVATE KEY")),
    ("private_key", pem("PRIVATE KEY")),
    ("private_key", pem("OPENSSH PRIVATE KEY")),
    ("private_key", pem("EC PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES\n\n" + PEM_BODY)),
    ("private_key", pem("PGP PRIVATE KEY BLOCK")),
    ("private_key", pem("PRIVATE KEY").replace("\n", "\\n")),
    ("jwt", token({"alg": "HS256", "typ": "JWT"})),
]


@pytest.mark.parametrize(("kind", "key"), KEYS)
@pytest.mark.parametrize(
    "frame", ['KEY = "{}"\n', "export KEY={}", "{}", "Authorization: Bearer {}."]
)
def test_keys_are_masked_wherever_they_stand(kind, key, frame):
    text, details = masked(frame.format(key))
    assert text == frame.format(f"<{kind.upper()}>")
    assert details == {f"masked {kind}": 1}


LOOK_ALIKES = [
    "AKIA" + "SHORT",
    "BREAKIA" + "IOSFODNN7EXAMPLE",
    "AKIA" + "iosfodnn7example",
    "AKIA" + "IOSFODNN7EXAMPLEANDMORE",
    "ghp_" + "a_function_with_a_long_name_of_many_words",
    "ghp_" + "abc",
    "agh" + "p_" + letters(36),
    'os.environ["GITHUB_TOKEN"]',
    "xoxb-your-token-here",
    "xoxb-" + "12",
    "AIza" + "SyTooShort",
    "sk_test_" + letters(24),
    "sk_live_" + "xxx",
    "task_live_" + letters(24),
    "sk-folding-cube sk-SK sk-spinner-wave-animation-with-a-very-long-class-name-indeed",
    "risk-" + letters(48),
    "hf_hub_download hf_model_configuration_for_language_models",
    "hf_" + letters(33),
    'if line.startswith("-----BEGIN RSA PRIVATE KEY-----"):',
    "-----BEGIN RSA PRIVATE KEY-----\n...\n-----END RSA PRIVATE KEY-----",
    '"-----BEGIN PRIVATE KEY-----\\n" + key + "\\n-----END PRIVATE KEY-----"',
    pem("PUBLIC KEY"),
    pem("CERTIFICATE"),
    "//# sourceMappingURL=data:application/json;base64,"
    + part({"version": 3, "sources": ["a.js"]}),
    f"{part({'a': 1})}.{part({'b': 2})}.{letters(43)}",  # no header of a token
    "eyJhbGciOiJIUzI1NiJ9",  # a header alone
    # addresses that are code
    "@property\ndef name(self): ...",
    "x = a@b.T",
    "scores = q@k.mT / 8",
    "y = x@self.weight",
    "y = x@w.sum()",
    "y = x@w.data[0]",
    "lodash@4.17.21",
    "uses: actions/checkout@v4.1.0",
    "<img src='icon@2x.png' srcset='icon@1.5x.jpg'>",
    "git clone git@github.com:user/project.git",
    "url = 'ssh://git@gitlab.example.org/x.git'",
    "f'{user}@{host}.com'",
    "'%s@%s.com' % (user, host)",
    "a @ b.com",
    # numbers that are no addresses of persons
    "127.0.0.1 192.168.0.10 10.1.2.3 0.0.0.0 255.255.255.255 172.16.5.4 169.254.1.1",
    "OID 1.3.6.1.4.1.311.2",
    "1.3.6.1.5",
    '__version__ = "3.12.4.1"',
    '{"version": "8.8.4.1"}',
    "v1.2.3.4",
    'AssemblyVersion("4.1.2.3")',
    "Culture=neutral, System.Core 4.0.0.0",
    "Chrome/91.0.4472.124 Safari/537.36",
    "pkg-1.2.3.4 and 1.2.3.4-beta",
    "see section 8.1.2.2 of the standard",
    "1.0.0.127.in-addr.arpa",
    "date 01.02.03.04",
    "300.1.2.3",
]


@pytest.mark.parametrize("text", LOOK_ALIKES)
def test_ordinary_code_stays(text):
    assert masked(text) == (text, {})


@pytest.mark.parametrize(
    ("text", "after", "count"),
    [
        ("write to jane.doe@gmail.com", "write to email@example.com", 1),
        ("Author: J. Doe <j_doe+x@mail.uni-x.ac.uk>", "Author: J. Doe <email@example.com>", 1),
        ("a@b.de,c@d.org;e@f.io", "email@example.com,email@example.com;email@example.com", 3),
        ("mailto:x@y.com.", "mailto:email@example.com.", 1),
        ('"bob@corp.company"', '"email@example.com"', 1),
        ("jane@example.com", "email@example.com", 1),
        (
            "grüße an müller.x@web.de",
            "grüße an müller.email@example.com",
            1,
        ),  # datatrove's: ASCII names
        ("user@[8.8.8.8]", "email@example.com", 1),
    ],
)
def test_addresses_are_masked(text, after, count):
    assert masked(text, kinds=["email"]) == (after, {"masked email": count})


@pytest.mark.parametrize(
    ("text", "after", "count"),
    [
        ("ping 8.8.8.8", "ping 192.0.2.1", 1),
        ("from 93.184.216.34:443 to 1.1.1.1/32.", "from 192.0.2.1:443 to 192.0.2.1/32.", 2),
        ("HOST = '52.95.110.1'", "HOST = '192.0.2.1'", 1),
        ("93.184.216.34-93.184.216.40", "192.0.2.1-192.0.2.1", 2),
    ],
)
def test_public_addresses_are_masked(text, after, count):
    assert masked(text) == (after, {"masked ip": count})


def test_kinds_and_placeholders_are_named_by_the_recipe():
    text = f"x@y.com 8.8.8.8 {KEYS[0][1]} {KEYS[15][1]}"
    assert masked(text, kinds=["ip"])[1] == {"masked ip": 1}
    after, details = masked(text, email="E", ip="I", key="K:{kind}")
    assert after == "E I K:AWS_ACCESS_KEY K:HUGGINGFACE_TOKEN"
    assert sum(details.values()) == 4 and len(KINDS) == 11


def test_masking_again_changes_nothing():
    text = "\n".join(key for _, key in KEYS) + " x@y.com 8.8.8.8"
    once, _ = masked(text)
    assert masked(once) == (once, {})


def test_the_text_does_not_depend_on_what_was_masked_before():
    """datatrove's own replacements rotate: the second document would get another one."""
    chain = build_filters(["personal_data"])
    for _ in range(3):
        one = document("x@y.com 8.8.8.8")
        chain.apply(one)
        assert one.text == "email@example.com 192.0.2.1"


NAMES = st.from_regex(r"[a-z0-9._+-]{1,12}", fullmatch=True)
ADDRESSES = st.builds(
    "{}@{}.{}".format, NAMES, NAMES, st.sampled_from(["com", "org", "de", "museum"])
)
PIECES = st.one_of(
    ADDRESSES,
    st.sampled_from(
        ["8.8.8.8", "1.2.3.4", " ", "\n", "@", ".", "é", "x", "a@", "@b.com", '"', "<", "10.0.0.1"]
    ),
    st.text(max_size=5),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(PIECES, max_size=12))
def test_nothing_but_what_datatrove_finds_is_masked(pieces):
    """Fewer may be masked (code), never others: where all is masked, the texts are the same."""
    text = " ".join(pieces)
    formatter = load_formatter()
    after, count = mask_emails(text, formatter.emails_replacer, "E@E")
    whole, all_of_them = formatter.emails_replacer.regex.subn("E@E", text)
    assert count <= all_of_them
    assert count < all_of_them or after == whole
    _, count = mask_ips(text, formatter.ip_replacer, "I")
    assert count <= len(formatter.ip_replacer.regex.findall(text))


def test_a_hostile_text_takes_linear_time():
    """Lines without blanks on which the patterns alone would take minutes."""
    blob = "ab/+" * 100_000
    for text in (
        blob + "@" + blob,
        "a." * 200_000 + "@",
        "a@" * 100_000,
        "eyJ" * 100_000,
        ("eyJhbGciOiJIUzI1NiJ9." + "x" * 10) * 10_000,
        "-----BEGIN PRIVATE KEY-----" * 10_000,
        "sk-proj-" * 30_000,
        "ghp_" * 50_000,
        "1." * 200_000,
        "xoxb-1" * 50_000,
        "hf_" + "a" * 500_000,
    ):
        masked(text)


def test_an_absent_datatrove_is_said_and_not_needed_for_keys(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datatrove.pipeline.formatters.pii", None)
    with pytest.raises(MissingDependencyError, match="pip install datatrove"):
        build_filters(["personal_data"])
    assert build_filters([{"personal_data": {"kinds": ["jwt"]}}])
