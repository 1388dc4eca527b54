"""The receiver with the channels it is built for: signed samples, forged ones, and garbage."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any

import orjson
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from berinia_webhookd.channels.contract import Channel, Replies
from berinia_webhookd.channels.mailgun import MailgunChannel
from berinia_webhookd.channels.settings import MailgunSettings, TwilioSettings, WhatsAppSettings
from berinia_webhookd.channels.twilio import TwilioChannel
from berinia_webhookd.channels.whatsapp import WhatsAppChannel
from tests.channels.deliveries import secrets_of, settings_for

from .world import AGENT, World

BOTS = [ip_network("127.0.0.1"), ip_network("::1"), ip_network("198.51.100.7")]
MULTIPART = "multipart/form-data; boundary=x"
FORM = "application/x-www-form-urlencoded"


def real_channels() -> dict[str, Channel]:
    """All three, by path."""
    few = {"agent": AGENT, "max_body_bytes": 5000}
    channels: list[Channel] = [
        TwilioChannel(settings_for(TwilioSettings, tokens=secrets_of(["0" * 32]), **few)),
        MailgunChannel(settings_for(MailgunSettings, signing_keys=secrets_of(["key-1"]), **few)),
        WhatsAppChannel(
            settings_for(
                WhatsAppSettings, allowed_ips=BOTS, groups={}, reply_wait_seconds=0.0, **few
            )
        ),
    ]
    return {channel.path: channel for channel in channels}


CHANNELS = real_channels()


@pytest.fixture
async def real(quiet_world: World) -> World:
    """A running receiver with the real channels."""
    quiet_world.have(*CHANNELS.values())
    await quiet_world.start()
    return quiet_world


async def send(
    world: World,
    path: str,
    base_url: str,
    headers: Mapping[str, str] | None = None,
    *,
    valid: bool = True,
) -> tuple[int, Any]:
    """Status and body of a sample that its provider would send to `base_url`."""
    sample = CHANNELS[path].sign({}, base_url=base_url, now=datetime.now(UTC), valid=valid)
    status, body, _ = await world.post(
        sample.body, sample.path, {**sample.headers, **(headers or {})}
    )
    return status, body


PATHS = pytest.mark.parametrize("path", sorted(CHANNELS))


@PATHS
async def test_a_signed_sample_is_accepted(real: World, path: str) -> None:
    """Each channel's own sample passes, called directly."""
    status, _ = await send(real, path, f"http://127.0.0.1:{real.port}")
    assert status == (202 if "whatsapp" in path else 200)
    assert len(real.inbox.committed) == 1


@PATHS
async def test_a_forged_sample_is_refused(real: World, path: str) -> None:
    """403, and nothing is stored, not even as rejected."""
    status, _ = await send(real, path, f"http://127.0.0.1:{real.port}", valid=False)
    assert status == 403
    assert not real.inbox.committed
    assert not real.inbox.rejected


async def test_a_proxy_says_which_url_twilio_called(real: World) -> None:
    """Scheme and host of the signature are those the trusted proxy passes on."""
    forwarded = {
        "Host": "app.example.com",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-For": "203.0.113.9",
    }
    path = "/webhook/sms-response"
    assert (await send(real, path, "https://app.example.com", forwarded))[0] == 200
    assert (await send(real, path, "https://other.example.com", forwarded))[0] == 403
    lying = {**forwarded, "X-Forwarded-Host": "other.example.com"}
    assert (await send(real, path, "https://other.example.com", lying))[0] == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "203.0.113.9"},
        {"X-Forwarded-For": "127.0.0.1, 203.0.113.9"},
        {"X-Forwarded-For": "127.0.0.1"},
        {"X-Forwarded-For": "::1, ::ffff:127.0.0.1"},
        {"X-Forwarded-For": "junk"},
        {"X-Forwarded-For": ""},
        {"X-Real-IP": "127.0.0.1"},
        {"Forwarded": "for=127.0.0.1"},
        {"Via": "1.1 nginx"},
        {"X-Forwarded-Proto": "https"},
        {"Host": "app.example.com"},
    ],
)
async def test_nobody_passes_for_the_bot_through_the_proxy(
    real: World, headers: dict[str, str]
) -> None:
    """A request that came from elsewhere is not from this machine, however nginx is set up."""
    status, _ = await send(real, "/webhook/whatsapp", "http://127.0.0.1", headers)
    assert status == 403
    assert not real.inbox.committed


async def test_the_bot_may_call_through_the_proxy_if_it_is_listed(real: World) -> None:
    """The forwarded client counts."""
    headers = {"X-Forwarded-For": "198.51.100.7", "Host": "app.example.com"}
    assert (await send(real, "/webhook/whatsapp", "http://127.0.0.1", headers))[0] == 202


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
NAMES = ["source", "type", "author", "content", "timestamp", "messageId", "group", "message"]
MESSAGES = st.fixed_dictionaries(
    {}, optional={name: JSON | st.text(max_size=3) for name in [*NAMES, "sender", "BeriniaProbe"]}
)
FIELDS = st.lists(
    st.tuples(
        st.sampled_from(["timestamp", "token", "signature", "From", "Body", "sender", "body-mime"]),
        st.text(max_size=8),
    ),
    max_size=8,
)


def multipart(fields: list[tuple[str, str]]) -> bytes:
    return b"".join(
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields
    )


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """One event loop for all the examples of a test."""
    with asyncio.Runner() as runner:
        yield runner


async def post_all(bodies: list[tuple[str, bytes]]) -> list[int]:
    """The status of each body at each channel's path; nothing may be logged as an error."""
    statuses = []
    with structlog.testing.capture_logs() as lines:
        world = World()
        world.have(*CHANNELS.values())
        world.chat.replies = Replies(wait_seconds=0)
        await world.start()
        for media_type, body in bodies:
            for path in CHANNELS:
                headers = {"Content-Type": media_type}
                statuses.append((await world.post(body, path, headers))[0])
        await world.stop()
    assert not [line for line in lines if line["log_level"] == "error"]
    return statuses


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(raw=st.binary(max_size=80), message=MESSAGES, document=JSON, fields=FIELDS)
def test_garbage_gives_no_500(
    runner: asyncio.Runner,
    raw: bytes,
    message: dict[str, Any],
    document: Any,
    fields: list[tuple[str, str]],
) -> None:
    """Bytes, forms and documents of any kind, to each channel."""

    def encoded(value: Any) -> bytes:
        return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)

    bodies = [
        ("application/json", raw),
        ("application/json", encoded(_bounded(message))),
        ("application/json", encoded(_bounded(document))),
        (FORM, raw),
        (MULTIPART, raw),
        (MULTIPART, multipart(fields) + b"--x--\r\n"),
        (MULTIPART, multipart(fields) + raw),
    ]
    assert set(runner.run(post_all(bodies))) <= {200, 202, 400, 403, 415, 429}


def _bounded(value: Any) -> Any:
    """The same with integers that JSON can carry here."""
    if isinstance(value, int) and not isinstance(value, bool):
        return max(-(2**63), min(value, 2**63 - 1))
    if isinstance(value, list):
        return [_bounded(item) for item in value]
    if isinstance(value, dict):
        return {key: _bounded(item) for key, item in value.items()}
    return value
