"""The parts of a request that a declaration can refer to: headers, query, URL and body."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final
from urllib.parse import parse_qsl

from berinia_webhookd.channels.json_body import decode_json
from berinia_webhookd.channels.signatures import is_plain, port_forms
from berinia_webhookd.errors import MalformedDelivery
from berinia_webhookd.model import RawDelivery
from berinia_webhookd.urlencoded import Fields, as_bytes, decode_urlencoded

# HubSpot signs these characters decoded, whether the URL escapes them or not:
# https://developers.hubspot.com/docs/apps/developer-platform/build-apps/authentication/request-validation
_DECODED: Final = {f"%{ord(one):02X}": one for one in ":/?@!$'()*,;"}


class Request:
    """A request; each part is read once, when first needed."""

    def __init__(self, delivery: RawDelivery, public_urls: Sequence[str]) -> None:
        self.delivery = delivery
        self.body = delivery.body
        self._public_urls = public_urls

    def header(self, name: str) -> str | None:
        """Return a header; None if it occurs more than once, as that is ambiguous."""
        headers = self.delivery.headers
        every = headers.getall(name, []) if hasattr(headers, "getall") else None
        if every is not None and len(every) != 1:
            return None
        return headers.get(name)

    @cached_property
    def query(self) -> Mapping[str, str]:
        """The parameters of the URL, the first of each name."""
        return query_of(self.delivery.target)

    @cached_property
    def document(self) -> Any:
        """The body as JSON. Raises: MalformedDelivery: it is not JSON."""
        return decode_json(self.body)

    @cached_property
    def fields(self) -> Fields:
        """The body as a form.

        Raises:
            MalformedDelivery: it is none.
        """
        return decode_urlencoded(self.body)

    @cached_property
    def urls(self) -> Sequence[str]:
        """The URL that was called, with and without the default port; empty if the `Host` header is
        not a plain host name.
        """
        caller = self.delivery.caller
        claimed = (f"{caller.scheme}://{caller.host}",) if is_plain(caller.host) else ()
        bases = self._public_urls or claimed
        return [form + self.delivery.target for base in bases for form in port_forms(base)]

    @cached_property
    def body_sha256(self) -> bytes:
        """The digest of the body."""
        return hashlib.sha256(self.body).digest()

    def json_text(self, path: str) -> str | None:
        """Return a text at a dotted path of the body, or None where there is none."""
        try:
            value = at(self.document, path.split("."))
        except MalformedDelivery:
            return None
        return value if isinstance(value, str) else None

    def named(self, source: str) -> str | None:
        """Return the value of `header:X`, `query:X`, `json:a.b`, or a header by its bare name."""
        where, colon, name = source.partition(":")
        match where if colon else "header":
            case "query":
                return self.query.get(name)
            case "json":
                return self.json_text(name.strip())
            case _:
                return self.header(name if colon else source)


def query_of(target: str) -> dict[str, str]:
    """Return the parameters of a request target, the first of each name."""
    text = target.partition("?")[2]
    if not text:
        return {}
    pairs = parse_qsl(text, keep_blank_values=True, errors="surrogateescape")
    return dict(reversed(pairs))


def at(node: Any, path: Sequence[str]) -> Any:
    """Return the value at a path of names and numbers, or None."""
    for step in path:
        if isinstance(node, dict):
            node = node.get(step)
        elif isinstance(node, list) and step.isdecimal() and int(step[:9]) < len(node):
            node = node[int(step[:9])]
        else:
            return None
    return node


def decoded_url(url: str) -> bytes:
    """Return a URL as HubSpot signs it."""
    for escaped, plain in _DECODED.items():
        url = url.replace(escaped, plain)
    return as_bytes(url)
