"""What the receiving stage works with: filled by `app`, partly replaced on a reload. Requests read
it when they need something, so that a new configuration holds from the next request on.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import structlog
from structlog.typing import FilteringBoundLogger

from berinia_webhookd.accept.body import BodyBudget
from berinia_webhookd.accept.deadlines import Deadlines
from berinia_webhookd.accept.pace import Pace
from berinia_webhookd.accept.proxy_headers import ProxyHeaders
from berinia_webhookd.accept.rate_limit import RateLimiter
from berinia_webhookd.accept.visit import Page
from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.clock import now
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.journal.contract import Inbox
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import EventId


def _logger() -> FilteringBoundLogger:
    log: FilteringBoundLogger = structlog.get_logger().bind()
    return log


@dataclass(slots=True)
class Door:
    """One door per process."""

    inbox: Inbox
    metrics: Metrics
    channels: Mapping[str, Channel]  # by path; enabled ones only
    pages: Mapping[str, Page]  # by path
    proxy_headers: ProxyHeaders
    limiter: RateLimiter
    budget: BodyBudget
    max_connections: int
    ack_timeout_seconds: float
    body_timeout_seconds: float
    clock: Callable[[], datetime] = now
    stopping: asyncio.Event = field(default_factory=asyncio.Event)  # set: wait for no reply
    # Kept here, because asking for the running one is a system call each time.
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    # What every request says: structlog's own proxy would put a logger together for each line.
    log: FilteringBoundLogger = field(default_factory=_logger)
    deadlines: Deadlines = field(init=False)
    diagnosis_pace: Pace = field(default_factory=Pace)
    flood_pace: Pace = field(default_factory=Pace)
    # How many requests wait for the reply to one event (a message that was sent twice).
    waiting: Counter[EventId] = field(default_factory=Counter)
    _unfinished: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.deadlines = Deadlines(self.loop)

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        *,
        inbox: Inbox,
        metrics: Metrics,
        channels: Mapping[str, Channel],
        pages: Mapping[str, Page],
    ) -> Door:
        """A door with the limits that the settings say."""
        server = settings.server
        return cls(
            inbox=inbox,
            metrics=metrics,
            channels=channels,
            pages=pages,
            proxy_headers=ProxyHeaders(server.trusted_proxies),
            limiter=RateLimiter(settings.rate_limit),
            budget=BodyBudget(server.max_body_bytes_in_flight),
            max_connections=server.max_connections,
            ack_timeout_seconds=server.ack_timeout_seconds,
            body_timeout_seconds=server.body_timeout_seconds,
        )

    def reconfigure(
        self, settings: Settings, *, channels: Mapping[str, Channel], pages: Mapping[str, Page]
    ) -> None:
        """Take new settings; buckets are kept unless their limits changed."""
        server = settings.server
        self.log = _logger()  # the level may be another one
        self.channels = channels
        self.pages = pages
        self.proxy_headers = ProxyHeaders(server.trusted_proxies)
        self.limiter.reconfigure(settings.rate_limit)
        self.budget.limit_bytes = server.max_body_bytes_in_flight
        self.max_connections = server.max_connections
        self.ack_timeout_seconds = server.ack_timeout_seconds
        self.body_timeout_seconds = server.body_timeout_seconds

    def finish_later(self, work: Coroutine[Any, Any, None]) -> None:
        """Let something end that its request no longer waits for, such as a late commit."""
        task = self.loop.create_task(work)
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)

    async def close(self) -> None:
        """Wait for what `finish_later` began; call it after the server stopped, before the journal
        closes.
        """
        while self._unfinished:
            await asyncio.wait(self._unfinished)
        self.deadlines.close()
