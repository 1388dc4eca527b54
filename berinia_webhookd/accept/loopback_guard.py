"""The guard of loopback: a proxy on this machine that sets no headers makes every stranger look
like a program on this machine. So the daemon calls itself through `server.public_url`, and sees how
what comes from outside arrives. While its own requests speak against it, a loopback address proves
nothing; no request of anybody else opens or ends that lock, since an attacker could shape it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import aiohttp
import structlog
from yarl import URL

from berinia_webhookd.addresses import peer_is_here
from berinia_webhookd.clock import now, wait_for_event
from berinia_webhookd.config.settings import ServerSettings
from berinia_webhookd.http_client import HttpClient
from berinia_webhookd.loopback_lock import NGINX_LINE, LoopbackLock, Reason
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import Caller
from berinia_webhookd.own_requests import HEADER, InstallationKey, Purpose

_log = structlog.get_logger()

HOUR_SECONDS: Final = 3600.0
LOOK_SECONDS: Final = 1.0  # how soon it is noticed that an operator ended the lock
ANSWER_SECONDS: Final = 10.0
SUSPICION_PAUSE_SECONDS: Final = 60.0
FORGED: Final = "192.0.2.77"  # never assigned: RFC 5737
PAGES: Final = ("/metrics", "/health")


def said_against(forwarded_for: str) -> Reason | None:
    """Return what a request of our own says against believing in loopback, by the header that it
    arrived with, whoever passed it on: one proxy without the header is seldom the only one.
    """
    if not forwarded_for:
        return Reason.NOT_SENT
    last = forwarded_for.rpartition(",")[2].strip()
    return Reason.NOT_APPENDED if last == FORGED else None


@dataclass(slots=True)
class _Findings:
    """What one probe of all public URLs found."""

    arrived: int = 0
    against: tuple[str, Reason] | None = None  # the URL, and what is wrong there
    failed: dict[str, str] = field(default_factory=dict)


class LoopbackGuard:
    """Probes the public URLs at start, every hour, and at once on suspicion.

    Args:
        lock: kept in the state folder of this node.
        key: makes the mark by which own requests are known.
    """

    def __init__(
        self,
        server: ServerSettings,
        paths: Iterable[str],
        *,
        lock: LoopbackLock,
        key: InstallationKey,
        metrics: Metrics,
        enabled: bool = True,
    ) -> None:
        self._lock = lock
        self._key = key
        self._gauge = metrics.loopback_locked
        self._enabled = enabled
        # By the nonce of the mark, with which X-Forwarded-For it arrived; None: not yet.
        self._expected: dict[str, str | None] = {}
        self._asked = asyncio.Event()
        self._suspected_at = -SUSPICION_PAUSE_SECONDS
        self.locked = self._is_kept = enabled and lock.read() is not None
        self._gauge.set(self.locked)
        self._aims: tuple[str, ...] = ()
        self.reconfigure(server, paths)

    def reconfigure(self, server: ServerSettings, paths: Iterable[str]) -> None:
        """Probe again if the URLs or paths changed."""
        ways = (*paths, *PAGES)
        aims = tuple(url + path for url in server.public_url for path in ways)
        if aims != self._aims:
            self._aims = aims
            self._asked.set()

    def note_arrival(self, nonce: str, forwarded_for: str) -> None:
        """Note how a request of our own came in; one that nobody waits for is another process's."""
        if nonce in self._expected:
            self._expected[nonce] = forwarded_for

    def suspect(self, caller: Caller) -> None:
        """Probe at once if a provider's request came through a local proxy that names no client."""
        at = asyncio.get_running_loop().time()
        if self.locked or at - self._suspected_at < SUSPICION_PAUSE_SECONDS:
            return
        if caller.peer_trusted and peer_is_here(caller):
            self._suspected_at = at
            self._asked.set()

    async def run(self) -> None:
        """Probe, for ever."""
        loop = asyncio.get_running_loop()
        while self._enabled:
            self._asked.clear()
            await self._look()
            due = loop.time() + HOUR_SECONDS
            while loop.time() < due and not self._asked.is_set():
                left = due - loop.time()
                await wait_for_event(self._asked, min(left, LOOK_SECONDS) if self.locked else left)
                if self._is_kept and self._lock.read() is None:
                    self._unlock("an operator trusts it")

    async def _look(self) -> None:
        found = _Findings()
        aims = self._aims
        async with HttpClient(verify_tls=False) as client:  # what counts is seen on arrival
            for aim in aims:
                if URL(aim).origin() not in map(URL, found.failed):
                    await self._try(client, aim, found)
        self._judge(found)

    async def _try(self, client: HttpClient, aim: str, found: _Findings) -> None:
        arrivals = []
        for forged in ({}, {"X-Forwarded-For": FORGED}):
            nonce = secrets.token_hex(16)
            self._expected[nonce] = None
            try:
                await self._call(client, aim, nonce, forged)
            except (aiohttp.ClientError, OSError, ValueError) as error:
                found.failed[str(URL(aim).origin())] = str(error) or type(error).__name__
                return
            finally:
                arrivals.append(self._expected.pop(nonce))
        for arrival in arrivals:
            against = None if arrival is None else said_against(arrival)
            if against is not None and found.against is None:
                found.against = aim, against
        found.arrived += None not in arrivals

    async def _call(self, client: HttpClient, aim: str, nonce: str, forged: dict[str, str]) -> None:
        headers = {HEADER: self._key.mark(Purpose.ARRIVAL, now(), nonce=nonce), **forged}
        url = URL(aim, encoded=True)
        async with client.request("GET", url, headers=headers, timeout_seconds=ANSWER_SECONDS):
            pass  # nginx answers for what it does not pass on

    def _judge(self, found: _Findings) -> None:
        if found.against is not None:
            self._lock_for(*found.against)
        elif found.arrived and not found.failed and self.locked:
            self._unlock("requests from outside arrive with their address")
        if found.failed or (self._aims and not found.arrived):
            reason = "no request came through to this process"
            _log.warning(
                "loopback.unprobed",
                failed=found.failed or dict.fromkeys(_origins(self._aims), reason),
                hint="whether nginx says who calls is not known: berinia-webhookd doctor",
            )

        if found.arrived:
            _log.info("loopback.probed", arrived=found.arrived, locked=self.locked)

    def _lock_for(self, url: str, reason: Reason) -> None:
        try:
            self._lock.write(url, reason)
            self._is_kept = True
        except OSError as error:  # it holds until the end of this process
            _log.warning("loopback.not_kept", file=str(self._lock.file), reason=str(error))
        if not self.locked:
            self.locked = True
            self._gauge.set(1)
            _log.error("loopback.locked", url=url, reason=reason.what, fix=NGINX_LINE)

    def _unlock(self, why: str) -> None:
        self._lock.remove()
        self.locked = self._is_kept = False
        self._gauge.set(0)
        _log.info("loopback.unlocked", reason=why)


def _origins(aims: Iterable[str]) -> Iterator[str]:
    return (str(URL(aim).origin()) for aim in aims)
