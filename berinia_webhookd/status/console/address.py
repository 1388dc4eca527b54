"""Where the console is found: the URL that its links, `Host` and `Origin` are held against."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from berinia_webhookd import secret_files
from berinia_webhookd.config.settings import ConsoleSettings

NAME_FILE: Final = "console.name"
_DIGITS: Final = 6


@dataclass(frozen=True, slots=True)
class ConsoleStarted:
    """Where a console is found that has just started."""

    url: str
    link: str | None  # by which one can log in at once; of `serve --dev` alone


def link_of(url: str, secret: str) -> str:
    """Return the link by which one can log in."""
    return f"{url}/login?link={secret}"


def url_of(console: ConsoleSettings, state: Path) -> str:
    """Return the console's URL, without a slash at its end. Without `console.url` it is a name of
    this machine's own, drawn once: no other program on the operator's localhost shares its cookies.

    Raises:
        OSError: the state folder cannot be written.
        ValueError: what lies there is no name, or others may read it.
    """
    if console.url is not None:
        return console.url
    name = secret_files.made(state / NAME_FILE)[:_DIGITS]
    return f"http://berinia-{name}.localhost:{console.listen.rpartition(':')[2]}"


def host_of(url: str) -> str:
    """Return what a browser sends as `Host` for a URL, in lower case."""
    return urlsplit(url).netloc.lower()


def is_secure(url: str) -> bool:
    """Whether the browser speaks TLS, so that the cookie never leaves it otherwise."""
    return url.startswith("https://")
