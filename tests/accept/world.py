"""The whole world of a test of the receiving stage: a receiver on a free port, a channel whose
signature is a word, and an inbox in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import orjson
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestClient

from berinia_webhookd.accept.application import Receiver
from berinia_webhookd.accept.body import BodyBudget
from berinia_webhookd.accept.loopback_guard import LoopbackGuard
from berinia_webhookd.accept.request_context import Endpoint
from berinia_webhookd.channels.contract import Answer, Channel, Replies, SignedRequest
from berinia_webhookd.channels.provider import Provider, SecretSetting
from berinia_webhookd.config.channel_settings import ChannelSettings
from berinia_webhookd.config.settings import RateLimitSettings, ServerSettings
from berinia_webhookd.errors import (
    AccountRefused,
    AddressRefused,
    ChannelNotConfigured,
    JournalUnavailable,
    MalformedDelivery,
    SignatureInvalid,
    Unauthorized,
)
from berinia_webhookd.http_request import CALLER
from berinia_webhookd.journal.contract import ReplayedSignature, Reply
from berinia_webhookd.loopback_lock import LoopbackLock
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import (
    AgentName,
    ChannelName,
    Conversation,
    Decoded,
    Event,
    EventId,
    EventKind,
    EventMark,
    PauseRequest,
    RawDelivery,
    Receipt,
    Receipts,
    VerifiedDelivery,
)
from berinia_webhookd.own_requests import InstallationKey

KEY = InstallationKey(b"k" * 32)
SMS_PATH = "/webhook/sms-response"
CHAT_PATH = "/webhook/whatsapp"
FORM = "application/x-www-form-urlencoded"
GOOD = {"Content-Type": FORM, "X-Test-Signature": "good"}
AGENT = AgentName("TestAgent")


class FakeChannel(Channel):
    """Form posts; the proof is `X-Test-Signature: good`, the identity the field `id`."""

    kind = "fake"
    provider = Provider(
        name="Fake",
        console="Fake's console",
        secret=SecretSetting("secret", "nowhere"),
        text_field="text",
        sample="a message",
        retries="Fake does not send again",
    )
    media_types = frozenset({FORM})

    def __init__(
        self,
        name: str,
        path: str,
        *,
        replies: Replies | None = None,
        skip: tuple[EventMark, ...] = (),
        receipts_hint: str | None = None,
    ) -> None:
        super().__init__(
            ChannelSettings(
                name=ChannelName(name),
                kind=self.kind,
                enabled=True,
                path=path,
                max_body_bytes=1000,
                retry_schedule_seconds=None,
                agent=AGENT,
                ack_timeout_seconds=None,
                skip=skip,
                block=(),
                country=None,
                opt_out_words=None,
                later_status=503,
                unproven_status=403,
            )
        )
        self.replies = replies
        self.receipts_hint = receipts_hint
        self.configured = True
        self.diagnoses = 0
        self.answer_status = 200
        self.seen: list[RawDelivery] = []

    def require_secret(self) -> None:
        if not self.configured:
            raise ChannelNotConfigured(f"The channel {self.name} has no secret.")

    def verify(self, delivery: RawDelivery) -> VerifiedDelivery:
        self.seen.append(delivery)
        signature = delivery.headers.get("x-test-signature")
        if signature == "elsewhere":
            raise AddressRefused("This address is not allowed.")
        if signature != "good":
            raise SignatureInvalid("does not match")
        return self._verified(delivery)

    def resembles_provider(self, delivery: RawDelivery) -> bool:
        return "x-test-signature" in delivery.headers

    def read(self, delivery: VerifiedDelivery) -> Decoded:
        fields = dict(parse_qsl(delivery.body.decode("utf-8", "replace"), keep_blank_values=True))
        if "id" not in fields:
            raise MalformedDelivery("A field is missing.", missing=("id",))
        if fields.get("account") == "foreign":
            raise AccountRefused("Not our account.")
        event = Event(
            channel=self.name,
            agent=AGENT,
            conversation=Conversation(self.name, "a", "b"),
            digest=fields["id"].encode(),
            received_at=delivery.received_at,
            sender="a",
            recipient="b",
            body=fields.get("text", ""),
            kind=EventKind(fields.get("kind", "message")),
            status=fields.get("status"),
        )
        return Decoded((event,))

    def answer(self, receipts: Receipts) -> Answer:
        if self.replies and receipts:
            body = orjson.dumps({"status": "accepted", "event_id": receipts[0].event_id})
            return Answer(202, "application/json", body)
        return Answer(self.answer_status, "text/xml", b"<Response/>")

    def diagnose(self, delivery: RawDelivery) -> str | None:
        self.diagnoses += 1
        return "try https"

    def sign(
        self, fields: Mapping[str, str], *, base_url: str, now: datetime, valid: bool = True
    ) -> SignedRequest:
        signature = "good" if valid else "bad"
        return SignedRequest(
            path=self.path,
            headers={"Content-Type": FORM, "X-Test-Signature": signature},
            body=urlencode(fields).encode(),
        )


class Inbox:
    """The receiving side of a journal, in lists. It notes who asks for a commit and who stops
    waiting; a test may hold commits back, let them fail, and be the agent.
    """

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.gate = asyncio.Event()  # cleared: commits are held back
        self.gate.set()
        self.rejected: list[tuple[VerifiedDelivery, Mapping[str, object]]] = []
        self.stopped: list[tuple[EventId, bool]] = []
        self.last_chance: Reply | None = None  # what the agent says at the last moment
        self.arrivals = 0
        self.arrived = asyncio.Condition()
        self.waited_for = asyncio.Event()
        self.told = asyncio.Event()
        self._receipts: dict[bytes, Receipt] = {}
        self._replies: dict[EventId, asyncio.Future[Reply | None]] = {}

    @property
    def committed(self) -> list[bytes]:
        """The digests of what was accepted."""
        return list(self._receipts)

    async def accept(
        self, delivery: VerifiedDelivery, decoded: Decoded, *, wait_seconds: float | None = None
    ) -> Receipts:
        async with self.arrived:
            self.arrivals += 1
            self.arrived.notify_all()
        await self._commit()
        return tuple(map(self._accept, decoded.events))

    def _accept(self, event: Event) -> Receipt:
        if (known := self._receipts.get(event.digest)) is not None:
            return known._replace(duplicate=True)
        id_ = EventId(f"event-{len(self._receipts)}")
        self._replies[id_] = asyncio.get_running_loop().create_future()
        receipt = Receipt(id_, event.agent, duplicate=False, skipped=event.skipped)
        self._receipts[event.digest] = receipt
        return receipt

    async def reject(self, delivery: VerifiedDelivery, reason: Mapping[str, object]) -> None:
        await self._commit()
        if delivery.body not in (one.body for one, _ in self.rejected):
            self.rejected.append((delivery, reason))

    async def pause(self, requests: Sequence[PauseRequest]) -> int:
        await self._commit()
        return len(requests)

    async def pending(self, count: int) -> None:
        """Wait until so many have asked for a commit."""
        async with self.arrived:
            await self.arrived.wait_for(lambda: self.arrivals >= count)

    async def wait_for_reply(self, event_id: EventId, seconds: float) -> Reply | None:
        self.waited_for.set()
        if self.last_chance is not None:
            return None
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(asyncio.shield(self._replies[event_id]), seconds)
        return None

    async def stop_waiting(self, event_id: EventId, *, hung_up: bool) -> Reply | None:
        self.stopped.append((event_id, hung_up))
        self.told.set()
        return self.last_chance

    def reply(self, event_id: str, text: str | None, *, failed: bool = False) -> None:
        """Let the agent answer, or end without a word."""
        self._replies[EventId(event_id)].set_result(None if text is None else Reply(text, failed))

    async def _commit(self) -> None:
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure


async def _locked_page(request: web.Request) -> web.StreamResponse:
    if request.headers.get("Authorization") != "open":
        raise Unauthorized("The password is missing or wrong.")
    return web.json_response({"client": str(request[CALLER].client)})


async def _open_page(_: web.Request) -> web.StreamResponse:
    return web.json_response({"status": "ok"})


async def _broken_page(_: web.Request) -> web.StreamResponse:
    raise RuntimeError("the secret of the house")


PAGES = {
    "/": Endpoint(_open_page, "other", limited=True),
    "/health": Endpoint(_open_page, "health"),
    "/webhook/logs": Endpoint(_locked_page, "logs", limited=True),
    "/broken": Endpoint(_broken_page, "other"),
}
SERVER = ServerSettings(
    host="127.0.0.1",
    port=0,
    uds=None,
    public_url=(),
    metrics_allowed_ips=(),
    shutdown_grace_seconds=0,
    trusted_proxies=(ip_network("127.0.0.1"), ip_network("::1")),
    max_connections=50,
    max_body_bytes_in_flight=1_000_000,
    ack_timeout_seconds=5,
    body_timeout_seconds=5,
)
RATE_LIMIT = RateLimitSettings(100, 60, 1000)


class World:
    """A receiver that listens on a free port, or whose application a test client serves."""

    def __init__(self) -> None:
        self.sms = FakeChannel("sms", SMS_PATH)
        self.chat = FakeChannel("whatsapp", CHAT_PATH, replies=Replies(5))
        self.inbox = Inbox()
        self.metrics = Metrics()
        self.state = tempfile.TemporaryDirectory()
        self.guard = LoopbackGuard(
            SERVER, (), lock=LoopbackLock(Path(self.state.name)), key=KEY, metrics=self.metrics
        )
        self.receiver = Receiver(
            SERVER,
            RATE_LIMIT,
            inbox=self.inbox,
            metrics=self.metrics,
            channels=(self.sms, self.chat),
            pages=PAGES,
            key=KEY,
            guard=self.guard,
            runtime=Path(self.state.name),
            shutdown_seconds=0.2,
        )
        self.receiver.http.head_timeout_seconds = 5.0
        self.receiver.http.keep_alive_seconds = 5.0
        self._client: ClientSession | TestClient[web.Request, web.Application] | None = None
        self.port = 0

    def have(self, *channels: Channel) -> None:
        """Receive on these channels instead."""
        self.receiver.reconfigure(SERVER, RATE_LIMIT, channels=channels)

    @property
    def budget(self) -> BodyBudget:
        """The memory for bodies."""
        return self.receiver.signature_check.budget

    async def start(self) -> None:
        """Listen on a free port."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
        self.port = listener.getsockname()[1]
        await self.receiver.start([listener])
        self._client = ClientSession(f"http://127.0.0.1:{self.port}")

    def served_by(self, client: TestClient[web.Request, web.Application]) -> None:
        """Have this client serve the application; it has a port and connections of its own."""
        self._client = client

    async def shut(self) -> None:
        """Stop listening, and let requests finish."""
        await self.receiver.http.stop()

    async def stop(self) -> None:
        """Stop as the daemon does."""
        self.inbox.gate.set()
        if self._client is not None:
            await self._client.close()
        await self.receiver.stop()
        self.state.cleanup()

    @property
    def client(self) -> ClientSession | TestClient[web.Request, web.Application]:
        """A client of this receiver."""
        assert self._client is not None
        return self._client

    def wait_for_no_reply(self) -> None:
        """Have the chat's requests answered right after the commit."""
        self.wait_for_replies(0)

    def wait_for_replies(self, seconds: float) -> None:
        """Have the chat's requests wait so long."""
        self.chat.replies = Replies(seconds)

    async def post(
        self,
        body: bytes = b"id=1",
        path: str = SMS_PATH,
        headers: Mapping[str, str] = GOOD,
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Status, body (JSON decoded), headers."""
        async with self.client.post(path, data=body, headers=headers) as response:
            raw = await response.read()
            is_json = response.headers["Content-Type"].endswith("json")
            return response.status, orjson.loads(raw) if is_json else raw, response.headers

    async def get(
        self, path: str, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any, Mapping[str, str]]:
        """Status, JSON, headers."""
        async with self.client.get(path, headers=headers) as response:
            return response.status, orjson.loads(await response.read()), response.headers

    async def raw(self, data: bytes, *, then_close: bool = False) -> bytes:
        """All that comes back on a connection of its own, until the server closes it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            await writer.drain()
            if then_close:
                return b""
            async with asyncio.timeout(90):
                return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()

    def count(self, metric: str, **labels: str) -> float:
        """The value of one of our counters."""
        value = self.metrics.registry.get_sample_value(f"berinia_webhookd_{metric}", labels)
        return 0.0 if value is None else value


__all__ = ["JournalUnavailable", "ReplayedSignature", "World"]
