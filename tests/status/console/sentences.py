"""The sentences that a daemon says of itself, as its code has them: patterns with `{}` in the
places of what they are about.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import berinia_webhookd

PACKAGE: Final = Path(berinia_webhookd.__file__).parent
VALUE: Final = "{}"


def sentences(files: Sequence[str], calls: set[str], first: int) -> Iterator[str]:
    """Those that are given to these calls, from an argument on."""
    for name in files:
        module = ast.parse((PACKAGE / name).read_text())
        for scope in ast.walk(module):
            if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef):
                known = _assigned(module.body) | _assigned(scope.body)
                for node in ast.walk(scope):
                    if isinstance(node, ast.Call) and getattr(node.func, "id", "") in calls:
                        given = [*node.args[first:], *(one.value for one in node.keywords)]
                        for one in given:
                            yield from _patterns(one, known)


def constants(file: str, *names: str) -> Iterator[str]:
    """The texts of constants: of a mapping, its values."""
    known = _assigned(ast.parse((PACKAGE / file).read_text()).body)
    for name in names:
        node = known[name]
        for one in node.values if isinstance(node, ast.Dict) else [node]:
            yield from _patterns(one, known)


def returned(file: str, *functions: str) -> Iterator[str]:
    """The texts that functions of this name return or yield."""
    module = ast.parse((PACKAGE / file).read_text())
    for scope in ast.walk(module):
        if isinstance(scope, ast.FunctionDef) and scope.name in functions:
            known = _assigned(module.body) | _assigned(scope.body)
            for node in ast.walk(scope):
                if isinstance(node, ast.Return | ast.Yield) and node.value is not None:
                    yield from _patterns(node.value, known)


def _assigned(body: Sequence[ast.stmt]) -> dict[str, ast.expr]:
    found: dict[str, ast.expr] = {}
    for node in body:
        for part in ast.walk(node):
            if isinstance(part, ast.Assign) and isinstance(part.targets[0], ast.Name):
                found[part.targets[0].id] = part.value
            if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name) and part.value:
                found[part.target.id] = part.value
        if isinstance(node, ast.FunctionDef):
            returned = [one.value for one in ast.walk(node) if isinstance(one, ast.Return)]
            found[node.name] = ast.Tuple([one for one in returned if one is not None])
    return found


def _patterns(node: ast.expr, known: dict[str, ast.expr]) -> list[str]:
    """What an expression may be."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if (parts := _one_after_the_other(node)) is not None:
        every = [_patterns(part, known) for part in parts]
        return ["".join(some) for some in itertools.product(*every)]
    others = known
    name = node.func if isinstance(node, ast.Call) else node
    if isinstance(name, ast.Name):
        others = {one: value for one, value in known.items() if one != name.id}
    found = [p for one in _one_of(node, known) for p in _patterns(one, others)]
    return found or [VALUE]


def _one_after_the_other(node: ast.expr) -> Sequence[ast.expr] | None:
    match node:
        case ast.JoinedStr(values=parts):
            return parts
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return [left, right]
    return None


def _one_of(node: ast.expr, known: dict[str, ast.expr]) -> Sequence[ast.expr]:
    match node:
        case ast.IfExp(body=one, orelse=other):
            return [one, other]
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            return parts
        case ast.Starred(value=one) | ast.GeneratorExp(elt=one):
            return [one]
        case ast.FormattedValue(value=(ast.IfExp() | ast.Constant()) as one):
            return [one]
        case ast.Name(id=name) | ast.Call(func=ast.Name(id=name)) if name in known:
            return [known[name]]
    return []
