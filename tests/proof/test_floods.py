"""Nothing breaks it: slow, idle, huge, nested and malformed requests are turned away in bounded
memory, while honest messages go on being answered.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.channels.deliveries import MAILGUN_KEY
from tests.end_to_end.daemon import Daemon

from . import forged_chat, forged_mail, forged_sms, hostile_bodies
from .conftest import Say
from .wire import Forgery, exchange, statuses

pytestmark = pytest.mark.usefixtures("many_descriptors")

IN_FLIGHT_MIB = 160
# What the daemon may use at most, as docs/attacks.md states it: itself, the bodies that are being
# received, twelve times those that are being read, and six times those that agents have.
MOST_MEMORY_MIB = 160 + IN_FLIGHT_MIB + 12 * 40 + 6 * 64
IDLE = 1000
SLOW = 150
HUGE = 8
SETTINGS = f"""
    channels.email.signing_keys = ["{MAILGUN_KEY}"]
    channels.whatsapp.secret = "{forged_chat.SECRET.decode()}"
    channels.whatsapp.reply_wait_seconds = 0
    server.max_connections = 1200
    server.max_body_bytes_in_flight = {IN_FLIGHT_MIB << 20}
    server.body_timeout_seconds = 5
    agents.ResponseListenerAgent.target = "log:"
    agents.MetaAgent.target = "log:"
    agents.AdminInterpreterAgent.target = "log:"
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon that stands it all."""
    daemon = Daemon(tmp_path_factory.mktemp("daemon"))
    text = daemon.config.read_text().replace(
        'agents.ResponseListenerAgent.target = "python:recorder:Recorder"', SETTINGS
    )
    daemon.config.write_text(text)
    yield daemon.start()
    daemon.close()


class Honest(threading.Thread):
    """Goes on sending honest messages, and counts the answers."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__(daemon=True)
        self.answers: Counter[int] = Counter()
        self._port = daemon.port
        self._enough = threading.Event()

    def run(self) -> None:
        while not self._enough.is_set():
            self.answers.update(statuses(exchange(self._port, forged_sms.honest().wire)) or [0])
            self._enough.wait(0.02)

    def __enter__(self) -> Honest:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self.join()


def memory_mib(daemon: Daemon) -> int:
    """The most it ever used."""
    assert daemon.process is not None
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) // 1024


def assert_unharmed(daemon: Daemon, honest: Honest) -> None:
    assert set(honest.answers) == {200}
    assert memory_mib(daemon) <= MOST_MEMORY_MIB
    assert not [line for line in daemon.lines if line.get("level") == "error"]
    assert not [line for line in daemon.lines if line.get("event") == "not json"]


def send_all(daemon: Daemon, requests: Iterable[Forgery]) -> list[tuple[str, list[int]]]:
    return [(name, statuses(exchange(daemon.port, it.wire))) for name, it in requests]


def test_hostile_requests_are_turned_away(daemon: Daemon, say: Say) -> None:
    """Bombs, masses of parts, fields, headers and chunks, none of them proven."""
    with Honest(daemon) as honest:
        found = send_all(daemon, hostile_bodies.unproven())
    harmed = [(name, got) for name, got in found if not got or not 400 <= got[0] < 500]
    say("hostile requests", tried=len(found), honest=honest.answers[200], MiB=memory_mib(daemon))
    assert harmed == []
    assert_unharmed(daemon, honest)


def test_hostile_contents_are_taken_or_refused(daemon: Daemon, say: Say) -> None:
    """What strangers write into mails and chats, which the provider signs without looking."""
    with Honest(daemon) as honest:
        found = send_all(daemon, hostile_bodies.believed())
    taken = sum(got in ([200], [202]) for _, got in found)
    harmed = [(name, got) for name, got in found if got not in ([200], [202], [400], [413])]
    say(
        "hostile contents",
        tried=len(found),
        taken=taken,
        honest=honest.answers[200],
        MiB=memory_mib(daemon),
    )
    assert harmed == []
    assert_unharmed(daemon, honest)


def test_huge_mails_at_once_stay_within_memory(daemon: Daemon, say: Say) -> None:
    """More of them than fit: the rest is told to come again."""
    page = "🙂" + "<p>a" * (6 << 20)  # one wide character makes all of them wide
    answers: Counter[int] = Counter()

    def send(client: str) -> None:
        fields = {**forged_mail.fresh_fields(), **forged_mail.proof(), "body-html": page}
        body = forged_mail.as_multipart([*fields.items()])
        mail = forged_mail.honest().having(b"Content-Type", hostile_bodies.MULTIPART)
        data = mail.carrying(body).wire
        answers.update(statuses(exchange(daemon.port, data, source=client)))

    clients = [f"127.0.1.{number}" for number in range(1, HUGE + 1)]
    senders = [threading.Thread(target=send, args=(client,)) for client in clients]
    with Honest(daemon) as honest:
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
    say(
        "huge mails at once",
        tried=HUGE,
        taken=answers[200],
        honest=honest.answers[200],
        MiB=memory_mib(daemon),
    )
    assert set(answers) <= {200, 503}
    assert answers[200] > 0
    assert set(honest.answers) <= {200, 503}
    assert memory_mib(daemon) <= MOST_MEMORY_MIB


@contextlib.contextmanager
def connections(daemon: Daemon, count: int) -> Iterator[list[socket.socket]]:
    """Open ones."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection(("127.0.0.1", daemon.port), 30))
            for _ in range(count)
        ]


def test_idle_connections_keep_nobody_out(daemon: Daemon, say: Say) -> None:
    """A thousand that say nothing."""
    with connections(daemon, IDLE), Honest(daemon) as honest:
        while honest.answers.total() < 20:
            honest.join(0.05)
    say("idle connections", tried=IDLE, honest=honest.answers[200], MiB=memory_mib(daemon))
    assert_unharmed(daemon, honest)


def test_slow_heads_and_bodies_keep_nobody_out(daemon: Daemon, say: Say) -> None:
    """Heads that never end, bodies that stall: answered 408 or closed."""
    request = forged_sms.honest()
    head, _, _ = request.wire.partition(b"\r\n\r\n")
    stalled = request.adding((b"Content-Length", b"50000")).carrying(b"a" * 100).wire
    with connections(daemon, 2 * SLOW) as open_ones, Honest(daemon) as honest:
        heads, bodies = open_ones[:SLOW], open_ones[SLOW:]
        for connection in heads:
            connection.sendall(head)
        for connection in bodies:
            connection.sendall(stalled)
        answers = [statuses(connection.recv(65_536)) for connection in bodies]
    say("slow requests", tried=2 * SLOW, honest=honest.answers[200], MiB=memory_mib(daemon))
    assert answers == [[408]] * SLOW
    assert_unharmed(daemon, honest)


def test_pipelined_requests_are_answered_in_turn(daemon: Daemon, say: Say) -> None:
    """Five hundred at once on one connection, honest and forged."""
    forged = forged_sms.honest().having(forged_sms.SIGNATURE, b"A" * 28)
    ours = forged_sms.honest().having(b"Connection", b"keep-alive")
    theirs = forged.having(b"Connection", b"keep-alive")
    last = forged_sms.honest()
    with Honest(daemon) as honest:
        got = statuses(exchange(daemon.port, (ours.wire + theirs.wire) * 250 + last.wire))
    say("pipelined requests", tried=501, answered=len(got), honest=honest.answers[200])
    assert got == [200, 403] * 250 + [200]
    assert_unharmed(daemon, honest)


def test_too_many_connections_are_told_so(daemon: Daemon, say: Say) -> None:
    """Over the limit: 503 or closed at once; with the crowd gone everybody is served again."""
    with connections(daemon, 1300) as crowd:
        crowd[-1].settimeout(30)
        told = statuses(crowd[-1].recv(65_536))
    with Honest(daemon) as honest:
        while honest.answers.total() < 5:
            honest.join(0.05)
    say("too many connections", tried=1300, honest_afterwards=honest.answers[200])
    assert told in ([503], [])
    assert_unharmed(daemon, honest)
