"""All settings of one process: the type, reader, default and meaning of each, and whether a change
needs a restart. Where a value may come from is in `config/sources.py`.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from berinia_webhookd.addresses import THIS_HOST, Network
from berinia_webhookd.config import values
from berinia_webhookd.config.agent_settings import AgentsSettings
from berinia_webhookd.config.channel_settings import ChannelSettings
from berinia_webhookd.config.fields import Environ, SameAs, setting
from berinia_webhookd.config.secret import Secret
from berinia_webhookd.config.values import (
    DAY,
    DAYS,
    MIB,
    SECONDS,
    boolean,
    folder,
    many,
    network,
    number,
    one_of,
    text,
    whole,
)
from berinia_webhookd.model import (
    ChannelName,
)

LEVELS: Final = ("debug", "info", "warning", "error")


def state_folder(environ: Environ) -> Path:
    """Return the state folder: systemd's, else one in the home folder."""
    if given := environ.get("STATE_DIRECTORY", "").split(":")[0]:
        return Path(given).absolute()
    home = environ.get("HOME") or "~"
    return Path(home).expanduser() / ".local" / "state" / "berinia-webhookd"


def runtime_folder(environ: Environ) -> Path:
    """Return where a running daemon writes what other commands find it by: what systemd gives, else
    `<state>`.
    """
    given = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    return Path(given).absolute() if given else state_folder(environ)


def _journal_url(environ: Environ) -> Secret:
    return Secret(f"sqlite:///{state_folder(environ) / 'journal.db'}")


def _logs_folder(environ: Environ) -> Path:
    if given := environ.get("LOGS_DIRECTORY", "").split(":")[0]:
        return Path(given).absolute()
    return state_folder(environ) / "unified_logs"


@dataclass(frozen=True, slots=True)
class ServerSettings:
    host: str = setting(
        text, "127.0.0.1", "address to listen on; sockets inherited from systemd win", restart=True
    )
    port: int = setting(whole(0, 65_535), 8001, "port to listen on, likewise", restart=True)
    uds: Path | None = setting(folder, None, "Unix socket", restart=True, flag_only=True)
    trusted_proxies: tuple[Network, ...] = setting(
        many(network),
        THIS_HOST,
        "addresses or networks whose forwarded headers are believed",
    )
    public_url: tuple[str, ...] = setting(
        many(values.origin),
        (),
        "scheme and host that providers call, or a list; replaces both in URL signatures",
        unset="both are taken from the request",
        example="https://app.berinia.com",
    )
    metrics_allowed_ips: tuple[Network, ...] = setting(
        many(network),
        (network("127.0.0.0/8"), network("::1")),
        "who may read `/metrics`, and the reasons of `/health`",
    )
    ack_timeout_seconds: float = setting(
        SECONDS, 10.0, "from the complete body to the commit; past it the provider gets 503"
    )
    body_timeout_seconds: float = setting(
        SECONDS, 10.0, "how long a body may arrive without progress; past it 408"
    )
    shutdown_grace_seconds: float = setting(
        number(0, 3600),
        30.0,
        "for running attempts when stopping (`agents.<Name>.stop_grace_seconds` for `at-most-once` "
        "ones); the unit's `TimeoutStopSec=` must be longer",
    )
    max_connections: int = setting(
        whole(1, 1_000_000),
        1024,
        "connections at once, at most a quarter from one address that is not a trusted proxy; over "
        "it 503 before reading",
    )
    max_body_bytes_in_flight: int = setting(
        whole(MIB, 2**40),
        256 * MIB,
        "bytes of bodies in memory, at most a quarter from one client; a quarter is reserved for "
        "bodies up to 64 KiB; over it 503",
    )


@dataclass(frozen=True, slots=True)
class RateLimitSettings:
    requests: int = setting(
        whole(1, 10**9), 100, "failed requests that one client address may send in `per_seconds`"
    )
    per_seconds: float = setting(number(0.1, DAY), 60.0, "the time that both limits are for")
    verified_requests: int = setting(
        whole(1, 10**9),
        SameAs("rate_limit.requests"),
        "the same for verified requests; Twilio does not retry after 429 by default, so leave room "
        "for a burst of answers to a campaign",
        unset="as many as `rate_limit.requests`",
        example=6000,
    )


@dataclass(frozen=True, slots=True)
class JournalSettings:
    url: Secret = setting(  # a PostgreSQL URL may hold a password
        values.journal_url,
        _journal_url,
        "where events are kept: a SQLite file, or `postgresql://user:password@host/database`",
        unset="`journal.db` in `$STATE_DIRECTORY`, else in `~/.local/state/berinia-webhookd`",
        example="sqlite:////var/lib/berinia-webhookd/journal.db",
        secret=True,
        restart=True,
    )
    lease_seconds: float = setting(
        number(1, 3600),
        15.0,
        "how long a claim lasts unless it is renewed, which is done at a third of it",
        restart=True,
    )
    retention_days: float = setting(
        DAYS, 30.0, "how long finished entries are kept; dead ones are kept for ever", restart=True
    )
    dedupe_days: float = setting(
        DAYS, 400.0, "how long an event is recognised as seen", restart=True
    )
    rejected_max: int = setting(
        whole(0, 10**7), 10_000, "how many rejected deliveries are kept", restart=True
    )
    pool_size: int = setting(
        whole(3, 1000), 5, "PostgreSQL only: most connections of one process", restart=True
    )
    node: str = setting(
        text,
        lambda _: socket.gethostname() or "localhost",
        "name of this machine, stored with what it receives and runs",
        unset="the host name",
        example="web1",
        restart=True,
    )

    @property
    def file(self) -> Path | None:
        """The SQLite file; None for PostgreSQL."""
        return values.sqlite_file(self.url.reveal())


@dataclass(frozen=True, slots=True)
class ConsentsSettings:
    key: Secret | None = setting(
        values.key,
        None,
        "key by which the opt-out of an erased person stays recognisable; the same on every node, "
        "and part of the journal's backups",
        unset="`consents.key` in `$STATE_DIRECTORY`, else in `~/.local/state/berinia-webhookd`, "
        "made at the first start; must be set for a PostgreSQL journal",
        example="what `openssl rand -hex 32` prints",
        secret=True,
        restart=True,
    )


@dataclass(frozen=True, slots=True)
class LogSettings:
    dir: Path = setting(
        folder,
        _logs_folder,
        "folder of the unified logs",
        unset="`$LOGS_DIRECTORY`, else `unified_logs` beside the journal's default place",
        example="/var/log/berinia-webhookd",
        restart=True,
    )
    level: str = setting(one_of(*LEVELS), "info", f"lowest level written: {', '.join(LEVELS)}")
    personal_data: Literal["mask", "full"] = setting(
        one_of("mask", "full"),
        "mask",
        "`mask` hides phone numbers, e-mail addresses and message text; `full` shows them",
    )
    username: str = setting(text, "berinia", "user name of `GET /webhook/logs` (Basic auth)")
    password: Secret | None = setting(
        values.secret,
        None,
        "password of `GET /webhook/logs`",
        unset="none, and it answers 503",
        example="a long password",
        secret=True,
    )


@dataclass(frozen=True, slots=True)
class ConsoleSettings:
    enabled: bool = setting(boolean, False, "whether the web console is on", restart=True)
    listen: str = setting(
        values.own_listener,
        "127.0.0.1:8002",
        "where the web console listens: a loopback address with its port, or a Unix socket",
        restart=True,
    )
    url: str | None = setting(
        values.origin,
        None,
        "scheme and host under which browsers find the console, where that is not this machine; "
        "must be set for a Unix socket",
        unset="a name of this machine alone, such as `http://berinia-1a2b3c.localhost:8002`",
        example="https://console.example.com",
        restart=True,
    )


@dataclass(frozen=True, slots=True)
class AlertSettings:
    command: str | None = setting(
        values.command,
        None,
        "run for each alert, with JSON on its standard input",
        example="/usr/local/bin/berinia-alert",
    )
    url: str | None = setting(
        values.web_url,
        None,
        "each alert is posted to it as JSON",
        example="https://example.com/alert",
        secret=True,
    )


@dataclass(frozen=True, slots=True)
class TracingSettings:
    url: str | None = setting(
        values.base_url,
        None,
        "OpenTelemetry collector that spans are sent to, by OTLP over HTTP; needs the extra "
        "`tracing`",
        example="http://127.0.0.1:4318",
        secret=True,
        restart=True,
    )


@dataclass(frozen=True, slots=True)
class ReconcileTwilioSettings:
    numbers: tuple[str, ...] = setting(
        many(text),
        (),
        "our numbers at Twilio, of which `reconcile` asks what they received",
        unset="all numbers that the journal has seen as recipients",
        example=["+33639980000", "whatsapp:+33639980000"],
    )
    api_url: str = setting(
        values.origin, "https://api.twilio.com", "where `reconcile` asks Twilio's API"
    )


@dataclass(frozen=True, slots=True)
class ReconcileMailgunSettings:
    api_key: Secret | None = setting(
        values.secret,
        None,
        "an API key of Mailgun's that may read logs and messages: `reconcile` asks by it",
        unset="none, and it cannot be asked",
        example="your API key",
        secret=True,
    )
    domain: str | None = setting(
        values.matching(r"[A-Za-z0-9.-]{1,253}", "give a domain such as mg.example.com"),
        None,
        "our domain at Mailgun, of whose mails it asks",
        unset="none, and it cannot be asked",
        example="mg.example.com",
    )
    region: Literal["eu", "us"] = setting(
        one_of("eu", "us"), "eu", "where Mailgun keeps this domain: `eu` or `us`"
    )
    api_url: str | None = setting(
        values.origin,
        None,
        "where `reconcile` asks in place of all of Mailgun's hosts",
        unset="Mailgun's, by the region",
        example="https://api.eu.mailgun.net",
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one process."""

    server: ServerSettings
    rate_limit: RateLimitSettings
    journal: JournalSettings
    consents: ConsentsSettings
    logs: LogSettings
    alerts: AlertSettings
    tracing: TracingSettings
    console: ConsoleSettings
    reconcile_twilio: ReconcileTwilioSettings
    reconcile_mailgun: ReconcileMailgunSettings
    agents: AgentsSettings
    channels: Mapping[ChannelName, ChannelSettings]
    debug: bool = setting(
        boolean, False, "log more", restart=True, legacy=("DEBUG",), flag_only=True
    )
    dev: bool = setting(boolean, False, "use throw-away secrets", restart=True, flag_only=True)


SECTIONS: Final[Mapping[str, type]] = {  # beside the tables of agents and channels
    "server": ServerSettings,
    "rate_limit": RateLimitSettings,
    "journal": JournalSettings,
    "consents": ConsentsSettings,
    "logs": LogSettings,
    "alerts": AlertSettings,
    "tracing": TracingSettings,
    "console": ConsoleSettings,
    "reconcile.twilio": ReconcileTwilioSettings,
    "reconcile.mailgun": ReconcileMailgunSettings,
}
