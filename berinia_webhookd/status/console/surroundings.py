"""What the console is told of the daemon around it."""

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

Given = Callable[[Entry], tuple[str, Mapping[str, Any]]]  # handle, run, HTTP or log; and what
OpenJournal = Callable[[], AbstractAsyncContextManager[ConsoleJournal]]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """One daemon, as its console sees it."""

    channels: Channels
    open_journal: OpenJournal
    log: Path  # that is followed
    findings: Callable[[], Awaitable[Sequence[Finding]]]  # those that need no probe
    given: Given  # how an entry comes to its agent
    clock: Callable[[], datetime] = now

    def decode(self, delivery: VerifiedDelivery) -> Decoded:
        """Read a rejected delivery again.

        Raises:
            DeliveryRejected: it cannot be read, or its channel is configured no more.
        """
        channel = self.channels.of(delivery.channel)
        if channel is None:
            raise ChannelNotConfigured(f"The channel {delivery.channel} is not enabled.")
        return channel.decode(delivery)
