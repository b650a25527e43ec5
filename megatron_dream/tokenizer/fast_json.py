"""tokenizer.json as data: making one from a SentencePiece model, and hashing what defines ids.

A SentencePiece BPE model merges, at each point, the adjacent pair whose joined text has the best
score, leftmost first; a Hugging Face BPE tokenizer takes the pair of lowest rank. They agree when
every way of cutting a piece into two pieces is a merge and merges are ranked by the joined piece's
score.

Here the vocabulary holds real spaces where SentencePiece writes U+2581: no character of the text is
replaced, so a text that holds U+2581 itself comes back as it was (as bytes).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import orjson

from megatron_dream.tokenizer.special import AddedToken
from megatron_dream.tokenizer.spm_model import BYTE, NORMAL, SpmModel

SPACE_SYMBOL = "\u2581"  # what SentencePiece writes for a space


def tokenizer_json_from_spm(model: SpmModel, added: Sequence[AddedToken]) -> dict[str, Any]:
    """A tokenizer.json with the same ids as ``model`` (``model.why_not_fast()`` must be None)."""
    texts = [
        piece.text if piece.type == BYTE else piece.text.replace(SPACE_SYMBOL, " ")
        for piece in model.pieces
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [token.as_json() for token in added],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {text: number for number, text in enumerate(texts)},
            "merges": _merges(model, texts),
        },
    }


def _merges(model: SpmModel, texts: list[str]) -> list[list[str]]:
    """All cuts of all pieces, best piece first, then by the ids of the two halves."""
    ids = {
        text: number
        for number, (text, piece) in enumerate(zip(texts, model.pieces, strict=True))
        if piece.type == NORMAL
    }
    merges: list[list[str]] = []
    for joined in sorted(ids, key=lambda text: (-model.pieces[ids[text]].score, ids[text])):
        cuts = [(joined[:k], joined[k:]) for k in range(1, len(joined))]
        known = [(left, right) for left, right in cuts if left in ids and right in ids]
        known.sort(key=lambda cut: (ids[cut[0]], ids[cut[1]]))
        merges += [list(cut) for cut in known]
    return merges


def fingerprint_json(tokenizer_json: dict[str, Any]) -> str:
    """Hex sha256 over vocabulary, merges, normaliser, pre-tokenizer and added tokens.

    Order of keys, white space, the two spellings of merges, absent against null or false, and
    whatever does not change ids (decoder, padding, the ``special`` flag) make no difference.
    """
    added = {token["content"]: token["id"] for token in tokenizer_json.get("added_tokens") or []}
    model = dict(tokenizer_json["model"])
    vocab, merges = model.pop("vocab", None), model.pop("merges", None)
    if isinstance(vocab, dict):
        vocab = {text: n for text, n in vocab.items() if added.get(text) != n}
    content = {
        "model": model,
        "added": added,
        "normalizer": tokenizer_json.get("normalizer"),
        "pre_tokenizer": tokenizer_json.get("pre_tokenizer"),
    }
    digest = hashlib.sha256(orjson.dumps(_without_defaults(content), option=orjson.OPT_SORT_KEYS))
    digest.update(orjson.dumps(vocab, option=orjson.OPT_SORT_KEYS))
    digest.update(orjson.dumps(merge_pairs(merges or [])))
    return digest.hexdigest()


def merge_pairs(merges: list[Any]) -> list[list[str]]:
    """Merges as pairs, from either spelling (``"a b"`` or ``["a", "b"]``)."""
    return [m.split(" ", 1) if isinstance(m, str) else list(m) for m in merges]


def _without_defaults(value: Any) -> Any:
    """``value`` without null and false fields and without offsets' settings."""
    if isinstance(value, dict):
        kept = ((k, v) for k, v in value.items() if k != "trim_offsets")
        return {k: _without_defaults(v) for k, v in kept if v is not None and v is not False}
    if isinstance(value, list):
        return [_without_defaults(item) for item in value]
    return value
