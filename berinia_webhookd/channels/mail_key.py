"""What a mail is known by in Mailgun's logs as well as here: whom it is to and from, its Message-Id
and its Date. The logs do not tell the date, so the key is in two halves: the first is without it.
"""

from __future__ import annotations

from berinia_webhookd.channels.addresses_of_people import event_digest
from berinia_webhookd.model import Conversation

_HALF = 16  # bytes


def mail_key(parties: Conversation, message_id: str | None, date: str | None) -> bytes | None:
    """Return the key of a mail; None: it has no Message-Id, and nothing tells it apart."""
    first = beginning_of_key(parties, message_id)
    if first is None:
        return None
    words = None if date is None else " ".join(date.split())
    return first + event_digest(parties.channel, "date", first.hex(), words)[:_HALF]


def beginning_of_key(parties: Conversation, message_id: str | None) -> bytes | None:
    """Return the half of it that needs no date."""
    id_ = bare(message_id or "")
    return event_digest(parties.channel, "mail", *parties[1:], id_)[:_HALF] if id_ else None


def bare(message_id: str) -> str:
    """Return a Message-Id without the brackets that the logs leave out."""
    return message_id.strip().strip("<>")
