"""`GET /health`: whether the daemon can do its work. Everybody gets 200 or 503, the reasons only
`server.metrics_allowed_ips` and the log.
"""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Final

import orjson
import structlog
from aiohttp import web

from berinia_webhookd.addresses import Network, is_allowed
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.errors import JournalUnavailable
from berinia_webhookd.http_request import CALLER
from berinia_webhookd.model import AgentName
from berinia_webhookd.status.backlog import BacklogReader
from berinia_webhookd.supervision import Turning, turns

_log = structlog.get_logger()

# Returns what is wrong, or None.
Check = Callable[[], Awaitable[str | None]]

LEAST_FREE_BYTES: Final = 100 * 1024 * 1024
AGENTS: Final = "agents"  # one that is unavailable does not make the daemon unhealthy


class HealthPage:
    """The page `GET /health`."""

    def __init__(self, checks: Mapping[str, Check], allowed: tuple[Network, ...]) -> None:
        self._allowed = allowed
        self._checks = checks
        self._last: dict[str, str] = {}

    def reconfigure(self, settings: Settings) -> None:
        """Take effect from the next request on."""
        self._allowed = settings.server.metrics_allowed_ips

    async def reasons(self) -> dict[str, str]:
        """Return what is wrong, by check (journal, dispatcher, agents, disk); none when healthy."""
        reasons = {}
        for name, check in self._checks.items():
            reason = await check()
            if reason is not None:
                reasons[name] = reason
        self._note({name: reason for name, reason in reasons.items() if name != AGENTS})
        return reasons

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer 200 or 503."""
        reasons = await self.reasons()
        healthy = not reasons.keys() - {AGENTS}
        document: dict[str, object] = {"status": "healthy" if healthy else "unhealthy"}
        if reasons and is_allowed(self._allowed, request[CALLER]):
            document["reasons"] = reasons
        headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
        body = orjson.dumps(document)
        return web.Response(status=200 if healthy else 503, body=body, headers=headers)

    def _note(self, reasons: dict[str, str]) -> None:
        """Log when a check begins or stops to fail."""
        if reasons.keys() == self._last.keys():
            return
        self._last = reasons
        if reasons:
            _log.warning("health.unhealthy", reasons=reasons)
        else:
            _log.info("health.healthy")


def checks(
    backlog: BacklogReader,
    *,
    journal_up: Callable[[], bool],
    unavailable: Callable[[], Mapping[AgentName, str]],
    outdated: Callable[[], Mapping[AgentName, str]],
    folders: Collection[Path],
    dispatcher: Turning | None,
) -> Mapping[str, Check]:
    """Return the checks of a daemon; `dispatcher` is None if it does not dispatch."""
    found = {
        "journal": journal_check(backlog, journal_up),
        AGENTS: agents_check(unavailable, outdated),
        "disk": disk_check(folders),
    }
    return found if dispatcher is None else {**found, "dispatcher": dispatcher_check(dispatcher)}


def journal_check(backlog: BacklogReader, takes_writes: Callable[[], bool]) -> Check:
    """Return a check that the journal can be read and written."""

    async def check() -> str | None:
        try:
            await backlog.read()
        except JournalUnavailable:
            return "the journal does not answer"
        return None if takes_writes() else "the journal cannot be written"

    return check


def dispatcher_check(dispatcher: Turning) -> Check:
    """Return a check that the dispatcher is not stuck, or no agent would get messages."""

    async def check() -> str | None:
        return None if turns(dispatcher) else "the dispatcher is stuck"

    return check


def agents_check(
    unavailable: Callable[[], Mapping[AgentName, str]],
    outdated: Callable[[], Mapping[AgentName, str]],
) -> Check:
    """Return a check that all agents are loaded, as their code is now; each cause is said once."""

    async def check() -> str | None:
        told = (
            ("{} cannot be loaded: {}", unavailable()),
            ("the new code of {} cannot be loaded: {}", outdated()),
        )
        said = []
        for text, reasons in told:
            for reason in dict.fromkeys(reasons.values()):
                agents = sorted(agent for agent, why in reasons.items() if why == reason)
                said.append(text.format(", ".join(agents), reason))
        return "; ".join(said) or None

    return check


def least_free(total_bytes: int) -> int:
    """Return how many bytes of a disk must be free; of a small one a tenth."""
    return min(LEAST_FREE_BYTES, total_bytes // 10)


def disk_check(folders: Collection[Path], least: Callable[[int], int] = least_free) -> Check:
    """Return a check that these folders' disks are not nearly full."""

    async def check() -> str | None:
        low = []
        for folder in folders:
            try:
                usage = shutil.disk_usage(folder)
            except OSError:
                continue  # reported by the check of the journal, or by the log writer
            if usage.free < least(usage.total):
                low.append(f"{folder} has {usage.free // 1024**2} MiB left")
        return "; ".join(low) or None

    return check


def folders_of(settings: Settings) -> list[Path]:
    """Return the folders of the journal and the logs."""
    file = settings.journal.file
    return [settings.logs.dir] if file is None else [settings.logs.dir, file.parent]
