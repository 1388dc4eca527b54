"""The console's URL, against which links, `Host` and `Origin` are checked."""

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
    """The address of a console that has just started."""

    url: str
    link: str | None  # a login link; with `serve --dev` only


def link_of(url: str, secret: str) -> str:
    """Return the URL of a login link."""
    return f"{url}/login?link={secret}"


def url_of(console: ConsoleSettings, state: Path) -> str:
    """Return the console's URL, without a slash at its end. Without `console.url` its host is a
    random name, drawn once, so that no other program on localhost shares its cookies.

    Raises:
        OSError: the state folder cannot be written. ValueError: the file holds no valid name, or
        others may read it.
    """
    if console.url is not None:
        return console.url
    name = secret_files.made(state / NAME_FILE)[:_DIGITS]
    return f"http://berinia-{name}.localhost:{console.listen.rpartition(':')[2]}"


def host_of(url: str) -> str:
    """Return what a browser sends as `Host` for a URL, in lower case."""
    return urlsplit(url).netloc.lower()


def is_secure(url: str) -> bool:
    """Whether the console's URL is https, so that the cookie is marked Secure."""
    return url.startswith("https://")
