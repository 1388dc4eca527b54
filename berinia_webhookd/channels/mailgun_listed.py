"""A mail as Mailgun's logs and stored messages tell it, made into the form that its callback would
have brought.

https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/logs/post-v1-analytics-logs
https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/messages
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode

import orjson

from berinia_webhookd.channels.addresses_of_people import conversation, normal_party
from berinia_webhookd.channels.form import MULTIPART, URLENCODED
from berinia_webhookd.channels.mail_key import bare, beginning_of_key
from berinia_webhookd.channels.mailgun import MailgunChannel
from berinia_webhookd.errors import MalformedDelivery
from berinia_webhookd.model import ChannelName, Decoded, VerifiedDelivery
from berinia_webhookd.urlencoded import as_bytes

ACCEPTED: Final = "accepted"  # an event of the logs: the mail came in, or a mail of ours goes out
MOST_FILES: Final = 100
# Of the stored message: what is not of the callback, and what is made from the list.
_OTHERS: Final = frozenset(
    {
        *("recipients", "recipient", "sender", "attachments", "attachment-count"),
        *("content-id-map", "message-url", "message-headers", "timestamp", "token", "signature"),
    }
)


class ListedMail(NamedTuple):
    """A mail to one of our addresses, by the logs' account of it."""

    id: str  # its Message-Id and whom it is to
    at: datetime  # when Mailgun accepted it
    digest: bytes  # the beginning of its key, or all of it; empty: it has no Message-Id
    recipient: str
    sender: str
    places: tuple[str, ...]  # where the stored message is: URLs, or its key
    event: str  # the id of the event in the logs


class StoredFile(NamedTuple):
    """An attachment of a stored message."""

    url: str
    name: str
    content_type: str


def listed(channel: ChannelName, item: object, others: Collection[str] = ()) -> ListedMail | None:
    """Return the mail to us that an event of the logs is about; None if it is about none, or goes
    to one of the paths of `others`.

    Raises:
        MalformedDelivery: it is not as documented.
    """
    event = _table(item)
    flags, routes = _table(event.get("flags") or {}), event.get("routes") or []
    if event.get("event") != ACCEPTED or flags.get("is-authenticated"):
        return None  # something that became of a mail, or one that we send
    target = event.get("recipient")
    matches = [
        _table(_table(route).get("match") or {}).get("recipient")
        for route in (routes if isinstance(routes, list) else [routes])
    ]
    matched = [one for one in matches if isinstance(one, str)]
    if not isinstance(target, str):
        raise MalformedDelivery("It is not as Mailgun lists mails.", invalid=("recipient",))
    if not _is_for_us(target, matched, others):
        return None
    headers = _table(_table(event.get("message") or {}).get("headers") or {})
    storage = _table(event.get("storage") or {})
    urls = storage.get("url") or []
    sender = _table(event.get("envelope") or {}).get("sender") or ""  # a bounce has none
    message_id = headers.get("message-id") or ""
    texts = [event.get("id"), sender, message_id, *(urls if isinstance(urls, list) else [urls])]
    if not all(isinstance(one, str) for one in texts):
        raise MalformedDelivery("It is not as Mailgun lists mails.")
    recipient = matched[0] if matched else target
    name = f"<{bare(message_id)}>" if bare(message_id) else f"event {event['id']}"
    key = storage.get("key")
    return ListedMail(
        f"{name} to {recipient}",
        _time_of(event),
        beginning_of_key(conversation(channel, sender, recipient), message_id) or b"",
        recipient,
        sender,
        (*texts[3:], *([key] if isinstance(key, str) else [])),
        str(event["id"]),
    )


def files_of(stored: Mapping[str, Any]) -> list[StoredFile]:
    """Return the attachments of a stored message.

    Raises:
        MalformedDelivery: they are not as documented, or too many.
    """
    found = stored.get("attachments") or []
    if isinstance(found, str):
        try:
            found = orjson.loads(found)
        except orjson.JSONDecodeError:
            found = None
    if not isinstance(found, list) or len(found) > MOST_FILES:
        raise MalformedDelivery("Its attachments cannot be read.", invalid=("attachments",))
    files = []
    for one in map(_table, found):
        file = StoredFile(
            one.get("url", ""), one.get("name") or "", one.get("content-type") or "text/plain"
        )
        if not all(isinstance(text, str) for text in file):
            raise MalformedDelivery("Its attachments cannot be read.", invalid=("attachments",))
        files.append(file)
    return files


def rebuilt(
    channel: MailgunChannel,
    mail: ListedMail,
    stored: Mapping[str, Any],
    files: Sequence[tuple[StoredFile, bytes]],
    *,
    now: datetime,
) -> tuple[VerifiedDelivery, Decoded]:
    """Return its callback, proven by who was asked, and what that means, with its own time.

    Raises:
        MalformedDelivery: its callback would have been refused as well, or it is another mail.
    """
    fields = {"recipient": mail.recipient, "sender": mail.sender}
    fields |= {
        name: value
        for name, value in stored.items()
        if name not in _OTHERS and isinstance(value, str)
    }
    headers = stored.get("message-headers")
    try:
        fields["message-headers"] = (
            headers if isinstance(headers, str) else orjson.dumps(headers or []).decode()
        )
    except orjson.JSONEncodeError:  # too deep
        raise MalformedDelivery(
            "Its headers cannot be read.", invalid=("message-headers",)
        ) from None
    content_type, body = _form(fields, files)
    delivery = VerifiedDelivery(channel.name, content_type, body, now, target=channel.path)
    decoded = channel.decode(delivery)
    (event,) = decoded.events
    if not (event.reconcile_key or b"").startswith(mail.digest[:16] or b"none"):
        raise MalformedDelivery("The stored message is another one.", invalid=("Message-Id",))
    return delivery, decoded.as_reconciled(min(mail.at, now))


def _form(
    fields: Mapping[str, str], files: Sequence[tuple[StoredFile, bytes]]
) -> tuple[str, bytes]:
    if not files:
        return URLENCODED, urlencode(fields, errors="surrogateescape").encode()
    boundary = secrets.token_hex(16)
    parts = [
        f'form-data; name="{quote(name)}"'.encode() + b"\r\n\r\n" + as_bytes(value)
        for name, value in (*fields.items(), ("attachment-count", str(len(files))))
    ]
    for number, (file, content) in enumerate(files, 1):
        kind = file.content_type if file.content_type.isprintable() else "text/plain"
        parts.append(
            f'form-data; name="attachment-{number}"; filename="{number}"; '
            f"filename*=UTF-8''{quote(file.name, safe='', errors='replace')}\r\n"
            f"Content-Type: {kind}\r\n\r\n".encode("utf-8", "replace")
            + content
        )
    begin = f"--{boundary}\r\nContent-Disposition: ".encode()
    body = b"".join(begin + part + b"\r\n" for part in parts) + f"--{boundary}--\r\n".encode()
    return f"{MULTIPART}; boundary={boundary}", body


def _table(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise MalformedDelivery("It is not as Mailgun lists mails.")
    return value


def _is_for_us(target: str, matched: Sequence[str], others: Collection[str]) -> bool:
    """Whether a mail goes where our channel could get it: not to a mailbox, or another channel. One
    that no route took has its own address as its target.
    """
    if "://" in target:
        return target.partition("://")[2].partition("/")[2].partition("?")[0] not in {
            path.lstrip("/") for path in others
        }
    return not matched or normal_party(target) in map(normal_party, matched)


def _time_of(event: Mapping[str, Any]) -> datetime:
    try:
        if isinstance(event.get("timestamp"), int | float):
            return datetime.fromtimestamp(event["timestamp"], UTC)
        at = datetime.fromisoformat(str(event.get("@timestamp")))
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        raise MalformedDelivery(
            "It is not as Mailgun lists mails.", invalid=("@timestamp",)
        ) from None
