"""Formats of access keys, as those who issue them document them, and how they are masked.

A kind has literals, one of which every key of it holds: they are looked for first, which costs a
fraction of a regular expression. Patterns begin at the edge of a word and repeat possessively, so that
no text makes them take more than linear time.

Where each format is documented, as we know it; of these pages only GitHub's was read again when this
was written:
  aws_access_key     IAM user guide, "IAM identifiers", unique ID prefixes: AKIA and ASIA (temporary), ABIA
                     and ACCA; 20 characters
  github_token       github.blog changelog 2021-03-31 and GitHub docs, "GitHub's token formats": ghp_, gho_,
                     ghu_, ghs_, ghr_, then at least 36 of [A-Za-z0-9], 255 in all at most; github_pat_:
                     fine-grained tokens, 22 and 59 joined by _
  slack_token        api.slack.com/authentication/token-types: xoxb-, xoxp-, xoxa-, xoxr-, xoxs-, xoxe-,
                     xoxo-, then numbers of workspace and user
  google_api_key     cloud.google.com/docs/authentication/api-keys: AIza and 35 of [0-9A-Za-z_-]
  stripe_live_key    docs.stripe.com/keys: sk_live_ and rk_live_ (sk_test_ opens no account and stays)
  openai_key         platform.openai.com, API keys: sk- and 48, sk-proj-, sk-svcacct-, sk-admin- and more
  huggingface_token  huggingface.co/docs/hub/security-tokens: hf_ and 34 letters and digits
  private_key        RFC 7468 (PEM), RFC 4716 and PROTOCOL.key (OpenSSH), RFC 9580 (OpenPGP)
  jwt                RFC 7519 and 7515: three base64url parts, the first a JSON object with "alg"
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

_NOT_AFTER = r"(?<![A-Za-z0-9_])"
_NOT_BEFORE = r"(?![A-Za-z0-9_])"
_MIN_BASE64_LINE = 40  # of a key's body; an example with an ellipsis has none


@dataclass(frozen=True)
class KeyKind:
    """One kind of key.

    Attributes:
        literals: each key holds one of them.
        pattern: what is masked.
        is_key: a last look at a match; None: every match is a key.
    """

    literals: tuple[str, ...]
    pattern: re.Pattern[str]
    is_key: Callable[[re.Match[str]], bool] | None = None


def _is_token(match: re.Match[str]) -> bool:
    """Whether the first part is the header of a signed token."""
    head = match.group().partition(".")[0]
    try:
        header = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return False
    return isinstance(header, dict) and "alg" in header


def _is_private_key(match: re.Match[str]) -> bool:
    return re.search(rf"[A-Za-z0-9+/]{{{_MIN_BASE64_LINE}}}", match.group("body")) is not None


KEY_KINDS: Mapping[str, KeyKind] = MappingProxyType(
    {
        "aws_access_key": KeyKind(
            ("AKIA", "ASIA", "ABIA", "ACCA"),
            re.compile(rf"{_NOT_AFTER}(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{{16}}{_NOT_BEFORE}"),
        ),
        "github_token": KeyKind(
            ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
            re.compile(
                rf"{_NOT_AFTER}(?:gh[opsru]_[A-Za-z0-9]{{36,251}}"
                rf"|github_pat_[A-Za-z0-9]{{20,24}}_[A-Za-z0-9]{{40,220}}){_NOT_BEFORE}"
            ),
        ),
        "slack_token": KeyKind(
            ("xox",),
            re.compile(rf"{_NOT_AFTER}xox[abeoprs]-[0-9][0-9A-Za-z-]{{8,250}}"),
        ),
        "google_api_key": KeyKind(
            ("AIza",), re.compile(r"(?<![A-Za-z0-9])AIza[0-9A-Za-z_-]{35}(?![0-9A-Za-z_-])")
        ),
        "stripe_live_key": KeyKind(
            ("k_live_",),
            re.compile(rf"{_NOT_AFTER}[sr]k_live_[0-9A-Za-z]{{16,247}}{_NOT_BEFORE}"),
        ),
        "openai_key": KeyKind(
            ("sk-",),
            re.compile(
                r"(?<![A-Za-z0-9_-])sk-(?:(?:proj|svcacct|admin|None)-[A-Za-z0-9_-]{40,250}"
                r"|[A-Za-z0-9]{40,64})(?![A-Za-z0-9_-])"
            ),
        ),
        "huggingface_token": KeyKind(
            ("hf_", "api_org_"),
            re.compile(rf"{_NOT_AFTER}(?:hf_|api_org_)[A-Za-z0-9]{{34}}{_NOT_BEFORE}"),
        ),
        "private_key": KeyKind(
            ("PRIVATE KEY",),
            re.compile(
                r"-----BEGIN (?P<label>(?:[A-Z0-9]{2,12} ){0,3}PRIVATE KEY(?: BLOCK)?)-----"
                r"(?P<body>[^-]*+(?:-(?!----)[^-]*+)*+)-----END (?P=label)-----"
            ),
            _is_private_key,
        ),
        "jwt": KeyKind(
            ("eyJ",),
            re.compile(
                r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{16,}+"
            ),
            _is_token,
        ),
    }
)


def mask_keys(text: str, kind: str, placeholder: str) -> tuple[str, int]:
    """The text without its keys of one kind, and how many there were."""
    known = KEY_KINDS[kind]
    if not any(literal in text for literal in known.literals):
        return text, 0
    if known.is_key is None:
        return known.pattern.subn(lambda match: placeholder, text)
    masked = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal masked
        if not known.is_key(match):  # type: ignore[misc]
            return match.group()
        masked += 1
        return placeholder

    return known.pattern.sub(replace, text), masked
