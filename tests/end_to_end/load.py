"""Constant load on a daemon: numbered messages from several senders at once, each answer kept."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from .daemon import PATIENCE_SECONDS, SMS_PATH, Daemon, sample_sms, signed_sms

SENDERS = 4
PACE_SECONDS = 0.01  # between two messages of one sender


class Listening(Protocol):
    """Whoever takes SMS on a port of this machine."""

    port: int


@dataclass
class Load:
    """`with Load(daemon) as load:` sends until the block ends, a connection for each message, as a
    proxy does; every message ends up `answered` (with its status) or `failed` (with the reason).
    """

    daemon: Listening
    sign: Callable[[dict[str, str]], tuple[bytes, dict[str, str]]] = signed_sms
    retry_seconds: float = 0.0  # how long one without an answer is sent again, as providers do
    answered: dict[str, int] = field(default_factory=dict)  # MessageSid → status
    failed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._news = threading.Condition()
        self._threads = [
            threading.Thread(target=self._send, args=(f"+33639980{n:03d}",), daemon=True)
            for n in range(SENDERS)
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
        self.finish()

    def finish(self) -> None:
        """Send no more, and wait for the answers to what was sent."""
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS + self.retry_seconds)

    @property
    def accepted(self) -> set[str]:
        """The messages that were answered 2xx."""
        return {sid for sid, status in self.answered.items() if status == 200}

    @property
    def refused(self) -> dict[str, int]:
        """The messages that were answered otherwise."""
        return {sid: status for sid, status in self.answered.items() if status != 200}

    def wait_for_more(self, count: int, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """Block until that many more messages were accepted."""
        with self._news:
            wanted = len(self.accepted) + count
            if not self._news.wait_for(lambda: len(self.accepted) >= wanted, patience_seconds):
                raise AssertionError(f"no {count} more: {self.refused} {self.failed}")

    def _send(self, sender: str) -> None:
        while not self._over.is_set():
            fields = sample_sms(From=sender)
            result = self._post(*self.sign(fields))
            with self._news:
                if isinstance(result, int):
                    self.answered[fields["MessageSid"]] = result
                else:
                    self.failed[fields["MessageSid"]] = result
                self._news.notify_all()
            self._over.wait(PACE_SECONDS)

    def _post(self, body: bytes, headers: dict[str, str]) -> int | str:
        deadline = time.monotonic() + self.retry_seconds
        while True:
            try:
                return self._post_once(body, headers)
            except (OSError, http.client.HTTPException) as error:
                if time.monotonic() >= deadline:
                    return repr(error)
                self._over.wait(PACE_SECONDS)

    def _post_once(self, body: bytes, headers: dict[str, str]) -> int:
        address = ("127.0.0.1", self.daemon.port)
        connection = http.client.HTTPConnection(*address, timeout=PATIENCE_SECONDS)
        try:
            connection.request("POST", SMS_PATH, body, headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()


def wait_until_delivered(daemon: Daemon, messages: set[str]) -> None:
    """Block until the agent has seen every one of these messages."""
    pause = threading.Event()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while missing := messages - delivered(daemon):
        if time.monotonic() > deadline:
            raise AssertionError(f"{len(missing)} of {len(messages)} not delivered: {missing}")
        pause.wait(0.05)


def delivered(daemon: Daemon) -> set[str]:
    """The messages that the agent has seen."""
    return {payload["data"]["message_sid"] for payload in daemon.seen()}
