"""What the checks look at: an installation's settings, its daemon if one runs, and the ways to its
channels, journal and agents, which checks must not construct themselves.
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

AS_DAEMON = "sudo berinia-webhookd doctor"  # which sees what the daemon sees


@dataclass(frozen=True, slots=True)
class Commands:
    """What an operator types, by how the daemon was started."""

    start: str
    stop: str | None  # with its socket; None: nothing runs that could be stopped
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
    saved_copies: Callable[[Path], list[Path]]  # of a lost journal, undecided


@dataclass(frozen=True, slots=True)
class AgentLoad:
    """An attempt to load one agent; `loads` is None where nobody tried."""

    agent: AgentName
    target: str  # as it may be shown: without what may be secret in a URL
    loads: bool | None
    where: str = ""  # and when, unless it was here and now
    reason: str | None = None  # why it does not load: a traceback where there is one
    hint: str | None = None
    output: tuple[str, ...] = ()  # what it printed meanwhile, if it does not load
    goes_on: bool = False  # with the code from before a reload


@dataclass(frozen=True, slots=True)
class Installation:
    """One installation, whether its daemon runs or not."""

    settings: Settings  # with defaults for invalid values
    problems: tuple[Finding, ...]  # why the settings cannot be used
    warnings: tuple[Finding, ...]  # what works, but will cause trouble
    knows_environment: bool  # whether the settings were read with the daemon's own environment
    process: int | None  # None: no daemon runs
    address: str  # where the daemon listens, or would: host:port, or unix:/path
    user: int  # of the daemon; if it does not run, the current one
    logs: Path
    state: Path  # the state folder
    key: InstallationKey | None  # None: this user may not read it, or it was never made
    journal: JournalAccess
    commands: Commands
    channels_for: Callable[[Sequence[str]], Mapping[ChannelName, Channel]]  # by their public URLs
    load_agents: Callable[[], Awaitable[Sequence[AgentLoad]]]

    @property
    def providers(self) -> tuple[Provider, ...]:
        """The providers of enabled channels, each once."""
        return tuple(dict.fromkeys(channel.provider for channel in self.channels.values()))

    @property
    def channels(self) -> Mapping[ChannelName, Channel]:
        """The enabled channels."""
        return self.channels_for(self.settings.server.public_url)


def no_key(installation: Installation) -> str:
    """Return why no probe could be sent."""
    file = installation.state / KEY_FILE
    return f"not checked: this user cannot read {file}, by which the daemon knows probes"
