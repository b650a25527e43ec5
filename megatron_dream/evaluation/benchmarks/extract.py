"""What of an answer is the program: fenced blocks, and EvalPlus's sanitising told with Python's ast.

EvalPlus keeps the longest run of lines that parses, and of that the imports and the definitions that
the entry point reaches by name. Scores differ by points between ways of extracting, so ours is held
against EvalPlus's own in tests/unit/evaluation/benchmarks/test_extract.py, where that is installed.
"""

from __future__ import annotations

import ast
import re
import warnings

_FENCE = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)
_MAX_TRIES = 20_000  # runs of lines that are parsed at most; a page of text has fewer


def last_block(text: str) -> str:
    """The last closed fenced block, as LiveCodeBench takes it; empty where fewer than two fences stand."""
    lines = text.split("\n")
    fences = [number for number, line in enumerate(lines) if "```" in line]
    if len(fences) < 2:
        return ""
    return "\n".join(lines[fences[-2] + 1 : fences[-1]])


def first_block(text: str) -> str:
    """The first fenced block, closed or not; all of ``text`` where there is none."""
    found = _FENCE.search(text)
    return found[1] if found else text


def parses(code: str) -> bool:
    """Whether it is Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def longest_code(text: str) -> str:
    """The run of whole lines that parses and has the most lines that are not empty, the first of equals.

    Runs are tried from the longest on, so that a program without prose around it is parsed once. Where
    20,000 runs do not parse, the first fenced block is looked through in place of the whole text.
    """
    lines = text.split("\n")
    filled = [bool(line.strip()) for line in lines]
    total = [0]
    for is_filled in filled:
        total.append(total[-1] + is_filled)
    runs = sorted(
        (
            (total[end] - total[begin], begin, end)
            for begin in range(len(lines))
            for end in range(begin + 1, len(lines) + 1)
            # EvalPlus takes runs of two lines or more, empty ones among them, and else the first line
            if filled[begin] and (end - begin > 1 or begin == 0 or not filled[begin - 1])
        ),
        key=lambda run: (-run[0], run[1], run[2]),
    )
    for _, begin, end in runs[:_MAX_TRIES]:
        code = "\n".join(lines[begin:end])
        if parses(code):
            return code
    block = first_block(text)
    return longest_code(block) if len(block) < len(text) and len(runs) > _MAX_TRIES else lines[0]


def sanitise(text: str, entry_point: str | None = None) -> str:
    """The program that EvalPlus would judge.

    Args:
        text: an answer, with the prompt's code before it where the model went on with that.
        entry_point: definitions that it does not reach are dropped; None: all stay.

    Returns:
        Imports first, then definitions in their order; the longest code where nothing of that is left.
    """
    code = longest_code(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            body = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return code
    imports = [node for node in body if isinstance(node, (ast.Import, ast.ImportFrom))]
    definitions = _definitions(body)
    if entry_point is not None:
        reached = _reached(entry_point, definitions)
        definitions = {name: node for name, node in definitions.items() if name in reached}
    parts = [_source(code, node) for node in (*imports, *definitions.values())]
    return "\n".join(parts).strip() or code


def untabbed(answer: str) -> str:
    """With four spaces for a tab, as EvalPlus and BigCodeBench take answers: prompts are indented so."""
    return answer.replace("\t", "    ")


def _definitions(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    """Classes, functions that return something, and assigned names; the first of each name."""
    found: dict[str, ast.stmt] = {}
    for node in body:
        name = None
        if isinstance(node, ast.ClassDef):
            name = node.name if not node.decorator_list else None
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            returns = any(isinstance(part, ast.Return) for part in ast.walk(node))
            name = node.name if returns and not node.decorator_list else None
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        if name is not None:
            found.setdefault(name, node)
    return found


def _reached(entry_point: str, definitions: dict[str, ast.stmt]) -> set[str]:
    """Names that the entry point's definition mentions, and theirs."""
    reached, waiting = {entry_point}, [entry_point]
    while waiting:
        node = definitions.get(waiting.pop())
        if node is None:
            continue
        names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
        names |= {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
        waiting += sorted(names - reached)
        reached |= names
    return reached


def _source(code: str, node: ast.stmt) -> str:
    return ast.get_source_segment(code, node) or ast.unparse(node)
