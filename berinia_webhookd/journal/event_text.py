"""Converts events to JSON text and back without loss: lone surrogates and NUL survive, because a
provider's value is stored unchanged even if it is no valid Unicode.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from operator import attrgetter, itemgetter
from typing import Any, Final

from berinia_webhookd import json_text
from berinia_webhookd.model import (
    Attachment,
    AutoSubmitted,
    ChannelName,
    Conversation,
    Event,
    EventKind,
    OptOut,
)
from berinia_webhookd.urlencoded import Fields, decode_urlencoded

# Looked up once: access to an enumeration's member costs a call.
MESSAGE: Final = EventKind.MESSAGE
KINDS: Final = {kind.value: kind for kind in EventKind}
# Above this size the text is escaped to ASCII: with one emoji each character would take 4 bytes.
_LONG: Final = 262_144
_OFTEN_NONE: Final = (
    *("subject", "message_id", "group", "profile_name", "opt_out", "auto_submitted"),
    *("status", "thread", "traceparent"),
)
_often_none: Final = attrgetter(*_OFTEN_NONE)
# The fields of an event in order, with the defaults of those that the text leaves out.
USUAL: Final[Mapping[str, Any]] = {
    **dict.fromkeys(("channel", "agent", "conversation", "digest", "received_at")),
    **dict.fromkeys(("sender", "recipient", "body", *_OFTEN_NONE[:6])),
    "attachments": [],
    "kind": "message",
    **dict.fromkeys(_OFTEN_NONE[6:]),
    "sample": False,
    "reconciled": False,
    "raw": None,
    "raw_multi": {},
}
_in_order: Final = itemgetter(*USUAL)


def encode(event: Event, form: Fields | dict[str, str] | None = None) -> tuple[str, bool]:
    """Return the event as JSON text, free of NUL and lone surrogates, and whether its raw fields
    are left out, because they equal the form in the body.
    """
    in_form = (
        form is not None
        and not event.raw_multi
        and (form is event.raw or _is_all_of(form, event.raw))
    )
    channel, agent, conversation, digest, received_at, sender, recipient, body = event[:8]
    text_field = _name_of(body, event.raw) if in_form else None
    fields: dict[str, Any] = {
        "channel": channel,
        "agent": agent,
        "digest": digest.hex(),
        "received_at": received_at,
        "sender": sender,
        "recipient": recipient,
    }
    for name, value in zip(_OFTEN_NONE, _often_none(event), strict=True):
        if value is not None:
            fields[name] = value  # noqa: PERF403 - no dictionary of its own
    if text_field is None:
        fields["body"] = body
    else:
        fields["body_field"] = text_field
    if conversation[1] != sender or conversation[2] != recipient:
        fields["conversation"] = conversation[1:]
    if event.attachments:
        fields["attachments"] = list(map(asdict, event.attachments))
    if event.kind is not MESSAGE:
        fields["kind"] = event.kind
    if event.sample:
        fields["sample"] = True
    if event.reconciled:
        fields["reconciled"] = True
    if not in_form:
        fields["raw"], fields["raw_multi"] = dict(event.raw), dict(event.raw_multi)
    return to_text(fields), in_form


def _is_all_of(form: Fields | dict[str, str], raw: Mapping[str, Any]) -> bool:
    return form == (raw if isinstance(form, dict) else tuple(raw.items()))


def _name_of(value: str, raw: Mapping[str, Any]) -> str | None:
    for name, other in raw.items():
        if other == value:
            return name
    return None


def fields_of(text: str, form: bytes | None) -> dict[str, Any]:
    """Return the complete fields of a text by `encode`; `form` is the body that raw fields are read
    from if the text leaves them out.
    """
    fields: dict[str, Any] = {**USUAL, **json_text.decode(text)}
    name = fields.pop("body_field", None)
    if len(fields) > len(USUAL):  # a newer program wrote it
        fields = {usual: fields[usual] for usual in USUAL}
    fields["conversation"] = fields["conversation"] or [fields["sender"], fields["recipient"]]
    if form is not None:
        fields["raw"] = dict(decode_urlencoded(bytes(form)))
    if name is not None:
        fields["body"] = fields["raw"][name]
    return fields


def decode(text: str, form: bytes | None = None) -> Event:
    """Return the event of a text by `encode`."""
    fields = fields_of(text, form)
    channel, automatic = ChannelName(fields["channel"]), fields["auto_submitted"]
    fields["conversation"] = Conversation(channel, *fields["conversation"])
    fields["digest"] = bytes.fromhex(fields["digest"])
    fields["received_at"] = datetime.fromisoformat(fields["received_at"])
    fields["opt_out"] = OptOut(fields["opt_out"]) if fields["opt_out"] else None
    fields["auto_submitted"] = AutoSubmitted(automatic) if automatic else None
    files = fields["attachments"]
    fields["attachments"] = tuple([Attachment(**file) for file in files]) if files else ()
    fields["kind"] = KINDS[fields["kind"]]
    return Event(*_in_order(fields))


def to_text(value: object) -> str:
    """Return JSON text that every database can store."""
    encoded = json_text.encode(value)
    if len(encoded) > _LONG and not encoded.isascii():
        return json_text.escaped(value)
    return encoded.decode()


def storable(text: str) -> str:
    """Return a text for a compared column: characters that a database cannot store are escaped, so
    that different texts stay different.
    """
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
