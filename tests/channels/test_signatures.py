"""The published known answers, and what must never match."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berinia_webhookd.channels.signatures import (
    TwilioKeys,
    body_digest_holds,
    mailgun_match,
    mailgun_signature,
    secret_match,
)

from .deliveries import OLD_TOKEN, TOKEN

VECTORS: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("signature_vectors.json").read_text("utf-8")
)


def vectors(*schemes: str) -> list[Any]:
    return [
        pytest.param(vector, id=vector["id"]) for vector in VECTORS if vector["scheme"] in schemes
    ]


def pairs(params: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (name, value)
        for name, values in params.items()
        for value in (values if isinstance(values, list) else [values])
    ]


@pytest.mark.parametrize("vector", vectors("twilio-form", "twilio-url-only"))
def test_twilio_known_answers(vector: dict[str, Any]) -> None:
    """Signatures of URL and form are the published ones, and published forgeries fail."""
    if vector["auth_token"] is None:  # published without its key: nobody can compute it
        assert not TwilioKeys([TOKEN]).match(vector["expected"], [vector["signed_url"]], [])
        return
    keys = TwilioKeys([vector["auth_token"]])
    fields = pairs(vector.get("params", {}))
    assert keys.signature(vector["signed_url"], fields) == vector["computed"]
    matches = keys.match(vector["expected"], [vector["signed_url"]], fields)
    assert matches is vector["expect_match"]


@pytest.mark.parametrize("vector", vectors("twilio-url-only"))
def test_twilio_body_digests_in_the_url(vector: dict[str, Any]) -> None:
    """A body that is not the one the signed URL names fails, though the signature holds."""
    target = vector["signed_url"].partition("://")[2]
    holds = body_digest_holds(target, vector["body"].encode())
    assert holds is vector.get("expect_body_match", True)


@pytest.mark.parametrize("vector", vectors("sha256-hex", "sha256-base64"))
def test_published_body_digests(vector: dict[str, Any]) -> None:
    """The digest is lower-case hex; the historic Base64 spelling is the same digest, refused."""
    body, expected = vector["body"].encode(), vector["expected"]
    if vector["scheme"] == "sha256-base64":
        assert not body_digest_holds(f"/?bodySHA256={expected}", body)
        expected = base64.b64decode(expected).hex()
    assert body_digest_holds(f"/?foo=1&bodySHA256={expected}", body)
    assert not body_digest_holds(f"/?foo=1&bodySHA256={expected}", body + b" ")
    assert not body_digest_holds(f"/?bodySHA256={expected}&bodySHA256=", body)


@pytest.mark.parametrize("vector", vectors("mailgun-event-or-inbound"))
def test_mailgun_known_answers(vector: dict[str, Any]) -> None:
    """Signatures are the published ones, and published forgeries fail."""
    stamp, token = vector["timestamp"], vector["token"]
    if vector["signing_key"] is None:  # published without its key: nobody can compute it
        assert not mailgun_match([TOKEN], vector["expected"], stamp, token)
        return
    keys = [TOKEN, vector["signing_key"]]
    assert mailgun_signature(vector["signing_key"], stamp, token) == vector["computed"]
    assert mailgun_match(keys, vector["expected"], stamp, token) is vector["expect_match"]


def test_every_vector_is_used() -> None:
    """No published scheme is left out of the tests above."""
    used = vectors(
        "twilio-form", "twilio-url-only", "sha256-hex", "sha256-base64", "mailgun-event-or-inbound"
    )
    assert len(used) == len(VECTORS) == 56


@given(st.text(), st.text(), st.lists(st.tuples(st.text(), st.text())))
def test_no_text_breaks_the_comparison(
    signature: str, url: str, fields: list[tuple[str, str]]
) -> None:
    """Whatever is presented, lone surrogates included, is a mismatch and never an error."""
    assert not TwilioKeys([TOKEN, OLD_TOKEN]).match(signature, [url], fields)
    assert not mailgun_match([TOKEN], signature, url, signature)
    assert not secret_match(TOKEN, signature)
    assert secret_match(TOKEN, TOKEN)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_any_of_several_keys_is_accepted(position: int) -> None:
    """While one key replaces another, both sign."""
    keys = ["a" * 32, "b" * 32, "c" * 32]
    url = "https://app.example.com/"
    signature = TwilioKeys([keys[position]]).signature(url, [("a", "b")])
    assert TwilioKeys(keys).match(signature, [url], [("a", "b")])
    assert mailgun_match(keys, mailgun_signature(keys[position], "1", "t"), "1", "t")


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200])
def test_a_key_may_have_any_length(length: int) -> None:
    """As in HMAC: one longer than a block stands by its hash, in what is signed and in what is
    verified.
    """
    keys = TwilioKeys(["k" * length])
    fields = [("Body", "é"), ("From", "+33639980001")]
    assert keys.match(
        keys.signature("https://app.example.com/", fields), ["https://app.example.com/"], fields
    )


def test_no_key_matches_nothing() -> None:
    """Without a key there is no proof."""
    assert not TwilioKeys([]).match("", ["https://app.example.com/"], [])
    assert not mailgun_match([], "", "1", "t")
