"""The paper's scores for the column beside ours: what we could read in a publication, with its source.

All are percent, of the models' first releases. A cell that is not here is shown as not known, never guessed.
"""

from __future__ import annotations

from dataclasses import dataclass

RESULTS_IMAGE = "github.com/DreamLM/Dream-Coder, assets/results.png at 87409da"
ABSTRACT = "arXiv 2509.01142, abstract"


@dataclass(frozen=True)
class Published:
    """One score.

    Attributes:
        percent: as printed.
        model: of the publication.
        source: where it stands.
    """

    percent: float
    model: str
    source: str


_INSTRUCT = "Dream-Coder-7B-Instruct"
PUBLISHED: dict[tuple[str, str], Published] = {
    (name, "instruct"): Published(percent, _INSTRUCT, RESULTS_IMAGE)
    for name, percent in (
        ("humaneval", 82.9),
        ("mbpp", 79.6),
        ("evalplus", 73.1),  # the mean of HumanEval+ and MBPP+
        ("bigcodebench_instruct", 37.1),
        ("bigcodebench_hard_instruct", 17.6),
        ("cruxeval_input", 64.6),
        ("cruxeval_output", 63.1),
    )
}
PUBLISHED[("livecodebench", "instruct")] = Published(21.4, _INSTRUCT, ABSTRACT)


@dataclass(frozen=True)
class Table:
    """One of the paper's tables.

    Attributes:
        title: over it.
        style: of the model that it is about.
        rows: benchmarks; ``lm_eval:`` before those of lm-evaluation-harness.
    """

    title: str
    style: str
    rows: tuple[str, ...]


# By subject. How the paper numbers them we could not check, so the titles carry no claim of that.
TABLES: tuple[Table, ...] = (
    Table(
        "1. Base model: code",
        "base",
        (
            "humaneval",
            "humaneval_plus",
            "mbpp",
            "mbpp_plus",
            "bigcodebench_complete",
            "bigcodebench_hard_complete",
        ),
    ),
    Table(
        "2. Base model: general and mathematics",
        "base",
        (
            "lm_eval:mmlu",
            "lm_eval:arc_challenge",
            "lm_eval:hellaswag",
            "lm_eval:winogrande",
            "lm_eval:piqa",
            "lm_eval:race",
            "lm_eval:gsm8k_cot",
            "lm_eval:minerva_math",
            "lm_eval:gpqa_main_n_shot",
        ),
    ),
    Table(
        "3. Instruct model: code",
        "instruct",
        (
            "humaneval",
            "mbpp",
            "evalplus",
            "bigcodebench_instruct",
            "bigcodebench_hard_instruct",
            "livecodebench",
        ),
    ),
    Table("4. Instruct model: CRUXEval", "instruct", ("cruxeval_input", "cruxeval_output")),
    Table(
        "5. Infilling",
        "base",
        ("infilling_single", "infilling_multi", "infilling_random"),
    ),
)
