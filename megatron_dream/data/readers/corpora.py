"""Corpora of the published recipes (SPEC 4 and 5): where their text is, and how sure we are.

``verified`` means that the fields stand in the publisher's own card (Hugging Face hub);
the others were seen in derived data sets or in programs that read the corpus.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from types import MappingProxyType

from ...errors import ConfigError
from .adapter import Adapter

_DCLM_SCORE = "fasttext_openhermes_reddit_eli5_vs_rw_v2_bigram_200k_train_prob"
_DOLMINO = Adapter(
    name="dolmino",
    hub="allenai/dolmino-mix-1124",
    folder="data",
    corpus_licence="ODC-BY",
    suffixes=(".json.gz", ".jsonl.gz", ".json.zst", ".jsonl.zst", ".jsonl", ".json"),
    evidence="text as in the card of allenai/olmo-mix-1124, which has the same layout",
    note="its own card was not seen; every part is read by others with the field text",
)
_FETCHED = Adapter(
    licence="detected_licenses",
    language="language",
    suffixes=(".jsonl.zst", ".jsonl", ".parquet"),
    needs_fetch=True,
)

_ROWS = (
    Adapter(
        name="dclm-baseline",
        hub="mlfoundations/dclm-baseline-1.0",
        quality=_DCLM_SCORE,
        corpus_licence="CC-BY-4.0",
        suffixes=(".jsonl.zst", ".jsonl.zstd", ".parquet"),
        verified=True,
        evidence="card, dataset_info",
        note="language_id_whole_page_fasttext.en is the probability of English, not a language",
    ),
    _DOLMINO,
    dataclasses.replace(
        _DOLMINO,
        name="dolmino-wiki",
        folder="data/wiki",
        note="Wikipedia and Wikibooks (OLMo 2, arXiv 2501.00656); our reading of wikibook",
    ),
    dataclasses.replace(
        _DOLMINO,
        name="dolmino-tulu",
        folder="data/math/tulu_math",
        note="our reading of tulu; data/flan is another candidate",
    ),
    dataclasses.replace(
        _DOLMINO,
        name="dolmino-tinygsm",
        folder="data/math/tinyGSM-MIND",
        note="our reading of tinygsm; TinyGSM/TinyGSM is the corpus that it was rewritten from",
    ),
    Adapter(
        name="tinygsm",
        hub="TinyGSM/TinyGSM",
        template="{question}\n\n{code}",
        suffixes=(".parquet", ".jsonl", ".json"),
        evidence="none found",
        note="fields question and code are a guess; the recipe takes dolmino-tinygsm",
    ),
    Adapter(
        name="finemath",
        hub="HuggingFaceTB/finemath",
        language="language",
        quality="score",
        corpus_licence="ODC-BY",
        suffixes=(".parquet",),
        verified=True,
        evidence="card, dataset_info",
        note="parts finemath-3plus and -4plus, infiwebmath-3plus and -4plus; which one the recipe took is "
        "not published",
    ),
    Adapter(
        name="openmathinstruct-2",
        hub="nvidia/OpenMathInstruct-2",
        template="{problem}\n\n{generated_solution}",
        corpus_licence="CC-BY-4.0",
        suffixes=(".parquet",),
        evidence="card of JINIAC-competition/OpenMathInstruct-2-augmented-math, a part of it",
        note="how problem and solution were joined is not published",
    ),
    Adapter(
        name="natural-reasoning",
        hub="facebook/natural_reasoning",
        template="{question}\n\n{responses.0.response}",
        corpus_licence="CC-BY-NC-4.0",
        suffixes=(".jsonl", ".parquet"),
        evidence="programs that read it",
        note="not for commercial use; reference_answer is empty in 18% and not used",
    ),
    Adapter(
        name="opc-annealing-corpus",
        hub="OpenCoder-LLM/opc-annealing-corpus",
        language="lang",
        corpus_licence="ODC-BY",
        suffixes=(".arrow", ".parquet", ".jsonl"),
        evidence="programs that read algorithmic_corpus (text, lang)",
        note="fields of synthetic_code_snippet and synthetic_qa were not seen",
    ),
    Adapter(
        name="opc-fineweb-code-corpus",
        hub="OpenCoder-LLM/opc-fineweb-code-corpus",
        corpus_licence="MIT",
        suffixes=(".parquet",),
        verified=True,
        evidence="card, dataset_info (url, tag, text, file_path, dump, file_size_in_byte, line_count)",
    ),
    dataclasses.replace(
        _FETCHED,
        name="stack-v2-train-smol",
        hub="bigcode/the-stack-v2-train-smol-ids",
        evidence="card of bigcode/the-stack-v2 for a file's fields; programs that read the list files",
        note="one row a repository, its files in the list files; one document a file here",
    ),
    dataclasses.replace(
        _FETCHED,
        name="stack-edu",
        hub="HuggingFaceTB/stack-edu",
        quality="score",
        evidence="cards of data sets made from it, which agree in all fields",
    ),
    Adapter(
        name="ling-coder-sft",
        hub="inclusionAI/Ling-Coder-SFT",
        text="messages.*.content",
        join="\n\n",
        language="languages",
        corpus_licence="Apache-2.0",
        suffixes=(".parquet",),
        evidence="programs that read it: mid, messages (role HUMAN or ASSISTANT, content), tags, languages",
        note="as plain text; for SFT the turns are kept apart",
    ),
)

CORPORA: Mapping[str, Adapter] = MappingProxyType({row.name: row for row in _ROWS})


def corpus(name: str) -> Adapter:
    """The adapter of a corpus by its name here or on the hub.

    Raises:
        ConfigError: nobody knows it; names the nearest.
    """
    wanted = name.lower().removeprefix("hf://datasets/")
    for row in _ROWS:
        own = (row.name, row.hub.lower(), row.hub.lower().partition("/")[2])
        if wanted in own or wanted.replace("_", "-") == row.name:
            return row
    known = [row.name for row in _ROWS]
    near = difflib.get_close_matches(wanted, known, 1, 0.4)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}."
    raise ConfigError(f"There is no corpus {name!r}: {hint} For other data name its text field.")
