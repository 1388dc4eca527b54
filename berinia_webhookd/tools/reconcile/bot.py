"""Reads what the WhatsApp bot sent, from its JSON lines: each a message as it posts it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from berinia_webhookd.channels.json_body import decode_json_object
from berinia_webhookd.channels.whatsapp import MEDIA_TYPE, WhatsAppChannel
from berinia_webhookd.errors import DeliveryRejected, MalformedDelivery, NotFound
from berinia_webhookd.journal.reconcile import Rebuilt
from berinia_webhookd.model import VerifiedDelivery
from berinia_webhookd.tools.reconcile.comparing import KnownByDigest, Tally

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
BYTES: Final = 16 * 1024 * 1024
LINES: Final = 1000  # compared at once: they are in their order already


class SentMessage(NamedTuple):
    """A message that the bot wrote down."""

    id: str
    at: datetime  # its own time
    digest: bytes
    body: bytes


class BotOutbox(KnownByDigest):
    """What the bot wrote down for one channel."""

    def __init__(self, channel: WhatsAppChannel, file: Path, tally: Tally) -> None:
        """`tally` counts the lines that cannot be read."""
        self._channel = channel
        self.asks_start = channel.asks_start
        self._file = file
        self._tally = tally

    async def groups(
        self, since: datetime, until: datetime
    ) -> AsyncIterator[AsyncIterator[Sequence[SentMessage]]]:
        """Yield the messages of a thousand lines, or of a few long ones, and so on.

        Raises:
            NotFound: there is no such file, or not for this user.
        """
        if self._file.exists() and not self._file.is_file():
            raise NotFound(f"{self._file} is no ordinary file")
        try:
            file = self._file.open("rb")
        except OSError as error:
            raise NotFound(f"{self._file} cannot be read: {error.strerror}") from error
        with file:
            lines = enumerate(_lines(file, self._channel.max_body_bytes), 1)
            while some := list(_together(lines)):
                yield self._group(some, since, until)

    async def _group(
        self, lines: Iterable[tuple[int, bytes]], since: datetime, until: datetime
    ) -> AsyncIterator[Sequence[SentMessage]]:
        found: list[SentMessage] = []
        for number, line in lines:
            try:
                if len(line) > self._channel.max_body_bytes:
                    raise MalformedDelivery("It is longer than a message may be.")
                sent = self._sent(line.strip(), number)
            except DeliveryRejected as error:
                self._tally.refuse(f"line {number}", error)
                continue
            if sent is not None and since <= sent.at <= until:
                found.append(sent)
        yield found

    def _sent(self, line: bytes, number: int) -> SentMessage | None:
        """Return the message of a line; None if there is none: a pause, or nothing."""
        if not line:
            return None
        decoded = self._channel.decode(self._delivery(line, EPOCH))
        if not decoded.events:
            return None
        at = _time_of(line)
        (event,) = decoded.events
        return SentMessage(event.message_id or f"line {number}", at, event.digest, line)

    async def rebuilt(self, message: SentMessage, now: datetime) -> Rebuilt:
        """Return its request."""
        delivery = self._delivery(message.body, now)
        decoded = self._channel.decode(delivery)
        return Rebuilt(delivery, decoded.as_reconciled(min(message.at, now)))

    def _delivery(self, body: bytes, received_at: datetime) -> VerifiedDelivery:
        return VerifiedDelivery(
            self._channel.name, MEDIA_TYPE, body, received_at, target=self._channel.path
        )


def _lines(file: BinaryIO, longest: int) -> Iterator[bytes]:
    """The lines of a file; of one that is too long, no more than shows that."""
    while line := file.readline(longest + 1):
        yield line
        while line and not line.endswith(b"\n"):
            line = file.readline(longest + 1)


def _together(lines: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """So many of the next lines as are compared at once."""
    size = 0
    for number, line in islice(lines, LINES):
        yield number, line
        size += len(line)
        if size >= BYTES:
            return


def _time_of(line: bytes) -> datetime:
    written = decode_json_object(line).get("timestamp")
    try:
        at = datetime.fromisoformat(str(written))
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise MalformedDelivery("It says no time.", missing=("timestamp",)) from None
