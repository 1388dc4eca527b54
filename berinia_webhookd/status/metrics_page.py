"""`GET /metrics` in Prometheus text, for `server.metrics_allowed_ips` only."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from berinia_webhookd.addresses import Network, require_allowed
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.errors import JournalUnavailable
from berinia_webhookd.http_request import CALLER
from berinia_webhookd.journal.contract import PAUSED, Guard
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import EntryState
from berinia_webhookd.status.backlog import BacklogReader


class MetricsPage:
    """The page `GET /metrics`."""

    def __init__(
        self,
        metrics: Metrics,
        backlog: BacklogReader,
        allowed: tuple[Network, ...],
        takes_writes: Callable[[], bool],
    ) -> None:
        self._takes_writes = takes_writes
        self._allowed = allowed
        self._metrics = metrics
        self._backlog = backlog

    def reconfigure(self, settings: Settings) -> None:
        """Take effect from the next request on."""
        self._allowed = settings.server.metrics_allowed_ips

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer with all metrics.

        Raises:
            AddressRefused: the caller is not in `server.metrics_allowed_ips`.
        """
        refusal = "This address may not read the metrics."
        require_allowed(self._allowed, request[CALLER], refusal)
        await self.refresh()
        text = generate_latest(self._metrics.registry)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    async def refresh(self) -> None:
        """Read the gauges that show the journal; while it is unreachable they keep their values."""
        metrics = self._metrics
        try:
            backlog = await self._backlog.read()
        except JournalUnavailable:
            metrics.journal_up.set(0)
            return
        metrics.journal_up.set(self._takes_writes())
        for state in EntryState:
            metrics.entries.labels(state=state).set(backlog.entries.get(state, 0))
        for reason in (PAUSED, *Guard):
            held = backlog.held.get(reason)
            count = 0 if held is None else held.conversations
            metrics.held_conversations.labels(reason=reason).set(count)
        metrics.oldest_ready_seconds.clear()
        for agent, age in backlog.oldest_ready_seconds.items():
            metrics.oldest_ready_seconds.labels(agent=agent).set(age)
