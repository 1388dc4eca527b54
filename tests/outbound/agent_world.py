"""Real agent hosts for tests: settings, entries, and a look at the processes that are left."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from berinia_webhookd.channels import catalogue
from berinia_webhookd.config.agent_settings import AgentsSettings
from berinia_webhookd.config.load import load
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import (
    AgentName,
    ChannelName,
    Conversation,
    Entry,
    EntryId,
    EntryKind,
    Event,
    EventId,
    Outcome,
)
from berinia_webhookd.outbound.python_agent import PythonAgents

AGENTS: Final = Path(__file__).with_name("agents")
MARK: Final = "OUTBOUND_TEST_MARK"  # an environment variable that all processes of a test inherit
PATIENCE_SECONDS: Final = 180.0
FRIENDLY: Final = AgentName("Friendly")

_numbers = itertools.count(1)


def agents_settings(folder: Path, text: str) -> AgentsSettings:
    """The agents' settings out of TOML lines."""
    file = folder / f"settings-{next(_numbers)}.toml"
    file.write_text(text)
    return load(
        kinds=catalogue.KINDS, environ={}, working_folder=folder, config_file=file
    ).settings.agents


def make_entry(
    agent: str,
    body: str = "Bonjour",
    *,
    sender: str = "+33639980001",
    channel: str = "sms",
    attempt: int = 1,
    **changes: Any,
) -> Entry:
    """An entry as the dispatcher hands it to a transport."""
    number = next(_numbers)
    name = ChannelName(channel)
    event = Event(
        channel=name,
        agent=AgentName(agent),
        conversation=Conversation(name, sender, "+33639980002"),
        digest=bytes(32),
        received_at=datetime(2026, 3, 1, 12, 0, tzinfo=UTC),
        sender=sender,
        body=body,
        **{"recipient": "+33639980002", "raw": {"Body": body}, **changes},
    )
    return Entry(
        id=EntryId(number),
        event_id=EventId(f"0190a000-0000-7000-8000-{number:012d}"),
        kind=EntryKind.AGENT,
        agent=AgentName(agent),
        conversation_id=f"{channel}:{sender}",
        attempt=attempt,
        retries=attempt - 1,
        event=event,
    )


def marked_processes(mark: str, *, fork_server: bool = False) -> dict[int, str]:
    """The living processes that inherited the mark: pid → command line; without the fork server,
    which stays when hosts go, unless it alone is asked for.
    """
    needle = f"{MARK}={mark}".encode()
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                name = (folder / "comm").read_text().strip()
                if (name == "agent-forks") is not fork_server:
                    continue
                if needle in (folder / "environ").read_bytes().split(b"\0"):
                    found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue  # ended meanwhile, or not ours
    return found


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something that nobody announces."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.02)


async def until_gone(mark: str, *, but: frozenset[int] = frozenset()) -> None:
    """Wait until no marked process but these is left."""
    try:
        await until(lambda: not marked_processes(mark).keys() - but)
    except TimeoutError:
        raise AssertionError(f"still there: {marked_processes(mark)}") from None


@dataclass
class HostWorld:
    """The Python transport with real hosts, whose processes all carry `mark`."""

    folder: Path
    mark: str
    metrics: Metrics = field(default_factory=Metrics)
    opened: list[PythonAgents] = field(default_factory=list)

    def settings(self, targets: Mapping[str, str], more: str = "") -> AgentsSettings:
        """Settings for agents by name, with targets in `tests/outbound/agents`."""
        lines = [] if "agents.path" in more else [f'agents.path = "{AGENTS}"']
        lines += [] if "agents.max_hosts" in more else ["agents.max_hosts = 2"]
        lines += [f'agents.{name}.target = "python:{where}"' for name, where in targets.items()]
        return agents_settings(self.folder, "\n".join([*lines, more]))

    def open(self, targets: Mapping[str, str], more: str = "", **options: Any) -> PythonAgents:
        """The transport with these agents, and `Friendly`."""
        settings = self.settings({"Friendly": "friendly:handle", **targets}, more)
        return self.open_with(settings, **options)

    def open_with(self, settings: AgentsSettings, **options: Any) -> PythonAgents:
        """The transport with these settings."""
        built_in = load(
            kinds=catalogue.KINDS, environ={}, working_folder=self.folder
        ).settings.channels
        options = {"channel_of": catalogue.build_all(built_in, ()).get, **options}
        agents = PythonAgents(settings, metrics=self.metrics, **options)
        self.opened.append(agents)
        return agents

    def processes(self) -> dict[int, str]:
        """What runs of this test's hosts."""
        return marked_processes(self.mark)

    def restarts(self, reason: str) -> float:
        """`agent_host_restarts_total` with this reason."""
        labels = {"reason": reason}
        name = "berinia_webhookd_agent_host_restarts_total"
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    async def restarted(self, reason: str) -> None:
        """Wait until exactly one host was counted as ended for this reason, and no other."""
        await until(lambda: self.restarts(reason) > 0)
        assert self.restarts(reason) == 1

    async def close(self) -> None:
        """Close all; nothing may be left."""
        for agents in self.opened:
            await agents.close()
        await until_gone(self.mark)


async def attempt(
    agents: PythonAgents, agent: str, body: str = "Bonjour", *, seconds: float = 60.0, **more: Any
) -> Outcome:
    """One attempt for a fresh entry."""
    return await agents.attempt(make_entry(agent, body, **more), timeout_seconds=seconds)
