"""Every choice of a generation, checked when it is made.

First file of the sampler. All files of this folder import torch, the standard library and each
other by flat relative imports only: the exporter copies them beside an exported folder's code.
Differs from public Dream in its defaults: temperature 0, no filter, unless ``compat="dream-4"``.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

logger = logging.getLogger(__name__)

ALGORITHMS = (
    "origin",
    "maskgit_plus",
    "topk_margin",
    "entropy",
    "entropy_bound",
    "threshold",
    "factor",
)
COUNTED = ("maskgit_plus", "topk_margin", "entropy")  # open a scheduled number a step
ADAPTIVE = ("entropy_bound", "threshold", "factor")  # open as many as the model is sure of
CACHES = ("none", "prefix", "dual")
CUDA_GRAPHS = ("auto", "on", "off")
DEFAULT_BLOCK = 32  # with a cache, when nothing is said
DEFAULT_STEPS = 512  # when neither steps nor new tokens say how many
_DREAM_4 = {"temperature": 1.0, "top_p": 1.0, "top_k": 50}  # legacy attributes that leak in


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise ValueError(sentence)


def _number(name: str, value: object, low: float, high: float = math.inf) -> None:
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
    bound = f"of at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
    _require(
        fits and math.isfinite(float(value)),  # type: ignore[arg-type]
        f"{name} is {value!r}: give a number {bound}.",
    )


def _integer(name: str, value: object, low: int) -> None:
    _require(
        isinstance(value, int) and not isinstance(value, bool) and value >= low,
        f"{name} is {value!r}: give a whole number of at least {low}.",
    )


@dataclass(frozen=True)
class SamplingConfig:
    """How to fill the masks. ``None`` means "not given"; ``resolved`` puts the defaults in.

    Raises:
        ValueError: one sentence that names the field, its value and what is allowed.
    """

    max_new_tokens: int = 256
    steps: int | None = None  # None: max_new_tokens, or 512 when that is 0 (infilling)
    alg: str = "entropy"
    alg_temp: float = 0.0  # over 0: positions are drawn from softmax(confidence / alg_temp)
    temperature: float | None = None  # None: 0, the most probable token
    top_p: float | None = None
    top_k: int | None = None  # 0: no filter, also under compat
    eps: float = 1e-3  # time at the last step's end
    pad_penalty: float | None = None  # nats off PAD's logit at the start, fading to 0
    pad_penalty_factor: float | None = None  # the same as a factor on PAD's weight
    penalty_after_temperature: bool = False
    eos_penalty: float | None = None  # public name; 0 or from 0.1: nats, below 0.1: a factor
    confidence_from: str = "filtered"  # or "raw": temperature 1, no filter
    threshold: float = 0.9  # alg threshold: all at least this sure open
    factor: float = 1.0  # alg factor: largest n with (n + 1)(1 - c_n) <= factor
    entropy_bound: float = 0.1  # alg entropy_bound: gamma, nats
    block_length: int | None = None  # None: the whole canvas is one block, or 32 with a cache
    cache: str = "none"  # prefix, dual: approximate unless cache_refresh is 1 (passes.py)
    cache_refresh: int | None = None  # steps from one full pass to the next; None: one a block
    border: str = "rewritten"  # "kept": approximate; the block's left neighbour is not run again
    cuda_graphs: str = "auto"  # with a cache: passes of a block as CUDA graphs; auto: on a GPU
    remask: str = "none"  # or "remdm": tokens may be masked again (remask.py)
    sigma_max: float = 1.0  # remdm: at most so many tokens of a row, on average, a step
    remask_limit: int = 3  # remdm: times that a position may be masked again
    suffix_window: int | None = None  # approximate: columns after the block that are looked at
    early_end: bool = False  # approximate: after a block with an end token the row is done
    num_return_sequences: int = 1
    seed: int | None = None  # None: a fresh one, reported in the output
    mask_token_id: int | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | Sequence[int] | None = None  # for cutting text; generation does not stop
    num_tokens: int | None = None  # ids from here on are padding of the table and never drawn
    forbidden_token_ids: Sequence[int] = ()
    compat: str | None = None  # "dream-4": defaults of public Dream under transformers 4
    output_history: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        self._check_numbers()
        self._check_choices()
        self._check_penalties()

    def _check_numbers(self) -> None:
        _integer("max_new_tokens", self.max_new_tokens, 0)
        _integer("num_return_sequences", self.num_return_sequences, 1)
        _integer("remask_limit", self.remask_limit, 0)
        for name, low in (
            ("steps", 1),
            ("top_k", 0),
            ("seed", 0),
            ("num_tokens", 1),
            ("block_length", 1),
            ("cache_refresh", 1),
            ("suffix_window", 0),
        ):
            if getattr(self, name) is not None:
                _integer(name, getattr(self, name), low)
        for name in ("mask_token_id", "pad_token_id", "bos_token_id"):
            if getattr(self, name) is not None:
                _integer(name, getattr(self, name), 0)
        for token in self.eos_token_ids:
            _integer("eos_token_id", token, 0)
        for token in self.forbidden_token_ids:
            _integer("forbidden_token_ids", token, 0)
        for name in ("alg_temp", "factor", "entropy_bound"):
            _number(name, getattr(self, name), 0)
        _number("threshold", self.threshold, 0, 1)
        _number("sigma_max", self.sigma_max, 0, 1)
        if self.temperature is not None:
            _number("temperature", self.temperature, 0)
        if self.top_p is not None:
            _number("top_p", self.top_p, 0, 1)
        _number("eps", self.eps, 0, 1)
        _require(0 < self.eps < 1, f"eps is {self.eps!r}: give a time between 0 and 1.")

    def _check_choices(self) -> None:
        known = ", ".join(ALGORITHMS)
        _require(self.alg in ALGORITHMS, f"alg {self.alg!r} is unknown: choose one of {known}.")
        for name, choices in (
            ("confidence_from", ("filtered", "raw")),
            ("cache", CACHES),
            ("border", ("rewritten", "kept")),
            ("cuda_graphs", CUDA_GRAPHS),
            ("remask", ("none", "remdm")),
        ):
            value = getattr(self, name)
            words = f"{', '.join(choices[:-1])} or {choices[-1]}"
            _require(value in choices, f"{name} is {value!r}: choose {words}.")
        _require(
            self.compat in (None, "dream-4"),
            f"compat is {self.compat!r}: leave it out or give dream-4.",
        )
        _require(
            self.alg_temp == 0 or self.alg in COUNTED,
            f"alg_temp {self.alg_temp:g} has no meaning with alg {self.alg}: "
            f"set it to 0 or choose one of {', '.join(COUNTED)}.",
        )

        for name in ("cache_refresh", "border"):
            _require(
                self.cache != "none" or getattr(self, name) in (None, "rewritten"),
                f"{name} is {getattr(self, name)!r} without a cache: choose cache prefix or dual.",
            )
        _require(
            self.cuda_graphs != "on" or self.cache != "none",
            "cuda_graphs is 'on' without a cache, whose passes they are: choose cache prefix or dual.",
        )
        has_blocks = self.block_length is not None or self.cache != "none"
        for name, is_set in (
            ("suffix_window", self.suffix_window is not None),
            ("early_end", self.early_end),
        ):
            _require(
                has_blocks or not is_set,
                f"{name} is {getattr(self, name)!r} without blocks: give block_length.",
            )
        # In between a token may be masked again: what a pass then keeps would depend on the batch.
        _require(
            self.remask == "none" or self.cache_refresh in (None, 1),
            f"cache_refresh is {self.cache_refresh!r} with remask {self.remask}: leave it out or give 1.",
        )
        _require(
            not self.early_end or bool(self.eos_token_ids),
            "early_end needs eos_token_id: say which token ends a text.",
        )

    def _check_penalties(self) -> None:
        names = ("pad_penalty", "pad_penalty_factor", "eos_penalty")
        given = [name for name in names if getattr(self, name) is not None]
        _require(len(given) < 2, f"{' and '.join(given)} say the same thing: give one of them.")
        if self.pad_penalty is not None:
            _number("pad_penalty", self.pad_penalty, 0)
        if self.eos_penalty is not None:
            _number("eos_penalty", self.eos_penalty, 0)
        if self.pad_penalty_factor is not None:
            _number("pad_penalty_factor", self.pad_penalty_factor, 0, 1)
            _require(
                self.pad_penalty_factor > 0,
                "pad_penalty_factor is 0: give a factor over 0, such as 1e-3, or forbid the token.",
            )
        _require(
            self.pad_nats == 0 or self.pad_token_id is not None,
            f"{''.join(given)} needs pad_token_id: say which token is PAD.",
        )

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """All ids that end a text."""
        if self.eos_token_id is None:
            return ()
        if isinstance(self.eos_token_id, int):
            return (self.eos_token_id,)
        return tuple(self.eos_token_id)

    @property
    def pad_nats(self) -> float:
        """The PAD penalty at a fully masked canvas, nats, whichever way it was given."""
        factor = self.pad_penalty_factor
        if self.eos_penalty is not None:
            if self.eos_penalty == 0 or self.eos_penalty >= 0.1:
                return float(self.eos_penalty)
            factor = self.eos_penalty
        if factor is not None:
            return -math.log(factor)
        return float(self.pad_penalty or 0.0)

    def resolved(self) -> SamplingConfig:
        """The same choices with every default written out; the penalty is ``pad_penalty``.

        Raises:
            ValueError: ``mask_token_id`` is missing.
        """
        _require(
            self.mask_token_id is not None,
            "mask_token_id is not set: give the id of the mask token.",
        )
        preset = _DREAM_4 if self.compat == "dream-4" else {"temperature": 0.0}
        filled = {name: value for name, value in preset.items() if getattr(self, name) is None}
        if self.cache != "none" and self.block_length is None:
            filled["block_length"] = DEFAULT_BLOCK
        if self.steps is None:
            filled["steps"] = self.max_new_tokens or DEFAULT_STEPS
        if self.eos_penalty is not None:
            kind = "nats" if self.pad_nats == self.eos_penalty else "a factor"
            logger.warning(
                "eos_penalty %g is read as %s: pad_penalty %.4g nats",
                self.eos_penalty,
                kind,
                self.pad_nats,
            )
        return dataclasses.replace(
            self,
            pad_penalty=self.pad_nats,
            pad_penalty_factor=None,
            eos_penalty=None,
            compat=None,
            **filled,  # type: ignore[arg-type]
        )
