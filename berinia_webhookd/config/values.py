"""Readers: each turns a raw value, from TOML or text, into a typed one, or raises `ValueError` with
what would be right. None quotes the value, which may be a secret.
"""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from berinia_webhookd.addresses import (
    Network,
    address_text,
    parse_network,
    plain_http_allowed,
    split_port,
)
from berinia_webhookd.config.fields import Reader, T
from berinia_webhookd.config.secret import Secret
from berinia_webhookd.model import AgentName, EventMark, OptOut, OutcomeKind
from berinia_webhookd.phone_numbers import is_country

Word = TypeVar("Word", bound=str)

MIB: Final = 1024 * 1024
DAY: Final = 86_400.0
SQLITE: Final = "sqlite:///"  # then the path
AGENT_NAME: Final = re.compile(r"[A-Z][A-Za-z0-9_-]{0,99}")
DOTTED: Final = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
PYTHON_TARGET: Final = re.compile(rf"python:{DOTTED}:{DOTTED}")
_NO_TEXT: Final = re.compile("[\0\ud800-\udfff]")
LONGEST_LIST: Final = 1000
SHORTEST_KEY: Final = 32  # characters
RATE: Final = re.compile(r"([1-9][0-9]{0,5})\s*/\s*([smhd])")
UNIT_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
BUILT_IN_WORDS: Final = "+"  # in a list of words: the built-in ones
RETRIABLE: Final = frozenset(
    map(OutcomeKind, ("error", "exception", "timeout", "crash", "unreachable"))
)


@dataclass(frozen=True, slots=True)
class Rate:
    """A limit of runs in a time."""

    count: int
    seconds: float
    text: str = ""  # as configured: 20/h

    def __str__(self) -> str:
        return self.text


def text(raw: Any) -> str:
    """Read a text that is neither blank nor has lone surrogates, as JSON can."""
    if not isinstance(raw, str) or not raw.strip() or _NO_TEXT.search(raw):
        raise ValueError("give a text that is not empty")
    return raw


def failure_text(raw: Any) -> str:
    """Read a text that may contain `{reason}`, or an empty one."""
    if not isinstance(raw, str) or _NO_TEXT.search(raw):
        raise ValueError("give a text; {reason} in it is replaced")
    return raw.strip()


def command(raw: Any) -> str:
    """Read a command line, quoted as in a shell."""
    try:
        shlex.split(text(raw))
    except ValueError as error:
        raise ValueError("give a command with its arguments; close every quote") from error
    return str(raw)


def secret(raw: Any) -> Secret:
    """Read a secret; blanks around it, often copied along, are dropped."""
    return Secret(text(raw).strip())


def key(raw: Any) -> Secret:
    """Read a secret that is too long to guess."""
    found = secret(raw)
    if len(found.reveal()) < SHORTEST_KEY:
        raise ValueError(f"give {SHORTEST_KEY} characters or more (`openssl rand -hex 32`)")
    return found


def boolean(raw: Any) -> bool:
    """Read true or false, also as a word."""
    words = {"1": True, "true": True, "yes": True, "on": True}
    words |= {"0": False, "false": False, "no": False, "off": False}
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and raw.strip().lower() in words:
        return words[raw.strip().lower()]
    raise ValueError("give true or false")


def whole(least: int, most: int) -> Reader[int]:
    """Return a reader of whole numbers within bounds, both included."""

    def read(raw: Any) -> int:
        value = raw
        if isinstance(raw, str) and re.fullmatch(r"\s*\d{1,18}\s*", raw, re.ASCII):
            value = int(raw)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"give a whole number from {least} to {most}")
        return value

    return read


def number(least: float, most: float) -> Reader[float]:
    """Return a reader of numbers within bounds, both included."""

    def read(raw: Any) -> float:
        try:
            value = float(raw) if isinstance(raw, str | int | float) else None
        except (ValueError, OverflowError):
            value = None
        if value is None or isinstance(raw, bool) or not least <= value <= most:
            raise ValueError(f"give a number from {least:g} to {most:g}")
        return value

    return read


def one_of(*choices: Word) -> Reader[Word]:
    """Return a reader of one of a few words."""

    def read(raw: Any) -> Word:
        word = raw.strip().lower() if isinstance(raw, str) else None
        for choice in choices:
            if choice == word:
                return choice
        raise ValueError(f"give one of {', '.join(choices)}")

    return read


def exactly(*choices: str) -> Reader[str]:
    """Return a reader of one of a few words; letter case counts."""

    def read(raw: Any) -> str:
        if raw not in choices:
            raise ValueError(f"give one of {', '.join(choices)}")
        return str(raw)

    return read


def unknown(name: str, known: Collection[str]) -> str:
    """Return a message that a name is unknown, with the nearest known one."""
    nearest = difflib.get_close_matches(str(name)[:100], known, n=1)
    return f"{str(name)[:100]!r} is unknown" + (f": did you mean {nearest[0]}?" if nearest else "")


def matching(pattern: str, hint: str) -> Reader[str]:
    """Return a reader of texts that match a pattern."""

    def read(raw: Any) -> str:
        if not isinstance(raw, str) or not re.fullmatch(pattern, raw):
            raise ValueError(hint)
        return raw

    return read


def many(item: Reader[T]) -> Reader[tuple[T, ...]]:
    """Return a reader of lists, which text gives as JSON or with commas; one value is a list."""

    def read(raw: Any) -> tuple[T, ...]:
        items = raw
        if isinstance(raw, str):
            items = _from_text(raw)
        elif isinstance(raw, int | float) and not isinstance(raw, bool):
            items = [raw]
        if not isinstance(items, list | tuple):
            raise ValueError("give a list")
        if len(items) > LONGEST_LIST:
            raise ValueError(f"give at most {LONGEST_LIST} values")
        return tuple(item(value) for value in items)

    return read


def _from_text(raw: str) -> list[Any]:
    if not raw.strip().startswith("["):
        return [part.strip() for part in raw.split(",") if part.strip()]
    try:
        items: list[Any] = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError("give a list as JSON, or values separated by commas") from error
    return items


def country(raw: Any) -> str:
    """Read a country as ISO 3166 writes it."""
    if not isinstance(raw, str) or not is_country(raw):
        raise ValueError("give a country with two capital letters, such as FR")
    return raw


def network(raw: Any) -> Network:
    """Read an address or a network."""
    return parse_network(text(raw).strip())


def folder(raw: Any) -> Path:
    """Read a path and make it absolute."""
    path = raw if isinstance(raw, Path) else Path(text(raw))
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise ValueError("gives the home of a user who does not exist") from error


def rate(raw: Any) -> Rate:
    """Read a rate such as 20/h."""
    found = RATE.fullmatch(raw.strip()) if isinstance(raw, str) else None
    if found is None:
        raise ValueError("give a number per second, minute, hour or day, such as 20/h or 60/d")
    return Rate(int(found[1]), UNIT_SECONDS[found[2]], text=f"{int(found[1])}/{found[2]}")


def agent_name(raw: Any) -> AgentName:
    """Read a name that starts with a capital."""
    if not isinstance(raw, str) or not AGENT_NAME.fullmatch(raw):
        raise ValueError("give an agent's name: a capital, then letters, digits, _ or -")
    return AgentName(raw)


def word(raw: Any) -> str:
    """Read a word of letters, digits, _ and -."""
    if not isinstance(raw, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", raw):
        raise ValueError("give a word of letters, digits, _ or -")
    return raw


def variable(raw: Any) -> str:
    """Read the name of an environment variable."""
    if not isinstance(raw, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,99}", raw):
        raise ValueError("give the name of an environment variable, such as TWILIO_TOKEN")
    return raw


def origin(raw: Any) -> str:
    """Read an origin such as https://app.example.com."""
    hint = "give scheme and host alone, such as https://app.example.com"
    parts = _split(raw, hint)
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(hint)
    return f"{parts.scheme}://{parts.netloc}"


def web_url(raw: Any) -> str:
    """Read an http or https URL."""
    hint = "give a URL such as https://example.com/path"
    _split(raw, hint)
    return str(raw)


def base_url(raw: Any) -> str:
    """Read an http or https URL that a path is put behind."""
    hint = "give a URL such as https://example.com/path, without ? or #"
    _split(raw, hint)
    if any(sign in str(raw) for sign in "?#"):
        raise ValueError(hint)
    return str(raw)


def _split(raw: Any, hint: str) -> Any:
    try:
        parts = urlsplit(text(raw))
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError as error:
        raise ValueError(hint) from error
    if not valid or any(c.isspace() or not c.isprintable() for c in str(raw)):
        raise ValueError(hint)
    return parts


def sqlite_file(url: str) -> Path | None:
    """Return the file of a SQLite journal, absolute; None for any other URL."""
    name = url.removeprefix(SQLITE)
    return Path(name).expanduser().absolute() if name not in {url, ""} else None


def own_listener(raw: Any) -> str:
    """Read a loopback address with its port, or the path of a Unix socket."""
    hint = "give 127.0.0.1:8003, [::1]:8003 or the whole path of a Unix socket"
    name = text(raw).strip()
    path = name.removeprefix("unix:")
    if path.startswith("/"):
        return f"unix:{path}"
    host, port = split_port(name)
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
        number = whole(1, 65_535)(port)
    except ValueError as error:
        raise ValueError(hint) from error
    if not address.is_loopback:
        raise ValueError(hint)
    return address_text((str(address), number))


def journal_url(raw: Any) -> Secret:
    """Read sqlite:///path or postgresql://…, which may hold a password."""
    url = text(raw)
    if (file := sqlite_file(url)) is not None:
        return Secret(f"{SQLITE}{file}")
    if url.startswith("postgresql://") and _has_valid_host(url):
        return Secret(url)
    raise ValueError("give sqlite:///path/to/journal.db or postgresql://user@host/database")


def _has_valid_host(url: str) -> bool:
    """False where a password holds / or the like, not percent-encoded."""
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


def target(raw: Any) -> str:
    """Read the target of an agent."""
    hint = "give python:module:Name, https://…, http:// to a loopback address, or log:"
    if not isinstance(raw, str):
        raise ValueError(hint)
    if raw == "log:" or PYTHON_TARGET.fullmatch(raw):
        return raw
    if not raw.startswith(("http://", "https://")):
        raise ValueError(hint)
    _split(raw, hint)
    if not plain_http_allowed(raw):
        raise ValueError("plain http:// is for loopback addresses only; use https://")
    return raw


def kinds(raw: Any) -> frozenset[OutcomeKind]:
    """Read kinds of failure."""
    return frozenset(many(one_of(*sorted(RETRIABLE)))(raw))


def groups(raw: Any) -> Mapping[str, AgentName]:
    """Read a table from group names to agents."""
    if not isinstance(raw, Mapping) or len(raw) > LONGEST_LIST:
        raise ValueError('give a table such as { "Support" = "SupportAgent" }')
    return {str(group): agent_name(agent) for group, agent in raw.items()}


def opt_out_words(raw: Any) -> Mapping[OptOut, tuple[str, ...]]:
    """Read a table from meanings to the words that have them."""
    names = {meaning.lower(): meaning for meaning in OptOut}
    if not isinstance(raw, Mapping) or not names.keys() >= raw.keys():
        raise ValueError('give a table such as { stop = ["+", "BASTA"], start = [], help = ["+"] }')
    return {names[name]: many(text)(words) for name, words in raw.items()}


http_path: Final = matching(
    r"/[A-Za-z0-9._~/-]{0,200}", "give a path such as /webhook/sms-response"
)
registry: Final = matching(
    rf"{DOTTED}:{DOTTED}", "give module:object, such as core.registry:registry"
)
SCHEDULE: Final = many(number(0, 30 * DAY))
SECONDS: Final = number(0.001, DAY)
DAYS: Final = number(0.01, 36_500)
BYTES: Final = whole(1024, 1024 * MIB)  # of a body
STATUS: Final = whole(400, 599)
MARKS: Final = many(one_of(*EventMark))
