"""Our model class of lm_eval: which tokens are scored, with which draws, and what its cache is told.

lm_eval lives in an overlay; where it is not installed its two names that the class needs are stood in for.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from megatron_dream.errors import ConfigError
from megatron_dream.evaluation.harness.diffusion import DiffusionModel
from megatron_dream.evaluation.sampler import Sampler
from tests.unit.evaluation.letters import LetterTokenizer
from tests.unit.sampling.plain_definition import BOS, TinyModel

NAME = "megatron_dream.evaluation.harness.lm_eval_model"
MELTED = 12  # "bc"


class MeltingTokenizer(LetterTokenizer):
    """Letters, but "bc" is one token, as a byte-pair tokenizer has them."""

    def encode(self, text: str, special: str = "as_text") -> list[int]:
        if special == "as_token":
            return super().encode(text, special)
        return [MELTED if letter == "~" else ord(letter) - 97 for letter in text.replace("bc", "~")]

    def encode_with_special(self, text: str) -> list[int]:
        return self.encode(text)

    fingerprint = "0"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    try:
        import lm_eval.api.model  # noqa: F401
    except ImportError:
        for name in ("lm_eval", "lm_eval.api", "lm_eval.api.model", "lm_eval.api.registry"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))

        class LM:
            def __init__(self) -> None:
                self.cache_hook = SimpleNamespace(add_partial=lambda *_: None)

        sys.modules["lm_eval.api.model"].LM = LM  # type: ignore[attr-defined]
        sys.modules["lm_eval.api.registry"].register_model = lambda _: lambda kind: kind  # type: ignore[attr-defined]
        monkeypatch.delitem(sys.modules, NAME, raising=False)
        yield importlib.import_module(NAME)
        del sys.modules[NAME]
        return
    yield importlib.import_module(NAME)


@pytest.fixture
def model(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    sampler = Sampler(TinyModel(seed=4), MeltingTokenizer(), 64)  # type: ignore[arg-type]
    sampler.__dict__["chat_template"] = SimpleNamespace(path="t")
    loaded = SimpleNamespace(sampler=sampler)
    monkeypatch.setattr(DiffusionModel, "load", lambda *_: loaded)
    return module.MegatronDream("nowhere", mc_num=4, max_length=16)


@dataclass(frozen=True)
class Asked:
    """As lm_eval's Instance."""

    args: tuple[str, ...]
    doc_id: int = 0
    task_name: str = "task"


def letters(text: str) -> list[int]:
    return [ord(letter) - 97 for letter in text]


def test_pairs_are_lm_evals_own(model: Any) -> None:
    assert model._pair("ad", "ef") == ([BOS, *letters("ad")], letters("ef"))
    assert model._pair("", "ef") == ([BOS], letters("ef"))
    # a melted token hides the continuation's first letter, and the rest is behind it
    assert model._pair("ab", "cd") == ([BOS, *letters("ab")], letters("d"))
    assert model._pair("ab", "") == ([BOS, *letters("ab")], [])


def test_pairs_beside_lm_evals_code(model: Any) -> None:
    """The code that lm_eval's own models run, over our tokenizer."""
    api = pytest.importorskip(
        "lm_eval.api.model", reason="lm_eval is in the overlay environment alone"
    )
    if not hasattr(api, "TemplateLM"):
        pytest.skip("lm_eval is in the overlay environment alone")
    theirs = SimpleNamespace(backend="causal", tok_encode=model._context)
    for context, continuation in (("ad", "ef"), ("ad ", "ef"), ("ab", "cd"), ("ab\n\n", " cd")):
        found = api.TemplateLM._encode_pair(theirs, context, continuation)
        assert model._pair(context, continuation) == found


def test_a_continuation_that_has_melted_whole_is_scored(model: Any) -> None:
    """It would be certain otherwise: nothing is scored of it, which is a log-likelihood of 0."""
    assert model._pair("ab", "c") == ([BOS, *letters("a")], [MELTED])
    ((value, _),) = model.loglikelihood([Asked(("ab", "c"))])
    assert value < 0


def test_a_chat_without_a_context_has_a_token_before_it(model: Any) -> None:
    model.chat_template(True)
    assert model._pair("ad", "ef") == (letters("ad"), letters("ef"))
    assert model._pair("", "ef") == ([BOS], letters("ef"))
    ((value, _),) = model.loglikelihood([Asked(("", "e"))])
    assert value < 0


def test_a_chats_contexts_may_be_of_an_earlier_run(model: Any) -> None:
    """lm_eval's cache of requests renders no template, but asks for its name."""
    model.chat_template(False)
    assert model._pair("ad", "e")[0] == [BOS, *letters("ad")]
    assert model.chat_template(True) == "t"
    assert model._pair("ad", "e")[0] == letters("ad")


def test_choices_share_their_draws_and_questions_do_not(model: Any) -> None:
    found = model.loglikelihood(
        [Asked(("ad", "efghi"), 1), Asked(("ad", "efghj"), 1), Asked(("ae", "efghi"), 2)]
    )
    alone = model.loglikelihood([Asked(("ad", "efghj"), 1)])
    other = model.loglikelihood([Asked(("ad", "efghj"), 2)])
    assert found[1] == pytest.approx(alone[0]) and alone != other


def test_equal_texts_have_one_score_as_the_cache_will_have_it(model: Any) -> None:
    """A run that goes on finds them all under one key."""
    told: dict[Any, list[float]] = {}
    model.cache_hook = SimpleNamespace(
        add_partial=lambda kind, args, value: told.setdefault((kind, args), []).append(value[0])
    )
    asked = [Asked(("ad", "efghi"), 1), Asked(("ad", "efg"), 2), Asked(("ad", "efghi"), 3)]
    found = [value for value, _ in model.loglikelihood(asked)]
    assert found[0] == found[2] != found[1]
    assert told == {("loglikelihood", one.args): [v] for one, v in zip(asked, found, strict=True)}


def test_pieces_of_long_texts_have_draws_of_their_own(model: Any) -> None:
    """Two documents of one text, two pieces of one: errors that repeat stay in every mean."""
    piece = "adgejahgadgeja"  # as long as there is room for beside BOS and the end
    assert len(piece) == 14
    one, two, other = model.loglikelihood_rolling(
        [Asked((piece,), 1), Asked((piece * 2,), 1), Asked((piece,), 2)]
    )
    assert two != pytest.approx(2 * one)
    assert one != pytest.approx(other)
    assert model.loglikelihood_rolling([Asked(("",), 1)]) == [0.0]


def test_words_that_nobody_reads_are_refused(module: ModuleType) -> None:
    with pytest.raises(ConfigError, match="mc_nun: neither an argument"):
        module.MegatronDream("nowhere", mc_nun=1024)
    with pytest.raises(ValueError, match="draws is 'sorted'"):
        module.MegatronDream("nowhere", draws="sorted")
