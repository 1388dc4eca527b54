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
    assert (html.plain_text, html.html) == (None, "<b>Salut</b> caf\ufffd")
    report = parse_mime(
        b"Content-Type: multipart/report; boundary=b\n\n--b\n\nno such user\n--b\n"
        b"Content-Type: message/delivery-status\n\nAction: failed\n\nStatus: 5.1.1\n\n--b--\n"
    )
    assert report.plain_text == "no such user"
    (status,) = report.files
    assert b"Status: 5.1.1" in status.content


@pytest.mark.parametrize("charset", ["punycode", "idna", "undefined", "base64", "x" * 500, "\x00"])
def test_odd_charsets(charset: str) -> None:
    """Codecs that are no charsets of mail are not used."""
    content = f"Content-Type: text/plain; charset={charset}\n\nSalut".encode()
    assert parse_mime(content).plain_text == "Salut"


def nested(depth: int) -> bytes:
    levels = (f"Content-Type: multipart/mixed; boundary=b{n}\n\n--b{n}\n" for n in range(depth))
    return "".join(levels).encode() + b"\ntext"


@pytest.mark.parametrize(
    "content",
    [
        nested(1000),
        b"Content-Type: message/rfc822\n\n" * 1000,
        b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\n" * 20_000,
        b"\n" * 1_000_001,
        b"A:b\n" * 110_000,
        b"Content-Type: message/rfc822\n\n" + b"A:b\n" * 110_000,
        nested(60) + b"\nx" * 300_000,
    ],
    ids=[
        *("multipart in multipart", "message in message", "parts", "lines"),
        *("header lines", "header lines of an attached message", "lines in nested parts"),
    ],
)
def test_absurd_messages_are_malformed(content: bytes) -> None:
    """What no mail program writes is refused before it costs memory or time."""
    with pytest.raises(MalformedDelivery) as caught:
        parse_mime(content)
    assert caught.value.invalid == ("body-mime",)


def test_bounds_leave_room() -> None:
    """Deep and long messages that a person can have sent are read."""
    assert parse_mime(nested(40)).plain_text == "text"
    assert parse_mime(b"Content-Type: text/plain;" + b" ;" * 100_000 + b"\n\nx").plain_text == "x"


def test_headers_are_read_so_far() -> None:
    """The first five hundred; a line of too many encoded words is taken as it stands."""
    long = b"Subject: " + b"=?utf-8?q?=41?= " * 101
    found = parse_mime(b"Subject: =?utf-8?q?=41?=\n" + long + b"\n" + b"A: b\n" * 600).headers
    assert len(found) == 500
    assert found[0] == ("Subject", "A")
    assert found[1][1].startswith("=?utf-8?q?=41?=")


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
    texts += [message.plain_text or "", message.html or ""]
    texts += [text for file in message.files for text in (file.file_name, file.content_type)]
    for text in texts:
        text.encode()
