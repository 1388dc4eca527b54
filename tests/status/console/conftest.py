"""Fixtures: a console over an open journal on either engine, and people who are logged in to it."""

from __future__ import annotations

import asyncio
import re
import secrets
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from berinia_webhookd.accept.aiohttp_limits import HttpServer
from berinia_webhookd.addresses import THIS_HOST
from berinia_webhookd.channels.catalogue import KINDS, Channels
from berinia_webhookd.config.load import examine
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.console_server import ConsoleServer
from berinia_webhookd.findings import Finding
from berinia_webhookd.journal import sessions
from berinia_webhookd.journal.console import ConsoleJournal
from berinia_webhookd.journal.sessions import Person
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.outbound.transports import Transports
from berinia_webhookd.status.console.application import Console
from berinia_webhookd.status.console.surroundings import Surroundings

from ...journal.conftest import closed_world, world
from ...journal.world import World

__all__ = ["closed_world", "world"]

NAME = "berinia-0a1b2c.localhost"  # which browsers look for on this machine
FORM = "application/x-www-form-urlencoded"
OPERATOR, VIEWER = Person("Anne", viewer=False), Person("Luc", viewer=True)


@dataclass
class Answer:
    """What a browser would get."""

    status: int
    headers: Mapping[str, str]
    text: str
    cookies: dict[str, str]
    location: str | None

    @property
    def form_token(self) -> str:
        found = re.search(r'name="form_token" value="([0-9a-f]{64})"', self.text)
        assert found is not None, self.text
        return found[1]


@dataclass
class Browser:
    """Somebody before the console."""

    port: int
    http: aiohttp.ClientSession
    cookies: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def host(self) -> str:
        return f"{NAME}:{self.port}"

    async def ask(
        self, method: str, target: str, data: dict[str, str] | None = None, **headers: str | None
    ) -> Answer:
        """Ask as a page of the console would; a header that is None is left out."""
        plain: dict[str, str | None] = {"Host": self.host}
        headers = {**self.headers, **headers}
        if method == "POST":
            plain |= {"Origin": f"http://{self.host}", "Sec-Fetch-Site": "same-origin"}
        plain |= {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookies and "Cookie" not in plain:
            plain["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        async with self.http.request(
            method,
            f"http://127.0.0.1:{self.port}{target}",
            data=data,
            headers={name: value for name, value in plain.items() if value is not None},
            allow_redirects=False,
        ) as answer:
            cookies = {name: morsel.value for name, morsel in answer.cookies.items()}
            return Answer(
                answer.status,
                answer.headers,
                await answer.text(),
                cookies,
                answer.headers.get("Location"),
            )

    async def get(self, target: str, **headers: str | None) -> Answer:
        return await self.ask("GET", target, None, **headers)

    async def post(self, target: str, /, **fields: str) -> Answer:
        """Send a form of the console, with this login's token."""
        token = (await self.get("/")).form_token
        return await self.ask("POST", target, {"form_token": token, **fields})


@dataclass
class Site:
    """A console that answers, and its journal."""

    console: Console
    server: ConsoleServer
    world: World
    around: Surroundings
    port: int
    http: aiohttp.ClientSession
    findings: list[Finding]
    settings: Settings

    def browser(self, **headers: str) -> Browser:
        return Browser(self.port, self.http, headers=headers)

    async def link(self, person: Person = OPERATOR) -> str:
        secret = secrets.token_urlsafe(32)
        async with self.around.open_journal() as journal:
            await journal.write(sessions.add_link, secret, person)
        return secret

    async def logged_in(self, person: Person = OPERATOR, **headers: str) -> Browser:
        browser = self.browser(**headers)
        answer = await browser.ask("POST", "/login", {"link": await self.link(person)})
        assert answer.status == 303, answer.text
        browser.cookies |= answer.cookies
        return browser


@pytest.fixture
async def site(world: World, tmp_path: Path) -> AsyncIterator[Site]:
    """A console on a free port."""
    found: list[Finding] = []

    async def findings() -> Sequence[Finding]:
        return found

    environ = {"TWILIO_TOKEN": "0" * 32, "MAILGUN_SIGNING_KEY": "1" * 32, "HOME": str(tmp_path)}
    examined = examine(kinds=KINDS, environ=environ, working_folder=tmp_path, config_file=None)
    around = Surroundings(
        channels=Channels(examined.settings),
        open_journal=partial(ConsoleJournal, world.url, clock=world.clock),
        clock=world.clock,
        log=tmp_path / "webhook.log",
        findings=findings,
        given=Transports(examined.settings.agents, metrics=Metrics()).given,
    )
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    console = Console(f"http://{NAME}:{port}", around)
    http_server = HttpServer(
        console.application, Metrics(), max_connections=64, trusted_proxies=THIS_HOST
    )
    server = ConsoleServer(console, http_server, listener)
    await server.start()
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        yield Site(console, server, world, around, port, http, found, examined.settings)
    await server.stop()
    await asyncio.sleep(0)
