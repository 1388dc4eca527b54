"""How connections come in."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import uvloop
from aiohttp import web

from berinia_webhookd.accept.site import ListeningSite

TOGETHER = 200


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=TOGETHER) as made:
        yield made


@pytest.fixture
def callers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


async def hello(_: web.BaseRequest) -> web.StreamResponse:
    return web.Response(text="hello")


async def serving() -> web.ServerRunner:
    runner = web.ServerRunner(web.Server(hello), shutdown_timeout=0.2)
    await runner.setup()
    return runner


def call(listener: socket.socket, callers: ExitStack) -> socket.socket:
    return callers.enter_context(socket.create_connection(listener.getsockname()))


def connections(runner: web.ServerRunner) -> int:
    assert runner.server is not None
    return len(runner.server.connections)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_those_who_come_together_are_let_in_together(
    new_loop: type[asyncio.AbstractEventLoop], listener: socket.socket, callers: ExitStack
) -> None:
    """Within a few turns of the loop, and not one a turn: under load a turn takes long."""

    async def run() -> None:
        runner = await serving()
        await ListeningSite(runner, listener).start()
        for _ in range(TOGETHER):
            call(listener, callers)
        for _ in range(20):
            await asyncio.sleep(0)
        assert connections(runner) == TOGETHER
        await runner.cleanup()

    with asyncio.Runner(loop_factory=new_loop) as loop:
        loop.run(run())


async def test_who_came_before_the_end_is_answered(
    listener: socket.socket, callers: ExitStack
) -> None:
    """Closing over a caller in the kernel's queue would cut it off without an answer."""
    runner = await serving()
    site = ListeningSite(runner, listener)
    await site.start()
    caller = call(listener, callers)
    caller.sendall(b"GET / HTTP/1.1\r\nHost: app.example.com\r\n\r\n")
    await site.stop()
    caller.setblocking(False)
    answer = await asyncio.get_running_loop().sock_recv(caller, 1000)
    assert answer.startswith(b"HTTP/1.1 200")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(caller.getpeername())
    await runner.cleanup()


class NoMoreDescriptors(socket.socket):
    """Refuses to accept as the kernel does to a process that has too much open, once."""

    tried = False

    def accept(self) -> tuple[socket.socket, object]:
        if not self.tried:
            self.tried = True
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


async def test_a_lack_of_descriptors_passes(
    callers: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who could not be let in waits, and is let in when there is room again."""
    monkeypatch.setattr("berinia_webhookd.accept.site._PAUSE_SECONDS", 0.01)
    listener = callers.enter_context(NoMoreDescriptors())
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    runner = await serving()
    await ListeningSite(runner, listener).start()
    caller = call(listener, callers)
    caller.sendall(b"GET / HTTP/1.1\r\nHost: app.example.com\r\n\r\n")
    caller.setblocking(False)
    answer = await asyncio.get_running_loop().sock_recv(caller, 1000)
    assert answer.startswith(b"HTTP/1.1 200")
    assert listener.tried
    await runner.cleanup()
