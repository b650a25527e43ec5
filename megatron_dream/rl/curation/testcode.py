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
    ``test...`` are called by the judge and count once, whoever else calls them. A test function without an
    assertion (it expects an exception, say) counts as one; one that yields is only made a generator by its
    call and counts nothing, as does what stands under ``if __name__ == "__main__"``.
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


_Lengths = dict[str, int]  # of literal lists, by name, in one scope


class _Counter:
    """Counts in the order of the text: a loop goes over what its name means there, in its own scope."""

    def __init__(self, tree: ast.Module) -> None:
        self._functions = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
        self._judged = {n for n in self._functions if n.startswith("test") or n == "check"}
        self._rest = [node for node in tree.body if not isinstance(node, ast.FunctionDef)]
        self._counts: dict[str, int] = {}
        self._module: _Lengths = {}  # in the end, which is what functions see
        for node in self._rest:
            for inner in _of_one_scope(node):
                self._note(inner, self._module)

    def total(self) -> int:
        called = [name for name in self._judged if not _yields(self._functions[name])]
        inside = sum(max(1, self._of_function(name)) for name in called)
        return inside + self._of(self._rest, {})

    def _of_function(self, name: str) -> int:
        if name not in self._counts:
            self._counts[name] = 0  # of a call of itself
            function = self._functions[name]
            times = math.prod(self._num_rows(node) for node in function.decorator_list)
            own = _bound(function)
            seen = {key: length for key, length in self._module.items() if key not in own}
            self._counts[name] = times * max(self._of(function.body, seen), times > 1)
        return self._counts[name]

    def _num_rows(self, decorator: ast.AST) -> int:
        """Rows that ``parametrize`` runs a function with; 1 for every other decorator."""
        match decorator:
            case ast.Call(ast.Attribute(attr="parametrize"), [_, values, *_]):
                return _length(values, self._module)
        return 1

    def _of(self, nodes: Iterable[ast.AST], lengths: _Lengths) -> int:
        return sum(self._of_node(node, lengths) for node in nodes)

    def _of_node(self, node: ast.AST, lengths: _Lengths) -> int:
        match node:
            case ast.Assert():
                return 1
            case ast.For(_, iterable, body, orelse):
                times = _length(iterable, lengths)
                self._note(node, lengths)
                return times * self._of(body, lengths) + self._of(orelse, lengths)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                return 0
            case ast.ClassDef(body=body):
                return self._of(body, dict(lengths))
            case ast.If(condition, _, orelse) if _is_main(condition):
                return self._of(orelse, lengths)
        own = 0
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            name = node.func.id
            if name in self._functions and name not in self._judged:
                own = self._of_function(name)
        own += self._of(ast.iter_child_nodes(node), lengths)
        self._note(node, lengths)
        return own

    def _note(self, node: ast.AST, lengths: _Lengths) -> None:
        """What an assignment or a loop makes of a name."""
        match node:
            case ast.Assign([ast.Name(name)], value) | ast.AnnAssign(ast.Name(name), _, value) if (
                value is not None
            ):
                lengths[name] = _length(value, lengths)
            case ast.For(target):
                for name in _bound(target):
                    lengths.pop(name, None)


def _length(node: ast.AST, lengths: _Lengths) -> int:
    """Items of what a loop goes over; 1 where syntax does not tell."""
    match node:
        case ast.List(items) | ast.Tuple(items) | ast.Set(items):
            return len(items)
        case ast.Dict(keys):
            return len(keys)
        case ast.Name(name):
            return lengths.get(name, 1)
        case ast.Call(ast.Name("zip"), [_, *_] as parts):
            return min(_length(part, lengths) for part in parts)
        case ast.Call(ast.Name("enumerate" | "sorted" | "reversed" | "list"), [part, *_]):
            return _length(part, lengths)
        case ast.Call(ast.Attribute(part, "items"), []):
            return _length(part, lengths)
    return 1


_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


def _of_one_scope(node: ast.AST) -> Iterator[ast.AST]:
    """A node and those inside it in the order of the text, without the insides of functions and classes."""
    yield node
    if not isinstance(node, _SCOPES):
        for inner in ast.iter_child_nodes(node):
            yield from _of_one_scope(inner)


def _yields(function: ast.FunctionDef) -> bool:
    return any(
        isinstance(inner, ast.Yield | ast.YieldFrom)
        for node in function.body
        for inner in _of_one_scope(node)
    )


def _is_main(condition: ast.AST) -> bool:
    """``__name__ == "__main__"``: the judge's name is another."""
    match condition:
        case ast.Compare(
            ast.Name("__name__"), [ast.Eq()], [ast.Constant("__main__")]
        ) | ast.Compare(ast.Constant("__main__"), [ast.Eq()], [ast.Name("__name__")]):
            return True
    return False


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
