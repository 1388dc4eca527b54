"""A campaign ordered in the chat: whatever ends while it runs, each lead gets one message."""

from __future__ import annotations

import contextlib
import http
import json
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ..postgresql import Postgresql
from ..proof.storm import descendants
from .bot import Bot
from .daemon import Answer, Daemon
from .providers import ALL_CHANNELS, WHATSAPP_PATH, posted_whatsapp, sample_whatsapp
from .supervisor import NotifySocket

# Writes to each lead, and rests after the second while a file named `hold` is there.
CAMPAIGN = """
import json, os, pathlib, time

HERE = pathlib.Path(__file__).parent


class Recorder:
    def run(self, input_data):
        for lead in range(3):
            with (HERE / "seen.jsonl").open("a") as seen:
                seen.write(json.dumps({"lead": lead, "pid": os.getpid()}) + "\\n")
            while lead == 1 and (HERE / "hold").exists():
                time.sleep(0.01)
        match input_data["content"]:
            case "refuse":
                return {"status": "error"}
            case "again" if input_data["attempt"] == 1:
                return {"status": "retry", "after_seconds": 0.05}
        return {"status": "success", "response": "3 leads"}
"""
BREAKS_OFF, THINKS = "breaks off", "thinks"
SHORT = "channels.whatsapp.reply_wait_seconds = 0.2"
Start = Callable[..., Daemon]


@pytest.fixture
def bot() -> Iterator[Bot]:
    """A bot that takes everything."""
    bot = Bot()
    yield bot
    bot.close()


@pytest.fixture
def start(tmp_path: Path, bot: Bot, journal: str) -> Iterator[Start]:
    """Starts a daemon whose agent sends a campaign, and that rests in its middle."""
    with ExitStack() as stack:

        def begin(settings: str = "", environment: Mapping[str, str] | None = None) -> Daemon:
            late = f'channels.whatsapp.late_reply_url = "{bot.url}"'
            lines = f"{ALL_CHANNELS}\n{journal}\n{SHORT}\n{late}\n{settings}"
            daemon = Daemon(tmp_path, lines, agent=CAMPAIGN)
            (daemon.agents / "hold").touch()
            stack.callback(daemon.close)
            return daemon.start(environment=environment)

        yield begin


def order(daemon: Daemon, content: str = "campagne") -> Answer:
    """Order a campaign in the chat; nobody waits for its end."""
    body, headers = posted_whatsapp(sample_whatsapp(content=content))
    answer = daemon.request("POST", WHATSAPP_PATH, body, headers)
    assert answer.status in {200, 202}
    return answer


def leads(daemon: Daemon) -> list[int]:
    return [line["lead"] for line in daemon.seen()]


def show(daemon: Daemon, answer: Answer) -> Any:
    event_id = answer.json()["event_id"]
    return json.loads(daemon.run("events", "show", event_id, "--json").stdout)


def kill_daemon(daemon: Daemon) -> None:
    daemon.kill()
    daemon.start()


def kill_host(daemon: Daemon) -> None:
    os.kill(daemon.seen()[0]["pid"], signal.SIGKILL)


def stop_and_start(daemon: Daemon) -> None:
    daemon.send_signal(signal.SIGTERM)
    daemon.wait_for("entry.dead", may_have_acted=True)
    assert daemon.wait_until_ended() == 0
    daemon.start()


def wait_longer(_: Daemon) -> None:
    """Let its time be over."""


@pytest.mark.parametrize(
    ("end", "settings", "outcome"),
    [
        pytest.param(kill_daemon, "", "lost", id="daemon"),
        pytest.param(kill_daemon, "agents.defaults.retry_on = []", "lost", id="nothing retried"),
        pytest.param(kill_host, "", "crash", id="host"),
        pytest.param(wait_longer, "agents.defaults.timeout_seconds = 5", "timeout", id="timeout"),
        pytest.param(
            stop_and_start, "agents.defaults.stop_grace_seconds = 0.1", "stopped", id="stop"
        ),
    ],
)
def test_a_slow_command_reaches_each_lead_once(
    start: Start, bot: Bot, end: Callable[[Daemon], None], settings: str, outcome: str
) -> None:
    """It is dead, the chat is told once, and nothing repeats it but who means to."""
    daemon = start(settings)
    answer = order(daemon)
    daemon.wait_until_seen(2)
    end(daemon)
    (posted,) = bot.wait_for(1)
    assert posted["message"].startswith("La commande n'a pas abouti (")
    (daemon.agents / "hold").unlink()
    shown = show(daemon, answer)
    assert (shown["state"], shown["may_have_acted"]) == ("dead", True)
    assert [attempt["outcome"] for attempt in shown["attempts"]] == [outcome]
    assert leads(daemon) == [0, 1]
    if outcome != "stopped":  # which was said before it ended
        daemon.wait_for("entry.dead", may_have_acted=True)
    passed = daemon.run("events", "replay", "--state", "dead")
    assert "0 of 1 replayed; 1 passed over" in passed.stderr
    assert "events replay" not in daemon.run("doctor", check=False).stdout
    daemon.run("events", "replay", shown["id"], "--once-again")
    assert bot.wait_for(2)[1]["message"] == "3 leads"
    assert leads(daemon) == [0, 1, 0, 1, 2]


def test_a_machine_that_goes_down_repeats_no_command(
    start: Start, bot: Bot, journal: str, request: pytest.FixtureRequest
) -> None:
    """The daemon, all of its hosts and the database end at once, and come back."""
    daemon = start()
    answer = order(daemon)
    daemon.wait_until_seen(2)
    assert daemon.process is not None
    for pid in [daemon.process.pid, *descendants(daemon.process.pid)]:
        with contextlib.suppress(ProcessLookupError):  # it went with the one before
            os.kill(pid, signal.SIGKILL)
    if journal:
        server: Postgresql = request.getfixturevalue("postgresql")
        server.crash()
        server.start()
    kill_daemon(daemon)
    (posted,) = bot.wait_for(1)
    assert posted["message"].startswith("La commande n'a pas abouti (")
    (daemon.agents / "hold").unlink()
    shown = show(daemon, answer)
    assert (shown["state"], shown["may_have_acted"]) == ("dead", True)
    assert outcomes(shown) == ["lost"]
    assert leads(daemon) == [0, 1]


def test_stopping_waits_for_a_command(start: Start, bot: Bot) -> None:
    """Longer than for others, and receives meanwhile; its answer is posted at the next start."""
    daemon = start("server.shutdown_grace_seconds = 0.1")
    answer = order(daemon)
    daemon.wait_until_seen(2)
    daemon.send_signal(signal.SIGTERM)
    daemon.wait_for("server.stopping", running=1)
    assert daemon.sms(Body="came meanwhile").status == 200
    (daemon.agents / "hold").unlink()
    daemon.wait_for("attempt.succeeded", kind="agent")
    assert daemon.wait_until_ended() == 0
    daemon.start()
    assert bot.wait_for(1)[0]["message"] == "3 leads"
    assert show(daemon, answer)["state"] == "done"


def test_an_error_without_a_word_is_no_doubt(start: Start, bot: Bot) -> None:
    """The agent said that it failed: the chat is told, and it can be replayed."""
    daemon = start()
    (daemon.agents / "hold").unlink()
    answer = order(daemon, "refuse")
    daemon.wait_for("entry.dead", may_have_acted=False)
    text = "l'agent signale une erreur"
    said = answer.json().get("response") or bot.wait_for(1)[0]["message"]
    assert text in said
    assert leads(daemon) == [0, 1, 2]
    replayed = daemon.run("events", "replay", "--state", "dead", "--dry-run")
    assert "1 of 1 would be replayed" in replayed.stderr


def test_an_agent_that_asks_for_it_is_called_again(start: Start, bot: Bot) -> None:
    """Also where nothing else is tried again."""
    daemon = start("agents.defaults.retry_on = []")
    (daemon.agents / "hold").unlink()
    answer = order(daemon, "again")
    said = answer.json().get("response") or bot.wait_for(1)[0]["message"]
    assert said == "3 leads"
    assert [one["outcome"] for one in show(daemon, answer)["attempts"]] == ["error", "success"]


class HttpAgent:
    """An agent over HTTP that reads each request whole, and answers by the next of `answers`: with
    a status, or it breaks off without an answer, or thinks for ever; afterwards with a reply.
    """

    def __init__(self, *answers: int | str, listens: bool = True) -> None:
        self._answers = list(answers)
        self._server = socket.socket()
        self._server.bind(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.requests: list[bytes] = []
        self._thinking = ExitStack()
        if listens:
            self.listen()

    def listen(self) -> None:
        """Be there; until then connections are refused, and nobody else gets the port."""
        self._server.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # it was closed
            while True:
                connection, _ = self._server.accept()
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        self.requests.append(_whole_request(connection))
        answer = self._answers.pop(0) if self._answers else 200
        if answer == THINKS:
            self._thinking.enter_context(connection)
            return
        with connection:
            if answer != BREAKS_OFF:
                body = b'{"response": "3 leads"}' if answer == http.HTTPStatus.OK else b""
                head = f"HTTP/1.1 {answer} x\r\nContent-Length: {len(body)}\r\n"
                connection.sendall(head.encode() + b"Connection: close\r\n\r\n" + body)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # it may never have listened
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thinking.close()


def _whole_request(connection: socket.socket) -> bytes:
    head, body = b"", b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(65_536)
    head, _, body = head.partition(b"\r\n\r\n")
    length = int(re.findall(rb"(?i)content-length: (\d+)", head)[0])
    while len(body) < length:
        body += connection.recv(65_536)
    return body


def calling(port: int, schedule: str = "[0.1]") -> str:
    """The settings with which all commands go to an agent over HTTP on this port."""
    return f"""
        channels.whatsapp.groups = {{}}
        channels.whatsapp.agent = "Caller"
        channels.whatsapp.retry_schedule_seconds = {schedule}
        agents.Caller.target = "http://127.0.0.1:{port}/"
        agents.Caller.timeout_seconds = 5
    """


def outcomes(shown: Any) -> list[str]:
    return [attempt["outcome"] for attempt in shown["attempts"]]


@pytest.mark.parametrize(
    ("answer", "outcome"), [(BREAKS_OFF, "crash"), (THINKS, "timeout"), (500, "error")]
)
def test_a_request_that_was_written_is_not_sent_again(
    start: Start, bot: Bot, answer: int | str, outcome: str
) -> None:
    """The agent over HTTP may have acted: its entry is dead, the chat is told, over a restart."""
    with contextlib.closing(HttpAgent(answer)) as agent:
        daemon = start(calling(agent.port))
        ordered = order(daemon)
        daemon.wait_for("entry.dead", may_have_acted=True)
        told = ordered.json().get("response") or bot.wait_for(1)[0]["message"]
        assert told.startswith("La commande n'a pas abouti (")
        shown = show(daemon, ordered)
        assert (shown["state"], outcomes(shown)) == ("dead", [outcome])
        kill_daemon(daemon)
        passed = daemon.run("events", "replay", "--state", "dead")
        assert "0 of 1 replayed; 1 passed over" in passed.stderr
        assert len(agent.requests) == 1
        daemon.run("events", "replay", shown["id"], "--once-again")
        daemon.wait_for("attempt.succeeded", kind="agent")
        assert len(agent.requests) == 2


@pytest.mark.parametrize("status", [429, 503])
def test_who_says_that_it_did_nothing_is_asked_again(start: Start, bot: Bot, status: int) -> None:
    """An agent over HTTP that is busy, or not ready: that is its own word."""
    with contextlib.closing(HttpAgent(status)) as agent:
        daemon = start(calling(agent.port))
        ordered = order(daemon)
        told = ordered.json().get("response") or bot.wait_for(1)[0]["message"]
        assert told == "3 leads"
        assert outcomes(show(daemon, ordered)) == ["error", "success"]
        assert len(agent.requests) == 2


def test_where_nobody_listens_nothing_was_begun(start: Start, bot: Bot) -> None:
    """Over `kill -9` too: the command reaches the agent over HTTP once it is there, once."""
    with contextlib.closing(HttpAgent(listens=False)) as agent:
        daemon = start(calling(agent.port, f"[{', '.join(['0.2'] * 200)}]"))
        ordered = order(daemon)
        daemon.wait_for("attempt.failed", outcome="unreachable", count=2)
        kill_daemon(daemon)
        daemon.wait_for("attempt.failed", outcome="unreachable")
        agent.listen()
        assert bot.wait_for(1)[0]["message"] == "3 leads"
        assert set(outcomes(show(daemon, ordered))) <= {"unreachable", "lost", "success"}
        assert len(agent.requests) == 1


def test_systemctl_status_names_what_stopping_waits_for(start: Start, tmp_path: Path) -> None:
    """Whose command it is, which, and how long it may take at most."""
    with NotifySocket(tmp_path) as supervisor:
        daemon = start("agents.defaults.stop_grace_seconds = 120", supervisor.environment())
        event_id = order(daemon).json()["event_id"]
        daemon.wait_until_seen(2)
        daemon.send_signal(signal.SIGTERM)
        waits = f"AdminInterpreterAgent ({event_id}, 120 s at most)"
        supervisor.wait_for("STATUS", f"stopping: waiting for {waits}")
        (daemon.agents / "hold").unlink()
        assert daemon.wait_until_ended() == 0
