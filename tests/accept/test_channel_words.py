"""What a channel says of its provider: methods, a handshake, what an answer makes it do."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from berinia_webhookd.channels.contract import Answer
from berinia_webhookd.config.settings import RateLimitSettings
from berinia_webhookd.errors import JournalUnavailable, SignatureInvalid
from berinia_webhookd.model import Caller, RawDelivery

from .world import GOOD, SMS_PATH, FakeChannel, World

ASKED = f"{SMS_PATH}?challenge=42&token="


class Subscribed(FakeChannel):
    """Asked by a GET before anything is sent."""

    methods = frozenset({"GET", "POST"})

    def handshake(self, delivery: RawDelivery) -> Answer | None:
        if delivery.method != "GET" or "challenge=42" not in delivery.target:
            return None
        if not delivery.target.endswith("token=mine"):
            raise SignatureInvalid("The token is wrong.")
        return Answer(200, "text/plain", b"42")


@pytest.fixture
def subscribed(world: World) -> Subscribed:
    """The channel of SMS_PATH, asked before anything is sent."""
    channel = Subscribed("sms", SMS_PATH)
    world.have(channel)
    return channel


@pytest.mark.usefixtures("subscribed")
async def test_a_handshake_is_answered_and_not_journaled(world: World) -> None:
    """Counted, logged, and harmless to a browser."""
    async with world.client.get(ASKED + "mine") as response:
        assert (response.status, await response.read()) == (200, b"42")
        assert response.headers["Content-Type"] == "text/plain"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert world.count("handshakes_total", channel="sms") == 1
    assert not world.inbox.committed
    assert (await world.post())[0] == 200
    assert world.count("handshakes_total", channel="sms") == 1


@pytest.mark.usefixtures("subscribed")
async def test_who_asks_must_prove_itself(world: World) -> None:
    """403 for a wrong token, and for a GET that asks nothing and proves nothing."""
    for target in (ASKED + "guessed", SMS_PATH):
        async with world.client.get(target) as response:
            assert response.status == 403
    assert world.count("handshakes_total", channel="sms") == 0
    assert world.count("signature_failures_total", channel="sms") == 2


@pytest.mark.usefixtures("subscribed")
async def test_a_get_that_is_proved_is_taken(world: World) -> None:
    """It has no body, so no media type is asked of it."""
    async with world.client.get(SMS_PATH, headers={"X-Test-Signature": "good"}) as response:
        assert response.status == 400  # its fields are missing
    assert len(world.inbox.rejected) == 1


async def test_other_methods_are_named(world: World) -> None:
    """405 with `Allow`: POST alone, unless the channel has others."""
    async with world.client.get(SMS_PATH) as response:
        assert (response.status, response.headers["Allow"]) == (405, "POST")
    world.have(Subscribed("sms", SMS_PATH))
    for method in ("HEAD", "PUT"):
        async with world.client.request(method, SMS_PATH) as response:
            assert (response.status, response.headers["Allow"]) == (405, "GET, POST")


async def test_a_provider_hears_what_makes_it_come_again(world: World) -> None:
    """`later_status` in place of 503 and 429, `unproven_status` in place of 403."""
    world.sms.later_status, world.sms.unproven_status = 429, 401
    world.inbox.failure = JournalUnavailable("full")
    status, body, headers = await world.post()
    assert (status, body["status"], headers["Retry-After"]) == (429, 429, "10")
    assert (await world.post(headers={**GOOD, "X-Test-Signature": "bad"}))[0] == 401
    assert (await world.post(headers={**GOOD, "X-Test-Signature": "elsewhere"}))[0] == 401
    world.sms.configured = False
    assert (await world.post())[0] == 429
    world.sms.configured, world.sms.later_status = True, 503
    world.receiver.rate_limit.reconfigure(RateLimitSettings(100, 60, 1))
    world.inbox.failure = None
    assert [(await world.post())[0] for _ in range(2)] == [200, 429]


async def test_a_channel_has_a_deadline_of_its_own(world: World) -> None:
    """Below the server's, since the provider waits no longer; what is committed late is kept."""
    world.sms.ack_timeout_seconds = 0.01
    world.inbox.gate.clear()
    assert (await world.post())[0] == 503
    world.inbox.gate.set()
    await world.receiver.commits.close()
    assert len(world.inbox.committed) == 1


def test_a_delivery_keeps_its_target_and_the_headers_of_its_channel() -> None:
    """Those that the channel names, in lower case, and no others."""
    channel = Subscribed("sms", SMS_PATH)
    channel.kept_headers = frozenset({"x-event-time", "x-absent"})
    headers = {"x-test-signature": "good", "x-event-time": "noon", "authorization": "secret"}
    verified = channel.verify(
        RawDelivery(
            channel=channel.name,
            caller=Caller(None, None, "http", "", forwarded=False, peer_trusted=False),
            target=f"{SMS_PATH}?a=b",
            headers=headers,
            content_type="",
            content_type_header="",
            body=b"",
            received_at=datetime.now(UTC),
        )
    )
    assert verified.target == f"{SMS_PATH}?a=b"
    assert verified.headers == {"x-event-time": "noon"}
