"""The keys of declared channels: what is none, and what a scheme's pair signs."""

from __future__ import annotations

import base64
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from berinia_webhookd.channels.declared.keys import (
    EcdsaKeys,
    Ed25519Keys,
    MacKeys,
    PairKeys,
    UnusableKey,
)

from .declarations import settings_from

FIELD: Final = 2**255 - 19
ORDER_8: Final = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"
SMALL: Final = {
    "0": 0,
    "1": 1,
    "-1": FIELD - 1,
    "of order 8": int.from_bytes(bytes.fromhex(ORDER_8), "little"),
    "of order 8, negated": FIELD - int.from_bytes(bytes.fromhex(ORDER_8), "little"),
}
SIGN: Final = 1 << 255
POINTS: Final = {
    **{name: (y, "small order") for name, y in SMALL.items()},
    **{f"{name}, with a sign": (y | SIGN, "small order") for name, y in SMALL.items()},
    "p": (FIELD, "no canonical point"),
    "p + 1": (FIELD + 1, "no canonical point"),
    "p + 18": (2**255 - 1, "no canonical point"),
    "p + 3, with a sign": (FIELD + 3 | SIGN, "no canonical point"),
    "beside the curve": (2, "no point"),
}


@pytest.mark.parametrize("name", POINTS)
def test_points_that_are_no_key(name: str) -> None:
    """The library takes each; at start it is refused, and says which."""
    y, words = POINTS[name]
    key = y.to_bytes(32, "little")
    Ed25519PublicKey.from_public_bytes(key)
    settings = settings_from(
        {
            "verify": "ed25519",
            "secrets": [base64.b64encode(key).decode()],
            "signature": "X-Sig: {hex}",
            "signed": "{body}",
            "event": [{"text": "text"}],
        }
    )
    (found,) = settings.errors()
    assert found.subject == "channels.x.secrets"
    assert words in found.what


@pytest.mark.parametrize(
    ("more", "secret", "why"),
    [
        ({"verify": "ed25519"}, "KEY0123", "not written in base64"),
        ({"verify": "ed25519"}, "MTIz", "3 bytes, and a public key of Ed25519 has 32"),
        ({"verify": "ecdsa-p256"}, "MTIz", "cannot be read as a public key"),
        ({"verify": "hmac-sha256", "secret_encoding": "hex"}, "xy", "not written in hex"),
        ({"verify": "hmac-sha256"}, "-----BEGIN PUBLIC KEY-----", "published key"),
    ],
)
def test_what_is_wrong_with_a_secret_is_said(more: dict[str, str], secret: str, why: str) -> None:
    """And the secret is not."""
    declaration = {"signature": "X-Sig: {hex}", "signed": "{body}", "event": [{"text": "text"}]}
    (found,) = settings_from({**declaration, **more, "secrets": [secret]}).errors()
    assert why in found.what
    assert secret not in str(found)


def test_who_signs_with_such_a_key_signs_anything() -> None:
    """That is why: with the neutral point one signature, made by nobody, is good for all texts."""
    neutral = (1).to_bytes(32, "little")
    Ed25519PublicKey.from_public_bytes(neutral).verify(neutral + bytes(32), b"whatever")
    with pytest.raises(UnusableKey):
        Ed25519Keys([neutral])


@pytest.mark.parametrize("kind", [Ed25519Keys, EcdsaKeys])
def test_a_pair(kind: type[PairKeys]) -> None:
    """What a secret signs its public key proves, and no other."""
    keys = kind([])
    secret, other = keys.new_secret(), keys.new_secret()
    mine, another = (kind([keys.public_of(one)]) for one in (secret, other))
    signature = keys.sign(secret, b"text")
    assert keys.fits(signature)
    assert mine.proven([b"another", b"text"], [b"", b"x" * 64, signature]) == b"text"
    assert mine.proven([b"another"], [signature]) is None
    assert another.proven([b"text"], [signature]) is None


@pytest.mark.parametrize(("name", "size"), [("sha1", 20), ("sha256", 32), ("sha512", 64)])
def test_secrets(name: str, size: int) -> None:
    """Each of several proves what it signs."""
    keys = MacKeys(name, [b"one", b"two"])
    for secret in (b"one", b"two"):
        signature = keys.sign(secret, b"text")
        assert len(signature) == size
        assert keys.fits(signature)
        assert keys.proven([b"text"], [b"", signature]) == b"text"
    assert keys.proven([b"text"], [keys.sign(keys.new_secret(), b"text")]) is None
