"""The composition root: builds the parts of a process, reconfigures and closes them. Only here are
adapters built and handed to stages, which know their contracts; `process.py` runs the parts.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final

import structlog

from berinia_webhookd import listening
from berinia_webhookd.accept.application import Receiver
from berinia_webhookd.accept.loopback_guard import LoopbackGuard
from berinia_webhookd.accept.request_context import Endpoint
from berinia_webhookd.channels.catalogue import Channels
from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.clock import now
from berinia_webhookd.config.settings import Settings, runtime_folder, state_folder
from berinia_webhookd.console_process import ConsoleProcess, Told, console_url
from berinia_webhookd.errors import CannotStart
from berinia_webhookd.journal.consents_key import ConsentsKey
from berinia_webhookd.journal.console import ConsoleJournal
from berinia_webhookd.journal.store import SqlJournal
from berinia_webhookd.logs.pipeline import LogFiles, LogOptions, configure
from berinia_webhookd.loopback_lock import LoopbackLock
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import AgentName
from berinia_webhookd.outbound.alerts import Alerts, daemon_conditions
from berinia_webhookd.outbound.attachment_files import stored_attachments
from berinia_webhookd.outbound.availability import Availability
from berinia_webhookd.outbound.dispatcher import Dispatcher
from berinia_webhookd.outbound.guards import Guards
from berinia_webhookd.outbound.late_replies import LateReplies
from berinia_webhookd.outbound.retry_policy import RetryPolicies
from berinia_webhookd.outbound.transports import Transports
from berinia_webhookd.own_requests import InstallationKey
from berinia_webhookd.status.backlog import BacklogReader, held_for_days
from berinia_webhookd.status.greeting import greeting
from berinia_webhookd.status.health import HealthPage, checks, disk_check, folders_of
from berinia_webhookd.status.logs_api import LogsPage
from berinia_webhookd.status.metrics_page import MetricsPage
from berinia_webhookd.status.silence import SilenceWatch
from berinia_webhookd.supervision import Turning

if TYPE_CHECKING:
    from berinia_webhookd.tracing import Tracing

logger = structlog.get_logger()

FINISH_SECONDS: Final = 0.65  # when stopping, requests have three times as long


def log_options(settings: Settings) -> LogOptions:
    """Return how to log; `--debug` logs more, whatever `logs.level` says."""
    level = "debug" if settings.debug else settings.logs.level
    return LogOptions(level, settings.logs.personal_data, frozenset(settings.channels))


def is_quiet(settings: Settings) -> bool:
    """Whether the log is not on the screen too."""
    return settings.dev and not settings.debug


@dataclass(frozen=True, slots=True)
class Role:
    """What a process does: `serve`, `serve --no-dispatch` or `worker`."""

    receives: bool  # a process that does not takes no sockets from systemd either
    dispatches: bool
    listens: bool  # if it does not receive, only for the pages


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
        routed = channels.agents
        self.transports.reconfigure(settings.agents, keep=self.availability.loaded.keys() & routed)
        self.alerts.reconfigure(settings.alerts)
        self.policies.reconfigure(settings)
        self.dispatcher.reconfigure()
        self.availability.reconfigure(routed)


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
    silence: SilenceWatch
    pages: tuple[HealthPage, MetricsPage, LogsPage]
    receiver: Receiver
    console: ConsoleProcess | None

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
        if self.console is not None:
            self.console.reconfigure(settings)

    @property
    def turning(self) -> Sequence[Turning]:
        """The parts that the watchdog watches; the dispatcher waits while the journal is down."""
        dispatches = self.role.dispatches and self.journal.up
        return (self.journal, self.outbound.dispatcher) if dispatches else (self.journal,)


def paths_of(channels: Channels) -> Sequence[str]:
    """Return where the enabled channels receive."""
    return [channel.path for channel in channels.enabled]


def own_listeners(settings: Settings) -> list[str]:
    """Return the addresses that channels have for themselves."""
    enabled = Channels(settings).enabled
    return list(dict.fromkeys(one.listen for one in enabled if one.listen is not None))


def received(channels: Channels, role: Role) -> Collection[Channel]:
    """Return the channels that a process in this role receives on."""
    return channels.enabled if role.receives else ()


@contextlib.asynccontextmanager
async def opened(
    settings: Settings, role: Role, environ: Mapping[str, str], console_program: Sequence[str] = ()
) -> AsyncIterator[Parts]:
    """Open the parts in order, and close them in reverse; `console_program` is what answers on the
    console's socket.
    """
    if not role.receives and settings.journal.file is not None:
        raise CannotStart(
            "a worker shares the journal with other processes, and journal.url is a SQLite "
            "file, which only one can have",
            hint="set journal.url to postgresql://…, or let `serve` dispatch",
        )
    of_systemd = environ if role.receives else {}
    async with contextlib.AsyncExitStack() as stack:
        logs = configure(settings.logs.dir, log_options(settings), quiet=is_quiet(settings))
        stack.enter_context(contextlib.closing(logs))
        stack.push(say_stopped)
        own = own_listeners(settings) if role.receives else []
        with_console = role.receives and settings.console.enabled
        if with_console and not settings.dev:
            own.append(settings.console.listen)
        sockets = listening.open_sockets(settings.server, of_systemd, own) if role.listens else []
        if with_console and settings.dev:
            sockets.append(listening.open_near(settings.console.listen))
        for listener in sockets:
            stack.enter_context(contextlib.closing(listener))
        console_socket = sockets.pop() if with_console else None
        if (tracing := tracing_of(settings)) is not None:
            stack.callback(tracing.close)
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
        backlog = BacklogReader(journal.backlog)
        silence = SilenceWatch(
            journal,
            channels=lambda: [channel.name for channel in received(channels, role)],
            history_days=settings.journal.retention_days,
            metrics=metrics,
            clock=now,
        )
        outbound = build_outbound(
            settings,
            metrics,
            logs,
            journal,
            channels,
            policies=policies,
            loopback_locked=lambda: guard.locked,
            backlog=backlog,
            silence=silence,
            tracing=tracing,
        )
        stack.push_async_callback(outbound.transports.close)
        stack.push_async_callback(outbound.late_replies.close)
        allowed = settings.server.metrics_allowed_ips
        health = HealthPage(
            checks(
                backlog,
                journal_up=lambda: journal.up,
                unavailable=lambda: outbound.availability.reasons,
                outdated=lambda: outbound.availability.outdated,
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
            can_answer=partial(can_answer, settings, role, outbound.availability),
            runtime=runtime_folder(environ),
            shutdown_seconds=FINISH_SECONDS,
            innermost=() if tracing is None else (tracing.middleware,),
        )
        console = None
        if console_socket is not None:
            console = ConsoleProcess(
                console_program,
                console_socket,
                Told(
                    url=console_url(settings, console_socket, state),
                    settings=settings,
                    key=key_of_consents,
                    shapes=outbound.transports.python.shapes,
                ),
                partial(ConsoleJournal, settings.journal.url.reveal(), node=settings.journal.node),
            )
        yield Parts(
            role=role,
            logs=logs,
            sockets=sockets,
            journal=journal,
            channels=channels,
            outbound=outbound,
            backlog=backlog,
            silence=silence,
            pages=(health, metrics_page, logs_page),
            receiver=receiver,
            console=console,
        )


def say_stopped(
    kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
) -> None:
    """Report an orderly end, once every part but the log is closed."""
    del error, traceback
    if kind is None:
        logger.info("server.stopped")


def installation_key(state: Path) -> InstallationKey:
    """Return the key of this installation. If it cannot be kept, probes are refused, but messages
    are received all the same.
    """
    try:
        return InstallationKey.made(state)
    except (OSError, ValueError) as error:
        hint = "doctor cannot send probes; let the state folder belong to the daemon's user"
        logger.warning("installation.key_unusable", reason=str(error), hint=hint)
        return InstallationKey(secrets.token_bytes(32))


def tracing_of(settings: Settings) -> Tracing | None:
    """Return what makes spans; None where nothing does, and nothing of it is imported."""
    if settings.tracing.url is None:
        return None
    from berinia_webhookd.tracing import Tracing  # noqa: PLC0415

    return Tracing.to(settings.tracing.url, settings.journal.node)


def can_answer(
    settings: Settings, role: Role, availability: Availability, agent: AgentName
) -> bool:
    """Whether an agent may answer soon: not if it is not loaded, nor if this process does not
    dispatch; unless the journal is shared, so that another process may.
    """
    if settings.journal.file is None:
        return True
    return role.dispatches and agent not in availability.reasons


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
    backlog: BacklogReader,
    silence: SilenceWatch,
    tracing: Tracing | None,
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
        outbox=journal,
        transports=transports if tracing is None else tracing.transports(transports),
        routed=channels.agents,
        metrics=metrics,
    )
    alerts = Alerts(
        settings.alerts,
        node=settings.journal.node,
        clock=now,
        conditions=daemon_conditions(
            metrics=metrics,
            journal_up=lambda: journal.up,
            unavailable=lambda: availability.reasons,
            outdated=lambda: availability.outdated,
            disk=disk_check(folders_of(settings)),
            loopback_locked=loopback_locked,
            held_for_days=partial(held_for_days, backlog),
            channel_silent=silence.silent,
        ),
    )
    dispatcher = Dispatcher(
        outbox=journal,
        late_replies=late_replies,
        availability=availability,
        policies=policies,
        lease_seconds=settings.journal.lease_seconds,
        metrics=metrics,
        on_dead=alerts.entry_dead,
        guards=Guards(alerts.held, alerts.agent_failing),
    )
    return Outbound(transports, late_replies, availability, alerts, policies, dispatcher)
