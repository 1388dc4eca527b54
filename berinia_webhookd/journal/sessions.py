"""Logins of the web console, and single-use login links. The journal stores only their digests, so
that no reader of it can log in.
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
    """The person of a login."""

    name: str
    viewer: bool  # may see only masked texts, and change nothing


def digest_of(secret: str) -> bytes:
    """Return the digest of a secret; a plain hash is enough, because the secret is random."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


async def add_link(transaction: Transaction, secret: str, person: Person) -> None:
    """Store a login link, valid once; and delete expired links and logins."""
    await transaction.execute("forget_sessions")
    await _add(transaction, secret, LINK, person, LINK_SECONDS)


async def is_link(transaction: Transaction, secret: str) -> bool:
    """Whether a link is valid."""
    return bool(await transaction.execute("session", digest=digest_of(secret), kind=LINK))


async def log_in(transaction: Transaction, link: str, secret: str) -> Person | None:
    """Exchange a link for a login; None if it is used, too old, or unknown."""
    rows = await transaction.execute("end_session", digest=digest_of(link), kind=LINK)
    if not rows:
        return None
    person = Person(rows[0]["name"], bool(rows[0]["viewer"]))
    await _add(transaction, secret, LOGIN, person, LOGIN_SECONDS)
    return person


async def person_of(transaction: Transaction, secret: str) -> Person | None:
    """Return the person of a login."""
    rows = await transaction.execute("session", digest=digest_of(secret), kind=LOGIN)
    return Person(rows[0]["name"], bool(rows[0]["viewer"])) if rows else None


async def log_out(transaction: Transaction, secret: str) -> None:
    """End a login."""
    await transaction.execute("end_session", digest=digest_of(secret), kind=LOGIN)


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
