"""What bounds a flood: two buckets for each address, bytes in flight, connections, memory."""

from __future__ import annotations

import re
import resource
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from .daemon import PATIENCE_SECONDS, SMS_PATH, TOKEN, Answer, Daemon, sample_sms, signed_sms
from .providers import (
    ALL_CHANNELS,
    EMAIL_PATH,
    FORM,
    WHATSAPP_PATH,
    posted_mail,
    posted_whatsapp,
    sample_mail,
)

Start = Callable[..., Daemon]
MIB = 1024 * 1024
NOBODY_WAITS = "channels.whatsapp.reply_wait_seconds = 0"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a daemon with these limits."""
    with ExitStack() as stack:

        def begin(
            settings: str = "", *, requests: int = 100_000, verified: int = 100_001
        ) -> Daemon:
            daemon = Daemon(tmp_path, f"{ALL_CHANNELS}\n{NOBODY_WAITS}\n{settings}")
            stack.callback(daemon.close)
            text = daemon.config.read_text()
            text = text.replace("limit.requests = 100000", f"limit.requests = {requests}")
            text = text.replace("requests = 100001", f"requests = {verified}")
            # Long enough for the test to end before a token comes back.
            daemon.config.write_text(f"{text}\nrate_limit.per_seconds = 36000\n")
            return daemon.start()

        yield begin


def from_(address: str) -> dict[str, str]:
    return {"X-Forwarded-For": address, "X-Forwarded-Proto": "https"}


def sms(daemon: Daemon, address: str, token: str = TOKEN) -> Answer:
    body, headers = signed_sms(sample_sms(), token=token)
    return daemon.request("POST", SMS_PATH, body, {**headers, **from_(address)})


def forged(daemon: Daemon, address: str) -> int:
    return sms(daemon, address, token="f" * 32).status


def test_forgers_are_turned_away_by_address(start: Start) -> None:
    """Once its bucket of failures is empty, an address gets 429 whatever it sends; others go on."""
    daemon = start(requests=5)
    assert [forged(daemon, "192.0.2.1") for _ in range(7)] == [403] * 5 + [429] * 2
    assert sms(daemon, "192.0.2.1").status == 429
    assert sms(daemon, "192.0.2.2").status == 200
    answer = sms(daemon, "192.0.2.1")
    document = answer.json()
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert document["status"] == 429
    assert int(answer.headers["Retry-After"]) > 0
    limit = re.fullmatch(r'"(\w+)";r=0;t=(\d+)', answer.headers["RateLimit"])
    assert limit is not None
    assert answer.headers["RateLimit-Policy"] == f'"{limit[1]}";q=5;w=36000'
    assert document["violated-policies"] == [limit[1]]
    daemon.wait_for("rate_limit.exceeded", client="192.0.2.1")


def test_every_kind_of_failure_counts(start: Start) -> None:
    """Signatures, addresses, media types, broken bodies, wrong passwords: all empty one bucket."""
    daemon = start('logs.password = "a long password"', requests=6)
    who = from_("192.0.2.1")
    body, headers = signed_sms(sample_sms(), token="f" * 32)
    chat, chat_headers = posted_whatsapp()
    requests: list[tuple[str, str, bytes | None, Mapping[str, str], int]] = [
        ("POST", SMS_PATH, body, headers, 403),
        ("POST", SMS_PATH, body, {"Content-Type": "text/plain"}, 415),
        ("POST", EMAIL_PATH, b"--x", {"Content-Type": "multipart/form-data; boundary=x"}, 400),
        ("POST", WHATSAPP_PATH, chat, chat_headers, 403),
        ("POST", SMS_PATH, b"x" * (MIB + 1), headers, 413),
        ("GET", "/webhook/logs", None, {}, 401),
        ("GET", "/webhook/logs", None, {}, 429),
        ("POST", EMAIL_PATH, *posted_mail(), 429),
        ("POST", WHATSAPP_PATH, chat, chat_headers, 429),
    ]
    for method, path, content, sent, status in requests:
        answer = daemon.request(method, path, content, {**sent, **who})
        assert answer.status == status, (path, status)
    for path in ("/", "/health"):
        assert daemon.request("GET", path, headers=who).status == 200


def test_what_verified_has_a_bucket_of_its_own(start: Start) -> None:
    """A forger behind the same address takes nothing from it, and it is limited too."""
    daemon = start(requests=100, verified=4)
    assert [forged(daemon, "192.0.2.1") for _ in range(3)] == [403] * 3
    assert [sms(daemon, "192.0.2.1").status for _ in range(6)] == [200] * 4 + [429] * 2
    assert forged(daemon, "192.0.2.1") == 403
    mail = daemon.request("POST", EMAIL_PATH, *add(posted_mail(), from_("192.0.2.1")))
    assert mail.status == 429
    for _ in range(4):
        assert daemon.request("POST", WHATSAPP_PATH, *posted_whatsapp()).status == 202
    answer = daemon.request("POST", WHATSAPP_PATH, *posted_whatsapp())
    assert (answer.status, '"verified"' in answer.headers["RateLimit"]) == (429, True)
    daemon.wait_for("attempt.succeeded", count=8)


def add(
    request: tuple[bytes, dict[str, str]], headers: Mapping[str, str]
) -> tuple[bytes, dict[str, str]]:
    return request[0], {**request[1], **headers}


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "2001:db8:1:3::1"),
        ("192.0.2.7", "::ffff:192.0.2.7", "192.0.2.8"),
        ("192.0.2.7, 10.0.0.1", "198.51.100.1, 10.0.0.1", "10.0.0.1, 192.0.2.7"),
    ],
    ids=["an IPv6 network", "an IPv4 address written as IPv6", "the right-most address"],
)
def test_which_addresses_share_a_bucket(start: Start, one: str, same: str, other: str) -> None:
    """IPv6 by /64, mapped addresses unmapped, what a client adds on the left ignored."""
    daemon = start(requests=2)
    assert [forged(daemon, one), forged(daemon, same), forged(daemon, one)] == [403, 403, 429]
    assert forged(daemon, same) == 429
    assert forged(daemon, other) == 403


def test_unnamed_callers_share_one_bucket(start: Start) -> None:
    """Junk where a proxy should name its client gives nobody a fresh bucket."""
    daemon = start(requests=3)
    statuses = [forged(daemon, address) for address in ("junk", "", "999.1.1.1", "other junk")]
    assert statuses == [403, 403, 403, 429]


def test_strangers_who_look_like_this_machine_do_not_shut_out_the_bot(start: Start) -> None:
    """What a proxy without its headers lets through takes nothing from the bot's own bucket."""
    daemon = start(requests=3)
    body, headers = posted_whatsapp()
    for like_us in ({"X-Forwarded-For": "127.0.0.1"}, {"Host": "app.example.com"}):
        statuses = [
            daemon.request("POST", WHATSAPP_PATH, body, {**headers, **like_us}).status
            for _ in range(3)
        ]
        assert set(statuses) <= {403, 429}
    assert statuses == [429] * 3
    assert daemon.request("POST", WHATSAPP_PATH, body, headers).status == 202


def test_a_flood_of_addresses_is_bounded(start: Start) -> None:
    """More addresses than buckets are kept: the daemon stays as it is, and honest ones go on."""
    daemon = start(requests=3)
    for _ in range(4):
        forged(daemon, "192.0.2.1")
    before = resident_mib(daemon)
    connection = socket.create_connection(("127.0.0.1", daemon.port), PATIENCE_SECONDS)
    with connection, connection.makefile("rb") as answers:
        for number in range(30_000):
            address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
            connection.sendall(
                b"POST /webhook/sms-response HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain"
                b"\r\nContent-Length: 0\r\nX-Forwarded-For: " + address.encode() + b"\r\n\r\n"
            )
            skip_answer(answers)
    assert resident_mib(daemon) - before < 40
    assert forged(daemon, "192.0.2.1") == 429
    assert sms(daemon, "192.0.2.2").status == 200


def skip_answer(answers: Any) -> None:
    length = 0
    while (line := answers.readline()) not in (b"\r\n", b""):
        if line.lower().startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    answers.read(length)


def resident_mib(daemon: Daemon) -> float:
    """VmRSS of the daemon's own process."""
    assert daemon.process is not None
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


def is_wanted(daemon: Daemon, length: int, *, address: str) -> bool:
    """Whether a mail of this length is asked for, or refused with 503 before it is sent."""
    with open_mail(daemon, length, address=address, expect=True) as connection:
        status = status_of(connection)
        assert status in (100, 503)
        return status == 100


def open_mail(daemon: Daemon, length: int, *, address: str, expect: bool = False) -> socket.socket:
    """The head of a mail that says it has `length`."""
    connection = socket.create_connection(("127.0.0.1", daemon.port), PATIENCE_SECONDS)
    head = (
        f"POST {EMAIL_PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: {FORM}\r\n"
        f"{'Expect: 100-continue' if expect else 'Accept: */*'}\r\n"
        f"X-Forwarded-For: {address}\r\nContent-Length: {length}\r\n\r\n"
    )
    connection.sendall(head.encode())
    return connection


def forged_mail(daemon: Daemon, address: str, size: int) -> int:
    """The status of a whole mail of this size that nobody signed."""
    with open_mail(daemon, size, address=address) as connection:
        with suppress(ConnectionError):  # refused: the answer is there, and is read below
            for sent in range(0, size, MIB):
                connection.sendall(b"x" * min(MIB, size - sent))
        return status_of(connection)


def status_of(connection: socket.socket) -> int:
    """The status of the answer that is, or will be, on a connection."""
    with connection.makefile("rb") as answer:
        return int(answer.readline().split()[1])


def test_bytes_in_flight_are_bounded(start: Start) -> None:
    """Over the sum: 503 before reading; one address holds a quarter at most, and large bodies leave
    a quarter to short ones.
    """
    daemon = start(
        f"server.max_body_bytes_in_flight = {16 * MIB}\nserver.body_timeout_seconds = 30"
    )
    held: list[socket.socket] = []
    with ExitStack() as stack:
        for number in range(3):
            begun = open_mail(daemon, 4 * MIB, address=f"192.0.2.{number}")
            held.append(stack.enter_context(begun))
            begun.sendall(b"x" * 3 * MIB)
        assert eventually(lambda: not is_wanted(daemon, 3 * MIB + 1, address="192.0.2.9"))
        assert not is_wanted(daemon, MIB + 1, address="192.0.2.1")
        assert sms(daemon, "192.0.2.9").status == 200
        body, headers = posted_mail(sample_mail(stripped_text="x" * MIB))
        assert daemon.request("POST", EMAIL_PATH, body, headers).status == 200
        for connection in held:
            connection.shutdown(socket.SHUT_RDWR)
        daemon.wait_for("request.finished", count=3, status=499)
        large = posted_mail(sample_mail(stripped_text="x" * 3 * MIB))
        assert daemon.request("POST", EMAIL_PATH, *large).status == 200


def test_announced_bytes_take_no_room(start: Start) -> None:
    """Eight heads that announce as much as there is keep nobody out."""
    daemon = start("server.body_timeout_seconds = 30")
    with ExitStack() as stack:
        for size in (40 * MIB, 24 * MIB):
            for number in range(4):
                stack.enter_context(open_mail(daemon, size, address=f"192.0.2.{number}"))
        for _ in range(3):
            assert sms(daemon, "192.0.2.9").status == 200
            assert daemon.request("POST", EMAIL_PATH, *posted_mail()).status == 200
            assert daemon.request("POST", WHATSAPP_PATH, *posted_whatsapp()).status == 202
        large = posted_mail(sample_mail(stripped_text="x" * 20 * MIB))
        assert daemon.request("POST", EMAIL_PATH, *large).status == 200


def test_connections_are_bounded(start: Start) -> None:
    """One more than allowed is told 503 with `Retry-After`; room that is made is used."""
    daemon = start("server.max_connections = 8")
    with ExitStack() as stack:
        held = [
            stack.enter_context(socket.create_connection(("127.0.0.1", daemon.port), 30))
            for _ in range(8)
        ]
        for connection in held:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert status_of(connection) == 200
        answer = daemon.request("GET", "/health")
        assert answer.status == 503
        assert answer.json()["status"] == 503
        assert answer.json()["request_id"] == answer.headers["X-Request-ID"]
        assert "Retry-After" in answer.headers
        held[0].close()
        held[1].sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert status_of(held[1]) == 200
        assert eventually(lambda: sms(daemon, "192.0.2.1").status == 200)


def test_one_address_has_a_quarter_of_the_connections(start: Start) -> None:
    """What it opens beyond that is told 503; everybody else, and a trusted proxy, gets in."""
    daemon = start("server.max_connections = 16")
    with ExitStack() as stack:

        def connected(address: str) -> int:
            """The status of a request on a connection that stays open."""
            connection = socket.create_connection(
                ("127.0.0.1", daemon.port), PATIENCE_SECONDS, source_address=(address, 0)
            )
            stack.enter_context(connection)
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            return status_of(connection)

        assert [connected("127.0.1.1") for _ in range(6)] == [200] * 4 + [503] * 2
        assert [connected("127.0.1.2") for _ in range(2)] == [200] * 2
        assert [connected("127.0.0.1") for _ in range(10)] == [200] * 10  # a trusted proxy
        # From here on, whoever has most that are idle gives way, to nobody who has as many.
        assert [connected("127.0.1.3") for _ in range(2)] == [200] * 2
        assert connected("127.0.1.4") == 200
        assert connected("127.0.1.3") == 503


def test_four_addresses_that_say_nothing_keep_nobody_out(start: Start) -> None:
    """They have all connections, without a word, with half a head or body, and come back often."""
    daemon = start("server.max_connections = 16")
    attackers = [f"127.0.1.{number}" for number in range(1, 5)]
    with ExitStack() as stack:

        def connect(address: str) -> socket.socket:
            return stack.enter_context(
                socket.create_connection(
                    ("127.0.0.1", daemon.port), PATIENCE_SECONDS, source_address=(address, 0)
                )
            )

        head = b"POST /webhook/sms-response HTTP/1.1\r\nHost: x\r\n"
        form = b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 99\r\n\r\nFrom="
        beginnings = (b"", head, head + form)
        for number in range(1, 30):
            for attacker in attackers * 4:
                with suppress(ConnectionError):
                    connect(attacker).sendall(beginnings[number % len(beginnings)])
            honest = connect(f"127.0.2.{number}")
            honest.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert status_of(honest) == 200


def eventually(true: Callable[[], bool]) -> bool:
    """Whether something becomes true in good time."""
    pause = threading.Event()
    return any(true() or pause.wait(0.01) for _ in range(9000))


class Flood:
    """Unsigned mails of 26 MiB, each connection from an address of its own, until it is ended."""

    def __init__(self, daemon: Daemon, connections: int) -> None:
        self._daemon = daemon
        self._over = threading.Event()
        self.statuses: Counter[int] = Counter()
        self._threads = [
            threading.Thread(target=self._send_on, args=(f"198.51.100.{number}",))
            for number in range(connections)
        ]
        for thread in self._threads:
            thread.start()

    def _send_on(self, address: str) -> None:
        while not self._over.is_set():
            try:
                self.statuses[forged_mail(self._daemon, address, 26 * MIB)] += 1
            except (OSError, IndexError):  # cut off with the answer under way
                self.statuses[0] += 1

    def end(self) -> None:
        """Let each connection finish."""
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)


IN_FLIGHT_MIB = 128


@pytest.mark.parametrize(
    ("requests", "met_with"),
    [(5, 429), (100_000, 403)],
    ids=["turned away by their addresses", "each read to its end"],
)
def test_a_flood_of_large_unsigned_mails_costs_neither_memory_nor_the_honest(
    start: Start, requests: int, met_with: int
) -> None:
    """All honest messages of that time are accepted and reach their agent; memory is bounded by
    the bytes in flight, and falls back.
    """
    daemon = start(f"server.max_body_bytes_in_flight = {IN_FLIGHT_MIB * MIB}", requests=requests)
    assert sms(daemon, "192.0.2.1").status == 200
    daemon.wait_for("attempt.succeeded")
    before = peak = resident_mib(daemon)
    flood = Flood(daemon, 8)
    rounds = 0
    try:
        while rounds < 10 or flood.statuses[met_with] < 10:
            rounds += 1
            assert sms(daemon, "192.0.2.1").status == 200
            mail = add(posted_mail(), from_("192.0.2.3"))
            assert daemon.request("POST", EMAIL_PATH, *mail).status == 200
            assert daemon.request("POST", WHATSAPP_PATH, *posted_whatsapp()).status == 202
            peak = max(peak, resident_mib(daemon))
    finally:
        flood.end()
    assert flood.statuses.keys() <= {0, 403, 429, 503}
    assert flood.statuses[0] <= flood.statuses.total() / 10
    daemon.wait_for("attempt.succeeded", count=1 + 3 * rounds)
    assert len(daemon.seen()) == 1 + 3 * rounds
    # Bodies are checked in turn, so that one or two are there once more as forms.
    assert peak - before < 2 * IN_FLIGHT_MIB, (before, peak)
    assert eventually(lambda: resident_mib(daemon) - before < 48), (before, resident_mib(daemon))
    assert not any("raceback" in str(line) for line in daemon.lines)


# Starts the program that it is given with so many descriptors, and a right to so many.
WITH_DESCRIPTORS = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
os.execv(sys.argv[3], sys.argv[3:])
"""


def with_descriptors(soft: int, hard: int) -> list[str]:
    return [sys.executable, "-c", WITH_DESCRIPTORS, str(soft), str(hard)]


def test_as_many_descriptors_as_are_needed(stopped: Daemon) -> None:
    """The limit of a shell is raised; with 64 no agent could start."""
    stopped.start(launcher=with_descriptors(64, 4096))
    stopped.sms()
    stopped.wait_for("attempt.succeeded")
    assert stopped.process is not None
    soft, hard = resource.prlimit(stopped.process.pid, resource.RLIMIT_NOFILE)
    assert 1024 < soft < hard == 4096
    assert not [line for line in stopped.lines if line.get("setting") == "descriptors"]


def test_too_few_descriptors_are_warned_of(stopped: Daemon) -> None:
    """Where it cannot be raised: in the log, and by `check-config`."""
    stopped.start(launcher=with_descriptors(100, 100))
    said = stopped.wait_for("config.warning", setting="descriptors")
    assert "at most 100 files and connections" in said["detail"]
    stopped.stop()
    checked = subprocess.run(
        [*with_descriptors(100, 100), *stopped.command("check-config", "--offline")],
        env=stopped.environment,
        cwd=stopped.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "at most 100 files and connections" in checked.stdout


def test_agents_start_with_very_few_descriptors(stopped: Daemon) -> None:
    """Where the system allows no more than 60: the least that a shared machine gives."""
    stopped.start(launcher=with_descriptors(60, 60))
    stopped.sms()
    stopped.wait_for("attempt.succeeded")
