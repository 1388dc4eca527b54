"""The composition root: wires the stages into one running daemon, reconfigures them, and takes them
down in order. Here alone adapters are built and handed to stages that know them by contract; every
long-lived task belongs to the one task group below.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Final

import structlog

from berinia_webhookd import __version__, listening
from berinia_webhookd.accept.application import build_handler
from berinia_webhookd.accept.door import Door
from berinia_webhookd.accept.server import make_runner
from berinia_webhookd.accept.site import ListeningSite
from berinia_webhookd.accept.visit import Page
from berinia_webhookd.channels import catalogue
from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.clock import now
from berinia_webhookd.config.load import Loaded
from berinia_webhookd.config.reload import changes
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.errors import CannotStart, ConfigurationError, JournalUnavailable
from berinia_webhookd.journal.store import SqlJournal
from berinia_webhookd.logs.pipeline import LogFiles, configure
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import AgentName, EntryState, EventId, OutcomeKind
from berinia_webhookd.outbound.alert_conditions import daemon_conditions
from berinia_webhookd.outbound.alerts import Alerts
from berinia_webhookd.outbound.availability import Availability
from berinia_webhookd.outbound.dispatcher import Dispatcher
from berinia_webhookd.outbound.reply import LateReplies
from berinia_webhookd.outbound.terms import Policies
from berinia_webhookd.outbound.transports import Transports
from berinia_webhookd.status.backlog import BacklogReader
from berinia_webhookd.status.greeting import greeting_page
from berinia_webhookd.status.health import HealthPage, agents_check, disk_check, journal_check
from berinia_webhookd.status.logs_api import LogsPage
from berinia_webhookd.status.metrics_page import MetricsPage
from berinia_webhookd.supervision import Notifier, report, watch, watchdog_interval_seconds

logger = structlog.get_logger()

FINISH_SECONDS: Final = 0.65  # requests under way when stopping have thrice this
PURGE_PAUSE_SECONDS: Final = 600.0
PURGE_STEP_SECONDS: Final = 0.2
SLOWEST_TURN_SECONDS: Final = 15.0  # with pauses and timeouts of the journal in it
OPEN_STATES: Final = (EntryState.READY, EntryState.RUNNING, EntryState.WAITING)


def start_logging(settings: Settings) -> LogFiles:
    """The unified logs as configured."""
    return configure(
        settings.logs.dir, level=log_level(settings), personal_data=settings.logs.personal_data
    )


def log_level(settings: Settings) -> str:
    """`--debug` logs more, whatever `logs.level` says."""
    return "debug" if settings.debug else settings.logs.level


def channels_by_path(settings: Settings) -> dict[str, Channel]:
    """The enabled channels, where they receive."""
    channels = catalogue.build(settings.channels, settings.server.public_url)
    return {channel.path: channel for channel in channels.values()}


def routed_agents(channels: Mapping[str, Channel]) -> frozenset[AgentName]:
    """Every agent that a message can be routed to."""
    return frozenset(agent for channel in channels.values() for agent in channel.agents)


def folders_of(settings: Settings) -> list[Path]:
    """The folders whose disks must not fill up."""
    url = settings.journal.url.reveal()
    folders = [settings.logs.dir]
    if url.startswith("sqlite:///"):
        folders.append(Path(url.removeprefix("sqlite:///")).parent)
    return folders


class Daemon:
    """One `serve`: build it inside the event loop, `run` it once."""

    def __init__(
        self,
        loaded: Loaded,
        *,
        reread: Callable[[], Loaded],
        dispatch: bool,
        environ: Mapping[str, str],
        on_started: Callable[[str], None],
    ) -> None:
        """`reread` gives the configuration as it stands now, or raises `ConfigurationError`;
        `on_started` gets the address once the sockets listen.
        """
        self._loaded = loaded  # as read last; `_settings` is what holds
        self._settings = loaded.settings
        self._reread = reread
        self._dispatch = dispatch
        self._environ = environ
        self._on_started = on_started
        self._notifier = Notifier(environ)
        self._metrics = Metrics()
        self._stop_wanted = asyncio.Event()
        self._reload_wanted = asyncio.Event()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            CannotStart, CannotStartNow: it never began.
        """
        settings = self._settings
        self._hear_of_reloads()
        async with contextlib.AsyncExitStack() as stack:
            self._log_files = start_logging(settings)
            stack.callback(self._log_files.close)
            sockets = self._open_sockets(settings)
            for listener in sockets:
                stack.callback(listener.close)
            self._journal = SqlJournal.from_settings(settings.journal, now, self._metrics)
            stack.push_async_callback(self._journal.close)
            await self._journal.open()
            self._build_outbound(settings, stack)
            self._build_door(settings)
            stack.push_async_callback(self._door.close)
            self._runner = make_runner(
                build_handler(self._door), self._door, shutdown_timeout_seconds=FINISH_SECONDS
            )
            stack.push_async_callback(self._runner.cleanup)
            await self._runner.setup()
            for listener in sockets:
                await ListeningSite(self._runner, listener).start()
            self._handle_signals()
            self._say_started([listening.address_of(listener) for listener in sockets])
            await self._until_stopped()
            await self._runner.cleanup()
            logger.info("server.stopped")

    def _open_sockets(self, settings: Settings) -> list[socket.socket]:
        return listening.open_sockets(settings.server, self._environ)

    def _receiving(self) -> Mapping[str, Channel]:
        """The channels that this process receives on, by path."""
        return self._channels

    def _build_outbound(self, settings: Settings, stack: contextlib.AsyncExitStack) -> None:
        self._channels = channels_by_path(settings)
        self._transports = Transports(
            settings.agents,
            metrics=self._metrics,
            attachments=self._attachments,
            masked=lambda: self._log_files.personal_data == "mask",
        )
        stack.push_async_callback(self._transports.close)
        whatsapp = settings.channels.whatsapp
        self._late_replies = LateReplies(
            url=whatsapp.late_reply_url,
            max_age_seconds=whatsapp.late_reply_max_age_seconds,
            clock=now,
        )
        stack.push_async_callback(self._late_replies.close)
        self._availability = Availability(
            outbox=self._journal,
            transports=self._transports,
            routed=routed_agents(self._channels),
            metrics=self._metrics,
        )
        self._alerts = Alerts(
            settings.alerts,
            node=settings.journal.node,
            clock=now,
            conditions=daemon_conditions(
                metrics=self._metrics,
                journal_up=lambda: self._journal.up,
                unavailable=lambda: self._availability.reasons,
                disk=disk_check(folders_of(settings)),
            ),
        )
        self._dispatcher = Dispatcher(
            outbox=self._journal,
            transports=self._transports,
            late_replies=self._late_replies,
            availability=self._availability,
            policies=Policies(settings),
            lease_seconds=settings.journal.lease_seconds,
            clock=now,
            metrics=self._metrics,
            on_dead=self._alerts.entry_dead,
        )

    async def _attachments(self, event_id: EventId) -> Iterable[bytes]:
        """The contents of an event's attachments, out of its raw delivery."""
        delivery = await self._journal.delivery_of(event_id)
        if delivery is None:
            return ()
        for channel in self._channels.values():
            if channel.name == delivery.channel:
                return await asyncio.to_thread(channel.attachment_contents, delivery)
        return ()

    def _build_door(self, settings: Settings) -> None:
        allowed = settings.server.metrics_allowed_ips
        backlog = BacklogReader(self._journal)
        self._backlog = backlog
        self._health = HealthPage(
            {
                "journal": journal_check(backlog, lambda: self._journal.up),
                "agents": agents_check(backlog, lambda: self._availability.reasons, now),
                "disk": disk_check(folders_of(settings)),
            },
            allowed,
        )
        self._metrics_page = MetricsPage(self._metrics, backlog, allowed, now)
        self._logs_page = LogsPage(settings.logs)
        self._pages = {
            "/": Page(greeting_page, "other", limited=False),
            "/health": Page(self._health, "health", limited=False),
            "/metrics": Page(self._metrics_page, "other", limited=False),
            "/webhook/logs": Page(self._logs_page, "logs", limited=True),
        }
        self._door = Door.from_settings(
            settings,
            inbox=self._journal,
            metrics=self._metrics,
            channels=self._receiving(),
            pages=self._pages,
        )

    def _hear_of_reloads(self) -> None:
        """One that is asked for while starting comes after it; see `serve` on what is earlier."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload_wanted.set)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop_wanted.set)

    def _say_started(self, addresses: list[str]) -> None:
        for finding in self._loaded.warnings:
            logger.warning("config.warning", setting=finding.subject, detail=finding.what)
        logger.info(
            "server.started",
            address=addresses[0] if addresses else None,
            version=__version__,
            dispatch=self._dispatch,
            config=str(self._loaded.config_file) if self._loaded.config_file else None,
        )
        if addresses:
            self._on_started(addresses[0])
        self._notifier.ready()

    async def _until_stopped(self) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._reload_on_demand()),
                group.create_task(self._purge()),
                group.create_task(self._recover()),
                group.create_task(report(self._notifier, self._status)),
                group.create_task(self._alerts.run()),
            ]
            if self._dispatch:
                tasks.append(group.create_task(self._dispatcher.run()))
            if interval := watchdog_interval_seconds(self._environ):
                tasks.append(group.create_task(watch(self._notifier, interval, self._turned)))
            await self._stop_wanted.wait()
            await self._wind_down()
            for task in tasks:
                task.cancel()

    async def _wind_down(self) -> None:
        """Claim no more, keep receiving until the attempts have ended or the grace has passed."""
        grace = self._settings.server.shutdown_grace_seconds
        logger.info("server.stopping", running=self._dispatcher.running, grace_seconds=grace)
        self._notifier.stopping()
        self._notifier.extend(grace + 10)
        self._door.stopping.set()
        if self._dispatch:
            await self._dispatcher.stop(grace)
        await self._transports.close()

    async def _reload_on_demand(self) -> None:
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            self._notifier.reloading()
            try:
                fresh = await asyncio.to_thread(self._reread)
            except CannotStart as error:  # what would keep it from starting
                found = error.findings if isinstance(error, ConfigurationError) else (error,)
                problems = [str(problem) for problem in found]
                logger.error("config.refused", problems=problems)  # noqa: TRY400 - all is in them
            else:
                self._apply(fresh)
            self._notifier.ready()

    def _apply(self, fresh: Loaded) -> None:
        """Put a new configuration in place; connections, events and attempts go on."""
        changed = changes(self._settings, self._loaded, fresh)
        settings = self._settings = changed.effective
        self._loaded = fresh
        self._log_files.reconfigure(
            level=log_level(settings), personal_data=settings.logs.personal_data
        )
        self._channels = channels_by_path(settings)
        self._door.reconfigure(settings, channels=self._receiving(), pages=self._pages)
        self._health.allowed = self._metrics_page.allowed = settings.server.metrics_allowed_ips
        self._logs_page.settings = settings.logs
        whatsapp = settings.channels.whatsapp
        self._late_replies.reconfigure(
            url=whatsapp.late_reply_url, max_age_seconds=whatsapp.late_reply_max_age_seconds
        )
        self._alerts.settings = settings.alerts
        self._transports.reconfigure(settings.agents)
        self._dispatcher.policies = Policies(settings)
        self._availability.reconfigure(routed_agents(self._channels))
        logger.info("config.reloaded", changed=changed.applied, needs_restart=changed.needs_restart)

    async def _purge(self) -> None:
        while True:
            try:
                gone = await self._journal.purge()
            except JournalUnavailable:
                gone = 0  # `journal.degraded` has been said
            await asyncio.sleep(PURGE_STEP_SECONDS if gone else PURGE_PAUSE_SECONDS)

    async def _recover(self) -> None:
        """Give back what processes on other nodes were running when they died; and tell of what
        took its process down too often, this one's before its start included.
        """
        while True:
            for lost in self._journal.take_lost_for_good():
                logger.error("entry.dead", **asdict(lost), outcome=OutcomeKind.LOST.value)
                self._alerts.lost_for_good(lost)
            await asyncio.sleep(self._settings.journal.lease_seconds / 3)
            with contextlib.suppress(JournalUnavailable):
                await self._journal.recover()

    async def _status(self) -> str:
        try:
            backlog = await self._backlog.read()
        except JournalUnavailable as error:
            return f"degraded: {error}"
        depth = sum(backlog.entries.get(state, 0) for state in OPEN_STATES)
        oldest = min(backlog.oldest_ready_at.values(), default=None)
        age = f", oldest {(now() - oldest).total_seconds():.0f} s" if oldest else ""
        return f"{depth} entries open{age}"

    async def _turned(self, within_seconds: float) -> bool:
        """Whether the journal's writer and the dispatcher each completed a turn lately. Waiting
        for a journal that is away makes turns slow; that is no reason to be killed.
        """
        turns = [self._journal.last_turn]
        if self._dispatch and not self._stop_wanted.is_set():
            turns.append(self._dispatcher.last_turn)
        patience = max(within_seconds, SLOWEST_TURN_SECONDS)
        return asyncio.get_running_loop().time() - min(turns) < patience
