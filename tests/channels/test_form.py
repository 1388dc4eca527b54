"""Forms are read without losing or changing anything."""

from __future__ import annotations

from urllib.parse import quote_from_bytes, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berinia_webhookd.channels.form import decode_form, first_values
from berinia_webhookd.errors import MalformedDelivery
from berinia_webhookd.urlencoded import (
    MAX_FIELDS,
    as_bytes,
    as_text,
    decode_urlencoded,
    raw_fields,
    readable,
)

BOUNDARY = "multipart/form-data; boundary=xyz"


def part(content: bytes, disposition: str, *headers: str) -> bytes:
    lines = [f"Content-Disposition: form-data; {disposition}", *headers]
    return b"--xyz\r\n" + "\r\n".join(lines).encode() + b"\r\n\r\n" + content + b"\r\n"


def test_urlencoded_details() -> None:
    """Blanks, repeats, order and empty values stay; `+` is a space; `;` separates nothing."""
    body = b"a=+1%20&b=&c&a=%2B;x=y&%C3%A9=%F0%9F%99%82&=v&&d==%3D%zz\n"
    assert decode_urlencoded(body) == (
        ("a", " 1 "),
        ("b", ""),
        ("c", ""),
        ("a", "+;x=y"),
        ("é", "🙂"),
        ("", "v"),
        ("d", "==%zz\n"),
    )


@given(
    st.lists(
        st.sampled_from(
            [
                *(b"%", b"%4", b"%c3%A9", b"%2", b"5", b"=", b"+", b"\r", b"\n", b"a"),
                *(b"&", b"%26", b"%3D", b"%3d", b"%25", b"\xff"),
            ]
        )
    )
)
def test_percent_signs_are_read_as_everybody_does(pieces: list[bytes]) -> None:
    """Whole and broken escapes mean what they mean to the standard library; none separates."""
    body = b"".join(pieces)
    pairs = [pair.partition(b"=") for pair in body.replace(b"+", b" ").split(b"&") if pair]
    assert decode_urlencoded(body) == tuple(
        (as_text(unquote_to_bytes(name)), as_text(unquote_to_bytes(value)))
        for name, _, value in pairs
    )


def test_endless_broken_escapes_are_malformed() -> None:
    """Some percent signs stand for themselves; a body of nothing else is no form."""
    assert decode_urlencoded(b"a=" + b"%" * 5000) == (("a", "%" * 5000),)
    with pytest.raises(MalformedDelivery):
        decode_urlencoded(b"a=" + b"%" * 20_000)


@given(st.lists(st.tuples(st.binary(), st.binary()), max_size=20))
def test_no_field_is_lost(pairs: list[tuple[bytes, bytes]]) -> None:
    """Any bytes, valid UTF-8 or not, come out as they went in."""
    body = b"&".join(
        quote_from_bytes(name, safe="").encode() + b"=" + quote_from_bytes(value, safe="").encode()
        for name, value in pairs
    )
    decoded = [(as_bytes(name), as_bytes(value)) for name, value in decode_urlencoded(body)]
    assert decoded == pairs


def test_the_number_of_fields_is_bounded() -> None:
    """A thousand fields are read, one more is refused, in both kinds of form."""
    assert len(decode_urlencoded(b"&".join([b"a=1"] * MAX_FIELDS))) == MAX_FIELDS
    with pytest.raises(MalformedDelivery):
        decode_urlencoded(b"&".join([b"a=1"] * (MAX_FIELDS + 1)))
    parts = part(b"1", 'name="a"') * MAX_FIELDS
    assert len(decode_form(BOUNDARY, parts + b"--xyz--").fields) == MAX_FIELDS
    with pytest.raises(MalformedDelivery):
        decode_form(BOUNDARY, parts + part(b"1", 'name="a"') + b"--xyz--")


def test_multipart_fields_and_files() -> None:
    """Text parts are fields; parts with a file name, even an empty one, are files."""
    form = decode_form(
        BOUNDARY,
        part(b" Bonjour \r\n", 'name="body-plain"', "Content-Type: text/plain; charset=utf-8")
        + part("é".encode(), 'name="subject"')
        + part(b"%PDF", 'name="attachment-1"; filename="../../etc/passwd"', "Content-Type: a/pdf")
        + part(b"", 'name="attachment-2"; filename=""', "Content-Type: text/plain")
        + part(b"\x00\xff", 'name="attachment-3"', "Content-Type: application/octet-stream")
        + part(b"x", "name=\"attachment-4\"; filename*=utf-8''%C3%A9.txt")
        + b"--xyz--\r\n",
    )
    assert form.fields == (("body-plain", " Bonjour \r\n"), ("subject", "é"))
    assert [(f.field, f.file_name, f.content_type, f.content) for f in form.files] == [
        ("attachment-1", "../../etc/passwd", "a/pdf", b"%PDF"),
        ("attachment-2", "", "text/plain", b""),
        ("attachment-3", "", "application/octet-stream", b"\x00\xff"),
        ("attachment-4", "é.txt", "application/octet-stream", b"x"),
    ]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", part(b"1", 'name="a"') + b"--xyz--"),
        ("multipart/form-data; boundary=", part(b"1", 'name="a"') + b"--xyz--"),
        ("multipart/form-data; boundary=\udcff", b"--\xff--"),
        (BOUNDARY, b""),
        (BOUNDARY, part(b"1", 'name="a"')),
        (BOUNDARY, part(b"1", "") + b"--xyz--"),
        (BOUNDARY, b"--xyz\r\n\r\n1\r\n--xyz--"),
        (BOUNDARY, b"--xyz\r\nX: \xff\r\n\r\n1\r\n--xyz--"),
        (BOUNDARY, b"x" * 1000),
    ],
)
def test_broken_multipart(content_type: str, body: bytes) -> None:
    """What is cut off or not well-formed is malformed, nothing else."""
    with pytest.raises(MalformedDelivery):
        decode_form(content_type, body)


@given(st.binary(max_size=300), st.text(max_size=40))
def test_any_bytes_are_a_form_or_malformed(body: bytes, content_type: str) -> None:
    """Neither bytes nor headers of a stranger raise anything but `MalformedDelivery`."""
    for header in (content_type, f"multipart/form-data; boundary={content_type}", BOUNDARY):
        for sent in (body, b"--xyz\r\n" + body, part(body, 'name="a"') + b"--xyz--"):
            try:
                decode_form(header, sent)
            except MalformedDelivery:
                continue


def test_raw_fields() -> None:
    """Every name has its last value; names that repeat have all of them as well."""
    fields = (("a", "1"), ("b", as_text(b"\xe9")), ("a", "2"), ("c", ""), ("a", "2"))
    assert raw_fields(fields) == ({"a": "2", "b": "\ufffd", "c": ""}, {"a": ["1", "2", "2"]})
    assert first_values(fields)["a"] == "1"
    assert readable("é🙂 ") == "é🙂 "
