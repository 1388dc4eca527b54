"""A mail as Mailgun's route posts it, read: its headers, its text, whether a machine wrote it.

https://documentation.mailgun.com/docs/mailgun/user-manual/receive-forward-store/receive-http
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import orjson

from berinia_webhookd.channels.email_mime import MimeMessage, parse_mime
from berinia_webhookd.channels.form import as_bytes, first_values, readable
from berinia_webhookd.channels.html_text import text_of

TEXT_FIELDS: Final = ("stripped-text", "body-plain", "body-html", "body-mime")

# RFC 3834, https://www.rfc-editor.org/rfc/rfc3834, and what systems used before it.
_PRECEDENCES = frozenset({"auto_reply", "bulk", "junk", "list"})
_SYSTEMS = frozenset({"mailer-daemon", "postmaster"})
_REPORTS = ("multipart/report", "message/delivery-status")


class MailMessage:
    """One mail, read from the fields of a form as far as it is asked about.

    User variables of an outgoing message come back as fields of the same name, before or after
    Mailgun's own: its documentation leaves the order open, django-anymail takes the first of each,
    https://github.com/anymail/django-anymail/blob/main/anymail/webhooks/mailgun.py.
    """

    def __init__(self, fields: Sequence[tuple[str, str]]) -> None:
        self._fields = fields
        self._values = first_values(fields)

    def field(self, name: str) -> str | None:
        """A field's first value; None where there is none."""
        value = self._values.get(name)
        return None if value is None else readable(value)

    @cached_property
    def mime(self) -> MimeMessage | None:
        """The raw message, posted by routes whose URL ends in `mime`.

        Raises:
            MalformedDelivery: there is one, but it cannot be read.
        """
        content = self._values.get("body-mime")
        return None if content is None else parse_mime(as_bytes(content))

    def header(self, name: str) -> str | None:
        """A header line in any letter case, where it is not blank."""
        return next((value for value in self._headers.get(name.lower(), ()) if value.strip()), None)

    @cached_property
    def _headers(self) -> Mapping[str, Sequence[str]]:
        """First `message-headers`, then the fields (older forms have each header line as one),
        then the raw message.
        """
        headers: dict[str, list[str]] = {}
        found = [_listed_headers(self._values.get("message-headers", "")), self._fields]
        if self.mime is not None:
            found.append(self.mime.headers)
        for pairs in found:
            for name, value in pairs:
                headers.setdefault(name.lower(), []).append(readable(value))
        return headers

    @property
    def body(self) -> str:
        """The first text that is not blank, else the first there is."""
        first: str | None = None
        for text in self._texts():
            if text.strip():
                return text
            first = text if first is None else first
        return first or ""

    def _texts(self) -> Iterator[str]:
        for name in TEXT_FIELDS[:2]:
            text = self.field(name)
            if text is not None:
                yield text
        html = self.field("body-html")
        if html is not None:
            yield text_of(html)
        if self.mime is not None:
            yield self.mime.plain_text or ""
            yield text_of(self.mime.html or "")

    @property
    def is_auto_submitted(self) -> bool:
        """Whether a machine wrote this: an automatic reply, a bounce, a mass mail."""
        sender = (self.field("sender") or "").strip(" <>").lower()
        if not sender or sender.partition("@")[0] in _SYSTEMS:
            return True  # bounces have an empty envelope sender, RFC 5321 section 4.5.5
        if _word(self.header("Auto-Submitted")) not in ("", "no"):
            return True
        if _word(self.header("Precedence")) in _PRECEDENCES:
            return True
        if _word(self.header("Content-Type")) in _REPORTS:
            return True
        signs = ("X-Autoreply", "X-Autorespond", "X-Failed-Recipients")
        return any(_word(self.header(name)) not in ("", "no") for name in signs)


def _word(value: str | None) -> str:
    """A header's value without parameters and letter case."""
    return (value or "").partition(";")[0].strip().lower()


def _listed_headers(text: str) -> Iterable[tuple[str, str]]:
    """`message-headers`: a JSON list of pairs. A value can be a list itself, as of Content-Type;
    what is anything else is left out, because agents get the field itself anyway.
    """
    try:
        pairs: Any = orjson.loads(readable(text))
    except orjson.JSONDecodeError:
        return
    for pair in pairs if isinstance(pairs, list) else ():
        match pair:
            case [str(name), str(value) | [str(value), *_]]:
                yield name, value
            case _:
                continue
