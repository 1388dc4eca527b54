"""The keys of a declaration, by scheme, which verify signatures. The secret of a MAC also signs; of
a key pair only the provider has the private key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

HASHES: Final = {"hmac-sha1": "sha1", "hmac-sha256": "sha256", "hmac-sha512": "sha512"}
PEM: Final = b"-----"
_ECDSA: Final = ec.ECDSA(SHA256())
_PAIR_BYTES: Final = 60  # 64 for Ed25519, a few more for DER on P-256
_SECRET_BYTES: Final = 16
_ED25519_BYTES: Final = 32
_SCALAR_BYTES: Final = 32  # of a private key on P-256
# https://www.rfc-editor.org/rfc/rfc8032#section-5.1: the field, and the constant of the curve.
_FIELD: Final = 2**255 - 19
_CURVE: Final = -121665 * pow(121666, -1, _FIELD) % _FIELD
_OF_ORDER_8: Final = int.from_bytes(
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
)
_OF_SMALL_ORDER: Final = frozenset({0, 1, _FIELD - 1, _OF_ORDER_8, _FIELD - _OF_ORDER_8})


class UnusableKey(ValueError):
    """A key that is invalid or insecure; the message says why, without quoting the key."""


def decoded(secret: str, encoding: str) -> bytes:
    """Return a secret as bytes; `encoding`: text, base64 (or PEM in its place), hex or pem.

    Raises:
        UnusableKey: it is not written so.
    """
    try:
        match encoding:
            case "base64" if not secret.startswith(PEM.decode()):
                return base64.b64decode(secret, validate=True)
            case "hex":
                return binascii.unhexlify(secret)
            case _:
                return secret.encode()
    except ValueError:
        raise UnusableKey(f"hold one that is not written in {encoding}") from None


class Keys(ABC):
    """All keys of a declaration; each one is tried."""

    can_sign = True  # False: the key that verifies cannot sign

    @abstractmethod
    def proven(self, contents: Iterable[bytes], signatures: Sequence[bytes]) -> bytes | None:
        """Return the content that one of the signatures is valid for; None: none is valid."""

    @abstractmethod
    def fits(self, signature: bytes) -> bool:
        """Whether a signature has a length of the scheme."""

    @abstractmethod
    def sign(self, secret: bytes, content: bytes) -> bytes:
        """Return the signature of a content by a secret."""

    @abstractmethod
    def new_secret(self) -> bytes:
        """Return a random secret."""


class MacKeys(Keys):
    """Secrets that sign and verify HMACs; their initial state is computed once."""

    def __init__(self, hash_name: str, keys: Sequence[bytes]) -> None:
        self._hash_name = hash_name
        self._keyed = [hmac.new(key, digestmod=hash_name) for key in keys]
        self._bytes = hashlib.new(hash_name).digest_size

    def proven(self, contents: Iterable[bytes], signatures: Sequence[bytes]) -> bytes | None:
        """See `Keys.proven`; in constant time."""
        proven = None
        for content in contents:
            for key in self._keyed:
                mac = key.copy()
                mac.update(content)
                digest = mac.digest()
                for signature in signatures:
                    if hmac.compare_digest(digest, signature):
                        proven = content
        return proven

    def fits(self, signature: bytes) -> bool:
        """See `Keys.fits`."""
        return len(signature) == self._bytes

    def sign(self, secret: bytes, content: bytes) -> bytes:
        """See `Keys.sign`."""
        return hmac.digest(secret, content, self._hash_name)

    def new_secret(self) -> bytes:
        """See `Keys.new_secret`."""
        return secrets.token_bytes(_SECRET_BYTES)


class PairKeys(Keys):
    """Public keys of a provider; for samples a key pair of our own is used."""

    can_sign = False

    def __init__(self, keys: Sequence[bytes]) -> None:
        """Read the keys.

        Raises:
            UnusableKey: one is not a public key.
        """
        self._verifiers = [self.verifier(key) for key in keys]

    @staticmethod
    @abstractmethod
    def verifier(key: bytes) -> Callable[[bytes, bytes], None]:
        """Return a function of signature and content that raises `InvalidSignature`."""

    @abstractmethod
    def public_of(self, secret: bytes) -> bytes:
        """Return the public key of a secret, as `verifier` reads it."""

    def proven(self, contents: Iterable[bytes], signatures: Sequence[bytes]) -> bytes | None:
        """See `Keys.proven`."""
        for content in contents:
            for verify in self._verifiers:
                for signature in signatures:
                    try:
                        verify(signature, content)
                    except InvalidSignature:
                        continue
                    return content
        return None

    def fits(self, signature: bytes) -> bool:
        """See `Keys.fits`."""
        return len(signature) >= _PAIR_BYTES


class Ed25519Keys(PairKeys):
    """Public keys of 32 bytes, https://www.rfc-editor.org/rfc/rfc8032."""

    @staticmethod
    def verifier(key: bytes) -> Callable[[bytes, bytes], None]:
        """See `PairKeys.verifier`; weak points are refused."""
        if len(key) != _ED25519_BYTES:
            raise UnusableKey(
                f"hold a key of {len(key)} bytes, and a public key of Ed25519 has {_ED25519_BYTES}"
            )
        public = Ed25519PublicKey.from_public_bytes(key)
        _require_sound(key)
        return public.verify

    def sign(self, secret: bytes, content: bytes) -> bytes:
        """See `Keys.sign`."""
        return Ed25519PrivateKey.from_private_bytes(secret).sign(content)

    def new_secret(self) -> bytes:
        """See `Keys.new_secret`."""
        return Ed25519PrivateKey.generate().private_bytes_raw()

    def public_of(self, secret: bytes) -> bytes:
        """See `PairKeys.public_of`."""
        return Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def _require_sound(key: bytes) -> None:
    """Refuse points that the library accepts: of small order, because one signature is then valid
    for many contents, and non-canonical encodings, on which libraries disagree.
    """
    y = int.from_bytes(key, "little") & (2**255 - 1)
    if y >= _FIELD:
        raise UnusableKey("hold a key that is no canonical point of Ed25519")
    if y in _OF_SMALL_ORDER:
        raise UnusableKey("hold a key of small order, under which anybody can sign")
    above, below = y * y - 1, _CURVE * y * y + 1
    if pow(above * below, (_FIELD - 1) // 2, _FIELD) != 1:
        raise UnusableKey("hold a key that is no point of Ed25519")


class EcdsaKeys(PairKeys):
    """Public keys on P-256 in DER or PEM; signatures in DER, over SHA-256."""

    @staticmethod
    def verifier(key: bytes) -> Callable[[bytes, bytes], None]:
        """See `PairKeys.verifier`."""
        load = load_pem_public_key if key.startswith(PEM) else load_der_public_key
        try:
            public: Any = load(key)
        except (ValueError, UnsupportedAlgorithm):
            raise UnusableKey("hold what cannot be read as a public key") from None
        if not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.name != "secp256r1":
            raise UnusableKey("hold what is no public key of an ECDSA pair on P-256")
        return lambda signature, content: public.verify(signature, content, _ECDSA)

    def sign(self, secret: bytes, content: bytes) -> bytes:
        """See `Keys.sign`."""
        return _private(secret).sign(content, _ECDSA)

    def new_secret(self) -> bytes:
        """See `Keys.new_secret`."""
        value = ec.generate_private_key(ec.SECP256R1()).private_numbers().private_value
        return value.to_bytes(_SCALAR_BYTES, "big")

    def public_of(self, secret: bytes) -> bytes:
        """See `PairKeys.public_of`."""
        public = _private(secret).public_key()
        return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _private(secret: bytes) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(secret, "big"), ec.SECP256R1())
