"""Raw messages: text, attachments and headers within bounds."""

from __future__ import annotations

import hashlib
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berinia_webhookd.channels.mime import parse_mime
from berinia_webhookd.errors import MalformedDelivery
from berinia_webhookd.urlencoded import as_text

from .deliveries import email_channel, event_of, mail


def message_with_attachments() -> EmailMessage:
    inner = EmailMessage()
    inner["Subject"] = "inner"
    inner.set_content("inner text")
    message = EmailMessage()
    message["Subject"] = "Été 🙂"
    message["Message-ID"] = "<raw@example.com>"
    message["Date"] = "Tue, 24 Nov 2026 10:29:58 +0100"
    message.set_content("Ça va ?\n", charset="iso-8859-1", cte="8bit")
    message.add_alternative("<p>Ça va ?</p>", subtype="html")
    message.add_attachment(b"\x00\xff", maintype="a", subtype="b", filename="../é.bin")
    message.add_attachment("text file", filename="note.txt")
    message.add_attachment(inner)
    return message


def test_a_raw_message_is_read() -> None:
    """Text in its own charset, attachments and headers, as the parsed form would have them."""
    fields = {
        "recipient": "contact@example.com",
        "sender": "lead@example.com",
        "body-mime": as_text(message_with_attachments().as_bytes()),
    }
    channel = email_channel()
    verified = channel.verify(mail(fields))
    event = event_of(channel, verified)
    assert event.body == "Ça va ?\n"
    assert event.subject == "Été 🙂"
    assert event.message_id == "<raw@example.com>"
    names = [(file.file_name, file.content_type) for file in event.attachments]
    assert names == [("../é.bin", "a/b"), ("note.txt", "text/plain"), ("", "message/rfc822")]
    contents = list(channel.attachment_contents(verified))
    assert contents[:2] == [b"\x00\xff", b"text file\n"]
    assert b"Subject: inner" in contents[2]
    assert b"inner text" in contents[2]
    assert [hashlib.sha256(content).hexdigest() for content in contents] == [
        file.sha256 for file in event.attachments
    ]


def test_html_alone_and_reports() -> None:
    """Where there is no plain text the HTML part is read; reports of delivery are attachments."""
    html = parse_mime(b"Content-Type: text/html; charset=nonsense\n\n<b>Salut</b> caf\xe9")
    assert html.body == "Salut café"
    report = parse_mime(
        b"Content-Type: multipart/report; boundary=b\n\n--b\n\nno such user\n--b\n"
        b"Content-Type: message/delivery-status\n\nAction: failed\n\nStatus: 5.1.1\n\n--b--\n"
    )
    assert report.body == "no such user"
    (status,) = report.files
    assert b"Status: 5.1.1" in status.content


@pytest.mark.parametrize("charset", ["punycode", "idna", "undefined", "base64", "x" * 500, "\x00"])
def test_odd_charsets(charset: str) -> None:
    """Codecs that are no charsets of mail are not used."""
    content = f"Content-Type: text/plain; charset={charset}\n\nSalut".encode()
    assert parse_mime(content).body == "Salut"


def nested(depth: int) -> bytes:
    levels = (f"Content-Type: multipart/mixed; boundary=b{n}\n\n--b{n}\n" for n in range(depth))
    return "".join(levels).encode() + b"\ntext"


@pytest.mark.parametrize(
    "content",
    [
        b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\n" * 20_000,
        b"Content-Type: multipart/mixed; boundary=b\n\n--b\n"
        b"Content-Type: multipart/mixed; boundary=c\n\n" + b"--c\n\n" * 20_000,
        b"A:b\n" * 110_000,
        b"A:b\n" + b" c\n" * 110_000,
        b"Content-Type: multipart/mixed; boundary=b\n\n" + (b"--b\n" + b"A:b\n" * 300) * 400,
    ],
    ids=["parts", "parts of a part", "header lines", "folded lines", "header lines of parts"],
)
def test_too_much_is_malformed(content: bytes) -> None:
    """What no mail program writes is refused before it costs memory or time."""
    with pytest.raises(MalformedDelivery) as caught:
        parse_mime(content)
    assert caught.value.invalid == ("body-mime",)


@pytest.mark.parametrize(
    ("content", "file_type"),
    [
        (nested(1000), "multipart/mixed"),
        (b"Content-Type: message/rfc822\n\n" * 1000, "message/rfc822"),
        (b"\n" * 1_000_001, None),
        (b"Content-Type: message/rfc822\n\n" + b"A:b\n" * 110_000, "message/rfc822"),
        (b"Content-Type: multipart/mixed\n\n" + b"--\n" * 100_000, None),
    ],
    ids=[
        *("multipart in multipart", "message in message", "lines"),
        *("header lines of an attached message", "no boundary"),
    ],
)
def test_absurd_messages_are_read(content: bytes, file_type: str | None) -> None:
    """What nests deeper than anybody sends is one file, and much of the same is nothing."""
    message = parse_mime(content)
    assert [file.content_type for file in message.files] == ([file_type] if file_type else [])


def test_bounds_leave_room() -> None:
    """Deep and long messages that a person can have sent are read."""
    assert parse_mime(nested(20)).body == "text"
    assert parse_mime(b"Content-Type: text/plain;" + b" ;" * 100_000 + b"\n\nx").body == "x"


def test_headers_are_read_so_far() -> None:
    """The first five hundred, and of a value its first eight thousand characters."""
    long = b"Subject: " + b"=?utf-8?q?=41?= " * 1000
    found = parse_mime(b"Subject: =?utf-8?q?=41?=\n" + long + b"\n" + b"A: b\n" * 600).headers
    assert len(found) == 500
    assert found[0] == ("Subject", "A")
    assert found[1][1].startswith("A" * 511)


LINES = b"""Content-Type: multipart/mixed; boundary=b
Content-Type: message/rfc822
Content-Type: message/delivery-status
Content-Type: message/partial
Content-Type: message/external-body
Content-Type: text/plain; charset*=x''%ff
Content-Type: \xff/\xfe
Content-Transfer-Encoding: base64
Content-Transfer-Encoding: uuencode
Content-Disposition: attachment; filename*0=\xff
Content-Disposition: attachment; filename*=utf-8''a; filename*0=b
Content-Type: text/plain; name*1=a; name*1=b; name*=c
Content-Disposition: attachment; filename==?utf-8?q?=ff?=
Subject: =?utf-8?b?////?=
=?x?q?y?=: z
a: \0
From x
 folded
--b
--b--
""".split(b"\n")
lines = st.sampled_from(LINES)


@given(st.lists(st.one_of(lines, st.binary(max_size=40)), max_size=30))
def test_any_bytes_are_a_message_or_malformed(content: list[bytes]) -> None:
    """Whatever a mail holds raises nothing but `MalformedDelivery`, and reads as proper text."""
    try:
        message = parse_mime(b"\r\n".join(content))
    except MalformedDelivery:
        return
    texts = [text for header in message.headers for text in header]
    texts.append(message.body)
    texts += [text for file in message.files for text in (file.file_name, file.content_type)]
    for text in texts:
        text.encode()
