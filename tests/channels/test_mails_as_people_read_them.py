"""Mails as they come, each with its right reading: the parsed form and the raw message agree."""

from __future__ import annotations

import base64
from collections.abc import Mapping

import pytest

from berinia_webhookd.channels.mail_headers import decode_words
from berinia_webhookd.channels.mime import MimeMessage, parse_mime
from berinia_webhookd.model import Event
from berinia_webhookd.urlencoded import as_text

from .deliveries import (
    EMAIL,
    EMAIL_PATH,
    MAIL_FIELDS,
    email_channel,
    event_of,
    mail,
    mail_with_files,
    mailgun_signs,
    raw_delivery,
)

ENVELOPE = {"recipient": "contact@example.com", "sender": "lead@example.com"}


def of_form(**fields: str) -> Event:
    """The event of a parsed mail with these fields, `_` for `-`."""
    channel = email_channel()
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return event_of(channel, channel.verify(mail({**ENVELOPE, **named})))


def of_raw(message: bytes) -> Event:
    """The event of a raw message."""
    return of_form(body_mime=as_text(message))


def body_of(headers: bytes, content: bytes) -> str:
    return parse_mime(headers + b"\r\n\r\n" + content).body


def multipart(*parts: bytes, kind: bytes = b"mixed", boundary: bytes = b"b1") -> bytes:
    """A multipart of parts, each with its own headers."""
    head = b"Content-Type: multipart/" + kind + b'; boundary="' + boundary + b'"\r\n\r\n'
    lines = b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts)
    return head + lines + b"--" + boundary + b"--\r\n"


def text(content: str, kind: str = "text/plain", more: str = "") -> bytes:
    return f"Content-Type: {kind}; charset=utf-8{more}\r\n\r\n{content}".encode()


PICTURE = b"Content-Type: image/png; name=logo.png\r\n\r\n\x89PNG"


def names(message: MimeMessage) -> list[str]:
    return [file.file_name for file in message.files]


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ({"subject": "Oui"}, ""),
        ({"message-headers": "[]"}, ""),
        ({"attachment-count": "0"}, ""),
        ({"stripped-html": "<p>Bonjour</p>"}, "Bonjour"),
        ({"stripped-html": "<p>Oui</p>", "body-html": "<p>Oui</p><p>cité</p>"}, "Oui"),
    ],
)
def test_mails_without_text(fields: Mapping[str, str], body: str) -> None:
    """Mailgun leaves out the text fields of a mail that has only a subject or only files."""
    channel = email_channel()
    assert event_of(channel, channel.verify(mail({**ENVELOPE, **fields}))).body == body


def test_a_mail_that_is_only_a_file() -> None:
    """It is one: the body is empty."""
    channel = email_channel()
    delivery = mail_with_files(ENVELOPE, [("attachment-1", "plan.pdf", "application/pdf", b"%PDF")])
    event = event_of(channel, channel.verify(delivery))
    assert (event.body, [file.file_name for file in event.attachments]) == ("", ["plan.pdf"])


def test_a_file_of_a_form_without_a_name() -> None:
    """What is no text is a file, named or not."""
    channel = email_channel()
    parts = {**MAIL_FIELDS, **mailgun_signs()}
    lines = [
        f'--xyz\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in parts.items()
    ]
    head = '--xyz\r\nContent-Disposition: form-data; name="attachment-1"\r\n'
    lines.append(f"{head}Content-Type: text/calendar\r\n\r\nBEGIN:VCALENDAR\r\n--xyz--\r\n")
    headers = {"Content-Type": "multipart/form-data; boundary=xyz"}
    delivery = raw_delivery(EMAIL, "".join(lines).encode(), headers=headers, target=EMAIL_PATH)
    event = event_of(channel, channel.verify(delivery))
    assert [file.content_type for file in event.attachments] == ["text/calendar"]
    assert "attachment-1" not in event.raw


@pytest.mark.parametrize(
    ("head", "subject"),
    [
        ("Subject: Réponse ✔".encode(), "Réponse ✔"),
        ("Subject: Réponse".encode("cp1252"), "Réponse"),
        (b"Subject: =?UTF-8?Q?hello=F0=?=", "hello\ufffd"),
        (b"Subject: =?UTF-8?Q?Caf=C3=A9?= =?x-unknown?Q?_noir?=", "Café noir"),
        (b"Subject: =?utf-8?B?w4k=?=\r\n =?utf-8?B?dMOp?= fin", "Été fin"),
        (b"Subject: Re: =?utf-8*fr?q?=C3=A9t=C3=A9?= (=?us-ascii?q?a?=)", "Re: été (a)"),
        (b"Subject: =?utf-8?q?=C3?= =?UTF-8?q?=A9?=", "é"),
        (b"Subject: =?iso-8859-1?q?=93a=94?=", "“a”"),
        (b"Subject: =?utf-8?q?what?_now?=", "what? now"),
        (b"Subject: 1 =? 2 =?utf-8?q?", "1 =? 2 =?utf-8?q?"),
        (b"Subject: one\r\n two\r\n\tthree", "one two three"),
        (b"Subject : spaced", "spaced"),
        (b"Subject: one\r\ntwo", "one two"),
        (b"\xef\xbb\xbfSubject: marked", "marked"),
        (b"\r\n\r\nSubject: late", "late"),
        (b"From lead@example.com Tue\r\nSubject: box", "box"),
        (b"X: y\r\n>From lead@example.com Tue\r\nSubject: box", "box"),
    ],
)
def test_subjects(head: bytes, subject: str) -> None:
    """Headers are unfolded and decoded word by word; odd ones do not become the body."""
    message = head + b"\r\nMessage-ID:\r\n <one@example.com>\r\n\r\nBonjour"
    event = of_raw(message)
    assert (event.subject, event.message_id, event.body) == (
        subject,
        "<one@example.com>",
        "Bonjour",
    )


def test_a_parsed_form_is_unfolded_too() -> None:
    """Line ends stand in no subject and no Message-Id, and words of a header are decoded."""
    pairs = '[["Subject", "=?utf-8?q?=C3=A9t=C3=A9?="], ["Message-Id", "\\r\\n <one@example.com>"]]'
    event = of_form(message_headers=pairs, body_plain="x")
    assert (event.subject, event.message_id) == ("été", "<one@example.com>")
    assert of_form(subject="a long\r\n one", body_plain="x").subject == "a long one"


@pytest.mark.parametrize(
    ("label", "content", "body"),
    [
        ("iso-8859-1", b"\x92\x80\x85\xe9", "’€…é"),
        ("windows-1252http-equiv", b"caf\xe9 \x9c", "café œ"),
        ("gb2312", "鎔中".encode("gbk"), "鎔中"),
        ("x-gbk", "中".encode("gbk"), "中"),
        ("euc-kr", "똠방".encode("cp949"), "똠방"),
        ("shift_jis", "①髙".encode("cp932"), "①髙"),
        ("x-sjis", "～".encode("cp932"), "～"),
        ("iso-2022-jp", b"\x1b$B-!F|\x1b(B ok", "①日 ok"),
        ("iso-2022-jp", "日本 déjà".encode(), "日本 déjà"),
        ("iso-2022-jp", b"\x1b(I1\x1b(J!", "ｱ!"),
        ("euc-jp", "日①".encode("euc_jis_2004"), "日①"),
        ("iso-8859-8-i", "שלום".encode("iso8859-8"), "שלום"),
        ("cp-850", "é".encode("cp850"), "é"),
        ("x-mac-roman", "é".encode("mac-roman"), "é"),
        ("koi8-r", "Привет".encode("koi8-r"), "Привет"),
        ("utf-7", b"+AOk-", "é"),
        ("us-ascii", "é ✔".encode(), "é ✔"),
        ("us-ascii", b"caf\xe9", "café"),
        ("", b"caf\xe9 \x92", "café ’"),
        ("utf-8", b"caf\xe9", "caf\ufffd"),
        ("utf-8", b"\xef\xbb\xbfoui", "oui"),
        ("utf-16", "oui ✔".encode("utf-16"), "oui ✔"),
        ("windows-1252", b"\x81", "\x81"),
        ("windows-1253", b"\xaa", "\ufffd"),
    ],
)
def test_charsets(label: str, content: bytes, body: str) -> None:
    """A label means what the WHATWG Encoding Standard says; one that cannot be is ignored."""
    head = b"Content-Type: text/plain" + (f'; charset="{label}"'.encode() if label else b"")
    assert body_of(head, content) == body


NAMED = '; name="message.txt"'
BASE64 = b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64"


@pytest.mark.parametrize(
    ("message", "body", "files"),
    [
        (text("oui", more=NAMED), "oui", []),
        (b"Content-Disposition: inline; filename=a.txt\r\n" + text("oui"), "oui", []),
        (b"Content-Disposition: attachment; filename=a.txt\r\n" + text("oui"), "", ["a.txt"]),
        (multipart(text("oui"), text("non", more=NAMED)), "oui", ["message.txt"]),
        (multipart(text("oui", more=NAMED), PICTURE), "oui", ["logo.png"]),
        (multipart(text("un"), PICTURE, text("deux")), "un\ndeux", ["logo.png"]),
        (multipart(text("un"), PICTURE, text("")), "un", ["logo.png"]),
        (multipart(text("un"), text("<b>un</b>", "text/html"), kind=b"alternative"), "un", []),
        (multipart(text(" "), text("<b>un</b>", "text/html"), kind=b"alternative"), "un", []),
        (
            multipart(
                text("un\r\n\r\ndeux"),
                multipart(
                    text("un", "text/html"), PICTURE, text("deux", "text/html"), boundary=b"b2"
                ),
                kind=b"alternative",
            ),
            "un\r\n\r\ndeux",
            ["logo.png"],
        ),
        (multipart(text("<p>un</p>", "text/html"), text("deux")), "un\ndeux", []),
        (multipart(b"\r\nno headers"), "no headers", []),
        (multipart(text("cut")).removesuffix(b"--b1--\r\n"), "cut\r\n", []),
        (b"Content-Type: multipart/mixed; boundary=b1\r\n\r\nno parts", "no parts", []),
        (b"Content-Type: multipart/mixed\r\n\r\nno boundary", "no boundary", []),
        (multipart(b"Content-Type: text/calendar\r\n\r\nBEGIN"), "", [""]),
    ],
)
def test_what_is_shown_and_what_is_a_file(message: bytes, body: str, files: list[str]) -> None:
    """All texts that a mail program shows, in order; the rest are files."""
    found = parse_mime(message)
    assert (found.body, names(found)) == (body, files)


@pytest.mark.parametrize(
    ("content", "body"),
    [
        (b"Qm9uam91cg==", "Bonjour"),
        (b"Qm9uam91cg==A", "Bonjour"),
        (b"Qm9uam91", "Bonjou"),
        (b"Qm9uam9", "Bonjo"),
        (b"Qm9uam91c", "Bonjou"),
        (b"Qm9u\r\nam91!cg", "Bonjour"),
        (b"Qm9u=am91cg==", "Bonjour"),
        (b"", ""),
    ],
)
def test_broken_base64(content: bytes, body: str) -> None:
    """It is decoded as far as it goes."""
    assert body_of(BASE64, content) == body


def test_other_encodings() -> None:
    """Quoted-printable with soft line ends, uuencode, and one that nobody knows."""
    head = b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: "
    assert body_of(head + b"Quoted-Printable", b"caf=C3=A9 =\r\nnoir =ZZ") == "café noir =ZZ"
    assert body_of(head + b"x-uuencode", b"begin 644 a\r\n#3W5I\r\n`\r\nend\r\n") == "Oui"
    assert body_of(head + b"x-nobody", b"as it is") == "as it is"


def test_a_multipart_in_base64() -> None:
    """Its parts are read."""
    head, _, content = multipart(text("oui"), PICTURE).partition(b"\r\n\r\n")
    encoded = base64.encodebytes(content)
    found = parse_mime(head + b"\r\nContent-Transfer-Encoding: base64\r\n\r\n" + encoded)
    assert (found.body, names(found)) == ("oui", ["logo.png"])


def test_an_attached_message_keeps_its_bytes() -> None:
    """Line ends, long lines, odd headers: nothing is written anew."""
    inner = b"Subject : odd\r\nX:" + b" long" * 400 + b"\r\n\r\nfin\r\n"
    head = (
        b"Content-Type: message/rfc822\r\nContent-Disposition: attachment; filename=m.eml\r\n\r\n"
    )
    found = parse_mime(multipart(text("oui"), head + inner))
    assert [(file.file_name, file.content) for file in found.files] == [("m.eml", inner)]


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ('filename="Pièce.pdf"', "Pièce.pdf"),
        ('filename="=?utf-8?q?Pi=C3=A8ce?=.pdf"', "Pièce.pdf"),
        ("filename*=utf-8''Pi%C3%A8ce.pdf", "Pièce.pdf"),
        ("filename*=undefined''a%E9.pdf", "aé.pdf"),
        ("filename*0=one; filename*1=two", "onetwo"),
        ('filename="long\r\n name.pdf"', "long name.pdf"),
    ],
)
def test_file_names(disposition: str, name: str) -> None:
    """In every spelling that mail programs use."""
    head = f"Content-Type: a/b\r\nContent-Disposition: attachment; {disposition}\r\n\r\nx"
    assert names(parse_mime(multipart(head.encode()))) == [name]


@pytest.mark.parametrize("count", [1, 3000])
def test_words_of_long_headers(count: int) -> None:
    """However many encoded words a header has, each is decoded."""
    assert decode_words("=?utf-8?q?=C3=A9?= " * count).strip() == "é" * count


@pytest.mark.parametrize(
    ("head", "name"),
    [
        ("Content-Type: text/plain; a*=x; a*0=y", ""),
        ("Content-Type: a/b; name*=utf-8''x; name*0=y", "utf-8''x"),
        (
            "Content-Type: a/b\r\nContent-Disposition: attachment; filename*=''a; filename*0=b",
            "''a",
        ),
        ("Content-Type: a/b;" + "".join(f" name*{n}=x;" for n in range(2000)), "x"),
    ],
)
def test_parameters_that_the_library_cannot_read(head: str, name: str) -> None:
    """They raise nothing: the first of each name counts, as it stands."""
    message = multipart(text("oui"), f"{head}\r\n\r\nx".encode())
    found = parse_mime(message)
    assert found.body.startswith("oui")
    assert [one[:1] for one in names(found)] == ([name[:1]] if name else [])


def test_a_text_without_end_is_read_so_far() -> None:
    """Nobody reads more than a megabyte; what was sent stands in the raw fields."""
    found = parse_mime(b"Content-Transfer-Encoding: base64\r\n\r\n" + b"A\n" * 2_000_000)
    assert len(found.body) == 1_048_576
