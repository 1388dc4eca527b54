"""The agent hosts of this node: started on first use, reused, and stopped when idle for long; ten a
second at most, however fast agents crash.

A host serves one attempt at a time. It is chosen by its memory limit, then for having served the
conversation last, because agents may keep state in the process; agents with the same word in
`agents.<Name>.host` share one, which serves no others, and wait for it. An agent whose last host
crashed gets no host that other agents have loaded, so that its crashes do not affect them. After a
reload an agent keeps its old hosts until its new code is loaded in a new one.
"""

from __future__ import annotations

import asyncio
import errno
from collections import OrderedDict
from collections.abc import Collection, Coroutine
from typing import Any, Final, NamedTuple

import structlog
from aiolimiter import AsyncLimiter

from berinia_webhookd.config.agent_settings import AgentsSettings
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import AgentName
from berinia_webhookd.outbound import host_process
from berinia_webhookd.outbound.contract import AgentUnavailable, denied_hint
from berinia_webhookd.outbound.fork_server import ForkServer
from berinia_webhookd.outbound.host_process import AgentHost, HostEnded

logger = structlog.get_logger()

START_SECONDS: Final = 30.0
STOP_GRACE_SECONDS: Final = 2.0
STARTS_PER_SECOND: Final = 10  # agents that crash faster wait, so that callers do not
CONVERSATIONS_REMEMBERED: Final = 10_000
INTERPRETER_HINT: Final = (
    "agents.python names the interpreter of the agents, which needs Python 3.9 or newer"
)
DESCRIPTORS_HINT: Final = "raise LimitNOFILE of the unit (ulimit -n), or lower agents.max_hosts"
EXPECTED_ENDS: Final = frozenset({"idle", "room", "stopping"})
NORMAL_ENDS: Final = EXPECTED_ENDS | {"reload"}
HARMLESS_ENDS: Final = NORMAL_ENDS | {"load"}


class HostRequest(NamedTuple):
    """A request for a host: for one attempt of the agent, or to load it."""

    agent: AgentName
    memory_limit_bytes: int | None
    word: str | None = None
    conversation_id: str | None = None
    anew: bool = False  # with the new code, even if the agent still runs the old one

    def suits(self, host: AgentHost) -> bool:
        """Return whether this host may serve the request once it is idle."""
        if self.word is not None:
            return host.word == self.word
        return (
            host.word is None
            and host.memory_limit_bytes == self.memory_limit_bytes
            and host.only in (None, self.agent)
            and self.agent not in host.failed
        )


class HostPool:
    """At most `max_hosts` hosts; each `acquire` is paired with a `release`."""

    def __init__(self, settings: AgentsSettings, *, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._generation = 0
        self._fork_server = ForkServer(settings.python, settings.environment)
        self._starts = AsyncLimiter(STARTS_PER_SECOND, 1.0)
        self._watches: dict[AgentHost, asyncio.Task[None]] = {}  # every host that has not ended
        self._background: set[asyncio.Task[None]] = set()
        self._idle: dict[AgentHost, asyncio.TimerHandle | None] = {}  # least recently used first
        self._served: OrderedDict[str, AgentHost] = OrderedDict()  # conversation → its last host
        self._harmful: set[AgentName] = set()  # agents whose last host crashed
        self._kept: dict[AgentName, int] = {}  # agents on an older generation
        self._changed = asyncio.Event()
        self._next_start: asyncio.TimerHandle | None = None
        self._closing = asyncio.Event()

    async def acquire(self, request: HostRequest) -> AgentHost:
        """Return a host for the request; wait while all suitable ones are busy.

        Raises:
            AgentUnavailable: no host can be started.
        """
        while not self._closing.is_set():
            if not request.anew and self.goes_on(request.agent):
                if kept := self._kept_idle(request.agent):
                    return self._take(kept, request)
                await self._until_changed()
                continue
            shared = self.of_word(request.word)
            if shared is not None and request.agent in shared.failed:
                raise AgentUnavailable("it could not be loaded in the host that it shares")
            if suited := self._suited(request):
                return self._take(suited, request)
            if shared is None:
                if len(self._watches) >= self._most_hosts:
                    self._make_room()
                elif self._starts.has_capacity():
                    await self._starts.acquire()  # returns at once: no other task runs between
                    return await self._start(request)
                else:
                    self._wake_at_next_start()
            await self._until_changed()
        raise AgentUnavailable("the daemon is stopping")

    async def _until_changed(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def of_word(self, word: str | None) -> AgentHost | None:
        """Return the host of the agents with this word, also one that is still ending, but none
        that is only kept until new code is loaded.
        """
        if word is None:
            return None
        hosts = (host for host in self._watches if not self._is_kept(host))
        return next((host for host in hosts if host.word == word), None)

    def goes_on(self, agent: AgentName) -> bool:
        """Return whether an agent goes on with the code from before the last reload."""
        return agent in self._kept and any(self._keeps(host, agent) for host in self._watches)

    def loaded(self, agent: AgentName) -> None:
        """Release the old hosts that an agent kept: its new code is loaded."""
        if self._kept.pop(agent, None) is not None:
            self._stop_outdated()
            self._changed.set()

    def _keeps(self, host: AgentHost, agent: AgentName) -> bool:
        kept = self._kept.get(agent) == host.generation and agent in host.shapes
        return kept and host.reason is None and not host.gone.done()

    def _is_kept(self, host: AgentHost) -> bool:
        return bool(self._kept) and any(self._keeps(host, agent) for agent in host.shapes)

    def _kept_idle(self, agent: AgentName) -> list[AgentHost]:
        return [host for host in self._idle if host.is_usable and self._keeps(host, agent)]

    @property
    def _most_hosts(self) -> int:
        """The highest number of hosts: always at least one more than those that are kept."""
        kept = sum(map(self._is_kept, self._watches)) if self._kept else 0
        return max(self._settings.max_hosts, 1 + kept)

    def _suited(self, request: HostRequest) -> list[AgentHost]:
        """Return the idle hosts that may serve the request, least recently used first."""
        suited = [
            host
            for host in self._idle
            if host.is_usable and request.suits(host) and host.generation == self._generation
        ]
        if request.word is None and request.agent in self._harmful:
            return [host for host in suited if not host.shapes.keys() - {request.agent}]
        return suited

    def _make_room(self) -> None:
        """Stop an idle host; one shared by `agents.<Name>.host` only if no other can end."""
        idle = [host for host in self._idle if host.is_usable and not self._is_kept(host)]
        freely = [host for host in idle if host.word is None]
        if freely or (idle and not any(host.reason for host in self._watches)):
            self._stop((freely or idle)[0], "room")

    def release(self, host: AgentHost) -> None:
        """Give a host back; one that is outdated or must end is stopped."""
        if host.gone.done():
            return
        kept = self._is_kept(host)
        if host.reason is None and host.generation != self._generation and not kept:
            host.reason = "reload"
        staying = sum(one.reason is None for one in self._watches)
        if host.reason is not None or (not kept and staying > self._most_hosts):
            self._stop(host, host.reason or "room")
            return
        if host.serves is not None:
            self._harmful.discard(host.serves)
            host.serves = None
        self._idle[host] = self._stopped_when_idle(host)
        self._changed.set()

    def _stopped_when_idle(self, host: AgentHost) -> asyncio.TimerHandle | None:
        seconds = self._settings.host_idle_seconds
        if not seconds or self._is_kept(host):
            return None
        return asyncio.get_running_loop().call_later(seconds, self._stop, host, "idle")

    def replace(self, host: AgentHost) -> None:
        """Stop a host in which an agent could not be loaded, at once or after its attempt."""
        host.reason = host.reason or "load"
        if host in self._idle:
            self._stop(host, "load")

    def reconfigure(self, settings: AgentsSettings, keep: Collection[AgentName] = ()) -> None:
        """Replace every host, so that new code loads: idle ones now, busy ones when released; those
        of agents in `keep` once their new code is loaded.
        """
        self._settings = settings
        now = self._generation
        self._kept = {one: self._kept[one] if self.goes_on(one) else now for one in keep}
        self._generation += 1
        self._stop_outdated()
        self._retire_fork_server()
        self._changed.set()

    def _stop_outdated(self) -> None:
        for host, timer in list(self._idle.items()):
            if host.generation == self._generation:
                continue
            if not self._is_kept(host):
                self._stop(host, "reload")
            elif timer is not None:  # no other host has its code
                timer.cancel()
                self._idle[host] = None

    def start_afresh(self) -> None:
        """Start a new fork server for the next host, so that it sees newly installed packages."""
        self._retire_fork_server()

    async def close(self) -> None:
        """End all hosts; kill those with an attempt."""
        self._closing.set()
        self._changed.set()
        for host in list(self._idle):
            self._stop(host, "stopping")
        for host in self._watches:
            if host.reason is None:
                host.kill("stopping")
        # Together with the fork server: if it hangs, it holds the descriptors of unforked hosts.
        await asyncio.gather(self._fork_server.close(), *self._background, *self._watches.values())

    def _wake_at_next_start(self) -> None:
        """Set one timer, which wakes all waiting requests."""
        if self._next_start is None:
            loop = asyncio.get_running_loop()
            self._next_start = loop.call_later(1 / STARTS_PER_SECOND, self._may_start)

    def _may_start(self) -> None:
        self._next_start = None
        self._changed.set()

    def _take(self, suited: list[AgentHost], request: HostRequest) -> AgentHost:
        host = self._served.get(request.conversation_id or "")
        if host not in suited:
            loaded = [host for host in suited if request.agent in host.shapes]
            host = (loaded or suited)[-1]
        self._no_longer_idle(host)
        host.serves = request.agent
        self._remember(request.conversation_id, host)
        return host

    def _no_longer_idle(self, host: AgentHost) -> None:
        if (timer := self._idle.pop(host, None)) is not None:
            timer.cancel()

    def _remember(self, conversation_id: str | None, host: AgentHost) -> None:
        if conversation_id is None:
            return
        self._served[conversation_id] = host
        self._served.move_to_end(conversation_id)
        if len(self._served) > CONVERSATIONS_REMEMBERED:
            self._served.popitem(last=False)

    async def _start(self, request: HostRequest) -> AgentHost:
        settings, fork_server = self._settings, self._fork_server
        try:
            host = host_process.start(
                fork_server, request.memory_limit_bytes, request.word, self._generation
            )
        except OSError as error:
            raise AgentUnavailable(
                f"no agent host: {settings.python}: {error.strerror}",
                hint=_hint(error),
            ) from error
        host.serves = request.agent
        self._watches[host] = asyncio.create_task(self._watch(host))
        try:
            await self._introduce(host, settings, fork_server)
        except BaseException:
            host.kill("stopping")
            raise
        self._remember(request.conversation_id, host)
        return host

    async def _introduce(
        self, host: AgentHost, settings: AgentsSettings, fork_server: ForkServer
    ) -> None:
        try:
            async with asyncio.timeout(START_SECONDS):
                await asyncio.shield(host.ready)
            logger.info("agent_host.started", host=host.serial, pid=host.host_pid)
            answer = await host.ask(
                {
                    "do": "configure",
                    "path": str(settings.path) if settings.path else None,
                    "registry": settings.registry,
                    "memory_limit_bytes": host.memory_limit_bytes,
                },
                START_SECONDS,
            )
        except (TimeoutError, HostEnded) as error:
            begun = host.host_pid is not None  # so neither interpreter nor fork server is the cause
            said = host.output.last_line or ("" if begun else await fork_server.last_line())
            host.kill("crash")
            if isinstance(error, TimeoutError) and not begun and not fork_server.is_working:
                fork_server.kill()  # an agent may have stopped it
            why = str(error) or f"not ready within {START_SECONDS:g} s"
            raise AgentUnavailable(
                f"no agent host: {settings.python}: {why} {said}".rstrip(),
                hint=None if begun else INTERPRETER_HINT,
            ) from error
        if "failed" in answer:
            host.kill("crash")
            denied = answer.get("denied")
            raise AgentUnavailable(
                f"no agent host: {answer['failed'].splitlines()[-1]}",
                hint=denied_hint(denied) if isinstance(denied, str) else None,
            )

    def _stop(self, host: AgentHost, reason: str) -> None:
        self._no_longer_idle(host)
        host.reason = host.reason or reason
        self._in_background(host.stop(reason, STOP_GRACE_SECONDS))

    def _retire_fork_server(self) -> None:
        self._in_background(self._close_after_hosts(self._fork_server))
        self._fork_server = ForkServer(self._settings.python, self._settings.environment)

    async def _close_after_hosts(self, fork_server: ForkServer) -> None:
        """End a fork server after its last host; in the background, since hosts may take long."""
        closing = asyncio.ensure_future(self._closing.wait())
        hosts = [host.gone for host in self._watches if host.fork_server is fork_server]
        all_gone = asyncio.gather(*hosts)
        either: set[asyncio.Future[Any]] = {closing, all_gone}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        closing.cancel()
        await fork_server.close()

    def _in_background(self, ending: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(ending)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _watch(self, host: AgentHost) -> None:
        """Wait for the end of one host, and update the pool."""
        await asyncio.wait([host.gone])
        self._no_longer_idle(host)
        reason = host.reason or "crash"
        del self._watches[host]
        self._changed.set()
        if reason == "idle" and not self._watches and not self._closing.is_set():
            self._retire_fork_server()
        if reason not in HARMLESS_ENDS and host.serves is not None:
            self._harmful.add(host.serves)
        if reason not in EXPECTED_ENDS:
            self._metrics.agent_host_restarts_total.labels(reason=reason).inc()
        say = logger.info if reason in NORMAL_ENDS else logger.warning
        say("agent_host.killed", host=host.serial, pid=host.host_pid, reason=reason, how=host.how)


def _hint(error: OSError) -> str:
    return DESCRIPTORS_HINT if error.errno in {errno.EMFILE, errno.ENFILE} else INTERPRETER_HINT
