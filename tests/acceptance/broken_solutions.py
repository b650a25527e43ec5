"""Broken variants of reference solutions: one small change each, the same ones in every run."""

from __future__ import annotations

import ast
import copy
import random
from collections.abc import Iterator
from typing import Any

_COMPARISONS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
                ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In}  # fmt: skip
_OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult,
              ast.Div: ast.FloorDiv, ast.Mod: ast.FloorDiv}  # fmt: skip
KINDS = ("comparison", "operator", "constant", "condition", "return", "statement", "type")


def _changes(node: ast.AST) -> Iterator[tuple[str, dict[str, Any]]]:
    """What could be changed at a node: the kind, and the node's new fields."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARISONS:
        yield "comparison", {"ops": [_COMPARISONS[type(node.ops[0])](), *node.ops[1:]]}
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        yield "operator", {"op": _OPERATORS[type(node.op)]()}
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        yield "constant", {"value": node.value + 1}
    elif isinstance(node, ast.If):
        yield "condition", {"test": ast.UnaryOp(ast.Not(), node.test)}
    elif isinstance(node, ast.Return) and node.value is not None:
        yield "return", {"value": ast.Constant(None)}
        # another type with the same contents: right to a test that compares loosely
        yield "type", {"value": ast.Call(ast.Name("str", ast.Load()), [node.value], [])}
    elif isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant):
        yield "statement", {"value": ast.Constant(None)}
    elif isinstance(node, ast.AugAssign):
        yield "statement", {"value": ast.Constant(0)}


def variants(source: str, entry_point: str) -> list[tuple[str, str]]:
    """Every (kind, program) with one change inside the entry point."""
    found = []
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    inside = {
        id(part)
        for function in tree.body
        if isinstance(function, ast.FunctionDef) and function.name == entry_point
        for part in ast.walk(function)
    }
    for number, node in enumerate(nodes):
        if id(node) not in inside:
            continue
        for kind, fields in _changes(node):
            changed = copy.deepcopy(tree)
            target = list(ast.walk(changed))[number]
            for name, value in fields.items():
                setattr(target, name, value)
            found.append((kind, ast.unparse(ast.fix_missing_locations(changed))))
    return found


def broken(tasks: list[dict[str, Any]], count: int, seed: int = 0) -> list[tuple[str, str, str]]:
    """``count`` of (task, kind, program), spread over tasks and drawn from ``seed``."""
    draw = random.Random(seed)
    pools = []
    for task in tasks:
        pool = variants(task["prompt"] + task["canonical_solution"], task["entry_point"])
        draw.shuffle(pool)
        pools.append((task["task_id"], pool))
    chosen: list[tuple[str, str, str]] = []
    while len(chosen) < count and any(pool for _, pool in pools):
        for task_id, pool in pools:
            if pool and len(chosen) < count:
                kind, program = pool.pop()
                chosen.append((task_id, kind, program))
    return chosen
