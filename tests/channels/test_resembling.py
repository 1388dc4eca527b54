"""Which of the requests that are refused for their signature have all that only the provider's
have, and which anybody could have sent.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace

import pytest

from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.errors import SignatureInvalid
from berinia_webhookd.testing import a_raw_delivery

from .declared.declarations import NOW
from .declared.test_presets import NAMES, channel_of
from .deliveries import (
    ACCOUNT_SID,
    EMAIL,
    FORM,
    MAIL_FIELDS,
    SMS,
    SMS_FIELDS,
    arrived,
    email_channel,
    mailgun_signs,
    raw_delivery,
    signed_sms,
    sms_channel,
)
from .test_mailgun_proof import MULTIPART, form, multipart

OTHER_TOKEN = "f" * 32
OTHER_ACCOUNT = "AC" + "2c" * 16
SIGNED_BY_PROVIDERS = {"telnyx", "sendgrid-events"}  # of which we can make no sample


def test_twilio_with_another_token() -> None:
    """The signature has its shape, the account is one, or one of ours."""
    delivery = signed_sms(SMS_FIELDS, token=OTHER_TOKEN)
    with pytest.raises(SignatureInvalid):
        sms_channel().verify(delivery)
    assert sms_channel().resembles_provider(delivery)
    assert sms_channel(account_sids=(ACCOUNT_SID,)).resembles_provider(delivery)
    assert not sms_channel(account_sids=(OTHER_ACCOUNT,)).resembles_provider(delivery)


@pytest.mark.parametrize(
    ("signature", "account"),
    [
        (None, ACCOUNT_SID),
        ("", ACCOUNT_SID),
        ("forged", ACCOUNT_SID),
        ("A" * 28, ACCOUNT_SID),
        ("A" * 27 + "=", None),
        ("A" * 27 + "=", "AC123"),
        ("A" * 27 + "=", ACCOUNT_SID + "0"),
        ("A" * 27 + "=", ACCOUNT_SID.upper()),
    ],
)
def test_strangers_to_twilio(signature: str | None, account: str | None) -> None:
    """Without one of the two."""
    fields = {**SMS_FIELDS, "AccountSid": account or ""}
    delivery = signed_sms(fields)
    headers = {"Content-Type": FORM}
    if signature is not None:
        headers["X-Twilio-Signature"] = signature
    stranger = raw_delivery(SMS, delivery.body, headers=headers)
    assert not sms_channel().resembles_provider(stranger)


@pytest.mark.parametrize("content_type", [FORM, MULTIPART])
def test_mailgun_with_another_key(content_type: str) -> None:
    """Time stamp, token and signature, each in its shape; one that is missing or odd is enough."""
    build = form if content_type == FORM else multipart
    proof = mailgun_signs(key="another")

    def resembles(fields: dict[str, str]) -> bool:
        body = build([*MAIL_FIELDS.items(), *fields.items()])
        delivery = raw_delivery(EMAIL, body, headers={"Content-Type": content_type})
        return email_channel().resembles_provider(delivery)

    assert resembles(proof)
    for name in proof:
        assert not resembles({key: value for key, value in proof.items() if key != name})
        assert not resembles({**proof, name: "12"})


@pytest.mark.parametrize("name", NAMES)
def test_presets(name: str) -> None:
    """Whatever the secret, a sample has the declared shape; without any proof nothing has."""
    channel: Channel = channel_of(name)
    ours = name not in SIGNED_BY_PROVIDERS
    sample = channel.sign({}, base_url="https://app.example.com", now=NOW, valid=ours)
    if ours:
        assert channel.resembles_provider(arrived(channel.name, sample))
    bare = replace(
        sample, path=channel.path, headers={"Content-Type": "application/json"}, body=b"{}"
    )
    assert not channel.resembles_provider(arrived(channel.name, bare))


@pytest.mark.parametrize("length", [0, 20, 32, 64])
def test_a_key_pairs_signature_is_long(length: int) -> None:
    """Nobody but the provider makes one; what is as long may be one."""
    headers = {
        "telnyx-signature-ed25519": b64encode(bytes(length)).decode(),
        "telnyx-timestamp": str(int(NOW.timestamp())),
        "Content-Type": "application/json",
    }
    channel = channel_of("telnyx")
    delivery = a_raw_delivery(channel.name, b"{}", headers=headers, received_at=NOW)
    assert channel.resembles_provider(delivery) is (length == 64)
