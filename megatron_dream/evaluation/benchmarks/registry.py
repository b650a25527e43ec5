"""Every benchmark by its name on the command line."""

from __future__ import annotations

from ...errors import ConfigError
from . import bigcodebench, cruxeval, humaneval, infilling, livecodebench, mbpp, problems
from .base import Benchmark, Style

BENCHMARKS: dict[str, type[Benchmark]] = {
    kind.name: kind
    for kind in (
        humaneval.HumanEval,
        humaneval.HumanEvalPlus,
        mbpp.Mbpp,
        mbpp.MbppPlus,
        bigcodebench.BigCodeBenchComplete,
        bigcodebench.BigCodeBenchHardComplete,
        bigcodebench.BigCodeBenchInstruct,
        bigcodebench.BigCodeBenchHardInstruct,
        livecodebench.LiveCodeBench,
        cruxeval.CruxEvalInput,
        cruxeval.CruxEvalOutput,
        cruxeval.CruxEvalInputDirect,
        cruxeval.CruxEvalOutputDirect,
        infilling.SingleLine,
        infilling.MultiLine,
        infilling.RandomSpan,
        problems.Problems,
    )
}


def benchmark(name: str, style: Style) -> Benchmark:
    """The benchmark of a name.

    Raises:
        ConfigError: there is none.
        DataError: it has no prompts of this style.
    """
    if name not in BENCHMARKS:
        raise ConfigError(f"there is no benchmark {name!r}; name one of {', '.join(BENCHMARKS)}.")
    return BENCHMARKS[name](style)
