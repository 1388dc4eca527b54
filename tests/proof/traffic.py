"""Honest traffic that counts: uniquely numbered, signed messages on all channels, and what
the daemon answered to each. Like a provider, a sender repeats what was not answered 2xx.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.end_to_end.daemon import sample_sms, signed_sms

from .forged_chat import fresh_document
from .forged_chat import posted as posted_chat
from .forged_mail import fresh_fields, proof
from .forged_mail import posted as posted_mail
from .wire import Request, as_headers, exchange, statuses

TRIES = 4
PAUSE_BEFORE_REPEATING_SECONDS = 0.1


@dataclass
class Conversation:
    """One sender on one channel; `make` builds the request for a text."""

    name: str
    make: Callable[[str], Request]
    acknowledged: list[int] = field(default_factory=list)
    given_up: list[int] = field(default_factory=list)
    answers: dict[str, int] = field(default_factory=dict)

    def text(self, number: int) -> str:
        return f"{self.name}#{number}"

    def send(self, number: int, port: Callable[[], int]) -> None:
        """Until it is answered 2xx, but not for ever."""
        request = self.make(self.text(number))
        for _ in range(TRIES):
            answer = _answer(port(), request)
            self.answers[answer] = self.answers.get(answer, 0) + 1
            if answer.startswith("2"):
                self.acknowledged.append(number)
                return
            time.sleep(PAUSE_BEFORE_REPEATING_SECONDS)
        self.given_up.append(number)


def _answer(port: int, request: Request) -> str:
    try:
        found = statuses(exchange(port, request.wire))
    except OSError:
        return "refused"
    return str(found[0]) if found else "cut off"


def conversations(each: int) -> list[Conversation]:
    """So many senders on each channel."""
    made: list[Conversation] = []
    for n in range(each):
        made.append(Conversation(f"sms-{n}", _sms_from(f"+3363998{n:04d}")))
        made.append(Conversation(f"email-{n}", _mail_from(f"lead{n}@example.com")))
        made.append(Conversation(f"chat-{n}", _chat_from(f"3363998{n:04d}@c.us")))
    return made


def _sms_from(sender: str) -> Callable[[str], Request]:
    def make(text: str) -> Request:
        sid = f"SM{hashlib.md5(text.encode()).hexdigest()}"
        body, headers = signed_sms(sample_sms(From=sender, Body=text, MessageSid=sid))
        return Request(b"/webhook/sms-response", as_headers(headers), body)

    return make


def _mail_from(sender: str) -> Callable[[str], Request]:
    def make(text: str) -> Request:
        fields = {**fresh_fields(), "sender": sender, "stripped-text": text}
        return posted_mail([*fields.items(), *proof().items()])

    return make


def _chat_from(author: str) -> Callable[[str], Request]:
    return lambda text: posted_chat(fresh_document(author=author, content=text))


class Traffic:
    """Sends in every conversation at once, one message behind the other, at a steady rate."""

    def __init__(
        self, conversations: Sequence[Conversation], port: Callable[[], int], pause_seconds: float
    ) -> None:
        self.conversations = conversations
        self._port = port
        self._pause_seconds = pause_seconds
        self._enough = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(conversation,), daemon=True)
            for conversation in conversations
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let every sender finish its message."""
        self._enough.set()
        for thread in self._threads:
            thread.join()

    def _run(self, conversation: Conversation) -> None:
        number = 0
        while not self._enough.wait(self._pause_seconds):
            conversation.send(number, self._port)
            number += 1

    @property
    def acknowledged(self) -> int:
        return sum(len(c.acknowledged) for c in self.conversations)

    @property
    def answers(self) -> dict[str, int]:
        """How often each answer came."""
        found: dict[str, int] = {}
        for conversation in self.conversations:
            for answer, count in list(conversation.answers.items()):
                found[answer] = found.get(answer, 0) + count
        return dict(sorted(found.items()))
