"""Runs a process: starts its parts, runs its long-lived tasks, reloads, and winds down. All such
tasks belong to the task group in `Process.work`, but for the journal's writer and the agent hosts,
which outlive it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import asdict, dataclass
from typing import Any, Final

import structlog

from berinia_webhookd import __version__, listening
from berinia_webhookd.app import Parts, Role, opened
from berinia_webhookd.config.load import Loaded
from berinia_webhookd.config.reload import changes
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.errors import (
    CannotStart,
    ConfigurationError,
    JournalUnavailable,
    JournalWriterEnded,
)
from berinia_webhookd.journal.store import SqlJournal
from berinia_webhookd.model import OutcomeKind
from berinia_webhookd.outbound.alerts import Alerts
from berinia_webhookd.status.console.address import ConsoleStarted
from berinia_webhookd.supervision import (
    Notifier,
    Signals,
    in_thread_of_its_own,
    report,
    watch,
    watchdog_interval_seconds,
)

logger = structlog.get_logger()

OnStarted = Callable[[str, ConsoleStarted | None], None]
REREAD_SECONDS: Final = 30.0
PROBLEMS_SAID: Final = 100
PURGE_PAUSE_SECONDS: Final = 600.0
PURGE_STEP_SECONDS: Final = 0.2

Beside = Callable[["Process"], Iterable[Coroutine[Any, Any, None]]]


async def run(
    loaded: Loaded,
    role: Role,
    *,
    reread: Callable[[Loaded], Loaded],
    environ: Mapping[str, str],
    on_started: OnStarted = lambda *_: None,
    beside: Beside = lambda _: (),
    console_program: Sequence[str] = (),
) -> None:
    """Be the daemon in this role until SIGTERM or SIGINT.

    `reread` gives the configuration as it stands now, knowing the one before, or raises
    `ConfigurationError`; `on_started` gets the address once the sockets listen, and the console's;
    `beside` gives what else is to run as long as the process works; `console_program` is
    what answers on the console's socket.

    Raises:
        CannotStart, CannotStartNow: it never began.
    """
    signals = Signals()
    try:
        async with opened(loaded.settings, role, environ, console_program) as parts, serving(parts):
            signals.started()
            notifier = Notifier(environ)
            process = Process(parts, loaded, loaded.settings, reread, notifier, signals, beside)
            await process.say_started(on_started)
            await process.work(watchdog_interval_seconds(environ))
    except asyncio.CancelledError:
        if not signals.stop.is_set():
            raise  # else: it was to stop while it started


@contextlib.asynccontextmanager
async def serving(parts: Parts) -> AsyncIterator[None]:
    """Answer requests inside the block; at its end, finish those under way."""
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
    beside: Beside

    async def say_started(self, on_started: OnStarted) -> None:
        """Report the start to the log, the caller of `run` and systemd."""
        for finding in self.loaded.warnings:
            logger.warning("config.warning", setting=finding.subject, detail=finding.what)
        addresses = [listening.address_of(listener) for listener in self.parts.sockets]
        logger.info(
            "server.started",
            address=addresses[0] if addresses else None,
            version=__version__,
            dispatch=self.parts.role.dispatches,
            new_journal=self.parts.journal.created,
            config=str(self.loaded.config_file) if self.loaded.config_file else None,
        )
        if addresses:
            console = self.parts.console
            on_started(
                addresses[0],
                None if console is None else await console.started(dev=self.settings.dev),
            )
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
        yield from self.beside(self)
        yield parts.journal.watch()
        yield purge(parts.journal)
        yield recover(parts.journal, self.settings.journal.lease_seconds / 3, parts.outbound.alerts)
        if self.notifier.is_heard:
            yield report(self.notifier, self._status)
        if parts.console is not None:
            yield parts.console.run()
        yield parts.outbound.alerts.run()
        yield parts.receiver.guard.run()
        if parts.role.receives:
            yield parts.silence.run()
        if parts.role.dispatches:
            yield parts.outbound.dispatcher.run()
        if watchdog_interval is not None:
            yield watch(self.notifier, watchdog_interval, lambda: parts.turning)

    async def _wind_down(self) -> None:
        """Stop claiming, but keep receiving until attempts have ended or their grace is over."""
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
        """Return the line of `systemctl status`; while stopping, what it waits for."""
        begun = self.parts.outbound.dispatcher.begun if self.signals.stop.is_set() else ()
        if not begun and not self.parts.journal.up:  # also where it can still be read
            return "degraded: the journal cannot be written, so providers are answered 503"
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
            except CannotStart as error:  # it could not start like this either
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
            raise CannotStart(why, hint="check the disk that they are on") from error

    def _reload(self, fresh: Loaded) -> None:
        changed = changes(self.settings, self.loaded, fresh)
        self.settings, self.loaded = changed.effective, fresh
        self.parts.reconfigure(changed.effective)
        agents = self.parts.channels.agents if self.parts.role.dispatches else ()
        logger.info(
            "config.reloaded",
            changed=changed.applied,
            **({"new_channels": changed.come} if changed.come else {}),
            **({"gone_channels": changed.gone} if changed.gone else {}),
            needs_restart=changed.needs_restart,
            agents=sorted(agents),  # `agents.reloaded` says how loading them anew went
        )


async def purge(journal: SqlJournal) -> None:
    """Delete what is past its retention, for ever, in small steps."""
    while True:
        try:
            gone = await journal.purge()
        except JournalUnavailable:
            gone = 0  # `journal.degraded` has been said
        await asyncio.sleep(PURGE_STEP_SECONDS if gone else PURGE_PAUSE_SECONDS)


async def recover(journal: SqlJournal, pause_seconds: float, alerts: Alerts) -> None:
    """Give back, for ever, entries that were running on nodes that died; and report those that are
    dead because that happened too often, also before this start.
    """
    while True:
        for lost in journal.take_lost_for_good():
            logger.error("entry.dead", **asdict(lost), outcome=OutcomeKind.LOST.value)
            alerts.lost_for_good(lost)
        await asyncio.sleep(pause_seconds)
        with contextlib.suppress(JournalUnavailable):
            await journal.recover()
