"""The settings as frozen types, after every source was read and every value checked.

What each key means, its default and whether it needs a restart stands in `config/keys.py`; where a
value may come from in `config/sources.py`. Secrets are `Secret`, which shows itself to nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from berinia_webhookd.addresses import Network
from berinia_webhookd.model import AgentName, OutcomeKind

REDACTED: Final = "••••••"


class Secret:
    """A secret text: compared and shown by nobody, read only by `reveal`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The secret itself."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({REDACTED})"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


@dataclass(frozen=True, slots=True)
class ServerSettings:
    host: str
    port: int
    trusted_proxies: tuple[Network, ...]
    public_url: tuple[str, ...]  # scheme://host[:port], no path
    metrics_allowed_ips: tuple[Network, ...]
    ack_timeout_seconds: float
    body_timeout_seconds: float
    shutdown_grace_seconds: float
    max_connections: int
    max_body_bytes_in_flight: int
    uds: Path | None = None  # flag only


@dataclass(frozen=True, slots=True)
class RateLimitSettings:
    requests: int
    per_seconds: float
    verified_requests: int


@dataclass(frozen=True, slots=True)
class JournalSettings:
    url: Secret  # a PostgreSQL URL may hold a password; `show_url` hides it
    lease_seconds: float
    retention_days: float
    dedupe_days: float
    rejected_max: int
    pool_size: int  # PostgreSQL only
    node: str


@dataclass(frozen=True, slots=True)
class LogSettings:
    dir: Path
    level: str  # debug, info, warning, error
    personal_data: Literal["mask", "full"]
    username: str
    password: Secret | None


@dataclass(frozen=True, slots=True)
class AlertSettings:
    command: str | None
    url: str | None


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """One agent; what is not set for it comes from `agents.defaults`."""

    name: AgentName
    target: str | None  # python:module:Name, https://…, log:
    timeout_seconds: float
    concurrency: int | None
    retry_schedule_seconds: tuple[float, ...]
    retry_on: frozenset[OutcomeKind]
    order_hold_seconds: float
    memory_limit_bytes: int | None
    signing_secret: Secret | None


@dataclass(frozen=True, slots=True)
class AgentsSettings:
    path: Path | None
    python: Path
    registry: str | None  # module:object
    max_hosts: int
    defaults: AgentSettings  # its name is "defaults", its target None
    by_name: Mapping[AgentName, AgentSettings]

    def of(self, name: AgentName) -> AgentSettings:
        """The settings of an agent, configured or not."""
        return self.by_name.get(name, self.defaults)


@dataclass(frozen=True, slots=True)
class SmsSettings:
    enabled: bool
    path: str
    max_body_bytes: int
    retry_schedule_seconds: tuple[float, ...] | None  # None: the agent's
    agent: AgentName
    tokens: tuple[Secret, ...]
    account_sids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EmailSettings:
    enabled: bool
    path: str
    max_body_bytes: int
    retry_schedule_seconds: tuple[float, ...] | None
    agent: AgentName
    signing_keys: tuple[Secret, ...]
    max_age_seconds: float


@dataclass(frozen=True, slots=True)
class WhatsAppSettings:
    enabled: bool
    path: str
    max_body_bytes: int
    retry_schedule_seconds: tuple[float, ...] | None
    agent: AgentName
    allowed_ips: tuple[Network, ...]
    secret: Secret | None
    groups: Mapping[str, AgentName]  # as configured; compared in normal form by the channel
    reply_wait_seconds: float
    late_reply_url: str | None
    late_reply_max_age_seconds: float


@dataclass(frozen=True, slots=True)
class ChannelsSettings:
    sms: SmsSettings
    email: EmailSettings
    whatsapp: WhatsAppSettings


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one process."""

    server: ServerSettings
    rate_limit: RateLimitSettings
    journal: JournalSettings
    logs: LogSettings
    alerts: AlertSettings
    agents: AgentsSettings
    channels: ChannelsSettings
    debug: bool = False
    dev: bool = False
