"""What Python tests hold, told from their syntax alone: how many checks, and which functions they call.

Nothing here runs or imports anything: tests come from strangers.
"""

from __future__ import annotations

import ast
import builtins
import math
from collections.abc import Iterable, Iterator

_UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)


def parsed(text: str) -> ast.Module | None:
    """The syntax tree, or None where the text is no Python."""
    try:
        return ast.parse(text)
    except _UNREADABLE:
        return None


def num_checks(tests: str) -> int:
    """Checks that running the tests makes, as far as syntax tells; 0 where they are no Python.

    An assertion counts once, inside a loop over a literal list once for each item, as in a function that is
    parametrized with one. A function of the tests counts for each call of it; ``check`` and functions
    ``test...`` are called by the judge. A test function without an assertion (it expects an exception, say)
    counts as one.
    """
    tree = parsed(tests)
    if tree is None:
        return 0
    try:
        return _Counter(tree).total()
    except RecursionError:
        return 0


def called_names(tests: str, given: str = "") -> tuple[str, ...]:
    """Names of the solution that the tests use, the first used first: ``f``, or ``Solution.f`` for a method.

    Args:
        tests: their text.
        given: what stands before them and the program, whose names are not the solution's.
    """
    tree, before = parsed(tests), parsed(given)
    if tree is None:
        return ()
    imported = _imported_from_solution(tree)
    known = set(dir(builtins)) | _bound(tree) | (_bound(before) if before else set())
    wanted = dict.fromkeys(imported)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id not in known:
            wanted.setdefault(node.id)
    methods = _methods(tree, wanted)
    return tuple(name for owner in wanted for name in (methods.get(owner) or (owner,)))


def without_final_check(tests: str) -> tuple[str, str]:
    """Tests whose last statement is ``check(f)``: what is before it, and the text of f.

    The judge calls ``check`` itself; with the statement left in, every check would run twice.

    Returns:
        The tests as they are, and "", where the last statement is another.
    """
    tree = parsed(tests)
    last = tree.body[-1] if tree and tree.body else None
    match last:
        case ast.Expr(ast.Call(ast.Name("check"), [argument], [])):
            lines = tests.splitlines(keepends=True)[: last.lineno - 1]
            return "".join(lines), ast.unparse(argument)
    return tests, ""


class _Counter:
    def __init__(self, tree: ast.Module) -> None:
        self._tree = tree
        self._functions = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
        self._lengths = dict(_literal_lengths(tree))
        self._counts: dict[str, int] = {}

    def total(self) -> int:
        called = [name for name in self._functions if name.startswith("test") or name == "check"]
        inside = sum(max(1, self._of_function(name)) for name in called)
        return inside + self._of(
            node for node in self._tree.body if not isinstance(node, ast.FunctionDef)
        )

    def _of_function(self, name: str) -> int:
        if name not in self._counts:
            self._counts[name] = 0  # of a call of itself
            function = self._functions[name]
            times = math.prod(self._num_rows(node) for node in function.decorator_list)
            self._counts[name] = times * max(self._of(function.body), times > 1)
        return self._counts[name]

    def _num_rows(self, decorator: ast.AST) -> int:
        """Rows that ``parametrize`` runs a function with; 1 for every other decorator."""
        match decorator:
            case ast.Call(ast.Attribute(attr="parametrize"), [_, values, *_]):
                return self._length(values)
        return 1

    def _of(self, nodes: Iterable[ast.AST]) -> int:
        return sum(self._of_node(node) for node in nodes)

    def _of_node(self, node: ast.AST) -> int:
        if isinstance(node, ast.Assert):
            return 1
        if isinstance(node, ast.For):
            return self._length(node.iter) * self._of(node.body) + self._of(node.orelse)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return 0
        own = 0
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            own = self._of_function(node.func.id) if node.func.id in self._functions else 0
        return own + self._of(ast.iter_child_nodes(node))

    def _length(self, node: ast.AST) -> int:
        """Items of what a loop goes over; 1 where syntax does not tell."""
        match node:
            case ast.List(items) | ast.Tuple(items) | ast.Set(items):
                return len(items)
            case ast.Dict(keys):
                return len(keys)
            case ast.Name(name):
                return self._lengths.get(name, 1)
            case ast.Call(ast.Name("zip"), [_, *_] as parts):
                return min(self._length(part) for part in parts)
            case ast.Call(ast.Name("enumerate" | "sorted" | "reversed" | "list"), [part, *_]):
                return self._length(part)
            case ast.Call(ast.Attribute(part, "items"), []):
                return self._length(part)
        return 1


def _literal_lengths(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        match node:
            case ast.Assign([ast.Name(name)], ast.List(items) | ast.Tuple(items)):
                yield name, len(items)
            case ast.Assign([ast.Name(name)], ast.Dict(keys)):
                yield name, len(keys)


def _imported_from_solution(tree: ast.AST) -> list[str]:
    return [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "solution"
        for alias in node.names
        if alias.name != "*"
    ]


def _bound(tree: ast.AST) -> set[str]:
    """Every name that the text gives a meaning to, in whatever scope."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(name, ast.Store() | ast.Del()):
                names.add(name)
            case ast.FunctionDef(name) | ast.AsyncFunctionDef(name) | ast.ClassDef(name):
                names.add(name)
            case ast.arg(name):
                names.add(name)
            case ast.ExceptHandler(name=str(name)):
                names.add(name)
            case ast.Import(aliases) | ast.ImportFrom(names=aliases):
                names |= {(a.asname or a.name).partition(".")[0] for a in aliases}
    return names


def _methods(tree: ast.AST, owners: Iterable[str]) -> dict[str, list[str]]:
    """For each name that is only ever used as ``Name().method``: ``Name.method``, once each."""
    used: dict[str, dict[str, None]] = {}
    loads = dict.fromkeys(owners, 0)
    counted = dict.fromkeys(owners, 0)
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(ast.Call(ast.Name(owner), [], []), method) if owner in counted:
                used.setdefault(owner, {})[f"{owner}.{method}"] = None
                counted[owner] += 1
            case ast.Name(owner, ast.Load()) if owner in loads:
                loads[owner] += 1
    return {owner: list(names) for owner, names in used.items() if counted[owner] == loads[owner]}
