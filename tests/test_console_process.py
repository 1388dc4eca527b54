"""What the daemon does about a console's process that does not do its part."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from berinia_webhookd import console_process
from berinia_webhookd.console_process import ConsoleProcess, Told

NEVER_READS = ("sh", "-c", "exec sleep 600", "sh")


async def test_what_is_never_read_does_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next settings wait until those before were taken."""
    told: list[object] = []
    begun = asyncio.Event()

    def large(one: object) -> bytes:
        told.append(one)
        begun.set()
        return bytes(1024 * 1024)  # more than a pipe and the transport's buffer hold

    monkeypatch.setattr(console_process, "pickled", large)
    monkeypatch.setattr(console_process, "STOP_SECONDS", 0)
    settings: Any = "as they were"
    no_journal: Any = None  # it is opened for a login link only
    with socket.socket() as listener:
        first = Told("http://127.0.0.1", settings, None, {})
        console = ConsoleProcess(NEVER_READS, listener, first, no_journal)
        running = asyncio.create_task(console.run())
        async with asyncio.timeout(60):
            await begun.wait()
        for number in range(50):
            settings = number
            console.reconfigure(settings)
            for _ in range(10):  # turns in which more would be written
                await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait((running,))
    assert told == [first]
