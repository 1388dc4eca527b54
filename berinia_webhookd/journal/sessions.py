"""Who is logged in to the web console: links that are good once, and logins. The journal knows them
by digests, so that nobody who reads it can log in.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from berinia_webhookd.journal.database import SECOND, Transaction
from berinia_webhookd.journal.event_text import storable

LINK: Final = "link"
LOGIN: Final = "login"
LINK_SECONDS: Final = 300
LOGIN_SECONDS: Final = 12 * 3600


@dataclass(frozen=True, slots=True)
class Person:
    """Who is logged in."""

    name: str
    viewer: bool  # sees masked texts and changes nothing


def digest_of(secret: str) -> bytes:
    """Return what the journal knows a secret by; it is random, so that one hash is enough."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


async def add_link(transaction: Transaction, secret: str, person: Person) -> None:
    """Let somebody log in by a link, once; and forget whoever's time is over."""
    await transaction.execute("forget_sessions")
    await _add(transaction, secret, LINK, person, LINK_SECONDS)


async def is_link(transaction: Transaction, secret: str) -> bool:
    """Whether somebody can log in by it."""
    return bool(await transaction.execute("session", digest=digest_of(secret), kind=LINK))


async def log_in(transaction: Transaction, link: str, secret: str) -> Person | None:
    """Take a link for a login; None where it is used, too old, or nobody's."""
    rows = await transaction.execute("end_session", digest=digest_of(link), kind=LINK)
    if not rows:
        return None
    person = Person(rows[0]["name"], bool(rows[0]["viewer"]))
    await _add(transaction, secret, LOGIN, person, LOGIN_SECONDS)
    return person


async def person_of(transaction: Transaction, secret: str) -> Person | None:
    """Return whose login it is."""
    rows = await transaction.execute("session", digest=digest_of(secret), kind=LOGIN)
    return Person(rows[0]["name"], bool(rows[0]["viewer"])) if rows else None


async def log_out(transaction: Transaction, secret: str) -> None:
    """End a login."""
    await transaction.execute("end_session", digest=digest_of(secret), kind=LOGIN)


async def end_all(transaction: Transaction, name: str) -> int:
    """End everything that somebody has; returns how many logins and links that were."""
    return len(await transaction.execute("end_sessions_of", person=storable(name)))


async def _add(
    transaction: Transaction, secret: str, kind: str, person: Person, seconds: int
) -> None:
    await transaction.execute(
        "add_session",
        digest=digest_of(secret),
        kind=kind,
        person=storable(person.name),
        viewer=int(person.viewer),
        lasts=seconds * SECOND,
    )
