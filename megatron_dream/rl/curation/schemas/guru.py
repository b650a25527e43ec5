"""Guru (LLM360/guru-RL-92k): the code and simulation parts.

Fields data_source, prompt (messages), ability, reward_model.ground_truth and extra_info, as in the
dataset card and as written by LLM360/Reasoning360: data_preprocess/codegen/*.py give ``ground_truth`` as
JSON, ``{"functional": Python}`` or ``{"inputs", "outputs"}``, and extra_info with reference, prefix (what
stands before a LeetCode solution) and function_name; verl/utils/reward_score/codeio.py shows the answers
of ``simulation__codeio``: JSON fields such as ``"output": {"result": 42}`` with or without braces around
them, an input or an output to be predicted, compared after normalisation. A predicted input is compared
with the recorded one, although others may give the same output: that is what was published.

Other domains, and simulation__cruxeval, which wants an assertion, are no problems here.
"""

from __future__ import annotations

import json
from typing import Any

from ....sandbox import Problem, ProblemError
from ....sandbox.formats import FIELDS
from ...problems import Message, RlProblem
from ..testcode import called_names, without_final_check
from .schema import (
    Fields,
    Schema,
    Unsuitable,
    digest,
    json_of,
    object_of,
    paired,
    program_text,
    stdin_text,
    text_of,
    value_of_text,
)
from .wording import ask_for_fence


def _convert(fields: Fields, where: str) -> RlProblem:
    source = text_of(fields, "data_source", where)
    is_program, is_value = source.startswith("codegen"), source.startswith("simulation__codeio")
    if not (is_program or is_value):
        raise Unsuitable(f"no code problem (data_source {source})")
    extra = object_of(fields, "extra_info", where)
    messages = _messages(fields, extra, where)
    truth = object_of(fields, "reward_model", where).get("ground_truth")
    if not isinstance(truth, str):
        raise ProblemError(f"{where}: field 'reward_model' has no text 'ground_truth'.")
    name = f"guru/{source}/{digest(messages[-1]['content'], truth)}"
    if is_value:
        answer = _answer(truth, where)
        return RlProblem(name, "output", messages, answer=answer, source=source)
    problem = _problem(name, truth, extra, where)
    messages = [*messages[:-1], {**messages[-1], "content": ask_for_fence(messages[-1]["content"])}]
    return RlProblem(name, problem.kind, messages, problem, source=source)


def _messages(fields: Fields, extra: Fields, where: str) -> list[Message]:
    """The prompt; older files have it as text (``raw_prompt``, or ``prompt`` of extra_info)."""
    prompt: Any = fields.get("prompt") or extra.get("prompt") or fields.get("raw_prompt")
    if isinstance(prompt, str) and prompt.strip():
        return [{"role": "user", "content": prompt}]
    if not isinstance(prompt, list) or not prompt:
        raise ProblemError(f"{where}: field 'prompt' is missing; mend or remove the record.")
    if not all(
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str)
        for message in prompt
    ):
        raise ProblemError(f"{where}: field 'prompt' is no list of messages with role and content.")
    if prompt[-1]["role"] != "user":
        raise ProblemError(f"{where}: field 'prompt' does not end with a message of the user's.")
    return [{"role": message["role"], "content": message["content"]} for message in prompt]


def _problem(name: str, truth: str, extra: Fields, where: str) -> Problem:
    wanted = json_of(truth, "reward_model.ground_truth", where)
    reference = extra.get("reference")
    reference = (
        program_text(reference) if isinstance(reference, str) and reference.strip() else None
    )
    if isinstance(wanted, dict) and isinstance(wanted.get("functional"), str):
        prefix = text_of(extra, "prefix", where, "")
        tests, last = without_final_check(wanted["functional"])
        functions = called_names(last or tests, prefix)
        functions += tuple(n for n in called_names(tests, prefix) if n not in functions)
        if not functions:
            raise ProblemError(
                f"{where}: field 'reward_model.ground_truth' calls no function of a solution."
            )
        return Problem(name, "function", prefix, tests, functions, reference=reference)
    if not isinstance(wanted, dict):
        raise ProblemError(f"{where}: field 'reward_model.ground_truth' is no object.")
    pairs = paired(wanted.get("inputs"), wanted.get("outputs"), "reward_model.ground_truth", where)
    cases = tuple((stdin_text(given), stdin_text(printed)) for given, printed in pairs)
    return Problem(name, "stdin", cases=cases, reference=reference)


def _answer(truth: str, where: str) -> dict[str, Any]:
    text = truth.strip()
    if any(f'"{name}":' in text for name in FIELDS) and not text.startswith("{"):
        text = "{" + text + "}"
    value = value_of_text(text)
    if isinstance(value, str) and text.startswith("{"):
        raise ProblemError(f"{where}: field 'reward_model.ground_truth' is no JSON.")
    if isinstance(value, dict) and any(name in value for name in FIELDS):
        return {name: value[name] for name in FIELDS if name in value}
    if isinstance(value, str) or _is_json(text):
        return {"output": value}
    return {"output": text}  # a literal of Python's, which comparing reads


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


SCHEMA = Schema(
    "guru", ("data_source", "reward_model"), ("prompt", "raw_prompt", "extra_info"), _convert
)
