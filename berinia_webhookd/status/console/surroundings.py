"""The parts of the daemon that the console uses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from berinia_webhookd.channels.catalogue import Channels
from berinia_webhookd.clock import now
from berinia_webhookd.errors import ChannelNotConfigured
from berinia_webhookd.findings import Finding
from berinia_webhookd.journal.console import ConsoleJournal
from berinia_webhookd.model import Decoded, Entry, VerifiedDelivery

Given = Callable[[Entry], tuple[str, Mapping[str, Any]]]  # (handle, run, HTTP or log; payload)
OpenJournal = Callable[[], AbstractAsyncContextManager[ConsoleJournal]]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The parts of one daemon."""

    channels: Channels
    open_journal: OpenJournal
    log: Path  # followed by the live page
    findings: Callable[[], Awaitable[Sequence[Finding]]]  # findings that need no probe
    given: Given  # how an entry is passed to its agent
    clock: Callable[[], datetime] = now

    def decode(self, delivery: VerifiedDelivery) -> Decoded:
        """Decode a rejected delivery again.

        Raises:
            DeliveryRejected: it cannot be decoded, or its channel is no longer configured.
        """
        channel = self.channels.of(delivery.channel)
        if channel is None:
            raise ChannelNotConfigured(f"The channel {delivery.channel} is not enabled.")
        return channel.decode(delivery)
