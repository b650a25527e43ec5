"""With which settings the paper's scores were made, by benchmark and kind of model (SPEC 7, end).

Where the publication leaves one open, the line says "ours".
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from ...errors import ConfigError
from ..benchmarks.base import Style

Json = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """How answers are made.

    Attributes:
        sampling: fields of SamplingConfig. Models that go from left to right take temperature, top_p, top_k
            and max_new_tokens of them.
        gap: of infilling: ``grow`` (from a few masks on), ``oracle`` (as many masks as the reference has
            tokens), or a number of masks.
        num_samples: of each task.
        seed: of all draws.
    """

    sampling: Json = field(default_factory=dict)
    gap: str = "grow"
    num_samples: int = 1
    seed: int = 0

    def with_options(self, options: Json) -> Settings:
        """With what a person gave; a new canvas takes as many steps unless steps are given too."""
        merged = {**self.sampling, **options}
        if "max_new_tokens" in options and "steps" not in options:
            merged["steps"] = options["max_new_tokens"]
        return replace(self, sampling=merged)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.gap not in ("grow", "oracle") and not (self.gap.isdigit() and int(self.gap) > 0):
            raise ConfigError(f"--gap is {self.gap!r}: give grow, oracle or a number of masks.")
        if self.num_samples < 1:
            raise ConfigError(f"--samples is {self.num_samples}: give 1 or more.")
        if self.seed < 0:
            raise ConfigError(f"--seed is {self.seed}: give 0 or more.")


def _canvas(
    length: int, temperature: float, top_p: float, alg: str = "entropy", **more: Any
) -> Json:
    return {
        "max_new_tokens": length,
        "steps": length,
        "temperature": temperature,
        "top_p": top_p,
        "alg": alg,
        **more,
    }


_INSTRUCT_CODE = _canvas(512, 0.1, 0.95)  # alg and top_p ours
_INSTRUCT_BIG = _canvas(1024, 0.1, 0.9)
_CRUX = _canvas(768, 0.1, 0.95)
_GAP = {"temperature": 0.1, "top_p": 0.9, "alg": "entropy"}

_PUBLISHED: dict[tuple[str, Style], Json] = {
    ("humaneval", "instruct"): _INSTRUCT_CODE,
    ("humaneval_plus", "instruct"): _INSTRUCT_CODE,
    ("mbpp", "instruct"): _INSTRUCT_CODE,
    ("mbpp_plus", "instruct"): _INSTRUCT_CODE,
    ("bigcodebench_instruct", "instruct"): _INSTRUCT_BIG,
    ("bigcodebench_hard_instruct", "instruct"): _INSTRUCT_BIG,
    (
        "bigcodebench_complete",
        "instruct",
    ): _INSTRUCT_BIG,  # ours: published for instruct prompts only
    ("bigcodebench_hard_complete", "instruct"): _INSTRUCT_BIG,  # ours
    ("livecodebench", "instruct"): _canvas(768, 0.1, 0.95, cache="prefix"),
    ("humaneval", "base"): _canvas(512, 0.2, 0.9),
    ("humaneval_plus", "base"): _canvas(512, 0.2, 0.9),
    ("mbpp", "base"): _canvas(512, 0.1, 0.9),
    ("mbpp_plus", "base"): _canvas(512, 0.1, 0.9),
    ("bigcodebench_complete", "base"): _canvas(512, 0.1, 0.95),
    ("bigcodebench_hard_complete", "base"): _canvas(512, 0.1, 0.95, "maskgit_plus"),
    **{(f"infilling_{kind}", "base"): _GAP for kind in ("single", "multi", "random")},
    **{
        (f"cruxeval_{asked}{how}", style): _CRUX  # base and direct: ours
        for asked in ("input", "output")
        for how in ("", "_direct")
        for style in ("base", "instruct")
    },
    ("problems", "base"): _canvas(512, 0.2, 0.9),  # ours: as HumanEval
    ("problems", "instruct"): _INSTRUCT_CODE,  # ours
}


def published(benchmark: str, style: Style) -> Settings:
    """The settings of a benchmark.

    Raises:
        ConfigError: none are known for this kind of model.
    """
    sampling = _PUBLISHED.get((benchmark, style))
    if sampling is None:
        raise ConfigError(f"{benchmark} has no settings for {style} models; give --style.")
    return Settings(sampling=dict(sampling))


# Shots of the tasks that lm-evaluation-harness runs, and of those that generate the canvas (SPEC 7 and 9).
LM_EVAL_SHOTS = {
    "mmlu": 5,
    "arc_challenge": 0,
    "hellaswag": 0,
    "piqa": 0,
    "gpqa_main_n_shot": 5,
    "winogrande": 5,
    "race": 0,
    "gsm8k_cot": 8,
    "minerva_math": 4,
}
LM_EVAL_SAMPLING = {
    "gsm8k_cot": _canvas(256, 0.0, 0.95),
    "minerva_math": _canvas(512, 0.0, 0.95),
}
