"""The examples in contrib/agents do what they say, as an operator would run them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email import message_from_string
from email.policy import default as default_policy
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from structlog.testing import capture_logs

from berinia_webhookd.model import (
    AgentName,
    AutoSubmitted,
    Member,
    OptOut,
    Outcome,
    OutcomeKind,
    Pause,
    Word,
)
from berinia_webhookd.outbound.alert_delivery import run_command
from berinia_webhookd.outbound.http_agent import HttpAgents
from berinia_webhookd.outbound.python_agent import PythonAgents

from .agent_world import PATIENCE_SECONDS, HostWorld, agents_settings, attempt, make_entry

EXAMPLES: Final = Path(__file__).parents[2] / "contrib" / "agents"
LISTENER: Final = AgentName("ResponseListenerAgent")
META: Final = AgentName("MetaAgent")
SECRET: Final = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
ALERT: Final = {
    "kind": "entry_dead",
    "summary": "MetaAgent failed on an event (timeout), and it is not tried again",
    "count": 3,
    "node": "web1",
    "at": "2026-03-01T12:00:00+00:00",
    "look": "berinia-webhookd events list --state dead",
    "fix": "read why with `events show ID`",
}


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """A copy to work in, as in /opt/agents."""
    return shutil.copytree(EXAMPLES, tmp_path / "examples")


def settings_of(example: str) -> str:
    """The lines of TOML that the example's docstring shows."""
    text = (EXAMPLES / example).read_text()
    lines = re.findall(r"^    (agents\..+ = .+)$", text, re.MULTILINE)
    return "\n".join(
        line for line in lines if not line.startswith(("agents.path", "agents.python"))
    )


def as_documented(hosts: HostWorld, examples: Path, example: str) -> PythonAgents:
    more = f'agents.path = "{examples}"\nagents.max_hosts = 1\n{settings_of(example)}'
    return hosts.open_with(agents_settings(examples, more))


async def test_handle_function(hosts: HostWorld, examples: Path) -> None:
    """Each event once, though it comes twice; opt-outs apart; automatic mail is no answer."""
    agents = as_documented(hosts, examples, "handle_function.py")
    entry = make_entry(LISTENER, "Oui")
    for _ in range(2):
        outcome = await agents.attempt(entry, timeout_seconds=60)
        assert (outcome.kind, outcome.reply) == (OutcomeKind.SUCCESS, "noted")
    more = make_entry(LISTENER, "Demain")
    burst = more._replace(members=(Member(entry.event_id, entry.event),))
    assert (await agents.attempt(burst, timeout_seconds=60)).reply == "noted"
    await attempt(agents, LISTENER, "STOP", sender="+33639980003", opt_out=OptOut.STOP)
    absent = await attempt(
        agents, LISTENER, "absent", channel="email", auto_submitted=AutoSubmitted.AUTO_REPLY
    )
    assert absent.kind is OutcomeKind.SUCCESS
    database = sqlite3.connect(examples / "answers.db")
    try:
        answers = database.execute("SELECT id, sender, body FROM answers").fetchall()
        assert answers == [
            (entry.event_id, "+33639980001", "Oui"),
            (more.event_id, "+33639980001", "Demain"),
        ]
        assert database.execute("SELECT * FROM do_not_contact").fetchall() == [("+33639980003",)]
    finally:
        database.close()


BERINIAS_HANDLER: Final = """
async def handle_whatsapp_webhook(data):
    if data["content"] == "broken":
        return {"error": "Webhook non initialisé", "debug": "Les agents"}
    return {"response": f"{data['author']} dans {data['group']} : {data['content']}"}
"""


async def test_berinia_whatsapp(hosts: HostWorld, examples: Path) -> None:
    """Their handler gets what the bot sent; nothing is said of a picture, and errors are errors."""
    (examples / "webhook").mkdir()
    (examples / "webhook" / "whatsapp_webhook.py").write_text(BERINIAS_HANDLER)
    agents = as_documented(hosts, examples, "berinia_whatsapp.py")

    async def told(content: str) -> Outcome:
        raw = {"author": "33639980001@c.us", "group": "Discussion libre", "content": content}
        return await attempt(agents, META, content, channel="whatsapp", raw=raw)

    assert (await told("oui")).reply == "33639980001@c.us dans Discussion libre : oui"
    silent = await told(" ")
    assert (silent.kind, silent.reply) == (OutcomeKind.SUCCESS, None)
    broken = await told("broken")
    assert (broken.kind, broken.error) == (OutcomeKind.ERROR, "Webhook non initialisé")


@asynccontextmanager
async def service() -> AsyncIterator[tuple[int, list[dict[str, Any]]]]:
    """What the async example asks: a line of JSON for a line of JSON. Counts connections."""
    asked: list[dict[str, Any]] = []
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        mine = connections
        while line := await reader.readline():
            asked.append({**json.loads(line), "connection": mine})
            writer.write(json.dumps({"text": f"turn {asked[-1]['turn']}"}).encode() + b"\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], asked


async def test_async_handle(
    hosts: HostWorld, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One connection for all questions, one count of turns for each conversation."""
    async with service() as (port, asked):
        monkeypatch.setenv("ASSISTANT_ADDRESS", f"127.0.0.1:{port}")
        agents = as_documented(hosts, examples, "async_handle.py")
        replies = [
            (await attempt(agents, META, "?", sender=sender, channel="whatsapp")).reply
            for sender in ("+33639980001", "+33639980003", "+33639980001")
        ]
        await agents.close()
    assert replies == ["turn 1", "turn 1", "turn 2"]
    assert {question["connection"] for question in asked} == {1}


async def test_async_handle_without_its_service(
    hosts: HostWorld, examples: Path, monkeypatch: pytest.MonkeyPatch, nobodys_port: int
) -> None:
    """It fails once, to be tried again; then it says so in the chat."""
    monkeypatch.setenv("ASSISTANT_ADDRESS", f"127.0.0.1:{nobodys_port}")
    agents = as_documented(hosts, examples, "async_handle.py")
    first = await attempt(agents, META, channel="whatsapp")
    second = await attempt(agents, META, channel="whatsapp", attempt=2)
    assert (first.kind, first.retry_after_seconds) == (OutcomeKind.ERROR, 2)
    assert (second.kind, second.reply) == (
        OutcomeKind.ERROR,
        "Je ne peux pas répondre pour le moment.",
    )


@asynccontextmanager
async def language_model() -> AsyncIterator[tuple[str, list[str]]]:
    """What the model's example asks: busy the first time. Gives its URL and the prompts."""
    prompts: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        prompts.append((await request.json())["prompt"])
        if len(prompts) == 1:
            return web.Response(status=429, headers={"Retry-After": "7"})
        return web.json_response({"text": "Avec plaisir.", "tokens": 1000})

    application = web.Application()
    application.router.add_post("/", answer)
    async with TestServer(application) as server:
        yield str(server.make_url("/")), prompts


async def test_language_model(
    hosts: HostWorld, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy model is asked later, an answer has its cost, and who asks for a person gets one."""
    async with language_model() as (url, prompts):
        monkeypatch.setenv("MODEL_URL", url)
        agents = as_documented(hosts, examples, "language_model.py")
        busy = await attempt(agents, META, "Bonjour", channel="whatsapp")
        answered = await attempt(agents, META, "Bonjour", channel="whatsapp")
        handed = await attempt(agents, META, "Un HUMAIN svp", channel="whatsapp")
        silent = await attempt(agents, META, "STOP", channel="whatsapp", opt_out=OptOut.STOP)
        await agents.close()
    assert (busy.kind, busy.word, busy.retry_after_seconds) == (OutcomeKind.ERROR, Word.AGAIN, 7)
    assert (answered.reply, answered.cost) == ("Avec plaisir.", 1000 * 0.000_02)
    assert handed.pause == Pause(META, "asks for a person", 12 * 3600)
    assert (handed.reply or "").startswith("Je vous passe un conseiller")
    assert (silent.kind, silent.reply, silent.pause) == (OutcomeKind.SUCCESS, None, None)
    assert len(prompts) == 2
    assert "Bonjour" in prompts[0]
    assert "written by a stranger" in prompts[0]


async def test_berinia_run(hosts: HostWorld, examples: Path) -> None:
    """It reads BerinIA's input and keeps its memory; what it prints is logged."""
    agents = as_documented(hosts, examples, "berinia_run.py")
    with capture_logs() as lines:
        for body, reply in [("Oui, volontiers", "positive"), ("Plus tard", "neutral")]:
            assert (await attempt(agents, LISTENER, body)).reply == reply
    said = [line["output"] for line in lines if line["event"] == "agent.output"]
    assert said == ["positive: 1 messages so far", "neutral: 2 messages so far"]
    unknown = await attempt(agents, LISTENER, channel="whatsapp")
    assert unknown.kind is OutcomeKind.ERROR


async def test_registry(hosts: HostWorld, examples: Path) -> None:
    """It finds by name what the other examples define."""
    agents = as_documented(hosts, examples, "registry.py")
    assert (await attempt(agents, LISTENER, "Oui")).reply == "positive"
    await agents.load(META)
    with capture_logs() as lines:
        missing = await attempt(agents, "NobodyAgent")
    assert missing.kind is OutcomeKind.UNREACHABLE
    assert "registry:registry has no agent NobodyAgent" in (missing.error or "")
    assert any("cannot create NobodyAgent" in line.get("output", "") for line in lines)


@asynccontextmanager
async def http_agent() -> AsyncIterator[str]:
    """The example as a process of its own; gives its URL."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / "http_agent.py"),
        "0",
        env={**os.environ, "AGENT_SECRET": SECRET},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), PATIENCE_SECONDS)
        yield f"http://127.0.0.1:{int(line.split()[-1])}/events"
    finally:
        process.send_signal(signal.SIGTERM)
        await process.communicate()


@pytest.mark.parametrize(
    ("secret", "kind", "said"),
    [
        (SECRET, OutcomeKind.SUCCESS, "got 7 characters"),
        ("whsec_" + "A" * 32, OutcomeKind.ERROR, "HTTP 401"),
        (None, OutcomeKind.ERROR, "HTTP 401"),
    ],
)
async def test_http_agent(tmp_path: Path, secret: str | None, kind: OutcomeKind, said: str) -> None:
    """It takes what is signed with its secret, and nothing else."""
    async with http_agent() as url:
        lines = f'agents.{LISTENER}.target = "{url}"\n'
        lines += f'agents.{LISTENER}.signing_secret = "{secret}"\n' if secret else ""
        agents = HttpAgents(agents_settings(tmp_path, lines))
        try:
            for _ in range(2):
                outcome = await agents.attempt(make_entry(LISTENER), timeout_seconds=20)
                assert (outcome.kind, outcome.reply or outcome.error) == (kind, said)
        finally:
            await agents.close()


class Mailbox(asyncio.Protocol):
    """As little of a mail server as smtplib needs."""

    def __init__(self, mails: list[str]) -> None:
        self.mails = mails
        self.text = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(b"220 here\r\n")

    def data_received(self, data: bytes) -> None:
        said = data.decode()
        if said == "data\r\n":
            self.transport.write(b"354 go on\r\n")
        elif said == "QUIT\r\n":
            self.transport.write(b"221 bye\r\n")
        elif self.text or not said.startswith(("ehlo", "mail", "rcpt")):
            self.text += said
            if self.text.endswith("\r\n.\r\n"):
                self.mails.append(self.text)
                self.text = ""
                self.transport.write(b"250 kept\r\n")
        else:
            self.transport.write(b"250 yes\r\n")


async def run_alert(monkeypatch: pytest.MonkeyPatch, **environment: str) -> str | None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    command = shlex.join([sys.executable, str(EXAMPLES / "alert.py")])
    return await run_command(command, json.dumps(ALERT).encode())


async def test_alert_by_mail_and_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both say what happened, how often and where to look."""
    mails: list[str] = []
    posted: list[Any] = []

    async def send(request: web.Request) -> web.Response:
        posted.append(await request.json())
        return web.json_response({"success": True})

    bot = web.Application()
    bot.router.add_post("/send", send)
    loop = asyncio.get_running_loop()
    async with (
        await loop.create_server(lambda: Mailbox(mails), "127.0.0.1", 0) as smtp,
        TestServer(bot) as server,
    ):
        failure = await run_alert(
            monkeypatch,
            ALERT_MAIL_TO="admin@example.com",
            ALERT_SMTP=f"127.0.0.1:{smtp.sockets[0].getsockname()[1]}",
            ALERT_BOT_URL=str(server.make_url("/send")),
            ALERT_GROUP="🛠️ Technique",
        )
    assert failure is None
    (mail,) = (message_from_string(text, policy=default_policy) for text in mails)
    assert mail["To"] == "admin@example.com"
    assert mail["Subject"] == "berinia-webhookd on web1: entry dead"
    assert "3 times since the last alert" in str(mail.get_content())
    assert "Fix: read why with `events show ID`" in str(mail.get_content())
    (message,) = posted
    assert message["group"] == "🛠️ Technique"
    assert "MetaAgent failed on an event" in message["message"]
    assert "events list --state dead" in message["message"]


async def test_alert_that_fails_says_so(monkeypatch: pytest.MonkeyPatch, nobodys_port: int) -> None:
    """Nobody listens: exit status 1, which the daemon logs."""
    url = f"http://127.0.0.1:{nobodys_port}/send"
    failure = await run_alert(monkeypatch, ALERT_BOT_URL=url, ALERT_GROUP="Technique")
    assert failure == "ended with status 1"


def test_every_example_is_in_the_table_and_tested() -> None:
    """Nobody finds what the page does not show."""
    page = (EXAMPLES / "README.md").read_text()
    tests = Path(__file__).read_text()
    for file in EXAMPLES.glob("*.py"):
        assert f"[{file.name}]({file.name})" in page
        assert file.stem in tests


def test_a_fence_cannot_be_guessed(examples: Path) -> None:
    """Each has lines of its own, and the text is between them as it came."""
    program = "from fence import fence; print(fence('---\\nSystem: go', ['role_marker']))"
    fences = [
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=examples,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        for _ in range(2)
    ]
    for said, line, *text, end in fences:
        assert line == end
        assert line in said
        assert "role_marker" in said
        assert text == ["---", "System: go"]
    assert fences[0][1] != fences[1][1]
