"""How the provider of a declared channel is asked what it holds, by the table `reconcile`: the URL
of its list, who we are, and how one page leads to the next. Nobody is asked here.
"""

from __future__ import annotations

import math
import re
from base64 import b64encode
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, unquote, urljoin, urlsplit

from berinia_webhookd.addresses import plain_http_allowed
from berinia_webhookd.channels.declared.fields import (
    LONGEST,
    Condition,
    Field,
    Item,
    Unreadable,
    conditions,
)
from berinia_webhookd.channels.declared.request import at
from berinia_webhookd.config import values
from berinia_webhookd.config.secret import Secret

BASIC: Final = "basic"
SECRET: Final = "{secret}"  # noqa: S105 - where one stands
WHOLE: Final = "."  # a part of the body: the item itself
HEADER, QUERY = "header:", "query:"
_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
_VALUE_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,30}")
_VALUE: Final = re.compile(r"[A-Za-z0-9_.~-]{1,200}")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_PARAMETER: Final = re.compile(r"[A-Za-z0-9_.$\[\]-]{1,100}")
_OURS: Final = frozenset({"host", "connection", "content-length", "transfer-encoding", "te"})
_WAYS: Final = ("link", "cursor", "last", "number", "offset")
_PAGING: Final = (
    'give one of { link = "links.next" }, { cursor = "meta.next", parameter = "cursor" }, '
    '{ last = "id", parameter = "starting_after" }, { number = "page", first = 1 } and '
    '{ offset = "offset" }'
)

# An instant, as a URL says it; the end of a time is rounded up.
_INSTANTS: Final[Mapping[str, Callable[[float], str]]] = {
    "": lambda at: datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    ".s": lambda at: str(int(at)),
    ".ms": lambda at: str(int(at) * 1000),
    ".day": lambda at: datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d"),
}
_TIMES: Final = frozenset(f"{name}{form}" for name in ("since", "until") for form in _INSTANTS)


@dataclass(frozen=True, slots=True)
class Url:
    """The URL of the list, with places for the time that is asked about and for values."""

    text: str

    @classmethod
    def parse(cls, raw: Any) -> Url:
        """Read one.

        Raises:
            ValueError: with what would be right.
        """
        text = values.text(raw)
        names = _PLACEHOLDER.findall(text)
        if SECRET in text:
            raise ValueError("a secret in a URL gets into logs: use auth and reconcile_secret")
        wrong = [one for one in names if one not in _TIMES and not _VALUE_NAME.fullmatch(one)]
        if wrong or not any(one in _TIMES and one.startswith("since") for one in names):
            raise ValueError("give {since}, {since.s}, {since.ms} or {since.day}; so with {until}")
        filled = values.web_url(_PLACEHOLDER.sub("x", text))
        parts = urlsplit(filled)
        if "{" in filled or "}" in filled or parts.fragment:
            raise ValueError("close every { with a }, and leave out #")
        if parts.username is not None:
            raise ValueError("a password in a URL gets into logs: use auth and reconcile_secret")
        if not plain_http_allowed(filled) or not filled.isascii():
            raise ValueError("give an https URL; http is for this machine alone")
        return cls(text)

    def __str__(self) -> str:
        """Return it as it is written."""
        return self.text

    @property
    def names(self) -> frozenset[str]:
        """The values that it needs."""
        return frozenset(_PLACEHOLDER.findall(self.text)) - _TIMES

    @property
    def has_end(self) -> bool:
        """Whether the end of the time can be said."""
        return any(one.startswith("until") for one in _PLACEHOLDER.findall(self.text))

    def of(self, since: datetime, until: datetime, given: Mapping[str, str]) -> str:
        """Return it for a time; `given` has a value for each of `names`."""
        texts = dict(given)
        for form, written in _INSTANTS.items():
            texts[f"since{form}"] = quote(written(since.timestamp()), safe="")
            texts[f"until{form}"] = quote(written(math.ceil(until.timestamp())), safe="")
        return _PLACEHOLDER.sub(lambda found: texts[found[1]], self.text)


@dataclass(frozen=True, slots=True)
class Auth:
    """The header that says who we are."""

    header: str
    text: str | None  # with {secret}; None: user and password

    @classmethod
    def parse(cls, raw: Any) -> Auth:
        """Read `basic`, or `Name: text {secret}`.

        Raises:
            ValueError: with what would be right.
        """
        if raw == BASIC:
            return cls("Authorization", None)
        hint = 'give "basic", or a header such as "Authorization: Bearer {secret}"'
        name, colon, text = (raw if isinstance(raw, str) else "").partition(":")
        text = text.strip()
        plain = text.isascii() and text.isprintable() and text.count(SECRET) == 1
        if not colon or not _TOKEN.fullmatch(name) or name.lower() in _OURS or not plain:
            raise ValueError(hint)
        return cls(name, text)

    def __str__(self) -> str:
        """Return it as it is written."""
        return BASIC if self.text is None else f"{self.header}: {self.text}"

    def amiss(self, secret: str) -> str | None:
        """Return what a secret of ours lacks, if so."""
        if self.text is None:
            return None if secret.partition(":")[2] else "is not user:password"
        fits = secret.isascii() and secret.isprintable()
        return None if fits else "has characters that no header can hold"

    def headers(self, secret: str) -> dict[str, str]:
        """Return the header."""
        if self.text is None:
            return {self.header: f"Basic {b64encode(secret.encode()).decode()}"}
        return {self.header: self.text.replace(SECRET, secret)}


@dataclass(frozen=True, slots=True)
class Paging:
    """How one page leads to the next."""

    way: str
    field: Field | None  # of the answer, or of its last item
    parameter: str = ""
    first: int = 0

    @classmethod
    def parse(cls, raw: Any) -> Paging:
        """Read its table.

        Raises:
            ValueError: with what would be right.
        """
        ways = [one for one in _WAYS if isinstance(raw, Mapping) and one in raw]
        if len(ways) != 1:
            raise ValueError(_PAGING)
        (way,) = ways
        counts = way in ("number", "offset")
        named = raw[way] if counts else raw.get("parameter", "")
        others = {"number": {"first"}, "cursor": {"parameter"}, "last": {"parameter"}}
        first = raw.get("first", 1 if way == "number" else 0)
        if raw.keys() - {way} - others.get(way, set()) or not isinstance(first, int):
            raise ValueError(_PAGING)
        if way != "link" and not (isinstance(named, str) and _PARAMETER.fullmatch(named)):
            raise ValueError(_PAGING)
        field = None if counts else Field.parse(raw[way])
        return cls(way, field, named, first)

    def __str__(self) -> str:
        """Return the way, and the parameter."""
        return f"{self.way} ({self.parameter})" if self.parameter else self.way

    def begun(self, url: str) -> str:
        """Return the URL of the first page."""
        counts = self.field is None
        return with_parameter(url, self.parameter, str(self.first)) if counts else url

    def following(
        self, url: str, answer: Any, items: Sequence[Any], *, pages: int, received: int
    ) -> str | None:
        """Return the URL of the next page; None: this was the last one.

        Raises:
            Unreadable: what leads there is no text.
        """
        if self.field is None:
            number = self.first + (pages if self.way == "number" else received)
            return with_parameter(url, self.parameter, str(number)) if items else None
        node = answer
        if self.way == "last":
            if not items:
                return None
            node = items[-1]
        found = self.field.text(item_of(node))
        if self.way == "last" and not found:
            raise Unreadable(f"the last item of a page has no {self.field}")
        if not found:
            return None
        if self.way == "link":
            return urljoin(url, found)
        return with_parameter(url, self.parameter, found)


def with_parameter(url: str, name: str, value: str) -> str:
    """Return a URL with a parameter of its query set."""
    base, _, query = url.partition("?")
    kept = [one for one in query.split("&") if one and unquote(one.partition("=")[0]) != name]
    return f"{base}?" + "&".join([*kept, f"{quote(name)}={quote(value, safe='')}"])


def item_of(*nodes: Any) -> Item:
    """Return a node of an answer, below those that it stands in."""
    return Item(nodes, lambda _: None, {})


@dataclass(frozen=True, slots=True)
class Listing:
    """What the table `reconcile` says."""

    url: Url
    time: Field
    time_unit: str = "s"
    auth: Auth | None = None
    items: str = ""
    where: tuple[Condition, ...] = ()
    body: Mapping[str, Field | None] | None = None  # None: an item; of a part: the item itself
    paging: Paging | None = None

    def __str__(self) -> str:
        """Return what is asked."""
        return str(self.url)

    def missing(self, secret: Secret | None, given: Container[str]) -> list[str]:
        """Return the settings without which nobody can be asked; `given` are the values' names."""
        unknown = sorted(name for name in self.url.names if name not in given)
        needed = ["reconcile_secret"] if self.auth is not None and secret is None else []
        return [*needed, *(f"reconcile_values.{name}" for name in unknown)]

    @property
    def nested(self) -> list[str]:
        """The places of the body that are below others."""
        return [one for one in self.body or () if ":" not in one and "." in one]

    def items_of(self, answer: Any) -> list[Any] | None:
        """Return the items of an answer; None: there is no list in their place."""
        found = at(answer, self.items.split(".")) if self.items else answer
        return found if isinstance(found, list) else None

    def headers_and_query(self, item: Item) -> tuple[dict[str, str], dict[str, str]]:
        """Return those parts of a delivery that are not in its body.

        Raises:
            Unreadable: one is no text.
        """
        found: dict[str, dict[str, str]] = {HEADER: {}, QUERY: {}}
        for place, field in (self.body or {}).items():
            where, colon, name = place.partition(":")
            text = field.text(item) if colon and field is not None else None
            if text is not None:
                found[where + colon][name] = text
        headers = {name.lower(): text for name, text in found[HEADER].items()}
        return headers, found[QUERY]

    def document(self, item: Item) -> Any:
        """Return what the body of a delivery says."""
        if self.body is None:
            return item.node
        parts = {
            place: item.node if field is None else field.value(item)
            for place, field in self.body.items()
            if ":" not in place
        }
        return _made(parts)


class _Made(dict[str, Any]):
    """An object of ours, or a list if its names are 0, 1 and so on."""


def _made(parts: Mapping[str, Any]) -> Any:
    """Return a document with these values at these paths.

    Raises:
        ValueError: they cannot stand in one document.
    """
    root = _Made()
    for path, value in parts.items():
        *above, last = path.split(".")
        node = root
        for step in above:
            node = node.setdefault(step, _Made())
            if not isinstance(node, _Made):
                raise ValueError(f"{path} leads through another part")
        if last in node:
            raise ValueError(f"{path} is part of another one, or has parts")
        node[last] = value
    return _finished(root)


def _finished(node: Any) -> Any:
    if not isinstance(node, _Made):
        return node
    inside = {name: _finished(one) for name, one in node.items()}
    if not any(name.isdecimal() for name in inside):
        return inside
    if inside.keys() != {str(number) for number in range(len(inside))}:
        raise ValueError("the items of a list are 0, 1 and so on")
    return [inside[str(number)] for number in range(len(inside))]


def _items(raw: Any) -> str:
    if not isinstance(raw, str) or len(raw) > LONGEST or (raw and not all(raw.split("."))):
        raise ValueError('give the path of the list, such as "data.messages", or "" for a list')
    return raw


def _body(raw: Any) -> Mapping[str, Field | None]:
    hint = 'give a table such as { "data.payload" = ".", "data.event_type" = "=message.received" }'
    if not isinstance(raw, Mapping) or not raw:
        raise ValueError(hint)
    for place in raw:
        name = place.removeprefix(HEADER).removeprefix(QUERY)
        plain = all(place.split(".")) if name == place else _TOKEN.fullmatch(name)
        if not plain or len(place) > LONGEST or (name == place and ":" in place):
            raise ValueError(hint)
    found = {
        place: None if source == WHOLE and ":" not in place else Field.parse(source)
        for place, source in raw.items()
    }
    _made({place: None for place in found if ":" not in place})
    return found


def given_values(raw: Any) -> Mapping[str, str]:
    """Read the values of the URL's places.

    Raises:
        ValueError: with what would be right.
    """
    fit = isinstance(raw, Mapping) and all(
        _VALUE_NAME.fullmatch(name) and isinstance(one, str) and _VALUE.fullmatch(one)
        for name, one in raw.items()
    )
    if not fit:
        raise ValueError('give a table such as { region = "eu" }, of letters, digits and -._~')
    return dict(raw)


_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "url": Url.parse,
    "auth": Auth.parse,
    "items": _items,
    "where": conditions,
    "time": Field.parse,
    "time_unit": values.one_of("s", "ms", "iso"),
    "body": _body,
    "paging": Paging.parse,
}


def listing(raw: Any) -> Listing:
    """Read the table.

    Raises:
        ValueError: with all errors in it.
    """
    if not isinstance(raw, Mapping):
        raise ValueError("give a table: [channels.<name>.reconcile]")
    wrong = [f"{name}: is not set" for name in ("url", "time") if name not in raw]
    known: dict[str, Any] = {}
    for name, value in raw.items():
        if name not in _READERS:
            wrong.append(values.unknown(name, _READERS))
            continue
        try:
            known[name] = _READERS[name](value)
        except ValueError as error:
            wrong.append(f"{name}: {error}")
    if wrong:
        raise ValueError("; ".join(wrong))
    return Listing(**known)
