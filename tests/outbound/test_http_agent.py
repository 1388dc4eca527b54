"""HTTP agents on real sockets: what they get, what their answers mean, what is never done."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from berinia_webhookd.model import (
    AgentName,
    Consent,
    ConsentState,
    Entry,
    OptOut,
    Outcome,
    OutcomeKind,
    Word,
)
from berinia_webhookd.outbound.contract import AgentUnavailable, NotBegun
from berinia_webhookd.outbound.http_agent import HttpAgents, retry_after_seconds

from .agent_world import agents_settings, make_entry

AGENT = AgentName("Remote")
SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"  # of the specification's examples
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC).timestamp()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Received:
    headers: dict[str, str]
    body: bytes
    peer: object


@dataclass
class Remote:
    """An HTTP agent that keeps what it received and does what a test says."""

    folder: Path
    url: str = ""
    handler: Handler | None = None
    received: list[Received] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        assert request.transport is not None
        peer = request.transport.get_extra_info("peername")
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.received.append(Received(headers, body, peer))
        return web.Response() if self.handler is None else await self.handler(request)

    def answers(self, status: int = 200, text: str = "", **headers: str) -> None:
        async def answer(_: web.Request) -> web.StreamResponse:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return web.Response(status=status, text=text, headers=named)

        self.handler = answer

    @asynccontextmanager
    async def agents(
        self, *, url: str | None = None, secret: str | None = SECRET
    ) -> AsyncIterator[HttpAgents]:
        lines = f'agents.{AGENT}.target = "{url or self.url}"\n'
        if secret is not None:
            lines += f'agents.{AGENT}.signing_secret = "{secret}"'
        agents = HttpAgents(agents_settings(self.folder, lines))
        yield agents
        await agents.close()

    async def attempt(self, entry: Entry | None = None, *, seconds: float = 20) -> Outcome:
        async with self.agents() as agents:
            return await agents.attempt(entry or make_entry(AGENT), timeout_seconds=seconds)


@pytest.fixture
async def remote(tmp_path: Path) -> AsyncIterator[Remote]:
    remote = Remote(tmp_path)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", remote.take)
    async with TestServer(application) as server:
        remote.url = str(server.make_url("/agent?key=1"))
        yield remote


async def test_an_agent_gets_a_cloudevent(remote: Remote) -> None:
    """Structured mode, UTF-8, with the same data as a local `handle`; attachments have no path."""
    entry = make_entry(AGENT, "Arrêtez 🙂", attempt=3, opt_out=OptOut.STOP, raw={"Body": "x"})
    entry = entry._replace(consent=Consent(ConsentState.OPTED_OUT, None))
    remote.answers(text='{"response": "bien reçu"}')
    outcome = await remote.attempt(entry)
    assert (outcome.kind, outcome.reply) == (OutcomeKind.SUCCESS, "bien reçu")
    (got,) = remote.received
    assert got.headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    event = json.loads(got.body.decode())
    assert {name: event[name] for name in ("specversion", "id", "source", "type", "subject")} == {
        "specversion": "1.0",
        "id": entry.event_id,
        "source": "/channels/sms",
        "type": "berinia.sms.received",
        "subject": "+33639980001",
    }
    assert event["data"]["body"] == "Arrêtez 🙂"
    assert event["data"]["attempt"] == 3
    assert event["data"]["opt_out"] == "STOP"
    assert event["data"]["consent"] == {"state": "opted_out", "since": None}


async def test_a_receiver_can_verify_who_it_is_from(remote: Remote) -> None:
    """With the `standardwebhooks` package; the id stays the same over attempts of an event."""
    entry = make_entry(AGENT, "Bonjour 🙂")
    for _ in range(2):
        await remote.attempt(entry)
    for got in remote.received:
        assert Webhook(SECRET).verify(got.body, got.headers) == json.loads(got.body)
        with pytest.raises(WebhookVerificationError):
            Webhook(SECRET).verify(got.body + b" ", got.headers)
        with pytest.raises(WebhookVerificationError):
            Webhook("whsec_" + SECRET[6:][::-1]).verify(got.body, got.headers)
    assert {got.headers["webhook-id"] for got in remote.received} == {entry.event_id}


@pytest.mark.parametrize("secret", [SECRET.removeprefix("whsec_"), "whsec_AQ", "whsec_AQ=="])
async def test_secrets_as_people_paste_them(remote: Remote, secret: str) -> None:
    """Without the prefix, with or without padding."""
    async with remote.agents(secret=secret) as agents:
        await agents.attempt(make_entry(AGENT), timeout_seconds=20)
    (got,) = remote.received
    padded = secret + "=" * (-len(secret.removeprefix("whsec_")) % 4)
    Webhook(padded).verify(got.body, got.headers)


async def test_loopback_needs_no_secret(remote: Remote) -> None:
    """An agent on the same machine may do without signatures."""
    async with remote.agents(secret=None) as agents:
        await agents.load(AGENT)
        outcome = await agents.attempt(make_entry(AGENT), timeout_seconds=20)
    assert outcome.kind is OutcomeKind.SUCCESS
    assert "webhook-signature" not in remote.received[0].headers


async def test_connections_are_used_again(remote: Remote) -> None:
    """A hundred events need one connection, whatever the answers are."""
    remote.answers(500, "no")
    async with remote.agents() as agents:
        for _ in range(100):
            await agents.attempt(make_entry(AGENT), timeout_seconds=20)
    assert len({got.peer for got in remote.received}) == 1


@pytest.mark.parametrize(
    ("status", "text", "kind", "error"),
    [
        (200, "", "success", None),
        (204, "", "success", None),
        (202, "accepted, thanks", "success", None),
        (200, '{"status": "error", "message": "no"}', "error", "no"),
        (200, '{"status": "rejected", "error": "never"}', "rejected", "never"),
        (400, "", "error", "HTTP 400"),
        (410, "", "rejected", "HTTP 410"),
        (500, '{"status": "success"}', "error", "HTTP 500"),
        (503, "", "error", "HTTP 503"),
        (304, "", "error", "HTTP 304: redirects are not followed"),
    ],
)
async def test_what_an_answer_means(
    remote: Remote, status: int, text: str, kind: str, error: str | None
) -> None:
    """2xx is success unless the body says otherwise; 410 ends the entry."""
    remote.answers(status, text)
    outcome = await remote.attempt()
    assert (outcome.kind, outcome.error) == (kind, error)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120),
        (" 0 ", 0),
        ("Sun, 01 Mar 2026 12:05:00 GMT", 300),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
        ("Sun, 01 Mar 99999999999999999999 12:05:00 GMT", None),
        ("Sun, 01 Mar 2026 99999999999999999999:05:00 GMT", None),
    ],
)
def test_retry_after(header: str, seconds: float | None) -> None:
    """Seconds, or a date; anything else says nothing."""
    assert retry_after_seconds(header, NOON) == seconds


@given(st.text() | st.from_regex(r"(Sun, )?\d{1,20} Mar \d{1,20} \d{1,20}:\d\d:\d\d [+-]?\w{1,9}"))
def test_no_retry_after_breaks_us(header: str) -> None:
    """Whatever a stranger's server sends there."""
    wait = retry_after_seconds(header, NOON)
    assert wait is None or wait >= 0


async def test_retry_after_reaches_the_schedule(remote: Remote) -> None:
    """With a refusal, and with an error in a 2xx."""
    for status, text in [(429, ""), (200, '{"status": "error"}')]:
        remote.answers(status, text, Retry_After="77")
        outcome = await remote.attempt()
        assert (outcome.kind, outcome.retry_after_seconds) == (OutcomeKind.ERROR, 77)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(remote: Remote, status: int) -> None:
    """A signed event goes where it was configured to go, and nowhere else."""
    remote.answers(status, Location="/elsewhere")
    outcome = await remote.attempt()
    assert outcome.kind is OutcomeKind.ERROR
    assert outcome.error == f"HTTP {status}: redirects are not followed"
    assert len(remote.received) == 1


async def test_neither_proxies_nor_cookies(
    remote: Remote, monkeypatch: pytest.MonkeyPatch, nobodys_port: int
) -> None:
    """The environment's proxy is not asked, and no answer leaves a cookie."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{nobodys_port}")
    remote.answers(Set_Cookie="session=1; Path=/")
    async with remote.agents() as agents:
        for _ in range(2):
            outcome = await agents.attempt(make_entry(AGENT), timeout_seconds=20)
            assert outcome.kind is OutcomeKind.SUCCESS
    assert not [got for got in remote.received if "cookie" in got.headers]


async def test_a_long_answer_is_not_read(remote: Remote) -> None:
    """Over 1 MiB an answer says nothing: 2xx is success, without a reply."""
    written = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal written
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(b'{"response": "' + b"x" * 65_536)
            written += 65_536

    remote.handler = endless
    outcome = await remote.attempt()
    assert (outcome.kind, outcome.reply) == (OutcomeKind.SUCCESS, None)
    assert written < 32 << 20


async def test_a_compressed_answer_is_not_unpacked(remote: Remote) -> None:
    """A small answer cannot become a large one."""

    async def bomb(_: web.Request) -> web.StreamResponse:
        packed = gzip.compress(b'{"response": "' + b"x" * (64 << 20) + b'"}')
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    remote.handler = bomb
    outcome = await remote.attempt()
    assert (outcome.kind, outcome.reply) == (OutcomeKind.SUCCESS, None)
    assert remote.received[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("headers_first", [False, True])
async def test_a_slow_answer_is_a_timeout(remote: Remote, headers_first: bool) -> None:
    """Whether it never begins or never ends."""
    gate = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        if headers_first:
            await answer.prepare(request)
            await answer.write(b"{")
        await gate.wait()
        return answer

    remote.handler = slow
    outcome = await remote.attempt(seconds=0.3)
    gate.set()
    assert (outcome.kind, outcome.error) == (OutcomeKind.TIMEOUT, "no answer within 0.3 s")


async def test_nobody_there_is_unreachable(remote: Remote, nobodys_port: int) -> None:
    """A refused connection."""
    async with remote.agents(url=f"http://127.0.0.1:{nobodys_port}/") as agents:
        outcome = await agents.attempt(make_entry(AGENT), timeout_seconds=20)
    assert (outcome.kind, outcome.error) == (OutcomeKind.UNREACHABLE, "ClientConnectorError")


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_no_http_is_a_crash(remote: Remote, said: bytes) -> None:
    """The request was written: nobody knows what became of it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with remote.agents(url=f"http://127.0.0.1:{port}/") as agents:
            outcome = await agents.attempt(make_entry(AGENT), timeout_seconds=20)
    assert outcome.kind is OutcomeKind.CRASH


async def test_a_secret_that_is_none_makes_the_agent_unavailable(remote: Remote) -> None:
    """Nothing leaves unsigned that was to be signed; the hint names the setting."""
    async with remote.agents(secret="whsec_not base64!") as agents:
        with pytest.raises(AgentUnavailable) as raised:
            await agents.load(AGENT)
        outcome = await agents.attempt(make_entry(AGENT), timeout_seconds=20)
    assert raised.value.hint == "fix agents.Remote.signing_secret"
    assert outcome.kind is OutcomeKind.UNREACHABLE
    assert remote.received == []


async def test_new_settings_hold_from_the_next_attempt(remote: Remote, tmp_path: Path) -> None:
    """A reload changes the address and the secret."""
    async with remote.agents(secret=None) as agents:
        await agents.attempt(make_entry(AGENT), timeout_seconds=20)
        lines = f'agents.{AGENT}.target = "{remote.url}"\n'
        settings = agents_settings(tmp_path, f'{lines}agents.{AGENT}.signing_secret = "{SECRET}"')
        agents.reconfigure(settings)
        await agents.attempt(make_entry(AGENT), timeout_seconds=20)
    first, second = remote.received
    assert "webhook-signature" not in first.headers
    Webhook(SECRET).verify(second.body, second.headers)


class Refused(NotBegun):
    """The lease is lost."""


async def test_an_attempt_begins_before_its_first_byte(remote: Remote) -> None:
    """Not before there is a connection; and what must not begin is not sent."""
    seen: list[int] = []

    async def begin() -> None:
        seen.append(len(remote.received))

    async def refuse() -> None:
        raise Refused("lost")

    async with remote.agents() as agents:
        entry = make_entry(AGENT)
        outcome = await agents.attempt(entry, timeout_seconds=20, begin=begin)
        assert (outcome.kind, seen) == (OutcomeKind.SUCCESS, [0])
        with pytest.raises(Refused):
            await agents.attempt(entry, timeout_seconds=20, begin=refuse)
    assert len(remote.received) == 1
    async with remote.agents(url="http://127.0.0.1:1/") as agents:
        outcome = await agents.attempt(entry, timeout_seconds=20, begin=begin)
    assert (outcome.kind, seen) == (OutcomeKind.UNREACHABLE, [0])


async def test_of_what_must_not_begin_no_byte_is_sent(remote: Remote) -> None:
    """Neither its body nor its head: then no agent can take it for a request."""
    sent: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent.set_result(await reader.read())
        writer.close()

    async def refuse() -> None:
        raise Refused("lost")

    async with await asyncio.start_server(read, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with remote.agents(url=f"http://127.0.0.1:{port}/") as agents:
            with pytest.raises(Refused):
                await agents.attempt(make_entry(AGENT), timeout_seconds=20, begin=refuse)
        assert await sent == b""


async def test_a_connection_that_breaks_after_the_request_is_a_crash(remote: Remote) -> None:
    """The agent may have acted on it."""

    async def hang_up(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    remote.handler = hang_up
    assert (await remote.attempt()).kind is OutcomeKind.CRASH


@pytest.mark.parametrize(
    ("status", "word"),
    [(429, Word.NOTHING), (503, Word.NOTHING), (410, Word.FAILED), (500, None), (302, None)],
)
async def test_what_a_status_says_of_the_agent(
    remote: Remote, status: int, word: Word | None
) -> None:
    """Whether it did anything; of most nobody knows."""
    remote.answers(status)
    assert (await remote.attempt()).word is word
