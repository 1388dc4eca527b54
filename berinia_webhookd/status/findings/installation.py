"""The installation that the checks look at: its settings, and the daemon where one runs. What a
check must not make for itself (channels, journal, agents) comes in here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.channels.provider import Provider
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.findings import Finding
from berinia_webhookd.journal.contract import FileState, Inspection
from berinia_webhookd.model import AgentName, ChannelName
from berinia_webhookd.own_requests import KEY_FILE, InstallationKey

AS_DAEMON = "sudo berinia-webhookd doctor"  # sees what the daemon sees


@dataclass(frozen=True, slots=True)
class Commands:
    """What an operator types; it depends on how the daemon was started."""

    start: str
    restart: str
    reload: str
    show_log: str


@dataclass(frozen=True, slots=True)
class JournalAccess:
    """The journal, and how to look into it."""

    file: Path | None  # None: it is in PostgreSQL
    shown_url: str  # without its password
    inspect: Callable[[], AbstractAsyncContextManager[Inspection]]
    inspect_file: Callable[[Path, float], FileState]


@dataclass(frozen=True, slots=True)
class AgentLoad:
    """An attempt to load one agent; `loads` is None where nobody tried."""

    agent: AgentName
    target: str  # as it may be shown: without what may be secret in a URL
    loads: bool | None
    where: str = ""  # and when, if not here and now
    reason: str | None = None  # why it does not load: a traceback where there is one
    hint: str | None = None
    output: tuple[str, ...] = ()  # what it printed meanwhile, where it does not load
    goes_on: bool = False  # with the code from before a reload


@dataclass(frozen=True, slots=True)
class Installation:
    """One installation, whether its daemon runs or not."""

    settings: Settings  # a wrong value shows its default
    problems: tuple[Finding, ...]  # why the settings cannot be used
    warnings: tuple[Finding, ...]  # what works and will hurt
    knows_environment: bool  # whether the settings were read with the daemon's own environment
    process: int | None  # None: no daemon runs
    address: str  # where the daemon listens, or would: host:port, or unix:/path
    user: int  # whom the daemon runs as; who asks, while it does not run
    logs: Path
    state: Path  # where the daemon keeps what is its own
    key: InstallationKey | None  # None: this user may not read it, or it was never made
    journal: JournalAccess
    commands: Commands
    channels_for: Callable[[Sequence[str]], Mapping[ChannelName, Channel]]  # by their public URLs
    load_agents: Callable[[], Awaitable[Sequence[AgentLoad]]]

    @property
    def providers(self) -> tuple[Provider, ...]:
        """Who calls the channels that receive, each once."""
        return tuple(dict.fromkeys(channel.provider for channel in self.channels.values()))

    @property
    def channels(self) -> Mapping[ChannelName, Channel]:
        """The channels that receive."""
        return self.channels_for(self.settings.server.public_url)


def no_key(installation: Installation) -> str:
    """Say why a check that sends probes was not made."""
    file = installation.state / KEY_FILE
    return f"not checked: this user cannot read {file}, by which the daemon knows probes"
