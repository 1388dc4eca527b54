"""A process that accepts deliveries of several events, each with an item that cannot be read, until
it is killed; it says which of them were answered: `python -m tests.journal.batch_writer URL`.
"""

from __future__ import annotations

import asyncio
import itertools
import sys

from berinia_webhookd import clock
from berinia_webhookd.journal.store import SqlJournal
from berinia_webhookd.model import Decoded, RejectedItem

from .world import a_delivery, an_event

EVENTS = 5
SENDERS = 8


async def write(url: str) -> None:
    journal = SqlJournal(url, node="killed", clock=clock.now)
    await journal.open()
    numbers = itertools.count()

    async def send(sender: int) -> None:
        for number in numbers:
            events = tuple(
                an_event(f"{number}.{part}", sender=f"+33639980{sender}{part}")
                for part in range(EVENTS)
            )
            delivery = a_delivery(events[0])._replace(body=f"delivery {number}".encode())
            rejected = (RejectedItem("entry.2", "it has no text"),)
            await journal.accept(delivery, Decoded(events, rejected))
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()

    await asyncio.gather(*map(send, range(SENDERS)))


if __name__ == "__main__":
    asyncio.run(write(sys.argv[1]))
