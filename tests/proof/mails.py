"""Mails whose right reading is known, because they are made from it: in every charset of the web,
nested, folded, encoded in all ways and a little broken, each as Mailgun's form and raw.
"""

from __future__ import annotations

import base64
import hashlib
import html
import quopri
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final
from urllib.parse import quote

from webencodings.labels import LABELS

from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.model import Event
from berinia_webhookd.urlencoded import as_text

from ..channels.deliveries import event_of, mail, mail_with_files

# What people write in charsets of several bytes, and the codec that writes it.
_WIDE: Final = {
    "utf-8": ("utf-8", "Été cité ✔ 🙂 日本 привет"),
    "big5": ("big5", "繁體中文信件"),
    "euc-jp": ("euc_jp", "日本語のメール"),
    "euc-kr": ("cp949", "한국어 편지 똠방"),
    "gb18030": ("gb18030", "简体中文 㐀"),
    "gbk": ("gbk", "简体中文鎔"),
    "iso-2022-jp": ("iso2022_jp", "日本語のメール"),
    "shift_jis": ("cp932", "日本語①髙～"),
    "utf-16be": ("utf-16-be", "Été ✔"),
    "utf-16le": ("utf-16-le", "Été ✔"),
}
_CODECS: Final = {"macintosh": "mac-roman", "x-mac-cyrillic": "mac-cyrillic", "ibm866": "cp866"}
_ENVELOPE: Final = {"recipient": "contact@example.com", "sender": "lead@example.com"}
_WORDS: Final = [
    "oui",
    "non",
    "merci",
    "Bonjour",
    "rappelez",
    "demain",
    "=",
    "_",
    "?",
    "a<b",
    "&",
    "c",
]


@dataclass(frozen=True, slots=True)
class File:
    """An attached file."""

    name: str
    content_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail: what is read of it, and how it is sent."""

    subject: str
    message_id: str
    body: str
    files: tuple[File, ...]
    raw: bytes


@cache
def charsets() -> dict[str, tuple[str, str]]:
    """The codec and the characters of every charset that has a name on the web."""
    found = dict(_WIDE)
    for label in sorted(set(LABELS.values()) - found.keys() - {"replacement", "x-user-defined"}):
        codec = _CODECS.get(label, label.replace("windows-", "cp").removesuffix("-i"))
        high = bytes(range(0xA1, 0xFF)).decode(codec, "ignore")
        found[label] = (codec, "".join(one for one in high if one.isalpha()))
    return found


def mails(seed: int, count: int) -> Iterator[Mail]:
    """So many mails, the same for the same seed."""
    for number in range(count):
        yield _Maker(random.Random(f"{seed} {number}"), number).mail()


class _Maker:
    def __init__(self, dice: random.Random, number: int) -> None:
        self._dice = dice
        self._number = number
        self._files: list[File] = []

    def mail(self) -> Mail:
        subject = self._words(self._dice.choice(("utf-8", "iso-8859-2", "windows-1251", "gbk")))
        message_id = f"<{self._number}@example.com>"
        body, entity = self._content(depth=0)
        entity = self._broken(entity)
        head = b"".join(
            self._dice.sample(
                [
                    b"Date: Tue, 24 Nov 2026 10:29:58 +0100\r\n",
                    self._dice.choice((b"Subject: ", b"Subject : ", b"subject:\r\n "))
                    + self._header(subject)
                    + b"\r\n",
                    self._dice.choice((b"Message-ID: ", b"Message-Id:\r\n "))
                    + f"{message_id}\r\n".encode(),
                ],
                3,
            )
        )
        first = self._dice.choice(
            (b"", b"", b"\xef\xbb\xbf", b"\r\n", b"From a@example.com Tue\r\n")
        )
        return Mail(subject, message_id, body, tuple(self._files), first + head + entity)

    def _broken(self, entity: bytes) -> bytes:
        """Cut the last boundary off, which changes no reading."""
        if entity.endswith(b"--\r\n") and self._dice.random() < 0.2:
            return entity[: entity.rindex(b"\r\n--")]
        return entity

    def _words(self, label: str) -> str:
        alphabet = charsets().get(label, ("", "é"))[1]
        drawn = "".join(self._dice.choices(alphabet, k=self._dice.randint(1, 12)))
        own = " ".join(drawn.split()) or "x"
        return " ".join([*self._dice.sample(_WORDS[:5], self._dice.randint(1, 4)), own])

    def _header(self, text: str) -> bytes:
        """In 8-bit UTF-8, or as encoded words, folded anywhere."""
        if self._dice.random() < 0.3:
            return self._fold(text).encode()
        words, content = [], text.encode()
        while content:
            piece, content = content[:30], content[30:]  # in the middle of a character, too
            if self._dice.random() < 0.5:
                words.append(f"=?utf-8?B?{base64.b64encode(piece).decode()}?=")
            else:
                plain = "".join(
                    chr(b) if chr(b).isalnum() and b < 128 else f"={b:02X}" for b in piece
                )
                words.append(f"=?UTF-8?q?{plain}?=")
        return "\r\n ".join(words).encode()

    def _fold(self, text: str) -> str:
        return text.replace(" ", "\r\n ", 1) if self._dice.random() < 0.3 else text

    def _content(self, depth: int) -> tuple[str, bytes]:
        """The body that is read, and the entity that says it."""
        kinds = ("text", "html", "alternative", "mixed", "below", "message")
        kind = self._dice.choice(kinds if depth < 5 else kinds[:2])
        if kind in ("text", "html"):
            return self._text(kind)
        if kind == "alternative":
            plain, html_part = self._text("text"), self._text("html")
            return plain[0], self._multipart("alternative", [plain[1], html_part[1]])
        body, entity = self._content(depth + 1)
        if kind == "message":
            return body, self._multipart("mixed", [entity, self._message()])
        parts = [entity, *(self._file() for _ in range(self._dice.randint(1, 3)))]
        if kind == "below":  # a picture in the middle of the text
            more, below = self._text("text")
            parts.append(below)
            body = body + ("" if body.endswith("\n") else "\n") + more
        return body, self._multipart("mixed", parts)

    def _text(self, kind: str) -> tuple[str, bytes]:
        label = self._dice.choice(sorted(charsets()))
        lines = [self._words(label) for _ in range(self._dice.randint(1, 5))]
        if kind == "html":
            rows = "".join(f"<p>{html.escape(line)}<!-- no --></p>\r\n" for line in lines)
            body = "\n\n".join(lines)
            text = f"<html><head><title>no</title></head><body>{rows}</body></html>"
        else:
            body = text = "\r\n".join(lines)
        content = text.encode(charsets()[label][0])
        media_type = "text/html" if kind == "html" else "text/plain"
        head = f'Content-Type: {media_type};\r\n charset="{label}"\r\n'.encode()
        return body, head + self._encoded(content, text=not label.startswith("utf-16"))

    def _encoded(self, content: bytes, *, text: bool) -> bytes:
        how = self._dice.choice(("base64", "quoted-printable", "8bit") if text else ("base64",))
        head = f"Content-Transfer-Encoding: {how}\r\n\r\n".encode()
        if how == "8bit":
            return head + content
        if how == "quoted-printable":
            return head + quopri.encodestring(content.replace(b"\r\n", b"\n")).replace(
                b"\n", b"\r\n"
            )
        lines = base64.encodebytes(content).replace(b"\n", b"\r\n")
        return head + (lines.rstrip() + b"A" if self._dice.random() < 0.2 else lines)

    def _file(self) -> bytes:
        name = f"{self._words('utf-8').replace('?', '')}.pdf"
        file = File(name, "application/pdf", self._dice.randbytes(self._dice.randint(0, 2000)))
        self._files.append(file)
        parameter = self._dice.choice(
            (
                f'filename="{name}"',
                f"filename*=utf-8''{quote(name)}",
                f'filename="=?utf-8?b?{base64.b64encode(name.encode()).decode()}?="',
            )
        )
        head = (
            f"Content-Type: application/pdf\r\nContent-Disposition: attachment;\r\n {parameter}\r\n"
        )
        return head.encode() + self._encoded(file.content, text=False)

    def _message(self) -> bytes:
        content = f"Subject : inner\r\n\r\n{self._words('utf-8')}\r\n".encode()
        self._files.append(File("", "message/rfc822", content))
        return b"Content-Type: message/rfc822\r\n\r\n" + content

    def _multipart(self, kind: str, parts: Sequence[bytes]) -> bytes:
        digest = hashlib.sha256(b"".join(parts)).hexdigest()[:20]
        head = f'Content-Type: multipart/{kind}; boundary="b_{digest}"\r\n\r\nno text\r\n'.encode()
        lines = b"".join(b"--b_" + digest.encode() + b"\r\n" + part + b"\r\n" for part in parts)
        return head + lines + b"--b_" + digest.encode() + b"--\r\n"


def misread(channel: Channel, made: Mail) -> str | None:
    """What of a mail is read otherwise than it was meant, in either form; None if all is right."""
    files = [
        (f"attachment-{number}", "", file.content_type, file.content)
        for number, file in enumerate(made.files, 1)
    ]
    fields = {"subject": made.subject, "body-plain": made.body, "Message-Id": made.message_id}
    form = mail_with_files({**_ENVELOPE, **fields}, files)
    raw = mail({**_ENVELOPE, "body-mime": as_text(made.raw)})
    expected = (made.subject, made.body, made.message_id)
    contents = [
        (file.content_type, len(file.content), hashlib.sha256(file.content).hexdigest())
        for file in made.files
    ]
    for how, delivery in (("form", form), ("raw", raw)):
        event: Event = event_of(channel, channel.verify(delivery))
        if (event.subject, event.body, event.message_id) != expected:
            return f"{how}: {(event.subject, event.body, event.message_id)!r} is {expected!r}"
        found = [(one.content_type, one.size_bytes, one.sha256) for one in event.attachments]
        if found != contents:
            return f"{how}: files {found} are {contents}"
        if how == "raw" and [one.file_name for one in event.attachments] != [
            file.name for file in made.files
        ]:
            return f"names {[one.file_name for one in event.attachments]} of {made.files}"
    return None
