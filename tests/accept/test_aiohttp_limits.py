"""How connections come in."""

from __future__ import annotations

import asyncio
import errno
import inspect
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import uvloop
from aiohttp import web

from berinia_webhookd.accept.aiohttp_limits import HttpServer
from berinia_webhookd.metrics import Metrics

TOGETHER = 200


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=TOGETHER) as made:
        yield made


@pytest.fixture
def callers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


async def hello(_: web.Request) -> web.StreamResponse:
    return web.Response(text="hello")


async def base_hello(_: web.BaseRequest) -> web.StreamResponse:
    return web.Response()


async def serving(listener: socket.socket) -> HttpServer:
    application = web.Application()
    application.router.add_get("/", hello)
    server = HttpServer(application, Metrics(), max_connections=1000, shutdown_seconds=0.2)
    await server.start([listener])
    return server


def call(listener: socket.socket, callers: ExitStack) -> socket.socket:
    return callers.enter_context(socket.create_connection(listener.getsockname()))


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_those_who_come_together_are_let_in_together(
    new_loop: type[asyncio.AbstractEventLoop], listener: socket.socket, callers: ExitStack
) -> None:
    """Within a few turns of the loop, and not one a turn: under load a turn takes long."""

    async def run() -> None:
        server = await serving(listener)
        for _ in range(TOGETHER):
            call(listener, callers)
        for _ in range(20):
            await asyncio.sleep(0)
        assert server.open_connections == TOGETHER
        await server.stop()

    with asyncio.Runner(loop_factory=new_loop) as loop:
        loop.run(run())


async def test_who_came_before_the_end_is_answered(
    listener: socket.socket, callers: ExitStack
) -> None:
    """Closing over a caller in the kernel's queue would cut it off without an answer."""
    server = await serving(listener)
    caller = call(listener, callers)
    caller.sendall(b"GET / HTTP/1.1\r\nHost: app.example.com\r\n\r\n")
    address = caller.getpeername()
    await server.stop()
    caller.setblocking(False)
    answer = await asyncio.get_running_loop().sock_recv(caller, 1000)
    assert answer.startswith(b"HTTP/1.1 200")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


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
    monkeypatch.setattr("berinia_webhookd.accept.accept_loop._PAUSE_SECONDS", 0.01)
    listener = callers.enter_context(NoMoreDescriptors())
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    server = await serving(listener)
    caller = call(listener, callers)
    caller.sendall(b"GET / HTTP/1.1\r\nHost: app.example.com\r\n\r\n")
    caller.setblocking(False)
    answer = await asyncio.get_running_loop().sock_recv(caller, 1000)
    assert answer.startswith(b"HTTP/1.1 200")
    assert listener.tried
    await server.stop()


async def test_aiohttp_still_has_what_the_connections_build_on() -> None:
    """Public by name and documented nowhere, but for `_messages`: an upgrade that changes one of
    these must be read before it is taken (see the module).
    """
    parameters = {
        name: list(inspect.signature(getattr(web.RequestHandler, name)).parameters)
        for name in ("finish_response", "handle_error", "log_exception", "data_received")
    }
    assert parameters == {
        "finish_response": ["self", "request", "resp", "start_time"],
        "handle_error": ["self", "request", "status", "exc", "message"],
        "log_exception": ["self", "args", "kw"],
        "data_received": ["self", "data"],
    }
    assert "request_factory" in vars(web.Server(base_hello))
    assert "_messages" in web.RequestHandler.__slots__
