"""Each official library that signs or checks agrees with us on fresh requests, true and forged. Not
part of `make test`: the libraries are many, and none of them is needed to run the daemon.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode

import jwt
import pytest
import standardwebhooks
import stripe
import svix
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from messagebird.request_validator import RequestValidator as MessageBirdValidator
from plivo.utils import validate_signature as plivo_validates
from sendgrid.helpers.eventwebhook import EventWebhook
from slack_sdk.signature import SignatureVerifier
from telnyx import Telnyx
from telnyx.lib.webhooks_ed25519 import verify_ed25519
from twilio.request_validator import RequestValidator as TwilioValidator

from berinia_webhookd.channels.declared import presets
from berinia_webhookd.channels.declared.channel import DeclaredChannel
from berinia_webhookd.errors import DeliveryRejected
from tests.channels.declared.declarations import settings_from
from tests.channels.declared.test_vectors import request_of

URL: Final = "https://hooks.example.com/x?a=1"
JSON: Final = json.dumps(
    {"id": secrets.token_hex(8), "text": "Oui, d'accord ✔"}, ensure_ascii=False
)
ED25519: Final = ed25519.Ed25519PrivateKey.generate()
P256: Final = ec.generate_private_key(ec.SECP256R1())
P256_PUBLIC: Final = base64.b64encode(
    P256.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
).decode()
TEXT: Final = secrets.token_hex(16)
WHSEC: Final = "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()
Headers = Mapping[str, str]


@dataclass(frozen=True)
class Library:
    """How a provider's request is signed, and what its own library says of one."""

    declaration: Mapping[str, Any]
    secret: str
    sign: Callable[[str, str, int], Headers]  # of body, URL and time
    takes: Callable[[str, str, Headers], bool]  # a body, a URL and headers
    body: str = JSON
    url: str = URL
    dated: int | None = 300  # seconds that a signature is good for; None: for ever


def raises_nothing(check: Callable[..., object], *arguments: Any, **more: Any) -> bool:
    """What the libraries raise is as manifold as they are."""
    try:
        check(*arguments, **more)
    except Exception:  # noqa: BLE001
        return False
    return True


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def standard(prefix: str, library: Any) -> Library:
    """Standard Webhooks, which both of its libraries sign and check."""

    def sign(body: str, _url: str, at: int) -> Headers:
        id_ = f"msg_{secrets.token_hex(8)}"
        signature = library(WHSEC).sign(id_, datetime.fromtimestamp(at, UTC), body)
        return dict(
            zip(
                [f"{prefix}{one}" for one in ("id", "timestamp", "signature")],
                [id_, str(at), signature],
                strict=True,
            )
        )

    def takes(body: str, _url: str, headers: Headers) -> bool:
        return raises_nothing(library(WHSEC).verify, body.encode(), dict(headers))

    return Library({"preset": "standard-webhooks"}, WHSEC, sign, takes)


def sign_stripe(body: str, _url: str, at: int) -> Headers:
    return {"Stripe-Signature": stripe.WebhookSignature.generate_signature_header(body, TEXT, at)}


def stripe_takes(body: str, _url: str, headers: Headers) -> bool:
    check = stripe.WebhookSignature.verify_header
    return raises_nothing(check, body, headers["Stripe-Signature"], TEXT, tolerance=300)


def sign_slack(body: str, _url: str, at: int) -> Headers:
    signature = SignatureVerifier(TEXT).generate_signature(timestamp=str(at), body=body)
    return {"X-Slack-Request-Timestamp": str(at), "X-Slack-Signature": str(signature)}


def slack_takes(body: str, _url: str, headers: Headers) -> bool:
    try:
        return bool(SignatureVerifier(TEXT).is_valid_request(body, dict(headers)))
    except ValueError:  # a time that is none
        return False


def sign_telnyx(body: str, _url: str, at: int) -> Headers:
    signature = base64.b64encode(ED25519.sign(f"{at}|{body}".encode())).decode()
    return {"Telnyx-Timestamp": str(at), "Telnyx-Signature-Ed25519": signature}


ED25519_PUBLIC: Final = base64.b64encode(
    ED25519.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
).decode()


def telnyx_takes(body: str, _url: str, headers: Headers) -> bool:
    client = Telnyx(api_key="unused", public_key=ED25519_PUBLIC)
    lowered = {name.lower(): value for name, value in headers.items()}
    return raises_nothing(verify_ed25519, client, body, lowered)


def sign_messagebird(body: str, url: str, at: int) -> Headers:
    claims = {
        "iss": "MessageBird",
        "nbf": at,
        "exp": at + 60,
        "jti": secrets.token_hex(8),
        "url_hash": sha256(url),
        "payload_hash": sha256(body),
    }
    return {"MessageBird-Signature-JWT": jwt.encode(claims, TEXT, "HS256")}


def messagebird_takes(body: str, url: str, headers: Headers) -> bool:
    check = MessageBirdValidator(TEXT).validate_signature
    return raises_nothing(check, headers["MessageBird-Signature-JWT"], url, body.encode())


def sign_sendgrid(body: str, _url: str, at: int) -> Headers:
    signature = P256.sign(f"{at}{body}".encode(), ec.ECDSA(SHA256()))
    prefix = "X-Twilio-Email-Event-Webhook-"
    return {
        f"{prefix}Signature": base64.b64encode(signature).decode(),
        f"{prefix}Timestamp": str(at),
    }


def sendgrid_takes(body: str, _url: str, headers: Headers) -> bool:
    signature, at = headers.values()
    try:
        return bool(EventWebhook(P256_PUBLIC).verify_signature(body, signature, at))
    except ValueError:
        return False


FORM: Final = {"MessageSid": "SM" + "a" * 32, "MessageStatus": "sent", "To": "+33639980001"}


def fields_of(body: str) -> dict[str, str]:
    return dict(pair.split("=") for pair in body.replace("%2B", "+").split("&"))


def sign_twilio(body: str, url: str, _at: int) -> Headers:
    signature = TwilioValidator(TEXT).compute_signature(url, fields_of(body))
    return {"X-Twilio-Signature": str(signature)}


def twilio_takes(body: str, url: str, headers: Headers) -> bool:
    signature = headers["X-Twilio-Signature"]
    return bool(TwilioValidator(TEXT).validate(url, fields_of(body), signature))


def with_digest(body: str) -> str:
    return f"{URL}&bodySHA256={sha256(body)}"


def sign_twilio_json(_body: str, url: str, _at: int) -> Headers:
    return {"X-Twilio-Signature": str(TwilioValidator(TEXT).compute_signature(url, {}))}


def twilio_takes_json(body: str, url: str, headers: Headers) -> bool:
    return bool(TwilioValidator(TEXT).validate(url, body, headers["X-Twilio-Signature"]))


PLIVO: Final = {  # its signature covers neither body nor query
    "verify": "hmac-sha256",
    "signature": "X-Plivo-Signature-V2: {base64}",
    "signed": "{url.bare}{header:X-Plivo-Signature-V2-Nonce}",
    "body_unsigned": True,
    "event": [{"id": "id"}],
}


def sign_plivo(_body: str, url: str, _at: int) -> Headers:
    nonce = secrets.token_hex(10)
    content = url.partition("?")[0] + nonce
    mac = hmac.new(TEXT.encode(), content.encode(), "sha256").digest()
    return {
        "X-Plivo-Signature-V2": base64.b64encode(mac).decode(),
        "X-Plivo-Signature-V2-Nonce": nonce,
    }


def plivo_takes(_body: str, url: str, headers: Headers) -> bool:
    signature, nonce = headers.values()
    return bool(plivo_validates(url, nonce, signature, TEXT))


LIBRARIES: Final = {
    "standardwebhooks": standard("webhook-", standardwebhooks.Webhook),
    "svix": standard("svix-", svix.Webhook),
    "stripe": Library({"preset": "stripe"}, TEXT, sign_stripe, stripe_takes),
    "slack_sdk": Library({"preset": "slack"}, TEXT, sign_slack, slack_takes),
    "telnyx": Library({"preset": "telnyx"}, ED25519_PUBLIC, sign_telnyx, telnyx_takes),
    "messagebird": Library(
        {"preset": "messagebird"}, TEXT, sign_messagebird, messagebird_takes, dated=60
    ),
    "sendgrid": Library(
        {"preset": "sendgrid-events"}, P256_PUBLIC, sign_sendgrid, sendgrid_takes, dated=None
    ),
    "twilio form": Library(
        {"preset": "twilio-status"},
        *(TEXT, sign_twilio, twilio_takes),
        body=urlencode(FORM),
        dated=None,
    ),
    "twilio JSON": Library(
        {"preset": "twilio-events"},
        *(TEXT, sign_twilio_json, twilio_takes_json),
        url=with_digest(JSON),
        dated=None,
    ),
    "plivo": Library(PLIVO, TEXT, sign_plivo, plivo_takes, dated=None),
}
BODY_UNSIGNED: Final = {"plivo"}


def taken_by_us(library: Library, body: str, url: str, headers: Headers) -> bool:
    """Whether our proof holds, now."""
    preset = library.declaration.get("preset")
    raw = {**presets.declaration(preset)} if preset else {**library.declaration}
    channel = DeclaredChannel(settings_from({**raw, "secrets": [library.secret]}))
    assert list(channel.settings.errors()) == []
    vector = {"url": url, "headers": dict(headers), "body": body, "method": "POST"}
    try:
        channel.verify(request_of({**vector, "now": time.time()}))
    except DeliveryRejected:
        return False
    return True


def both(library: Library, body: str, url: str, headers: Headers) -> tuple[bool, bool]:
    """Our word and the library's."""
    return taken_by_us(library, body, url, headers), library.takes(body, url, headers)


@pytest.mark.parametrize("name", LIBRARIES)
def test_what_is_signed_is_taken(name: str) -> None:
    """By both, also a little later than it was signed."""
    library = LIBRARIES[name]
    for age in (0, 30):
        headers = library.sign(library.body, library.url, int(time.time()) - age)
        assert both(library, library.body, library.url, headers) == (True, True)


@pytest.mark.parametrize("name", LIBRARIES)
def test_what_is_forged_is_refused(name: str) -> None:
    """By both: another body, another URL where that is signed, each header changed or emptied."""
    library = LIBRARIES[name]
    headers = library.sign(library.body, library.url, int(time.time()))
    refused = (False, False)
    altered = library.body.replace("a", "b", 1).replace("Oui", "Non")
    expected = (True, True) if name in BODY_UNSIGNED else refused
    assert both(library, altered, library.url, headers) == expected
    for header, value in headers.items():
        for other in (value[:-6] + value[:-7:-1], "", "x"):
            if other != value:
                forged = {**headers, header: other}
                assert both(library, library.body, library.url, forged) == refused, (header, other)


@pytest.mark.parametrize("name", [one for one in LIBRARIES if LIBRARIES[one].dated])
def test_what_is_old_is_refused(name: str) -> None:
    """By both."""
    library = LIBRARIES[name]
    assert library.dated is not None
    headers = library.sign(library.body, library.url, int(time.time()) - library.dated - 30)
    assert both(library, library.body, library.url, headers) == (False, False)


@pytest.mark.parametrize("name", ["messagebird", "twilio form", "twilio JSON", "plivo"])
def test_a_request_for_another_url_is_refused(name: str) -> None:
    """By both, where the URL is signed."""
    library = LIBRARIES[name]
    headers = library.sign(library.body, library.url, int(time.time()))
    elsewhere = library.url.replace("/x?", "/y?")
    assert both(library, library.body, elsewhere, headers) == (False, False)


OURS: Final = sorted(LIBRARIES.keys() - {"telnyx", "sendgrid", "plivo"})


@pytest.mark.parametrize("name", OURS)
def test_our_samples_are_taken(name: str) -> None:
    """What `send` signs, the provider's library takes, too, where the key is ours."""
    library = LIBRARIES[name]
    declaration = presets.declaration(library.declaration["preset"])
    channel = DeclaredChannel(settings_from({**declaration, "secrets": [library.secret]}))
    sample = channel.sign({}, base_url="https://hooks.example.com", now=datetime.now(UTC))
    url = "https://hooks.example.com" + sample.path
    assert library.takes(sample.body.decode(), url, sample.headers)
