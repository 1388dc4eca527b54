"""Reads what the WhatsApp bot sent, from its JSON lines: each a message as it posts it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from berinia_webhookd.channels.json_body import decode_json_object
from berinia_webhookd.channels.whatsapp import MEDIA_TYPE, WhatsAppChannel
from berinia_webhookd.errors import DeliveryRejected, MalformedDelivery, NotFound
from berinia_webhookd.journal.reconcile import Rebuilt
from berinia_webhookd.model import VerifiedDelivery
from berinia_webhookd.tools.reconcile.asking import PENDING_SECONDS
from berinia_webhookd.tools.reconcile.comparing import Tally

LINES: Final = 1000  # compared at once: they are in their order already


class SentMessage(NamedTuple):
    """A message that the bot wrote down."""

    id: str
    at: datetime  # its own time
    digest: bytes
    body: bytes


class BotOutbox:
    """What the bot wrote down for one channel."""

    pending_seconds = PENDING_SECONDS
    takes_pending = True  # by its digest none can double

    def __init__(self, channel: WhatsAppChannel, file: Path, tally: Tally) -> None:
        """`tally` counts the lines that cannot be read."""
        self._channel = channel
        self.asks_start = channel.asks_start
        self._file = file
        self._tally = tally

    async def groups(
        self, since: datetime, until: datetime
    ) -> AsyncIterator[AsyncIterator[Sequence[SentMessage]]]:
        """Yield the messages of a thousand lines, and so on.

        Raises:
            NotFound: there is no such file, or not for this user.
        """
        try:
            file = self._file.open("rb")
        except OSError as error:
            raise NotFound(f"{self._file} cannot be read: {error.strerror}") from error
        with file:
            lines = enumerate(file, 1)
            while some := list(islice(lines, LINES)):
                yield self._group(some, since, until)

    async def _group(
        self, lines: Iterable[tuple[int, bytes]], since: datetime, until: datetime
    ) -> AsyncIterator[Sequence[SentMessage]]:
        found: list[SentMessage] = []
        for number, line in lines:
            try:
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
        at = _time_of(line)
        decoded = self._channel.decode(self._delivery(line, at))
        if not decoded.events:
            return None
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


def _time_of(line: bytes) -> datetime:
    written = decode_json_object(line).get("timestamp")
    try:
        at = datetime.fromisoformat(str(written))
    except ValueError:
        raise MalformedDelivery("It says no time.", missing=("timestamp",)) from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
