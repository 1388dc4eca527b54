"""The notifications by which processes with one PostgreSQL wake one another. They are sent after
the commit and over the connection that listens, so that no commit waits for them: PostgreSQL lets
those that notify end one at a time, each with its flush.

Correctness does not depend on them: waiting tasks also poll, more often while there are none. Every
role that may connect to the database can send any, so what they cost is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final
from uuid import uuid4

import asyncpg
import orjson

from berinia_webhookd.clock import wait_for_event
from berinia_webhookd.journal.database import EVERYTHING, Changes
from berinia_webhookd.journal.postgresql_errors import BROKEN
from berinia_webhookd.model import EventId

CHANNEL: Final = "berinia_webhookd"
HEARTBEAT_SECONDS: Final = 5.0  # a dead connection is noticed within two of these
# Whatever is committed in this time after a notification is in the next one: under load each commit
# would wake every process, which costs both sides more than the commit itself.
PAUSE_SECONDS: Final = 0.02
# The pause after everything is said to have changed, which lets each waiting caller look.
LONG_PAUSE_SECONDS: Final = 1.0
CLOSE_SECONDS: Final = 0.5  # for the last one
MOST_REPLIES: Final = 100  # named in one notification, which may have 8,000 bytes
MOST_HEARD: Final = 100  # in one pause; more mean that everything changed
NOTIFY: Final = "SELECT pg_notify($1, $2)"


class Notifications:
    """What this process tells the others, and hears from them."""

    def __init__(self) -> None:
        self._myself = uuid4().hex  # whose own notifications are ignored
        self._untold = Changes()
        self._heard: list[str] = []  # by others, in this pause
        self._stir = asyncio.Event()
        self.on = False  # whether somebody listens, and tells

    def tell(self, changes: Changes) -> None:
        """Have committed changes told; those that nobody waits for are not."""
        self._untold.add(changes)
        if _worth_telling(self._untold):
            self._stir.set()

    async def notify(self, connection: asyncpg.Connection, changes: Changes) -> None:
        """Tell these changes: at the commit, if the connection is in a transaction."""
        if _worth_telling(changes):
            every = changes.all_replies or len(changes.replies) > MOST_REPLIES
            replies = None if every else sorted(changes.replies)
            said = {"by": self._myself, "work": changes.work, "replies": replies}
            await connection.fetchval(NOTIFY, CHANNEL, orjson.dumps(said).decode())

    async def exchange(
        self, connection: asyncpg.Connection, heard: Callable[[Changes], None]
    ) -> None:
        """Listen and tell until the connection ends. When cancelled, what is left is told first."""

        def on_notification(_connection: Any, _pid: int, _channel: str, payload: str) -> None:
            if self._myself not in payload and len(self._heard) <= MOST_HEARD:
                self._heard.append(payload)
                self._stir.set()

        connection.add_termination_listener(lambda _: self._stir.set())
        await connection.add_listener(CHANNEL, on_notification)
        self.on = True
        heard(EVERYTHING)  # notifications may have been missed meanwhile
        try:
            while not connection.is_closed():
                if not await wait_for_event(self._stir, HEARTBEAT_SECONDS):
                    await connection.execute("SELECT 1")
                self._stir.clear()
                changes = self._take_heard()
                heard(changes)
                await self._tell_all(connection)
                await asyncio.sleep(LONG_PAUSE_SECONDS if changes.all_replies else PAUSE_SECONDS)
        finally:
            self.on = False
            with contextlib.suppress(asyncpg.PostgresError, *BROKEN):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._tell_all(connection)

    def _take_heard(self) -> Changes:
        payloads, self._heard = self._heard, []
        changes = Changes()
        for said in (EVERYTHING,) if len(payloads) > MOST_HEARD else map(understood, payloads):
            changes.add(said)
        return changes

    async def _tell_all(self, connection: asyncpg.Connection) -> None:
        changes, self._untold = self._untold, Changes()
        try:
            await self.notify(connection, changes)
        except BaseException:
            self.tell(changes)  # over the next connection
            raise


def _worth_telling(changes: Changes) -> bool:
    return changes.work or changes.all_replies or bool(changes.replies)


def understood(payload: str) -> Changes:
    """Parse a notification; one that no node writes means: everything changed."""
    try:
        said = orjson.loads(payload)
        work, replies = said["work"], said["replies"]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return EVERYTHING
    # Not made strings of: Python cannot show what is nested as deeply as JSON may be.
    if replies is None:
        return Changes(bool(work), all_replies=True)
    few = isinstance(replies, list) and len(replies) <= MOST_REPLIES
    if few and all(isinstance(one, str) for one in replies):
        return Changes(bool(work), set(map(EventId, replies)))
    return EVERYTHING
