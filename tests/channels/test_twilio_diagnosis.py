"""A failed Twilio signature is explained by the mistake that would have let it pass."""

from __future__ import annotations

import pytest

from berinia_webhookd.channels.twilio import TwilioChannel
from berinia_webhookd.errors import SignatureInvalid
from berinia_webhookd.model import RawDelivery

from .deliveries import (
    PUBLIC_URL,
    SMS_FIELDS,
    SMS_PATH,
    TOKEN,
    caller,
    signed_sms,
    sms_channel,
)


def diagnosis(channel: TwilioChannel, delivery: RawDelivery) -> str:
    """What is said about a request that is refused."""
    with pytest.raises(SignatureInvalid):
        channel.verify(delivery)
    text = channel.diagnose(delivery)
    assert text is not None
    assert "\n" not in text
    assert delivery.headers["X-Twilio-Signature"] not in text
    assert SMS_FIELDS["From"] not in text
    return text


def test_missing_scheme() -> None:
    """Nginx speaks http to us and does not say that Twilio spoke https."""
    text = diagnosis(sms_channel(), signed_sms(who=caller(scheme="http")))
    assert f"signed for {PUBLIC_URL}{SMS_PATH}" in text
    assert "proxy_set_header X-Forwarded-Proto $scheme;" in text
    assert "server.public_url" in text


def test_untrusted_proxy() -> None:
    """The headers are there, but their sender is not believed."""
    who = caller(scheme="http", peer="10.0.0.7", peer_trusted=False)
    text = diagnosis(sms_channel(), signed_sms(who=who))
    assert "10.0.0.7" in text
    assert "server.trusted_proxies" in text


def test_hidden_host() -> None:
    """Nginx passes its own idea of the host, and the real one in a header that is not used."""
    delivery = signed_sms(
        who=caller(scheme="http", host="127.0.0.1:8001"),
        headers={"X-Forwarded-Host": "app.example.com"},
    )
    text = diagnosis(sms_channel(), delivery)
    assert "proxy_set_header Host $http_host;" in text
    assert PUBLIC_URL in text


def test_a_tunnel_that_rewrites_the_host() -> None:
    """The URL outside is advised, without the port of the host inside."""
    delivery = signed_sms(
        who=caller(scheme="http", host="localhost:8391"),
        headers={"X-Forwarded-Host": "app.example.com"},
    )
    text = diagnosis(sms_channel(), delivery)
    assert f'server.public_url = "{PUBLIC_URL}"' in text
    assert "8391" not in text


def test_lost_port() -> None:
    """`Host $host` drops a port that Twilio called."""
    delivery = signed_sms(url=f"{PUBLIC_URL}:8443{SMS_PATH}", headers={"X-Forwarded-Port": "8443"})
    text = diagnosis(sms_channel(), delivery)
    assert f"{PUBLIC_URL}:8443" in text
    assert "$http_host" in text


def test_nothing_passed_on() -> None:
    """Where nothing tells which URL was called, the lines that would are named."""
    who = caller(scheme="http", host="127.0.0.1:8001", forwarded=False)
    text = diagnosis(sms_channel(), signed_sms(who=who))
    assert "proxy_set_header Host $http_host;" in text
    assert "proxy_set_header X-Forwarded-Proto $scheme;" in text


@pytest.mark.parametrize(("called", "arrives"), [("/", ""), ("", "/")])
def test_trailing_slash(called: str, arrives: str) -> None:
    """A slash that was added or removed on the way."""
    delivery = signed_sms(
        url=f"{PUBLIC_URL}{SMS_PATH}{called}?a=1", target=f"{SMS_PATH}{arrives}?a=1"
    )
    text = diagnosis(sms_channel(), delivery)
    assert f"console has {SMS_PATH}{called}, but {SMS_PATH}{arrives} arrives" in text


def test_cut_prefix() -> None:
    """Nginx replaced the path."""
    delivery = signed_sms(
        url=f"{PUBLIC_URL}/hooks{SMS_PATH}", headers={"X-Forwarded-Prefix": "/hooks"}
    )
    assert "proxy_pass" in diagnosis(sms_channel(), delivery)


@pytest.mark.parametrize(
    "body",
    [
        "Oui ",
        " Oui",
        "Oui\n",
        " hello ",
        "hello  ",
        "  hello",
        " hello\n",
        "  Été + 100 % & « 🙂 »  ",
    ],
)
def test_trimmed_white_space(body: str) -> None:
    """Something took the blanks off the message, at one end or both."""
    fields = {**SMS_FIELDS, "Body": body}
    sent = [*{**fields, "Body": body.strip()}.items()]
    text = diagnosis(sms_channel(), signed_sms(fields, sent=sent))
    assert "white space" in text
    assert "trimmed" in text


def test_added_white_space() -> None:
    """Something added a line end to the body."""
    sent = [*{**SMS_FIELDS, "ToCountry": "FR\r\n", "To": "+33639980000"}.items()]
    fields = {**SMS_FIELDS, "ToCountry": "FR"}
    assert "added" in diagnosis(sms_channel(), signed_sms(fields, sent=sent))


def test_wrong_public_url() -> None:
    """The configured URL is not the one Twilio calls, and hides the right one."""
    channel = sms_channel(public_urls=["https://old.example.com"])
    assert f'server.public_url = "{PUBLIC_URL}"' in diagnosis(channel, signed_sms())
    channel = sms_channel(public_urls=["http://app.example.com"])
    who = caller(host="127.0.0.1:8001")
    assert f'server.public_url = "{PUBLIC_URL}"' in diagnosis(channel, signed_sms(who=who))


def test_token_in_quotes() -> None:
    """A token that was pasted with its quotes."""
    channel = sms_channel(tokens=[f'"{TOKEN}" '])
    text = diagnosis(channel, signed_sms())
    assert "channels.sms.tokens" in text
    assert TOKEN not in text


def test_two_mistakes_at_once() -> None:
    """Both are named."""
    delivery = signed_sms(url=f"{PUBLIC_URL}{SMS_PATH}/", who=caller(scheme="http"))
    text = diagnosis(sms_channel(), delivery)
    assert "X-Forwarded-Proto" in text
    assert "console has" in text


def test_no_idea() -> None:
    """Another token is no mistake that could be guessed, and other shapes are no signatures."""
    assert sms_channel().diagnose(signed_sms(token="e" * 32)) is None
    odd = signed_sms(who=caller(scheme="http"), headers={"X-Twilio-Signature": "odd"})
    assert sms_channel().diagnose(odd) is None
    long = signed_sms({**SMS_FIELDS, "Body": "x" * 70_000}, who=caller(scheme="http"))
    assert sms_channel().diagnose(long) is None
