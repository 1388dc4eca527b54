"""How processes that share a PostgreSQL journal wake one another: LISTEN and NOTIFY.

What a transaction changed is announced inside it, so it is heard when it is committed and not
before. Nothing rests on being heard: whoever sleeps also looks by itself, often while nobody can
be heard, and now and then in any case.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from berinia_webhookd.journal.postgresql import COMMAND_SECONDS
from berinia_webhookd.model import EventId

CHANNEL: Final = "berinia_webhookd"
MOST_REPLIES: Final = 100  # named in one announcement, which may have 8,000 bytes
HEARTBEAT_SECONDS: Final = 5.0  # a connection that died without a word is noticed within two
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 5.0

NOTIFY: Final = text(f"SELECT pg_notify('{CHANNEL}', :payload)")


@dataclass(slots=True)
class News:
    """What a transaction changed that others may be waiting for."""

    work: bool = False  # there may be something to claim
    replies: set[EventId] = field(default_factory=set)  # whose outcome somebody waits for
    all_replies: bool = False  # too many to name


def announce(connection: Connection, news: News, by: str) -> None:
    """Tell the other processes, once this transaction is committed; `by` is who need not hear."""
    if not news.work and not news.replies:
        return
    many = len(news.replies) > MOST_REPLIES
    said = {"by": by, "work": news.work, "replies": None if many else sorted(news.replies)}
    connection.execute(NOTIFY, {"payload": orjson.dumps(said).decode()})


def understood(payload: str, *, myself: str) -> News | None:
    """What was announced; None for our own words. Words of a stranger mean that anything may be."""
    try:
        said = orjson.loads(payload)
        if said["by"] == myself:
            return None
        replies = said["replies"]
        return News(bool(said["work"]), {EventId(str(id_)) for id_ in replies or ()}, not replies)
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return News(work=True, all_replies=True)


class Ear:
    """One connection that listens; `run` it for as long as the journal is open."""

    def __init__(
        self,
        connection: Callable[[], AbstractAsyncContextManager[Any]],
        *,
        myself: str,
        heard: Callable[[News], None],
        deaf: Callable[[], None],
    ) -> None:
        """`connection` opens one and gives the driver's own; `deaf` is called when it was lost."""
        self._connection = connection
        self._myself = myself
        self._heard = heard
        self._deaf = deaf
        self.listening = False

    async def run(self) -> None:
        """Listen until cancelled; a connection that is lost is made again."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                async with self._connection() as driver:
                    await self._listen(driver)
            except (SQLAlchemyError, OSError):
                pass  # the writer says `journal.degraded`; until we hear again, everybody looks
            finally:
                self.listening = False
            self._deaf()
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _listen(self, driver: Any) -> None:
        closed = asyncio.Event()
        driver.add_termination_listener(lambda _: closed.set())
        await driver.add_listener(CHANNEL, self._on_notification)
        self.listening = True
        self._heard(News(work=True, all_replies=True))  # what was said while nobody listened
        while not closed.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await closed.wait()
            if not closed.is_set():
                await driver.execute("SELECT 1", timeout=COMMAND_SECONDS)

    def _on_notification(self, _connection: Any, _pid: int, _channel: str, payload: str) -> None:
        news = understood(payload, myself=self._myself)
        if news is not None:
            self._heard(news)
