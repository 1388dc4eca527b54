"""The web console's process, as the daemon sees it: started, told the settings, started again when
it ends. Who clicks there takes neither the interpreter nor the event loop from who answers
providers.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle  # nosec B403
import secrets
import socket
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import structlog

from berinia_webhookd import listening
from berinia_webhookd.clock import wait_for_event
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.errors import CannotStart
from berinia_webhookd.journal.consents_key import ConsentsKey
from berinia_webhookd.journal.sessions import Person, add_link
from berinia_webhookd.model import AgentName
from berinia_webhookd.outbound.host_process import how_it_ended
from berinia_webhookd.outbound.payload import Shape
from berinia_webhookd.status.console.address import ConsoleStarted, link_of, url_of
from berinia_webhookd.status.console.surroundings import OpenJournal

logger = structlog.get_logger()

DEVELOPER: Final = "serve --dev"
LOOK_SECONDS: Final = 1.0  # between looks whether there is something to tell
AGAIN_SECONDS: Final = 2.0  # after it has ended by itself
STOP_SECONDS: Final = 5.0  # requests under way have less


@dataclass(frozen=True, slots=True)
class Told:
    """What the console's process works with."""

    url: str
    settings: Settings
    key: ConsentsKey | None  # of the register of consents
    shapes: Mapping[AgentName, Shape]  # of the agents that are loaded


class ConsoleProcess:
    """The process that answers on the console's socket."""

    def __init__(
        self,
        program: Sequence[str],
        listener: socket.socket,
        told: Told,
        open_journal: OpenJournal,
    ) -> None:
        """`program` gets the socket's descriptor as its last argument, and on stdin what it is
        `told`, at its start and whenever that has changed. It ends when its stdin does.
        """
        self._program = program
        self._listener = listener
        self._told = told
        self._open_journal = open_journal
        self._reconfigured = asyncio.Event()

    async def started(self, *, dev: bool) -> ConsoleStarted:
        """Return the console's address; with `serve --dev`, also a login link."""
        url, link = self._told.url, None
        if dev:
            secret = secrets.token_urlsafe(32)
            async with self._open_journal() as journal:
                await journal.write(add_link, secret, Person(DEVELOPER, viewer=False))
            link = link_of(url, secret)
        return ConsoleStarted(url, link)

    def reconfigure(self, settings: Settings) -> None:
        """Tell it the settings as they hold now."""
        self._told = replace(self._told, settings=settings)
        self._reconfigured.set()

    async def run(self) -> None:
        """Keep it running, for ever; who is cancelled here waits until it has ended."""
        while True:
            exit_code, reason = None, ""
            try:
                process = await self._start()
            except OSError as error:
                reason = str(error)
            else:
                try:
                    await self._keep_telling(process)
                except CannotBeTold as error:
                    reason = str(error)
                finally:
                    await _end(process)
                exit_code = process.returncode
                reason = reason or how_it_ended(exit_code)
            again = f"{reason}; started again in {AGAIN_SECONDS:g} s"
            logger.error("console.ended", exit_code=exit_code, reason=again)
            await asyncio.sleep(AGAIN_SECONDS)

    async def _start(self) -> Process:
        descriptor = self._listener.fileno()
        return await asyncio.create_subprocess_exec(
            *self._program, str(descriptor), stdin=PIPE, pass_fds=[descriptor]
        )

    async def _keep_telling(self, process: Process) -> None:
        known = None
        while process.returncode is None:
            told = replace(self._told, shapes=dict(self._told.shapes))
            if told != known and process.stdin is not None:
                process.stdin.write(pickled(told))
                known = told
                with contextlib.suppress(ConnectionError):  # it has ended
                    await process.stdin.drain()  # what it does not read must not pile up here
            await wait_for_event(self._reconfigured, LOOK_SECONDS)
            self._reconfigured.clear()


class CannotBeTold(Exception):
    """A setting cannot be handed over to another process."""


def pickled(told: object) -> bytes:
    """Return it as the console reads it; what cannot be pickled must not end the daemon.

    Raises:
        CannotBeTold: a setting cannot be.
    """
    try:
        return pickle.dumps(told)
    except Exception as error:  # a setting of any kind of channel may raise anything
        kind = type(error).__name__  # no text, which may hold a setting
        raise CannotBeTold(f"it cannot be told the settings ({kind})") from error


async def _end(process: Process) -> None:
    """Let it finish its requests, and kill it after a grace."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def console_url(settings: Settings, listener: socket.socket, state: Path) -> str:
    """Return the console's URL.

    Raises:
        CannotStart: there is no place for its name.
    """
    try:
        return url_of(replace(settings.console, listen=listening.address_of(listener)), state)
    except (OSError, ValueError) as error:
        hint = "let the state folder belong to the daemon's user, or set console.url"
        raise CannotStart(f"the console has no name: {error}", hint=hint) from error
