"""Fields: paths to values of a delivery; and conditions on values. There are no expressions and no
regular expressions, so that no body makes reading slow. A field is a dotted path (`a.0.b`), `^a.b`
one level up, `header:X`, `query:X`, `=constant`, or a list of those, of which the first present
value counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

from berinia_webhookd.channels.declared.request import at

LONGEST: Final = 500  # characters of a field, steps of a path
HINT: Final = 'give a path such as "data.id", "^id", "header:X-Id", "query:id" or "=text"'


class Item(NamedTuple):
    """A node of a delivery: the nodes from the whole body down to it, with headers and query."""

    nodes: tuple[Any, ...]
    header: Callable[[str], str | None]
    query: Mapping[str, str]
    path: str = ""

    @property
    def node(self) -> Any:
        """The innermost node."""
        return self.nodes[-1]


class Unreadable(Exception):
    """A field that must be a text is an object or a list."""


Place = Callable[[Item], Any]  # the value, or None


@dataclass(frozen=True)
class Field:
    """One or several paths, of which the first with a value counts."""

    sources: tuple[str, ...]

    @classmethod
    def parse(cls, raw: Any) -> Field:
        """Read a field, or a list of them.

        Raises:
            ValueError: with what would be right.
        """
        sources = raw if isinstance(raw, list | tuple) else [raw]
        if not sources or not all(isinstance(one, str) and one.strip() for one in sources):
            raise ValueError(HINT)
        if any(len(one) > LONGEST or _is_odd(one) for one in sources):
            raise ValueError(HINT)
        return cls(tuple(one.strip() if not one.startswith("=") else one for one in sources))

    def __str__(self) -> str:
        """Return its paths, as written."""
        return " or ".join(self.sources)

    def __reduce__(self) -> tuple[type[Field], tuple[tuple[str, ...]]]:
        """Be pickled without the function, which cannot be."""
        return Field, (self.sources,)

    @cached_property
    def value(self) -> Place:
        """A function that returns the value of an item, or None; built once."""
        places = tuple(map(_place, self.sources))
        return places[0] if len(places) == 1 else lambda item: _first(places, item)

    def text(self, item: Item) -> str | None:
        """Return the value as a text; numbers keep their digits.

        Raises:
            Unreadable: it is an object or a list.
        """
        value = self.value(item)
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, dict | list):
            raise Unreadable(f"{self} is an object or a list")
        return text_of(value)

    @property
    def headers(self) -> frozenset[str]:
        """The headers among its paths, in lower case."""
        marked = (one for one in self.sources if one.startswith("header:"))
        return frozenset(one.partition(":")[2].strip().lower() for one in marked)

    @property
    def is_in_query(self) -> bool:
        """Whether one of its paths is in the query."""
        return any(one.startswith("query:") for one in self.sources)


def text_of(value: Any) -> str:
    """Return a JSON value as a text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _is_odd(source: str) -> bool:
    if source.startswith("="):
        return False
    where, colon, name = source.partition(":")
    if colon:
        return where not in ("header", "query") or not name.strip()
    steps = source.lstrip("^").split(".")
    return any(not step for step in steps)


def _place(source: str) -> Place:
    if source.startswith("="):
        return lambda _: source[1:]
    where, colon, name = source.partition(":")
    name = name.strip()
    if colon and where == "header":
        return lambda item: item.header(name)
    if colon:
        return lambda item: item.query.get(name)
    path = source.lstrip("^")
    steps = path.split(".")
    if path == source and len(steps) == 1:
        return lambda item: _named(item.nodes[-1], path)
    if path == source:
        return lambda item: at(item.nodes[-1], steps)
    up = len(source) - len(path)
    return lambda item: at(item.nodes[-1 - up], steps) if up < len(item.nodes) else None


def _first(places: Sequence[Place], item: Item) -> Any:
    for place in places:
        found = place(item)
        if found is not None:
            return found
    return None


def _named(node: Any, name: str) -> Any:
    return node.get(name) if isinstance(node, dict) else at(node, (name,))


@dataclass(frozen=True, slots=True)
class Condition:
    """`a.b=c|d`: a field has one of these values; `a.b`: the field is present."""

    field: Field
    values: tuple[str, ...] | None

    @classmethod
    def parse(cls, raw: Any) -> Condition:
        """Read one.

        Raises:
            ValueError: with what would be right.
        """
        if not isinstance(raw, str):
            raise ValueError('give a condition such as "type=text|image", or "type"')
        source, equals, values = raw.partition("=")
        return cls(Field.parse(source), tuple(values.split("|")) if equals else None)

    def __str__(self) -> str:
        """Return it as it is written."""
        return str(self.field) if self.values is None else f"{self.field}={'|'.join(self.values)}"

    def holds(self, item: Item) -> bool:
        """Whether an item meets the condition."""
        value = self.field.value(item)
        if isinstance(value, str):
            return self.values is None or value in self.values
        if value is None or isinstance(value, dict | list):
            return value is not None and self.values is None
        if self.values is None:
            return value is not False
        return text_of(value) in self.values


def conditions(raw: Any) -> tuple[Condition, ...]:
    """Read a condition or a list of them, all of which have to hold."""
    return tuple(Condition.parse(one) for one in (raw if isinstance(raw, list) else [raw]))


def all_hold(some: Sequence[Condition], item: Item) -> bool:
    """Whether an item meets all conditions."""
    return all(one.holds(item) for one in some)


def never_held(some: Sequence[Condition], items: Sequence[Item]) -> Iterator[str]:
    """Describe the conditions that none of the items meets, with what stands there instead."""
    for condition in some:
        if items and not any(condition.holds(item) for item in items):
            values = (condition.field.value(item) for item in items)
            found = ", ".join(sorted({str(one) for one in values if one is not None})[:3])
            yield f"where = {str(condition)!r} never holds: there is {found or 'nothing'}"
