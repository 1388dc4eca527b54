"""Several processes with one journal in PostgreSQL, and providers that send to all who receive."""

from __future__ import annotations

import asyncio
import http.client
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..postgresql import Postgresql
from ..proxy import Proxy
from .daemon import PATIENCE_SECONDS, RECORDER, SMS_PATH, Daemon, sample_sms, signed_sms
from .providers import ALL_CHANNELS


class Worker(Daemon):
    """A `worker` instead of a `serve`."""

    role = ("worker", "--metrics-port", "0")


@dataclass
class Cluster:
    """Nodes with folders of their own, whose agents record what they get in one file."""

    folder: Path
    server: Postgresql
    agent: str = RECORDER
    stack: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self.database = asyncio.run(self.server.new_database())
        self.proxy = Proxy(self.server.socket_folder / ".s.PGSQL.5432")
        self.stack.callback(self.proxy.close)
        (self.folder / "agents").mkdir()

    def node(
        self, kind: type[Daemon], name: str, settings: str = "", *, behind_proxy: bool = True
    ) -> Daemon:
        """One that is not started yet."""
        address = f"127.0.0.1:{self.proxy.port}/{self.database}?sslmode=disable"
        url = f"postgresql://postgres:geheim@{address}"
        if not behind_proxy:
            url = self.server.url(self.database)
        own = self.folder / name
        own.mkdir()
        (own / "agents").symlink_to(self.folder / "agents")
        node = kind(
            own,
            f'{ALL_CHANNELS}\njournal.url = "{url}"\njournal.node = "{name}"\n'
            f"journal.lease_seconds = 3\n{settings}",
            agent=self.agent,
        )
        self.stack.callback(node.close)
        return node


@dataclass
class Senders:
    """`with Senders(nodes) as senders:` every conversation sends its next message when the one
    before was answered 200; whoever refuses or breaks off is asked again, or another node is.
    """

    nodes: Sequence[Daemon]
    count: int = 6
    accepted: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    refusals: list[int] = field(default_factory=list)  # status codes

    def __post_init__(self) -> None:
        self._over, self._pause = threading.Event(), threading.Event()
        self._news = threading.Condition()
        self._threads = [
            threading.Thread(target=self._talk, args=(number,), daemon=True)
            for number in range(self.count)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)

    @property
    def total(self) -> int:
        """How many messages were answered 200."""
        return sum(map(len, self.accepted.values()))

    def wait_until(self, reached: Callable[[], bool]) -> None:
        """Block until it is true; looked at after every answer."""
        with self._news:
            if not self._news.wait_for(reached, PATIENCE_SECONDS):
                raise AssertionError(f"accepted {self.total}, refused {self.refusals[-9:]}")

    def wait_for_more(self, count: int) -> None:
        """Block until that many more messages were accepted."""
        wanted = self.total + count
        self.wait_until(lambda: self.total >= wanted)

    def _talk(self, number: int) -> None:
        sender = f"+33639980{number:03d}"
        while not self._over.is_set():
            fields = sample_sms(From=sender)
            body, headers = signed_sms(fields)
            deadline = time.monotonic() + PATIENCE_SECONDS
            while (status := self._post(number, body, headers)) != 200:
                number += 1
                with self._news:
                    self.refusals += [status] if status else []
                    self._news.notify_all()
                if time.monotonic() > deadline:
                    return  # and the count of accepted messages will tell
                self._pause.wait(0.05)
            number += 1
            with self._news:
                self.accepted[sender].append(fields["MessageSid"])
                self._news.notify_all()
            self._pause.wait(0.01)

    def _post(self, number: int, body: bytes, headers: dict[str, str]) -> int:
        """The status, or 0 for none."""
        node = self.nodes[number % len(self.nodes)]
        connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=PATIENCE_SECONDS)
        try:
            connection.request("POST", SMS_PATH, body, headers)
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            return 0
        else:
            return answer.status
        finally:
            connection.close()


def first_seen(payloads: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """By sender, the messages that agents got, in the order in which each came first."""
    found: dict[str, list[str]] = defaultdict(list)
    for payload in payloads:
        data = payload["data"]
        if data["message_sid"] not in found[data["sender"]]:
            found[data["sender"]].append(data["message_sid"])
    return found


def wait_until_equal(look: Callable[[], object], expected: object) -> None:
    """Look again and again, for what is only known to the second."""
    pause = threading.Event()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (found := look()) != expected:
        if time.monotonic() > deadline:
            raise AssertionError(f"{found}, not {expected}")
        pause.wait(0.2)


def wait_for_states(node: Daemon, expected: dict[str, int]) -> None:
    """Block until the entries are in these states, and no others."""
    wait_until_equal(lambda: states(node), expected)


def states(node: Daemon) -> dict[str, int]:
    """How many entries are in each state, by `/metrics`."""
    found = {}
    for line in node.request("GET", "/metrics").body.decode().splitlines():
        if line.startswith("berinia_webhookd_entries{") and not line.endswith(" 0.0"):
            found[line.split('"')[1]] = int(float(line.rsplit(" ", 1)[1]))
    return found
