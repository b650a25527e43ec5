"""The rules that samples have to pass (SPEC 5), each with a name, in the order of ``RULES``.

Rules decide by the sample alone, so that any number of workers drop the same ones; only copies are
found where all samples come together (merging.py). They look at text; ``too_long`` at the tokens too
(prepare_job.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import ConfigError
from ..document import Document
from ..filters import FilterSpec
from ..filters.decontamination import DecontaminationFilter, DecontaminationOptions
from ..filters.evaluation_sets import EvaluationSet
from ..filters.parsing import ParsingFilter, ParsingOptions
from ..filters.repetition import RepetitionFilter, RepetitionOptions
from .code_text import asks_for_code, fences_of, has_code, python_sources
from .conversation import TextSample

EMPTY, TOO_LONG, EXACT_DUPLICATE = "empty", "too_long", "exact_duplicate"
RULES = (
    EMPTY,
    "no_code",
    "unclosed_fence",
    "python_syntax",
    "repetition",
    "contaminated",
    TOO_LONG,
    EXACT_DUPLICATE,
)
MIN_REPETITION_WORDS = 40  # below it a share of repeated n-grams is chance


def repetition_limits() -> RepetitionOptions:
    """Largest shares of repetition in a response.

    Shares of lines say nothing of source, which repeats ``else:`` and ``return x``. The others are
    Gopher's over n-grams, widened: ours, for what they would drop of good programs.
    """
    return RepetitionOptions(
        lines=None,
        line_characters=None,
        paragraphs=0.5,
        paragraph_characters=0.5,
        top_2_gram=0.40,
        top_3_gram=0.36,
        top_4_gram=0.32,
        repeated_5_gram=0.60,
        repeated_6_gram=0.56,
        repeated_7_gram=0.52,
        repeated_8_gram=0.48,
        repeated_9_gram=0.44,
        repeated_10_gram=0.40,
    )


@dataclass(frozen=True)
class RuleOptions:
    """What the rules decide by.

    Attributes:
        skipped: names of rules that are left out.
        repetition: largest shares of repetition in a response.
        contamination: what prompt and response are compared with; None: nothing.
    """

    skipped: tuple[str, ...] = ()
    repetition: RepetitionOptions = field(default_factory=repetition_limits)
    contamination: DecontaminationOptions | None = None

    def __post_init__(self) -> None:
        for name in self.skipped:
            if name not in RULES or name == EMPTY:
                known = ", ".join(RULES[1:])
                raise ConfigError(f"--skip-rule {name}: there is no such rule; known are {known}.")

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the rules that are applied, in order."""
        left_out = {*self.skipped, *(() if self.contamination else ("contaminated",))}
        return tuple(name for name in RULES if name not in left_out)

    @property
    def evaluation_sets(self) -> list[str]:
        """Names of the sets that samples are compared with."""
        is_on = self.contamination is not None and "contaminated" in self.active
        return (
            [one.title for one in self.contamination.sets] if is_on and self.contamination else []
        )

    def identity(self) -> dict[str, Any]:
        """Plain values that decide what is dropped, the evaluation files' checksums among them."""
        specs = [FilterSpec("repetition", self.repetition)] if "repetition" in self.active else []
        if self.contamination is not None and "contaminated" in self.active:
            specs.append(FilterSpec("decontamination", self.contamination, "--evaluation-set"))
        if "python_syntax" in self.active:
            specs.append(FilterSpec("parseable", ParsingOptions()))
        return {"rules": list(self.active), "filters": [spec.identity() for spec in specs]}


def rule_options(
    skipped: Sequence[str], filters: Sequence[FilterSpec], evaluation_sets: Sequence[str]
) -> RuleOptions:
    """Options as the command line gives them.

    Args:
        skipped: rules to leave out.
        filters: ``repetition`` and ``decontamination`` as preprocess has them (docs/data.md).
        evaluation_sets: ``NAME=FILE`` or ``FILE``, of HumanEval, HumanEval-Infilling or CRUXEval.

    Raises:
        ConfigError: another filter, one twice, or a rule that does not exist.
    """
    given: dict[str, Any] = {}
    for spec in filters:
        if spec.name not in ("repetition", "decontamination") or spec.name in given:
            fault = "is given twice" if spec.name in given else "is no filter of SFT samples"
            raise ConfigError(
                f"{spec.where or 'filters'}: {spec.name} {fault}; give repetition and decontamination, "
                "each once."
            )
        given[spec.name] = spec.options
    contamination = given.get("decontamination")
    if evaluation_sets:
        sets = [_evaluation_set(text) for text in evaluation_sets]
        contamination = contamination or DecontaminationOptions()
        contamination = dataclasses.replace(contamination, sets=[*contamination.sets, *sets])
    return RuleOptions(
        tuple(skipped), given.get("repetition") or repetition_limits(), contamination
    )


def _evaluation_set(text: str) -> EvaluationSet:
    name, is_named, path = text.partition("=")
    return EvaluationSet(path=path, name=name) if is_named else EvaluationSet(path=text)


class RuleSet:
    """Rules of text, ready to use in one process.

    Args:
        options: what they decide by; evaluation sets are read here.
    """

    def __init__(self, options: RuleOptions) -> None:
        self.options = options
        self._active = frozenset(options.active)
        self._python = ParsingFilter(ParsingOptions(by="suffix", assume="python"))
        self._repetition = RepetitionFilter(options.repetition)
        self._contamination: DecontaminationFilter | None = None
        if options.contamination is not None and "contaminated" in self._active:
            self._contamination = DecontaminationFilter(options.contamination)

    def fault(self, sample: TextSample) -> tuple[str, str] | None:
        """The first rule that drops the sample and why; None where all keep it."""
        for rule, detail in self._faults(sample):
            if rule in self._active:
                return rule, detail
        return None

    def _faults(self, sample: TextSample) -> Iterator[tuple[str, str]]:
        response, question, active = sample.response, sample.question, self._active
        for side, text in (("prompt", question), ("response", response)):
            if not text.strip():
                yield EMPTY, f"the {side} is blank"
        fences = fences_of(response)
        if "no_code" in active and not has_code(response, fences) and asks_for_code(question):
            yield "no_code", "the prompt asks for code, the response has none"
        if fences and not fences[-1].is_closed:
            yield "unclosed_fence", "the last fence is not closed"
        if "python_syntax" in active:
            for source in python_sources(question, response, fences):
                if reason := self._python.apply(Document(source, "", "", 0)):
                    yield "python_syntax", reason
        yield from self._filtered(sample)

    def _filtered(self, sample: TextSample) -> Iterator[tuple[str, str]]:
        response = sample.response
        if "repetition" in self._active and len(response.split()) >= MIN_REPETITION_WORDS:
            if reason := self._repetition.apply(Document(response, "", "", 0)):
                yield "repetition", reason
        if self._contamination is not None:
            document = Document(f"{sample.prompt_text}\n{response}", "", "", 0)
            if reason := self._contamination.apply(document):
                yield "contaminated", reason
