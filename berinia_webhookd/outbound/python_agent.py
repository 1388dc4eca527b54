"""The transport of Python agents: one attempt is one request to an agent host.

Every attempt ends as an outcome; a host that hangs is killed with its process group, and the next
attempt gets a new one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final

from berinia_webhookd.channels.contract import ChannelOf, no_channel
from berinia_webhookd.config.agent_settings import AgentsSettings
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import AgentName, Entry, Outcome, OutcomeKind
from berinia_webhookd.outbound.attachment_files import (
    AttachmentFiles,
    FetchAttachments,
    NoRoom,
    no_attachments,
)
from berinia_webhookd.outbound.contract import (
    AgentUnavailable,
    Begin,
    NotBegun,
    begin_freely,
    denied_hint,
)
from berinia_webhookd.outbound.event_mask import EventMask
from berinia_webhookd.outbound.host_output import OutputOwner
from berinia_webhookd.outbound.host_pool import HostPool, HostRequest
from berinia_webhookd.outbound.host_process import AgentHost, HostEnded
from berinia_webhookd.outbound.payload import (
    LONGEST_ERROR,
    Shape,
    envelope,
    outcome_of,
    run_input,
)

PYTHON_TARGET: Final = "python:"
SHORTEST_LOAD_LIMIT_SECONDS: Final = 60.0
# Errors after which a host may lack resources that a new one has.
FOLDER: Final = "folder"
LIMITS: Final = "limits"
LACKING: Final = ("memory", "descriptors", "threads", LIMITS, FOLDER)


class PythonAgents:
    """Agents with a `python:` target, and those that the registry finds."""

    def __init__(
        self,
        settings: AgentsSettings,
        *,
        metrics: Metrics,
        channel_of: ChannelOf = no_channel,
        attachments: FetchAttachments = no_attachments,
        masked: Callable[[], bool] = lambda: True,
        load_seconds: float = SHORTEST_LOAD_LIMIT_SECONDS,
    ) -> None:
        """`channel_of` gives the channel that received an event, `attachments` the contents of its
        attachments; `masked` says whether `logs.personal_data` hides the event's values in what
        agents print and raise. Loading an agent may take `load_seconds`, or as long as its attempts
        may, whichever is longer.
        """
        self._settings = settings
        self._channel_of = channel_of
        self._pool = HostPool(settings, metrics=metrics)
        self._load_seconds = load_seconds
        self._files = AttachmentFiles(attachments)
        self._masked = masked
        self.shapes: dict[AgentName, Shape] = {}  # by agent, as last loaded

    @property
    def capacity(self) -> int:
        """The number of hosts; each makes one attempt at a time."""
        return self._settings.max_hosts

    def reconfigure(self, settings: AgentsSettings, keep: Collection[AgentName] = ()) -> None:
        """Use these settings from the next attempt on, in new hosts; agents in `keep` stay in
        theirs until `load` has loaded their new code.
        """
        self._settings = settings
        self._pool.reconfigure(settings, keep)

    def goes_on(self, agent: AgentName) -> bool:
        """Return whether an agent still runs the code from before the last reload."""
        return self._pool.goes_on(agent)

    async def close(self) -> None:
        """End all hosts."""
        await self._pool.close()

    async def load(self, agent: AgentName) -> None:
        """Load the agent in a host.

        Raises:
            AgentUnavailable: with the error of its import, its constructor or the registry.
        """
        self._require_target(agent)
        request = self._request(agent)._replace(anew=True)
        shared = self._pool.of_word(request.word)
        if shared is None or agent not in shared.failed:
            await self._load_in(request)
        else:  # the host is kept for its other agents until this one can be loaded
            await self._load_in(request._replace(word=None))
            self._pool.replace(shared)
        self._pool.loaded(agent)

    async def _load_in(self, request: HostRequest) -> None:
        host = await self._pool.acquire(request)
        try:
            await self._loaded(host, request.agent)
        except BaseException:
            self._pool.start_afresh()
            if not host.shapes or not host.failed:  # useless, or in an unknown state
                host.kill("load")
            raise
        finally:
            self._pool.release(host)

    def _request(self, agent: AgentName, conversation_id: str | None = None) -> HostRequest:
        settings = self._settings.of(agent)
        return HostRequest(
            agent, settings.memory_limit_bytes, settings.shared_host, conversation_id
        )

    async def attempt(
        self, entry: Entry, *, timeout_seconds: float, begin: Begin = begin_freely
    ) -> Outcome:
        """Make one attempt; loading the agent in a new host does not count against its timeout."""
        try:
            host = await self._pool.acquire(self._request(entry.agent, entry.conversation_id))
        except AgentUnavailable as unavailable:
            return Outcome(OutcomeKind.UNREACHABLE, error=str(unavailable))
        try:
            return await self._attempt_in(host, entry, timeout_seconds, begin)
        except AgentUnavailable as unavailable:
            if host.word is not None:  # the only host it may use
                self._pool.replace(host)
            return Outcome(OutcomeKind.UNREACHABLE, error=str(unavailable))
        except NotBegun:
            raise  # no request was sent to the host
        except BaseException:
            host.kill("stopping")
            raise
        finally:
            self._pool.release(host)

    def _require_target(self, agent: AgentName) -> None:
        target = self._settings.of(agent).target
        if target is None and self._settings.registry is None:
            raise AgentUnavailable(
                "it has no target, and there is no registry",
                hint=f"set agents.{agent}.target or agents.registry",
            )
        if target is not None and not target.startswith(PYTHON_TARGET):
            raise AgentUnavailable("it is no Python agent any more")  # retried with the new target

    async def _loaded(self, host: AgentHost, agent: AgentName) -> Shape:
        """Return the agent's shape, after loading it in this host if necessary."""
        if (shape := host.shapes.get(agent)) is not None:
            return shape
        self._require_target(agent)  # a reload may have come while the attempt waited for its host
        settings = self._settings.of(agent)
        limit_seconds = max(settings.timeout_seconds or 0.0, self._load_seconds)
        target = settings.target.removeprefix(PYTHON_TARGET) if settings.target else None
        request = {"do": "load", "agent": agent, "target": target}
        try:
            answer = await host.ask_as(OutputOwner({"agent": agent}), request, limit_seconds)
        except TimeoutError as error:
            raise AgentUnavailable(f"not loaded within {limit_seconds:g} s") from error
        except HostEnded as error:
            raise AgentUnavailable(f"its host ended while loading it: {error}") from error
        if "failed" in answer:
            host.failed.add(agent)
            denied = answer.get("denied")
            hint = denied_hint(denied) if isinstance(denied, str) else None
            raise AgentUnavailable(str(answer["failed"])[-LONGEST_ERROR:], hint=hint)
        if answer.get("lacking") == LIMITS and host.word is None:
            if host.shapes:
                host.reason = LIMITS
            host.only = agent
        loaded: Shape = answer["shape"]
        host.shapes[agent] = self.shapes[agent] = loaded
        return loaded

    def given(self, entry: Entry) -> tuple[Shape, dict[str, Any]]:
        """Return an agent's shape and its payload; `handle` if it was never loaded here. The paths
        of attachments are unknown, as the files exist only during an attempt.
        """
        if self.shapes.get(entry.agent) == "run":
            return "run", self._run_input(entry)
        return "handle", envelope(entry)

    def _run_input(self, entry: Entry) -> dict[str, Any]:
        channel = self._channel_of(entry.event.channel)
        return run_input(entry, None if channel is None else channel.provider.run_input)

    async def _attempt_in(
        self, host: AgentHost, entry: Entry, timeout_seconds: float, begin: Begin
    ) -> Outcome:
        shape = await self._loaded(host, entry.agent)
        if shape == "handle" and entry.attachments:
            try:
                async with self._files.of(entry) as paths:
                    argument = envelope(entry, paths, complete=False)
                    return await self._ask(host, entry, argument, timeout_seconds, begin)
            except NoRoom as error:
                return failure_of_machine(str(error))
        run = shape == "run"
        argument = self._run_input(entry) if run else envelope(entry, complete=False)
        return await self._ask(host, entry, argument, timeout_seconds, begin)

    async def _ask(
        self,
        host: AgentHost,
        entry: Entry,
        argument: dict[str, Any],
        timeout_seconds: float,
        begin: Begin,
    ) -> Outcome:
        mask = EventMask(entry, self._masked)
        await mask.prepare()  # before the agent prints
        await begin()
        request = {"do": "attempt", "agent": entry.agent, "argument": argument}
        try:
            answer = await host.ask_as(OutputOwner(_keys(entry), mask), request, timeout_seconds)
        except TimeoutError:
            return Outcome(OutcomeKind.TIMEOUT, error=f"no answer within {timeout_seconds:g} s")
        except HostEnded as ended:
            return Outcome(OutcomeKind.CRASH, error=f"its host ended: {ended}")
        if (lacking := answer.get("lacking")) in LACKING:
            host.reason = lacking  # the exhausted resource stays in use: replace the host
        if lacking == FOLDER:  # then the agent was not called
            return failure_of_machine(answer["failed"])
        if "failed" in answer:
            return Outcome(OutcomeKind.EXCEPTION, error=mask(answer["failed"]))
        return await mask.outcome(outcome_of(answer["returned"], entry.agent))


def failure_of_machine(error: str) -> Outcome:
    """Return the outcome of an attempt that could not call its agent."""
    return Outcome(OutcomeKind.UNREACHABLE, error=error, uses_schedule=False)


def _keys(entry: Entry) -> dict[str, object]:
    return {
        "agent": entry.agent,
        "channel": entry.event.channel,
        "event_id": entry.event_id,
        "attempt": entry.attempt,
    }
