"""The daemon's side of one agent host: starts the process, sends requests, and ends it.

Entries are in `python_agent`, the choice of a host is in `host_pool`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final, cast, get_args

import orjson

from berinia_webhookd import json_text
from berinia_webhookd.model import AgentName
from berinia_webhookd.outbound.fork_server import ForkServer, pipe
from berinia_webhookd.outbound.host_output import HostOutput, OutputOwner
from berinia_webhookd.outbound.payload import Shape

LONGEST_MESSAGE_BYTES: Final = 8 << 20  # hosts answer with far less; more is a broken host
HEADER_BYTES: Final = 4
GONE_SECONDS: Final = 5.0  # we wait this long for a killed host; its guardian goes on killing
LAST_ANSWER_SECONDS: Final = 1.0
FORGED: Final = "the agent wrote into the socket to the daemon, so it was killed"

_serials = itertools.count(1)


class HostEnded(Exception):
    """The host ended before it answered; the message says how."""


class HostSocket(asyncio.Protocol):
    """The daemon's end of a socket to a host: length-prefixed messages both ways.

    It calls `on_message` for each message and `on_lost` once, when the other side has closed;
    before that `on_nonsense`, if the data breaks the protocol.
    """

    def __init__(
        self,
        own_end: socket.socket,
        on_message: Callable[[bytes], None],
        on_lost: Callable[[], None],
        on_nonsense: Callable[[], None],
    ) -> None:
        self._socket = own_end
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_nonsense = on_nonsense
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None

    async def open(self) -> None:
        """Start reading."""
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self, sock=self._socket)

    def send(self, body: bytes) -> None:
        """Send one message, as fast as the other side reads."""
        if self._transport is not None:
            self._transport.writelines([len(body).to_bytes(HEADER_BYTES, "big"), body])

    def finish_sending(self) -> None:
        """Shut down our side; the other one may still answer."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket, without calling `on_lost`."""
        self._on_lost = lambda: None
        self._abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Pass on each message that is complete."""
        self._received += data
        while len(self._received) >= HEADER_BYTES:
            end = HEADER_BYTES + int.from_bytes(self._received[:HEADER_BYTES], "big")
            if end > LONGEST_MESSAGE_BYTES:
                self._received.clear()
                self._on_nonsense()
                self._abort()
            elif len(self._received) < end:
                return
            else:
                message = bytes(self._received[HEADER_BYTES:end])
                del self._received[:end]
                self._on_message(message)

    def eof_received(self) -> None:
        """Close at once: a side that sends no more may not read any more, either."""
        self._abort()

    def connection_lost(self, error: Exception | None) -> None:
        """Report the loss, whatever its cause."""
        del error
        self._on_lost()

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class AgentHost:
    """A running host, made by `start`. `reason` says why it must end, once that is decided."""

    def __init__(
        self,
        *,
        fork_server: ForkServer,
        requests: socket.socket,
        lifeline: socket.socket,
        stdout: int,
        stderr: int,
        memory_limit_bytes: int | None,
        word: str | None,
        generation: int,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.fork_server = fork_server
        self.memory_limit_bytes = memory_limit_bytes
        self.word = word  # of `agents.<Name>.host`; None: for agents without one
        self.generation = generation
        self.serial = next(_serials)
        self.shapes: dict[AgentName, Shape] = {}  # of the agents it has loaded
        self.failed: set[AgentName] = set()  # agents that could not be loaded in this host
        self.only: AgentName | None = None  # its import lowered limits: no others
        self.serves: AgentName | None = None  # the agent whose attempt it runs
        self.reason: str | None = None
        self.host_pid: int | None = None
        self.ready: asyncio.Future[None] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()
        silent = OutputOwner({"host": self.serial})
        self.output = HostOutput(stdout=stdout, stderr=stderr, silent=silent)
        self._guardian_pid: int | None = None
        self._answer: asyncio.Future[bytes] | None = None
        self._connected = 2
        self._how: str | None = None
        self._finishing: asyncio.Task[None] | None = None
        self._requests = HostSocket(requests, self._answered, self._host_lost, self._forged)
        self._lifeline = HostSocket(
            lifeline, self._guardian_reports, self._guardian_lost, self._forged
        )
        self._opening = loop.create_task(self._open())

    @property
    def is_usable(self) -> bool:
        """Whether it has no reason to end yet."""
        return self.reason is None and self._connected == 2  # noqa: PLR2004 - host and guardian

    @property
    def how(self) -> str:
        """How it ended, once it has ended."""
        return self._how or "ended for a reason unknown"

    async def _open(self) -> None:
        """Open both sockets; requests first, because the life-line makes the host `ready`."""
        await self._requests.open()
        await self._lifeline.open()

    async def ask(self, request: Mapping[str, Any], timeout_seconds: float) -> dict[str, Any]:
        """Send a request and return its answer; one at a time.

        Raises:
            TimeoutError: no answer yet; the host is in an unknown state and must be killed.
            HostEnded: it has ended.
        """
        if self.gone.done():
            raise HostEnded(self.how)
        loop = asyncio.get_running_loop()
        self._answer = loop.create_future()
        timer = loop.call_at(loop.time() + timeout_seconds, self._is_late)
        self._requests.send(json_text.encode(request))
        try:
            answer = await self._answer
        finally:
            timer.cancel()
            self._answer = None
        return self._understood(request["do"], answer)

    async def ask_as(
        self, owner: OutputOwner, request: Mapping[str, Any], timeout_seconds: float
    ) -> dict[str, Any]:
        """Ask, log the output meanwhile as the owner's, and kill the host at the timeout.

        Raises:
            TimeoutError, HostEnded: there is no answer.
        """
        await self.output.begin(owner)
        try:
            return await self.ask(request, timeout_seconds)
        except TimeoutError:
            await self.killed("timeout")
            raise
        finally:
            await self.output.end()

    def kill(self, reason: str) -> None:
        """Kill the host's process group at once; its guardian kills the descendants."""
        self.reason = self.reason or reason
        if self.gone.done():
            return
        if self.host_pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.host_pid, signal.SIGKILL)
        self._lifeline.finish_sending()
        self._wake_guardian()

    async def stop(self, reason: str, grace_seconds: float) -> None:
        """Let an idle host end as programs do, with its exit handlers; kill it after the grace."""
        self.reason = self.reason or reason
        self._requests.finish_sending()
        await asyncio.wait([self.gone], timeout=grace_seconds)
        await self.killed(reason)

    async def killed(self, reason: str) -> None:
        """Kill, and wait for a bounded time until no process of it runs."""
        self.kill(reason)
        await asyncio.wait([self.gone], timeout=GONE_SECONDS)
        self._finish()
        await asyncio.wait([self.gone])

    def _answered(self, message: bytes) -> None:
        if self._answer is None or self._answer.done():
            self._forged()  # an answer without a request
        else:
            self._answer.set_result(message)

    def _is_late(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(TimeoutError())

    def _understood(self, asked: str, message: bytes) -> dict[str, Any]:
        try:
            answer = orjson.loads(message)
        except orjson.JSONDecodeError:
            answer = None
        if isinstance(answer, dict) and _answers(asked, answer):
            return answer
        self._forged()
        raise HostEnded(self.how)

    def _forged(self) -> None:
        """End a host whose agent writes into our sockets: its answers cannot be trusted."""
        self._how = FORGED
        self.kill("crash")

    def _guardian_reports(self, message: bytes) -> None:
        said = orjson.loads(message)
        if "host" in said:
            self.host_pid, self._guardian_pid = said["host"], said["guardian"]
            self.ready.set_result(None)
        else:
            number = said["signal"]
            killed = number == signal.SIGKILL and not self.reason
            hint = ", perhaps for want of memory" if killed else ""
            how = how_it_ended(said["exit_code"] if number is None else -number, hint)
            self._how = self._how or how

    def _guardian_lost(self) -> None:
        if self._how is None:
            self.kill("crash")  # it was killed itself, so the group is ours to end
        # An answer sent just before the end is still in the other socket.
        asyncio.get_running_loop().call_later(LAST_ANSWER_SECONDS, self._finish)
        self._lost()

    def _host_lost(self) -> None:
        self._wake_guardian()
        self._lost()

    def _wake_guardian(self) -> None:
        """Send SIGCONT to the guardian, which an agent may have stopped: it must clean up."""
        if self._guardian_pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self._guardian_pid, signal.SIGCONT)

    def _lost(self) -> None:
        self._connected -= 1
        if not self._connected:
            self._finish()

    def _finish(self) -> None:
        if self._finishing is None:
            self._requests.close()
            self._lifeline.close()
            self._finishing = asyncio.create_task(self._read_last_output())

    async def _read_last_output(self) -> None:
        """Log its last output before it counts as gone."""
        try:
            await self.output.close()
        finally:
            self._is_gone()

    def _is_gone(self) -> None:
        self.gone.set_result(None)
        if not self.ready.done():
            self.ready.set_exception(HostEnded(self.how))
            self.ready.exception()  # mark as retrieved: there may be no waiter
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(HostEnded(self.how))


def start(
    fork_server: ForkServer, memory_limit_bytes: int | None, word: str | None, generation: int
) -> AgentHost:
    """Start a host, which is usable once `ready`.

    Raises:
        OSError: the interpreter cannot be started, or there are no descriptors left.
    """
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        requests, their_requests = socket.socketpair()
        ours.enter_context(requests)
        theirs.enter_context(their_requests)
        lifeline, their_lifeline = socket.socketpair()
        ours.enter_context(lifeline)
        theirs.enter_context(their_lifeline)
        stdout, their_stdout = pipe(ours, theirs)
        stderr, their_stderr = pipe(ours, theirs)
        fork_server.fork(
            (their_requests.fileno(), their_lifeline.fileno(), their_stdout, their_stderr)
        )
        ours.pop_all()
    return AgentHost(
        fork_server=fork_server,
        requests=requests,
        lifeline=lifeline,
        stdout=stdout,
        stderr=stderr,
        memory_limit_bytes=memory_limit_bytes,
        word=word,
        generation=generation,
    )


def _answers(asked: str, answer: dict[str, Any]) -> bool:
    """Return whether this is a well-formed answer to the request."""
    if "failed" in answer:
        return isinstance(answer["failed"], str)
    if asked == "load":
        return answer.get("shape") in get_args(Shape)
    return asked != "attempt" or isinstance(answer.get("returned"), dict)


def how_it_ended(exit_code: int | None, hint: str = "") -> str:
    """Return how a process ended, by its exit code; minus a signal's number if that killed it."""
    if exit_code is None or exit_code >= 0:
        return f"exit code {exit_code}"
    name = signal.Signals(-exit_code).name if -exit_code in set(signal.Signals) else "unknown"
    return f"killed by signal {-exit_code} ({name}{hint})"
