"""The composition root: builds the parts of one process, runs them in its role, reconfigures them,
and closes them in order. Here alone adapters are built, and handed to stages that know their
contract. Every long-lived task belongs to the one task group in `Process.work`; only the journal's
writer and the agent hosts, which outlive it, belong to their parts.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import structlog

from berinia_webhookd import __version__, listening
from berinia_webhookd.accept.application import Receiver
from berinia_webhookd.accept.loopback_guard import LoopbackGuard
from berinia_webhookd.accept.request_context import Endpoint
from berinia_webhookd.channels.catalogue import Channels
from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.clock import now
from berinia_webhookd.config.load import Loaded
from berinia_webhookd.config.reload import changes
from berinia_webhookd.config.settings import Settings, state_folder
from berinia_webhookd.errors import (
    CannotStart,
    ConfigurationError,
    JournalUnavailable,
    JournalWriterEnded,
)
from berinia_webhookd.journal.consents_key import ConsentsKey
from berinia_webhookd.journal.store import SqlJournal
from berinia_webhookd.logs.pipeline import LogFiles, LogOptions, configure
from berinia_webhookd.loopback_lock import LoopbackLock
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import OutcomeKind
from berinia_webhookd.outbound.alerts import Alerts, daemon_conditions
from berinia_webhookd.outbound.attachment_files import stored_attachments
from berinia_webhookd.outbound.availability import Availability
from berinia_webhookd.outbound.dispatcher import Dispatcher
from berinia_webhookd.outbound.guards import Guards
from berinia_webhookd.outbound.late_replies import LateReplies
from berinia_webhookd.outbound.retry_policy import RetryPolicies
from berinia_webhookd.outbound.transports import Transports
from berinia_webhookd.own_requests import InstallationKey
from berinia_webhookd.status.backlog import BacklogReader
from berinia_webhookd.status.greeting import greeting
from berinia_webhookd.status.health import HealthPage, checks, disk_check, folders_of
from berinia_webhookd.status.logs_api import LogsPage
from berinia_webhookd.status.metrics_page import MetricsPage
from berinia_webhookd.supervision import (
    Notifier,
    Signals,
    Turning,
    in_thread_of_its_own,
    report,
    watch,
    watchdog_interval_seconds,
)

logger = structlog.get_logger()

FINISH_SECONDS: Final = 0.65  # requests under way when stopping have thrice this
REREAD_SECONDS: Final = 30.0
PROBLEMS_SAID: Final = 100
PURGE_PAUSE_SECONDS: Final = 600.0
PURGE_STEP_SECONDS: Final = 0.2


def log_options(settings: Settings) -> LogOptions:
    """Return how to log; `--debug` logs more, whatever `logs.level` says."""
    level = "debug" if settings.debug else settings.logs.level
    return LogOptions(level, settings.logs.personal_data, frozenset(settings.channels))


@dataclass(frozen=True, slots=True)
class Role:
    """What a process does: `serve`, `serve --no-dispatch` and `worker` are made of these."""

    receives: bool  # a process that does not takes no sockets from systemd either
    dispatches: bool
    listens: bool  # if it does not receive, for the pages alone


@dataclass(frozen=True, slots=True)
class Outbound:
    """The parts that bring entries to agents."""

    transports: Transports
    late_replies: LateReplies
    availability: Availability
    alerts: Alerts
    policies: RetryPolicies
    dispatcher: Dispatcher

    def reconfigure(self, settings: Settings, channels: Channels) -> None:
        """Take effect from the next attempt on."""
        self.transports.reconfigure(settings.agents)
        self.alerts.reconfigure(settings.alerts)
        self.policies.reconfigure(settings)
        self.availability.reconfigure(channels.agents)


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one process, in the order in which they are built."""

    role: Role
    logs: LogFiles
    sockets: Sequence[socket.socket]
    journal: SqlJournal
    channels: Channels
    outbound: Outbound
    backlog: BacklogReader
    pages: tuple[HealthPage, MetricsPage, LogsPage]
    receiver: Receiver

    def reconfigure(self, settings: Settings) -> None:
        """Put new settings in place; connections, events and attempts go on."""
        self.logs.reconfigure(log_options(settings))
        self.journal.reconfigure(settings)
        self.channels.reconfigure(settings)
        self.outbound.reconfigure(settings, self.channels)
        for page in self.pages:
            page.reconfigure(settings)
        self.receiver.guard.reconfigure(settings.server, paths_of(self.channels))
        self.receiver.reconfigure(
            settings.server, settings.rate_limit, channels=received(self.channels, self.role)
        )

    @property
    def turning(self) -> Sequence[Turning]:
        """The parts that the watchdog looks at; a dispatcher waits for a journal that is down."""
        dispatches = self.role.dispatches and self.journal.up
        return (self.journal, self.outbound.dispatcher) if dispatches else (self.journal,)


def paths_of(channels: Channels) -> Sequence[str]:
    """Return where the enabled channels receive."""
    return [channel.path for channel in channels.enabled]


def own_listeners(settings: Settings) -> Sequence[str]:
    """Return the addresses that channels have for themselves."""
    enabled = Channels(settings).enabled
    return list(dict.fromkeys(one.listen for one in enabled if one.listen is not None))


def received(channels: Channels, role: Role) -> Collection[Channel]:
    """Return the channels that a process in this role receives on."""
    return channels.enabled if role.receives else ()


async def run(
    loaded: Loaded,
    role: Role,
    *,
    reread: Callable[[Loaded], Loaded],
    environ: Mapping[str, str],
    on_started: Callable[[str], None] = lambda _: None,
) -> None:
    """Be the daemon in this role until SIGTERM or SIGINT.

    `reread` gives the configuration as it stands now, knowing the one before, or raises
    `ConfigurationError`; `on_started` gets the address once the sockets listen.

    Raises:
        CannotStart, CannotStartNow: it never began.
    """
    signals = Signals()
    try:
        async with opened(loaded.settings, role, environ) as parts, serving(parts):
            signals.started()
            process = Process(parts, loaded, loaded.settings, reread, Notifier(environ), signals)
            process.say_started(on_started)
            await process.work(watchdog_interval_seconds(environ))
    except asyncio.CancelledError:
        if not signals.stop.is_set():
            raise  # else: it was to stop while it started


@contextlib.asynccontextmanager
async def opened(
    settings: Settings, role: Role, environ: Mapping[str, str]
) -> AsyncIterator[Parts]:
    """Open the parts from the first to the last, and close them from the last to the first."""
    if not role.receives and settings.journal.file is not None:
        raise CannotStart(
            "a worker shares the journal with other processes, and journal.url is a SQLite "
            "file, which only one can have",
            hint="set journal.url to postgresql://…, or let `serve` dispatch",
        )
    of_systemd = environ if role.receives else {}
    async with contextlib.AsyncExitStack() as stack:
        logs = stack.enter_context(
            contextlib.closing(configure(settings.logs.dir, log_options(settings)))
        )
        stack.push(say_stopped)
        own = own_listeners(settings) if role.receives else ()
        sockets = listening.open_sockets(settings.server, of_systemd, own) if role.listens else []
        for listener in sockets:
            stack.enter_context(contextlib.closing(listener))
        metrics = Metrics()
        channels = Channels(settings)
        policies = RetryPolicies(settings, channels.of)
        state = state_folder(environ)
        key_of_consents = consents_key(settings, state)
        journal = SqlJournal.from_settings(
            settings, now, metrics, policies.lost_reply, key_of_consents
        )
        stack.push_async_callback(journal.close)
        await journal.open()
        key = installation_key(state)
        guard = LoopbackGuard(
            settings.server,
            paths_of(channels),
            lock=LoopbackLock(state),
            key=key,
            metrics=metrics,
            enabled=role.receives and not settings.dev,
        )
        outbound = build_outbound(
            settings,
            metrics,
            logs,
            journal,
            channels,
            policies=policies,
            loopback_locked=lambda: guard.locked,
        )
        stack.push_async_callback(outbound.transports.close)
        stack.push_async_callback(outbound.late_replies.close)
        backlog = BacklogReader(journal)
        allowed = settings.server.metrics_allowed_ips
        health = HealthPage(
            checks(
                backlog,
                journal_up=lambda: journal.up,
                unavailable=lambda: outbound.availability.reasons,
                folders=folders_of(settings),
                dispatcher=outbound.dispatcher if role.dispatches else None,
            ),
            allowed,
        )
        metrics_page = MetricsPage(metrics, backlog, allowed, lambda: journal.up)
        logs_page = LogsPage(settings)
        receiver = Receiver(
            settings.server,
            settings.rate_limit,
            inbox=journal,
            metrics=metrics,
            channels=received(channels, role),
            pages={
                "/": Endpoint(greeting, "other"),
                "/health": Endpoint(health.handle, "health"),
                "/metrics": Endpoint(metrics_page.handle, "other"),
                "/webhook/logs": Endpoint(logs_page.handle, "logs", limited=True),
            },
            key=key,
            guard=guard,
            shutdown_seconds=FINISH_SECONDS,
        )
        yield Parts(
            role=role,
            logs=logs,
            sockets=sockets,
            journal=journal,
            channels=channels,
            outbound=outbound,
            backlog=backlog,
            pages=(health, metrics_page, logs_page),
            receiver=receiver,
        )


def say_stopped(
    kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
) -> None:
    """Report an orderly end, once every part but the log is closed."""
    del error, traceback
    if kind is None:
        logger.info("server.stopped")


def installation_key(state: Path) -> InstallationKey:
    """Return the key of this installation. Without a place for it nobody has it: probes are refused
    then, and messages come in all the same.
    """
    try:
        return InstallationKey.made(state)
    except (OSError, ValueError) as error:
        hint = "doctor cannot send probes; let the state folder belong to the daemon's user"
        logger.warning("installation.key_unusable", reason=str(error), hint=hint)
        return InstallationKey(secrets.token_bytes(32))


def consents_key(settings: Settings, state: Path) -> ConsentsKey | None:
    """Return the key of the register of consents, made at the first start. Without one nobody who
    opted out can be erased, and a journal in which somebody was is not opened.
    """
    try:
        return ConsentsKey.of(settings, state, make=True)
    except (OSError, ValueError) as error:
        hint = "let the state folder belong to the daemon's user, or set consents.key"
        logger.warning("consents.key_unusable", reason=str(error), hint=hint)
        return None


def build_outbound(
    settings: Settings,
    metrics: Metrics,
    logs: LogFiles,
    journal: SqlJournal,
    channels: Channels,
    *,
    loopback_locked: Callable[[], bool],
    policies: RetryPolicies,
) -> Outbound:
    """Build the dispatching side; nothing runs yet."""
    transports = Transports(
        settings.agents,
        metrics=metrics,
        channel_of=channels.of,
        attachments=stored_attachments(journal, channels.of),
        masked=lambda: logs.options.masked,
    )
    late_replies = LateReplies(channels.of, clock=now)
    availability = Availability(
        outbox=journal, transports=transports, routed=channels.agents, metrics=metrics
    )
    alerts = Alerts(
        settings.alerts,
        node=settings.journal.node,
        clock=now,
        conditions=daemon_conditions(
            metrics=metrics,
            journal_up=lambda: journal.up,
            unavailable=lambda: availability.reasons,
            disk=disk_check(folders_of(settings)),
            loopback_locked=loopback_locked,
        ),
    )
    dispatcher = Dispatcher(
        outbox=journal,
        transports=transports,
        late_replies=late_replies,
        availability=availability,
        policies=policies,
        lease_seconds=settings.journal.lease_seconds,
        metrics=metrics,
        on_dead=alerts.entry_dead,
        guards=Guards(alerts.held, alerts.agent_failing),
    )
    return Outbound(transports, late_replies, availability, alerts, policies, dispatcher)


@contextlib.asynccontextmanager
async def serving(parts: Parts) -> AsyncIterator[None]:
    """Answer requests inside; at the end, finish those under way."""
    try:
        await parts.receiver.start(parts.sockets)
        yield
    finally:
        await parts.receiver.stop()


@dataclass(slots=True)
class Process:
    """The parts at work: what runs for long, reloads, and the way down."""

    parts: Parts
    loaded: Loaded  # as read last; `settings` is what holds
    settings: Settings
    reread: Callable[[Loaded], Loaded]
    notifier: Notifier
    signals: Signals

    def say_started(self, on_started: Callable[[str], None]) -> None:
        """Report the start to the log, the caller of `run` and systemd."""
        for finding in self.loaded.warnings:
            logger.warning("config.warning", setting=finding.subject, detail=finding.what)
        addresses = [listening.address_of(listener) for listener in self.parts.sockets]
        logger.info(
            "server.started",
            address=addresses[0] if addresses else None,
            version=__version__,
            dispatch=self.parts.role.dispatches,
            config=str(self.loaded.config_file) if self.loaded.config_file else None,
        )
        if addresses:
            on_started(addresses[0])
        self.notifier.ready()

    async def work(self, watchdog_interval: float | None) -> None:
        """Run everything that runs for long, until it is to stop.

        Raises:
            JournalWriterEnded: nothing could be written any more.
        """
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(task) for task in self._tasks(watchdog_interval)]
                await self.signals.stop.wait()
                await self._wind_down()
                for task in tasks:
                    task.cancel()
        except BaseExceptionGroup as errors:
            if (ended := errors.subgroup(JournalWriterEnded)) is None:
                raise
            raise ended.exceptions[0] from errors

    def _tasks(self, watchdog_interval: float | None) -> Iterator[Coroutine[Any, Any, None]]:
        parts = self.parts
        yield self._reload_on_demand()
        yield parts.journal.watch()
        yield purge(parts.journal)
        yield recover(parts.journal, self.settings.journal.lease_seconds / 3, parts.outbound.alerts)
        yield report(self.notifier, self._status)
        yield parts.outbound.alerts.run()
        yield parts.receiver.guard.run()
        if parts.role.dispatches:
            yield parts.outbound.dispatcher.run()
        if watchdog_interval is not None:
            yield watch(self.notifier, watchdog_interval, lambda: parts.turning)

    async def _wind_down(self) -> None:
        """Claim no more, keep receiving until the attempts have ended or the grace has passed."""
        outbound, grace = self.parts.outbound, self.settings.server.shutdown_grace_seconds
        logger.info("server.stopping", running=outbound.dispatcher.running, grace_seconds=grace)
        self.notifier.stopping()
        self.notifier.extend(outbound.dispatcher.longest_grace(grace) + 10)
        self.notifier.status(await self._status())
        self.parts.receiver.stopping.set()
        if self.parts.role.dispatches:
            await outbound.dispatcher.stop(grace)
        await outbound.transports.close()

    async def _status(self) -> str:
        """Return the line of `systemctl status`: while stopping, what is waited for."""
        begun = self.parts.outbound.dispatcher.begun if self.signals.stop.is_set() else ()
        if not begun:
            return await self.parts.backlog.in_one_line()
        waits = ", ".join(
            f"{run.entry.agent} ({run.entry.event_id}, {run.policy.stop_grace_seconds:g} s at most)"
            for run in begun
        )
        return f"stopping: waiting for {waits}"

    async def _reload_on_demand(self) -> None:
        while True:
            await self.signals.reload.wait()
            self.signals.reload.clear()
            self.notifier.reloading()
            try:
                fresh = await self._read_again()
            except CannotStart as error:  # what would keep it from starting
                found = error.findings if isinstance(error, ConfigurationError) else (error,)
                problems = [str(problem) for problem in found[:PROBLEMS_SAID]]
                logger.error("config.refused", problems=problems)  # noqa: TRY400 - all is in them
            else:
                self._reload(fresh)
            self.notifier.ready()

    async def _read_again(self) -> Loaded:
        try:
            async with asyncio.timeout(REREAD_SECONDS):
                return await in_thread_of_its_own(lambda: self.reread(self.loaded))
        except TimeoutError as error:
            why = f"the settings cannot be read within {REREAD_SECONDS:g} s"
            raise CannotStart(why, hint="is the disk that they are on there?") from error

    def _reload(self, fresh: Loaded) -> None:
        changed = changes(self.settings, self.loaded, fresh)
        self.settings, self.loaded = changed.effective, fresh
        self.parts.reconfigure(changed.effective)
        logger.info("config.reloaded", changed=changed.applied, needs_restart=changed.needs_restart)


async def purge(journal: SqlJournal) -> None:
    """Delete what is past its retention, for ever, in steps that delay nobody."""
    while True:
        try:
            gone = await journal.purge()
        except JournalUnavailable:
            gone = 0  # `journal.degraded` has been said
        await asyncio.sleep(PURGE_STEP_SECONDS if gone else PURGE_PAUSE_SECONDS)


async def recover(journal: SqlJournal, pause_seconds: float, alerts: Alerts) -> None:
    """Give back, for ever, what processes on other nodes were running when they died; and report
    entries that were running too often when a process died, before this one's start included.
    """
    while True:
        for lost in journal.take_lost_for_good():
            logger.error("entry.dead", **asdict(lost), outcome=OutcomeKind.LOST.value)
            alerts.lost_for_good(lost)
        await asyncio.sleep(pause_seconds)
        with contextlib.suppress(JournalUnavailable):
            await journal.recover()
