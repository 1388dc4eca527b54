"""Nothing of the package reaches into the private parts of a library."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import aiohttp.web
import aiohttp_remotes.x_forwarded
import aiolimiter
import pytest

import berinia_webhookd

PACKAGE = Path(berinia_webhookd.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
OWN = {"self", "cls"}
DOCUMENTED = {"_asdict", "_exit", "_fields", "_make", "_replace"}  # by their libraries
# The one exception, with its reason where it is.
EXCEPTIONS = {("accept/aiohttp_limits.py", "_messages")}
BASES: dict[str, type] = {
    "AbstractResource": aiohttp.web.AbstractResource,
    "AppRunner": aiohttp.web.AppRunner,
    "Application": aiohttp.web.Application,
    "AsyncLimiter": aiolimiter.AsyncLimiter,
    "BaseRunner": aiohttp.web.BaseRunner,
    "BaseSite": aiohttp.web.BaseSite,
    "RequestHandler": aiohttp.web.RequestHandler,
    "ResourceRoute": aiohttp.web.ResourceRoute,
    "Server": aiohttp.web.Server,
    "ServerRunner": aiohttp.web.ServerRunner,
    "XForwardedBase": aiohttp_remotes.x_forwarded.XForwardedBase,
}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in DOCUMENTED


def private_parts(kind: type) -> set[str]:
    """The private names of a class, those of its instances that its `__init__` sets included."""
    names = set(dir(kind))
    for base in kind.__mro__:
        names |= set(getattr(base, "__slots__", ()))
        initialise = vars(base).get("__init__")
        names |= set(getattr(getattr(initialise, "__code__", None), "co_names", ()))
    return {name for name in names if is_private(name)}


def base_names(node: ast.ClassDef) -> Iterator[str]:
    for base in node.bases:
        if isinstance(base, ast.Attribute):
            yield base.attr
        elif isinstance(base, ast.Name):
            yield base.id


def attributes(tree: ast.AST) -> Iterator[ast.Attribute]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            yield node


def is_own(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in OWN


def reached(tree: ast.Module) -> Iterator[str]:
    """The private names that a module takes of others' objects, and of libraries' classes."""
    ours = {
        node.attr for node in attributes(tree) if is_own(node) and isinstance(node.ctx, ast.Store)
    }
    for node in attributes(tree):
        if not is_own(node) and node.attr not in ours:
            yield node.attr
    for kind in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        bases = [BASES[name] for name in base_names(kind) if name in BASES]
        theirs = {name for base in bases for name in private_parts(base)}
        yield from (node.attr for node in attributes(kind) if node.attr in theirs)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_private_name_of_a_library_is_used(file: Path) -> None:
    """But for those that stand in the table above."""
    where = str(file.relative_to(PACKAGE))
    found = {
        name for name in reached(ast.parse(file.read_text())) if (where, name) not in EXCEPTIONS
    }
    assert not found
