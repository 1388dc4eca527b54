"""The files of an event's attachments, which exist for the length of one attempt. They are in a
private folder under generated names; the sender's file names are never used as paths.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final

from berinia_webhookd.channels.contract import ChannelOf
from berinia_webhookd.errors import WebhookdError
from berinia_webhookd.journal.contract import Outbox
from berinia_webhookd.model import Entry, EventId

FetchAttachments = Callable[[EventId], Awaitable[Iterable[bytes]]]
PREFIX: Final = "berinia-webhookd-attachments-"


class NoRoom(WebhookdError):
    """The files cannot be written now: the disk is full, or the folder is gone."""


async def no_attachments(event_id: EventId) -> Iterable[bytes]:
    """Return no attachments; for transports without access to raw deliveries."""
    del event_id
    return ()


def stored_attachments(outbox: Outbox, channel_of: ChannelOf) -> FetchAttachments:
    """Return a function that reads an event's attachments out of its raw delivery."""

    async def fetch(event_id: EventId) -> Iterable[bytes]:
        delivery = await outbox.delivery_of(event_id)
        channel = None if delivery is None else channel_of(delivery.channel)
        if delivery is None or channel is None:
            return ()
        return await asyncio.to_thread(channel.attachment_contents, delivery)

    return fetch


class AttachmentFiles:
    """Writes the attachments of an entry, and removes them again."""

    def __init__(self, fetch: FetchAttachments) -> None:
        self._fetch = fetch
        self._swept = False

    @contextlib.asynccontextmanager
    async def of(self, entry: Entry) -> AsyncIterator[tuple[str, ...]]:
        """Yield the paths, in the order of `Entry.attachments`; none if any of them was erased.

        Raises:
            NoRoom: they cannot be written.
        """
        contents = [
            content
            for one in entry.messages
            if one.event.attachments
            for content in await self._fetch(one.event_id)
        ]
        if len(contents) != len(entry.attachments) or not contents:
            yield ()
            return
        if not self._swept:
            self._swept = True
            await asyncio.to_thread(_sweep)
        folder, paths = await asyncio.to_thread(_write, contents)
        try:
            yield paths
        finally:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True))


def _write(contents: Iterable[bytes]) -> tuple[Path, tuple[str, ...]]:
    """Write all files into a new folder; remove it if that fails."""
    folder = None
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        return folder, _write_into(folder, contents)
    except OSError as error:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        where = folder or tempfile.gettempdir()
        raise NoRoom(f"no room for attachments: {where}: {error.strerror}") from error


def _write_into(folder: Path, contents: Iterable[bytes]) -> tuple[str, ...]:
    paths = []
    for number, content in enumerate(contents, start=1):
        path = folder / f"attachment-{number}"
        path.touch(mode=0o600)
        path.write_bytes(content)
        paths.append(str(path))
    return tuple(paths)


def _sweep() -> None:
    """Remove the folders that a killed daemon of this user left behind."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        pid = folder.name.removeprefix(PREFIX).partition("-")[0]
        abandoned = not Path("/proc", pid).exists()
        if abandoned and not folder.is_symlink() and folder.stat().st_uid == os.getuid():
            shutil.rmtree(folder, ignore_errors=True)
