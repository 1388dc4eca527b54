"""A large body is refused quickly where it cannot be signed, and never where it is."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berinia_webhookd.channels.signatures import may_be_signed
from berinia_webhookd.errors import MalformedDelivery, SignatureInvalid

from .deliveries import (
    EMAIL,
    EMAIL_PATH,
    FORM,
    MAIL_FIELDS,
    MAILGUN_KEY,
    email_channel,
    mailgun_signs,
    raw_delivery,
)

LARGE = "x" * 300_000
MULTIPART = "multipart/form-data; boundary=xyz"
NAMES = ("timestamp", "token", "signature")
Pairs = Sequence[tuple[str, str]]


def form(pairs: Pairs) -> bytes:
    return urlencode(pairs, errors="surrogateescape").encode()


def multipart(pairs: Pairs, *, head: str = 'form-data; name="{}"', more: str = "") -> bytes:
    parts = [
        f"--xyz\r\nContent-Disposition: {head.format(name)}\r\n{more}\r\n{value}\r\n"
        for name, value in pairs
    ]
    return "".join([*parts, "--xyz--\r\n"]).encode("utf-8", "surrogateescape")


@pytest.mark.parametrize("content_type", [FORM, MULTIPART])
@pytest.mark.parametrize("place", ["first", "last", "between"])
def test_a_signed_large_mail_verifies_wherever_its_proof_stands(
    content_type: str, place: str
) -> None:
    """Both kinds of form, fields in any order, the words in the text as well."""
    proof = list(mailgun_signs().items())
    text = [*MAIL_FIELDS.items(), ("body-html", f"signature=1&token=2\r\nname=token {LARGE}")]
    pairs = {"first": proof + text, "last": text + proof, "between": text + proof + text}[place]
    body = form(pairs) if content_type == FORM else multipart(pairs)
    headers = {"Content-Type": content_type}
    email_channel().verify(raw_delivery(EMAIL, body, headers=headers, target=EMAIL_PATH))


@pytest.mark.parametrize(
    ("head", "more"),
    [
        ('form-data; name="{}"', "Content-Type: text/plain\r\n"),
        ("form-data; name={}", ""),
        ('form-data; name="{}"; x=y', "Content-Type: text/plain; charset=utf-8\r\nA: b\r\n"),
    ],
)
def test_parts_may_be_written_in_other_ways(head: str, more: str) -> None:
    """Without quotes, with further headers."""
    assert may_be_signed(
        [MAILGUN_KEY],
        multipart([("body-plain", LARGE), *mailgun_signs().items()], head=head, more=more),
        multipart=True,
    )


@pytest.mark.parametrize("content_type", [FORM, MULTIPART])
@pytest.mark.parametrize("names", [(), NAMES[:2], NAMES], ids=["nothing", "a part", "a wrong one"])
def test_an_unsigned_large_mail_is_refused_unread(
    content_type: str, names: tuple[str, ...]
) -> None:
    """Although it is no form at all, which a small one would be told."""
    proof = mailgun_signs(key="another")
    pairs = [(name, proof[name]) for name in names]
    body = form(pairs) if content_type == FORM else multipart(pairs)
    headers = {"Content-Type": content_type}
    channel = email_channel()
    with pytest.raises(SignatureInvalid):
        channel.verify(raw_delivery(EMAIL, body + LARGE.encode(), headers=headers))
    with pytest.raises(MalformedDelivery):
        channel.verify(raw_delivery(EMAIL, b"--xyz", headers={"Content-Type": MULTIPART}))


def test_a_body_full_of_names_costs_little_and_says_no() -> None:
    """The outermost occurrences are looked at, whatever is between them."""
    proof = mailgun_signs(key="another")
    noise = "&".join(f"{name}={proof[name]}" for name in NAMES) + "&"
    assert not may_be_signed([MAILGUN_KEY], noise.encode() * 10_000, multipart=False)
    ends = form(list(mailgun_signs().items()))
    assert may_be_signed([MAILGUN_KEY], ends + b"&" + noise.encode() * 10_000, multipart=False)
    assert may_be_signed([MAILGUN_KEY], noise.encode() * 10_000 + ends, multipart=False)


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), max_size=30)
pairs = st.lists(st.tuples(st.sampled_from([*NAMES, "subject", "x-token"]), text), max_size=3)


@given(before=pairs, after=pairs)
def test_whatever_verifies_is_let_through(
    before: list[tuple[str, str]], after: list[tuple[str, str]]
) -> None:
    """The quick look is never stricter than reading the form."""
    signed = [*before, *mailgun_signs().items(), *after]
    for body, content_type in ((form(signed), FORM), (multipart(signed), MULTIPART)):
        headers = {"Content-Type": content_type}
        try:
            email_channel().verify(raw_delivery(EMAIL, body, headers=headers))
        except (SignatureInvalid, MalformedDelivery):
            continue
        assert may_be_signed([MAILGUN_KEY], body, multipart=content_type == MULTIPART)
