"""Callers that do not wait for each other, as providers are: requests start when they are due,
however long earlier answers take, which wrk cannot do. A process of its own that never sleeps, so
that its clock is exact; give it a core of its own.

Usage: python open_loop.py PORT FILE RATE SECONDS [--path P] [--connections N] [--even] [--sleep]
    [--skip N] [--lines]

FILE has a message a line (signature, tab, form). Prints one JSON object; latencies count from the
instant a request was due, `longest_answer_ms` from when it was sent. With --sleep it leaves its
core to others between two requests; they then start up to a millisecond late, and latencies count
from when they were sent. With --lines it says which lines were answered with 2xx.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import select
import socket
import time
from collections import Counter, deque
from pathlib import Path

PATIENCE_SECONDS = 30.0  # after the last request was due


class Connection:
    """One keep-alive connection; at most one request at a time is on it."""

    def __init__(self, port: int) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect_ex(("127.0.0.1", port))
        self.received = b""
        self.number = -1
        self.sent_at = 0.0

    def answer(self) -> tuple[int, bool] | None:
        """Status, and whether the connection can be used again; None until the answer is whole."""
        head, found, rest = self.received.partition(b"\r\n\r\n")
        if not found:
            return None
        lines = head.lower().split(b"\r\n")
        headers = dict(line.split(b": ", 1) for line in lines[1:])
        if len(rest) < int(headers[b"content-length"]):
            return None
        self.received = b""
        return int(lines[0].split()[1]), headers.get(b"connection") != b"close"


class Callers:
    """All requests of one measurement.

    Args:
        port: whom to ask.
        requests: as bytes; each is sent once.
        due: when, in seconds from the start; as long as `requests`, ascending.
        connections: how many may be open; past that, requests wait for one.
        sleeps: between two requests.
    """

    def __init__(
        self,
        port: int,
        requests: list[bytes],
        due: list[float],
        connections: int,
        *,
        sleeps: bool,
    ) -> None:
        self._port = port
        self._requests = requests
        self._due = due
        self._most = connections
        self._sleeps = sleeps
        self._open: dict[int, Connection] = {}
        self._idle: list[Connection] = []
        self._queue: deque[int] = deque()
        self._events = select.epoll()
        self._started = 0.0
        self.answers: Counter[int] = Counter()
        self.failures: Counter[str] = Counter()
        self.latencies: list[float] = []  # of 2xx, in seconds
        self.accepted: list[int] = []  # which requests those were
        self.longest = 0.0

    def run(self) -> None:
        """Sends everything, and waits for the answers as long as patience lasts."""
        self._started = time.perf_counter() + 0.05
        total, begun = len(self._requests), 0
        end = self._started + self._due[-1] + PATIENCE_SECONDS
        while (now := time.perf_counter()) < end:
            while begun < total and self._started + self._due[begun] <= now:
                self._queue.append(begun)
                begun += 1
            while self._queue and self._begin(self._queue[0]):
                self._queue.popleft()
            for descriptor, event in self._events.poll(self._pause(begun)):
                self._advance(self._open[descriptor], event)
            if self.answers.total() + self.failures.total() == total:
                break

    def _pause(self, upcoming: int) -> float:
        """Seconds until there may be something to do, answers apart."""
        if not self._sleeps:
            return 0
        if upcoming == len(self._due) or self._queue:
            return 0.001
        return max(0.0, self._started + self._due[upcoming] - time.perf_counter())

    def _begin(self, number: int) -> bool:
        if self._idle:
            connection = self._idle.pop()
            connection.number = number
            self._send(connection)
            return True
        if len(self._open) >= self._most:
            return False
        connection = Connection(self._port)
        connection.number = number
        self._open[connection.socket.fileno()] = connection
        self._events.register(connection.socket, select.EPOLLOUT)  # once it is connected
        return True

    def _send(self, connection: Connection) -> None:
        connection.sent_at = time.perf_counter()
        request = self._requests[connection.number]
        try:
            if connection.socket.send(request) < len(request):
                self._fail(connection, "half sent")
        except OSError as error:
            self._fail(connection, f"sending: {error.strerror}")

    def _advance(self, connection: Connection, event: int) -> None:
        if event & select.EPOLLOUT:
            self._events.modify(connection.socket, select.EPOLLIN)
            self._send(connection)
            return
        try:
            received = connection.socket.recv(65536)
        except OSError as error:
            self._fail(connection, f"receiving: {error.strerror}")
            return
        if not received:
            self._fail(connection, "closed without an answer")
            return
        connection.received += received
        answer = connection.answer()
        if answer is not None:
            self._finish(connection, *answer)

    def _finish(self, connection: Connection, status: int, reusable: bool) -> None:
        now = time.perf_counter()
        self.answers[status] += 1
        self.longest = max(self.longest, now - connection.sent_at)
        if 200 <= status < 300:
            due_at = self._started + self._due[connection.number]
            self.latencies.append(now - (connection.sent_at if self._sleeps else due_at))
            self.accepted.append(connection.number)
        connection.number = -1
        if reusable:
            self._idle.append(connection)
        else:
            self._close(connection)

    def _fail(self, connection: Connection, reason: str) -> None:
        """The connection is gone; so is its request, if it had one."""
        if connection.number >= 0:
            self.failures[reason] += 1
        elif connection in self._idle:
            self._idle.remove(connection)
        self._close(connection)

    def _close(self, connection: Connection) -> None:
        del self._open[connection.socket.fileno()]
        connection.socket.close()


def read_requests(file: Path, path: str, *, skip: int, count: int) -> list[bytes]:
    """The requests of `count` lines after the first `skip`."""
    requests = []
    with file.open() as lines:
        for at, line in enumerate(lines):
            if at < skip:
                continue
            if len(requests) == count:
                break
            signature, _, body = line.rstrip("\n").partition("\t")
            requests.append(
                f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                "Content-Type: application/x-www-form-urlencoded\r\n"
                f"X-Twilio-Signature: {signature}\r\nContent-Length: {len(body)}\r\n\r\n"
                f"{body}".encode()
            )
    if len(requests) < count:
        raise SystemExit(f"{file} has too few messages: {count} are needed after {skip}")
    return requests


def instants(count: int, rate: float, *, even: bool) -> list[float]:
    """When requests are due: evenly, or at random as independent callers (always the same way)."""
    chance = random.Random(1)
    due, at = [], 0.0
    for _ in range(count):
        due.append(at)
        at += 1 / rate if even else chance.expovariate(rate)
    return due


def percentile(ascending: list[float], percent: float) -> float:
    """Milliseconds; 0 if there is nothing."""
    if not ascending:
        return 0.0
    at = min(len(ascending) - 1, int(len(ascending) * percent / 100))
    return round(ascending[at] * 1000, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("file", type=Path)
    parser.add_argument("rate", type=float)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--path", default="/webhook/sms-response")
    parser.add_argument("--connections", type=int, default=256)
    parser.add_argument("--even", action="store_true")
    parser.add_argument("--sleep", action="store_true")
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--lines", action="store_true")
    options = parser.parse_args()
    count = max(1, int(options.rate * options.seconds))
    requests = read_requests(options.file, options.path, skip=options.skip, count=count)
    callers = Callers(
        options.port,
        requests,
        instants(count, options.rate, even=options.even),
        options.connections,
        sleeps=options.sleep,
    )
    gc.freeze()
    gc.disable()
    callers.run()
    latencies = sorted(callers.latencies)
    lines = [options.skip + number for number in callers.accepted]
    print(
        json.dumps(
            {
                "offered": count,
                "answers": {str(status): many for status, many in sorted(callers.answers.items())},
                "failures": dict(callers.failures),
                "failed": callers.failures.total(),
                "unanswered": count - callers.answers.total() - callers.failures.total(),
                "p50_ms": percentile(latencies, 50),
                "p99_ms": percentile(latencies, 99),
                "longest_answer_ms": round(callers.longest * 1000, 3),
                "curve_ms": [percentile(latencies, percent) for percent in range(1, 100)],
                **({"accepted_lines": lines} if options.lines else {}),
            }
        )
    )


if __name__ == "__main__":
    main()
