"""The templates of a signature, as providers document them: its location, and its content.

`"Stripe-Signature: t={time},v1={hex}"` and `"{time}.{body}"`. An invalid template raises
`ValueError` with the valid forms.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from berinia_webhookd.channels.declared.request import Request, decoded_url
from berinia_webhookd.channels.signatures import in_signing_order
from berinia_webhookd.urlencoded import as_bytes

MOST_CANDIDATES: Final = 20
_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
_ENCODINGS: Final = ("hex", "base64")
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
BODY: Final = "body"


@dataclass(frozen=True, slots=True)
class Presented:
    """The signatures in a request, decoded, and the time beside them."""

    signatures: tuple[bytes, ...]
    time: str | None


@dataclass(frozen=True, slots=True)
class SignatureTemplate:
    """The location of a signature, its parts and their encoding."""

    source: str  # header:X or json:a.b
    elements: tuple[tuple[str, str], ...]  # a prefix and `time`, `hex` or `base64`

    @classmethod
    def parse(cls, text: str) -> SignatureTemplate:
        """Read `Header: prefix{hex}`, also several parts with commas, or `json:a.b: {hex}`."""
        hint = 'write it as "X-Signature: sha256={hex}", or "json:signature.signature: {hex}"'
        is_json = text.startswith("json:")
        name, colon, rest = text.removeprefix("json:").strip().partition(":")
        if not colon or not (is_json or _HEADER.fullmatch(name)):
            raise ValueError(hint)
        elements = []
        for part in rest.strip().split(","):
            found = re.fullmatch(r"([^{}]*)\{([^{}]*)\}", part.strip())
            if found is None or found[2] not in (*_ENCODINGS, "time"):
                raise ValueError(hint)
            elements.append((found[1], found[2]))
        if not any(kind in _ENCODINGS for _, kind in elements):
            raise ValueError(hint)
        return cls(f"{'json' if is_json else 'header'}:{name.strip()}", tuple(elements))

    def __str__(self) -> str:
        """Return it as it is written."""
        name = self.source.removeprefix("header:")
        return f"{name}: {','.join(f'{prefix}{{{kind}}}' for prefix, kind in self.elements)}"

    @property
    def has_time(self) -> bool:
        """Whether the template includes the time."""
        return any(kind == "time" for _, kind in self.elements)

    def presented(self, request: Request) -> Presented:
        """Return the signatures and time of a request; malformed entries are ignored."""
        signatures: list[bytes] = []
        time: str | None = None
        for entry in (request.named(self.source) or "").split(",", MOST_CANDIDATES * 2):
            for prefix, kind in self.elements:
                value = entry.strip()
                if not value.startswith(prefix):
                    continue
                value = value[len(prefix) :]
                if kind == "time":
                    time = value if time is None else time
                elif (content := _decoded(kind, value)) is not None:
                    signatures.append(content)
        return Presented(tuple(signatures[:MOST_CANDIDATES]), time)

    def written(self, signature: bytes, time: str) -> str:
        """Return the header or JSON value for a signature."""
        return ",".join(
            prefix + (time if kind == "time" else _encoded(kind, signature))
            for prefix, kind in self.elements
        )


def _decoded(kind: str, text: str) -> bytes | None:
    try:
        if kind == "hex":
            return binascii.unhexlify(text)
        return base64.b64decode(text, validate=True)
    except ValueError:
        return None


def _encoded(kind: str, content: bytes) -> str:
    return content.hex() if kind == "hex" else base64.b64encode(content).decode()


Piece = Callable[[Request, str, str], bytes | None]  # of a request, its URL and its time


@dataclass(frozen=True, slots=True)
class SignedTemplate:
    """The content that a signature covers."""

    text: str
    names: tuple[str, ...]
    _pieces: tuple[Piece, ...] = field(compare=False, repr=False)

    @classmethod
    def parse(cls, text: str) -> SignedTemplate:
        """Read a text with placeholders."""
        names = tuple(_PLACEHOLDER.findall(text))
        literals = _PLACEHOLDER.split(text)[::2]
        if any("{" in one or "}" in one for one in literals):
            raise ValueError("close every { with a }")
        pieces: list[Piece] = []
        for number, literal in enumerate(literals):
            if literal:
                pieces.append(_literal(literal))
            if number < len(names):
                pieces.append(_piece(names[number]))
        return cls(text, names, tuple(pieces))

    def __str__(self) -> str:
        """Return it as it is written."""
        return self.text

    def __reduce__(self) -> tuple[Callable[[str], SignedTemplate], tuple[str]]:
        """Be pickled without the pieces, which are functions and cannot be."""
        return SignedTemplate.parse, (self.text,)

    @property
    def covers_query(self) -> bool:
        """Whether the signature covers the parameters of the URL."""
        return bool({"url", "url.decoded"} & set(self.names))

    def covers(self, body: str) -> bool:
        """Whether the signature covers the part that is read: the URL for `query`, the body for
        `form` or `json`; concatenated fields are ambiguous unless the body is a form.
        """
        if body == "query":
            return self.covers_query
        covering = {BODY, "body.sha256"} | ({"fields"} if body == "form" else set())
        return bool(covering & set(self.names))

    def contents(self, request: Request, time: str | None) -> Iterator[bytes]:
        """Yield the possible signed contents: one for each form of the URL, if it is included."""
        urls: Sequence[str] = ("",)
        if any(name.startswith("url") for name in self.names):
            urls = request.urls
        if time is None and "time" in self.names:
            return
        for url in urls:
            pieces = [piece(request, url, time or "") for piece in self._pieces]
            if None not in pieces:
                yield b"".join(piece for piece in pieces if piece is not None)


def _literal(text: str) -> Piece:
    content = text.encode()
    return lambda _request, _url, _time: content


def _piece(name: str) -> Piece:
    if name in _PIECES:
        return _PIECES[name]
    where, colon, what = name.partition(":")
    if colon and what and where in ("json", "header"):
        return lambda request, _url, _time: _bytes_of(request.named(name))
    known = ", ".join(f"{{{one}}}" for one in (*_PIECES, "json:a.b", "header:X"))
    raise ValueError(f"use {known}")


def _bytes_of(text: str | None) -> bytes | None:
    return None if text is None else text.encode("utf-8", "surrogateescape")


def _fields(request: Request) -> bytes:
    """The form, sorted by name, names and values without anything between them, as Twilio does."""
    return as_bytes("".join(name + value for name, value in in_signing_order(request.fields)))


_PIECES: Final[dict[str, Piece]] = {
    BODY: lambda request, _url, _time: request.body,
    "body.sha256": lambda request, _url, _time: request.body_sha256,
    "time": lambda _request, _url, time: as_bytes(time),
    "url": lambda _request, url, _time: as_bytes(url),
    "url.bare": lambda _request, url, _time: as_bytes(url.partition("?")[0]),
    "url.decoded": lambda _request, url, _time: decoded_url(url),
    "method": lambda request, _url, _time: request.delivery.method.encode(),
    "fields": lambda request, _url, _time: _fields(request),
}
