"""The settings: type, reader, default and meaning of each, and whether it needs a restart.

Where a value may come from stands in `config/sources.py`.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Protocol

from berinia_webhookd.addresses import THIS_HOST, Network
from berinia_webhookd.config import values
from berinia_webhookd.config.fields import Environ, Required, SameAs, setting
from berinia_webhookd.config.secret import Secret
from berinia_webhookd.config.values import (
    SCHEDULE,
    agent_name,
    boolean,
    folder,
    http_path,
    many,
    network,
    number,
    one_of,
    text,
    whole,
)
from berinia_webhookd.findings import Finding
from berinia_webhookd.model import (
    AgentName,
    ChannelName,
    Delivery,
    EventMark,
    Gathering,
    OptOut,
    OutcomeKind,
    Rate,
)

MIB: Final = 1024 * 1024
DAY: Final = 86_400.0
SECONDS: Final = number(0.001, DAY)
DAYS: Final = number(0.01, 36_500)
BYTES: Final = whole(1024, 1024 * MIB)  # of a body
STATUS: Final = whole(400, 599)
MARKS: Final = many(one_of(*EventMark))
RETRY_SCHEDULE: Final = (5.0, 30.0, 120.0, 600.0, 3600.0, 10_800.0, 28_800.0)
LEVELS: Final = ("debug", "info", "warning", "error")
DEFAULTS: Final = AgentName("defaults")  # the table of what holds for all agents


def state_folder(environ: Environ) -> Path:
    """Return `<state>`: what systemd gives, else a folder in the home."""
    if given := environ.get("STATE_DIRECTORY", "").split(":")[0]:
        return Path(given).absolute()
    home = environ.get("HOME") or "~"
    return Path(home).expanduser() / ".local" / "state" / "berinia-webhookd"


def _journal_url(environ: Environ) -> Secret:
    return Secret(f"sqlite:///{state_folder(environ) / 'journal.db'}")


def _logs_folder(environ: Environ) -> Path:
    if given := environ.get("LOGS_DIRECTORY", "").split(":")[0]:
        return Path(given).absolute()
    return state_folder(environ) / "unified_logs"


@dataclass(frozen=True, slots=True)
class ServerSettings:
    host: str = setting(
        text, "127.0.0.1", "address to listen on; sockets that systemd hands over win", restart=True
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
        "scheme and host that the providers call, or a list; replaces both in URL signatures",
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
        SECONDS, 10.0, "how long a body may make no progress; past it 408"
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
        "connections at once, a quarter of them for one address that is no trusted proxy; over it "
        "503 before reading",
    )
    max_body_bytes_in_flight: int = setting(
        whole(MIB, 2**40),
        256 * MIB,
        "bytes of bodies that have arrived, a quarter of them for one client, and a quarter only "
        "for bodies of at most 64 KiB; over it 503",
    )


@dataclass(frozen=True, slots=True)
class RateLimitSettings:
    requests: int = setting(
        whole(1, 10**9), 100, "requests per client address that may fail in `per_seconds`"
    )
    per_seconds: float = setting(number(0.1, DAY), 60.0, "the time they may fail in")
    verified_requests: int = setting(
        whole(1, 10**9),
        SameAs("rate_limit.requests"),
        "the same for requests that verified; Twilio does not retry after 429 by default, so a "
        "burst of answers to a campaign must fit",
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
        number(1, 3600), 15.0, "how long a claim holds; renewed at a third of it", restart=True
    )
    retention_days: float = setting(
        DAYS, 30.0, "how long finished entries are kept; dead ones for ever", restart=True
    )
    dedupe_days: float = setting(
        DAYS, 400.0, "how long an event is recognised as seen", restart=True
    )
    rejected_max: int = setting(
        whole(0, 10**7), 10_000, "how many rejected deliveries are kept", restart=True
    )
    pool_size: int = setting(
        whole(3, 1000), 5, "PostgreSQL only: connections that one process has at most", restart=True
    )
    node: str = setting(
        text,
        lambda _: socket.gethostname() or "localhost",
        "written on what this machine receives and runs",
        unset="the host name",
        example="web1",
        restart=True,
    )

    @property
    def file(self) -> Path | None:
        """The SQLite file; None where the journal is in PostgreSQL."""
        return values.sqlite_file(self.url.reveal())


@dataclass(frozen=True, slots=True)
class ConsentsSettings:
    key: Secret | None = setting(
        values.key,
        None,
        "by which the opt-out of an erased person stays recognisable; the same on every node, and "
        "saved with the journal's backups",
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
    level: str = setting(one_of(*LEVELS), "info", f"least level written: {', '.join(LEVELS)}")
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
class AlertSettings:
    command: str | None = setting(
        values.command,
        None,
        "run with an alert as JSON on its standard input",
        example="/usr/local/bin/berinia-alert",
    )
    url: str | None = setting(
        values.web_url,
        None,
        "gets alerts as JSON",
        example="https://example.com/alert",
        secret=True,
    )


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """One agent; what is not set for it comes from `agents.defaults`."""

    name: AgentName
    target: str | None = setting(
        values.target,
        None,
        "`python:module:Name`, `https://…` (`http://` to this machine only) or `log:`",
        unset="the registry finds the agent",
        example="python:agents.example:Example",
    )
    timeout_seconds: float | None = setting(
        number(0.1, DAY),
        None,
        "one attempt's limit",
        unset="`60`, `900` for entries of kind `berinia-whatsapp`",
        example=60,
    )
    delivery: Delivery | None = setting(
        one_of(*Delivery),
        None,
        "`at-least-once`: what fails or is lost is tried again; `at-most-once`: what has begun is "
        "never begun again by itself, for agents that must not act twice",
        unset="`at-least-once`, `at-most-once` for entries of kind `berinia-whatsapp`",
        example="at-most-once",
    )
    stop_grace_seconds: float | None = setting(
        number(0, DAY),
        None,
        "how long stopping waits for an `at-most-once` attempt that has begun; the unit's "
        "`TimeoutStopSec=` must be longer",
        unset="`server.shutdown_grace_seconds`, `900` for entries of kind `berinia-whatsapp`",
        example=900,
    )
    concurrency: int | None = setting(
        whole(1, 10_000), None, "attempts at once on this machine", unset="no limit", example=4
    )
    host: str | None = setting(
        values.word,
        None,
        "agents with the same word share one host on a machine, one attempt at a time, and so keep "
        "one memory",
        unset="any host",
        example="berinia",
    )
    loop_guard: bool = setting(
        boolean,
        True,
        "whether a conversation is held that looks like two machines answering each other: the "
        "same text three times in a day, ten quick turns, a mail that says it is automatic",
    )
    per_sender: tuple[Rate, ...] = setting(
        many(values.rate),
        (),
        "how often it runs for one person: so many times in a second, minute, hour or day (`s`, "
        "`m`, `h`, `d`), one or several; the rest waits until a run is long enough ago",
        unset="no limit",
        example=["20/h", "60/d"],
    )
    daily_cost: float | None = setting(
        number(0.0001, 1e9),
        None,
        "what its results of one day, UTC, may cost: the sum of the `cost` that it returns; the "
        "rest waits for the next day",
        unset="no limit",
        example=20,
    )
    retry_schedule_seconds: tuple[float, ...] | None = setting(
        SCHEDULE,
        None,
        "pauses between attempts, ±20 %; after the last the entry is dead; `[]` means never again",
        unset=f"`{list(map(int, RETRY_SCHEDULE))}`, `[2, 10, 30]` for kind `berinia-whatsapp`",
        example=RETRY_SCHEDULE,
    )
    retry_on: frozenset[OutcomeKind] = setting(
        values.kinds, values.RETRIABLE, "failures that are tried again; others are dead at once"
    )
    order_hold_seconds: float = setting(
        number(0, 30 * DAY), 300.0, "how long a waiting retry holds back its conversation"
    )
    gather_seconds: float = setting(
        number(0, DAY),
        0.0,
        "one run for a burst of messages: it begins when the conversation has been silent so long; "
        "`0`: a run for each message",
    )
    gather_max_seconds: float = setting(
        number(0, DAY), 30.0, "how long the first message of a burst waits for its run at the most"
    )
    memory_limit_bytes: int | None = setting(
        whole(16 * MIB, 2**50), None, "memory of its host", unset="no limit", example=2**30
    )
    signing_secret: Secret | None = setting(
        values.secret,
        None,
        "Standard Webhooks secret; an HTTP agent on another machine must have one",
        example="whsec_…",
        secret=True,
    )

    @property
    def gathering(self) -> Gathering | None:
        """How its messages are gathered, if they are."""
        if not self.gather_seconds:
            return None
        return Gathering(self.gather_seconds, self.gather_max_seconds)

    @property
    def shared_host(self) -> str | None:
        """The word of its host, if it runs in one."""
        in_host = self.target is None or self.target.startswith("python:")
        return self.host if in_host else None


@dataclass(frozen=True, slots=True)
class AgentsSettings:
    defaults: AgentSettings  # its name is `DEFAULTS`
    by_name: Mapping[AgentName, AgentSettings]
    path: Path | None = setting(
        folder,
        None,
        "first on the agents' import path, and their working folder",
        example="/srv/berinia/infra-ia",
    )
    python: Path = setting(
        folder,
        lambda _: Path(sys.executable),
        "interpreter of the agent hosts: the agents' own virtual environment",
        unset="the daemon's",
        example="/srv/berinia/infra-ia/.venv/bin/python",
    )
    registry: str | None = setting(
        values.registry,
        None,
        "`module:object` with `get_or_create(name)`: finds the agents that have no target",
        example="agents.registry:registry",
    )
    max_hosts: int = setting(
        whole(1, 256),
        lambda _: (os.cpu_count() or 1) + 1,
        "agent hosts on this machine, started on first use",
        unset="number of CPUs + 1",
        example=3,
    )

    host_idle_seconds: float = setting(
        number(0, 30 * DAY), 600.0, "a host without work for so long is stopped; 0: never"
    )
    environment: tuple[str, ...] = setting(
        many(values.variable),
        (),
        "variables that agents get although these are withheld: `BERINIA_WEBHOOKD_*`, "
        "`TWILIO_TOKEN`, `MAILGUN_*`, `CREDENTIALS_DIRECTORY`, `NOTIFY_SOCKET`, `WATCHDOG_*`, "
        "`LISTEN_*`",
        unset="none",
        example=["TWILIO_TOKEN"],
    )

    def of(self, name: AgentName) -> AgentSettings:
        """Return the settings of an agent, configured or not."""
        return self.by_name.get(name, self.defaults)


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """The channel of a kind that exists without being named in the file."""

    name: ChannelName
    path: str
    agent: AgentName


@dataclass(frozen=True, slots=True)
class ChannelSettings:
    """What channels of every kind have; `channels/settings.py` adds what each kind has."""

    built_in: ClassVar[BuiltIn | None] = None
    # Holds where neither the channel nor the agents say otherwise.
    kind_retry_schedule_seconds: ClassVar[tuple[float, ...]] = RETRY_SCHEDULE
    kind_timeout_seconds: ClassVar[float] = 60.0
    kind_delivery: ClassVar[Delivery] = Delivery.AT_LEAST_ONCE
    kind_stop_grace_seconds: ClassVar[float | None] = None  # None: the server's

    name: ChannelName
    kind: str = setting(
        text, Required, "its kind", unset="must be set on further channels", file_only=True
    )
    enabled: bool = setting(boolean, True, "whether it receives; if not, its path answers 404")
    path: str = setting(http_path, Required, "where it receives", unset="`/webhook/<name>`")
    max_body_bytes: int = setting(BYTES, MIB, "larger bodies are refused with 413")
    retry_schedule_seconds: tuple[float, ...] | None = setting(
        SCHEDULE, None, "pauses between attempts", unset="the agent's, else the kind's", example=[5]
    )
    agent: AgentName = setting(agent_name, Required, "who gets what arrives")
    ack_timeout_seconds: float | None = setting(
        SECONDS, None, "from body to commit", unset="`server.ack_timeout_seconds`", example=5
    )
    skip: tuple[EventMark, ...] | None = setting(
        MARKS,
        (),
        "events that are kept in state `skipped` and handed to no agent: "
        + ", ".join(f"`{mark}`" for mark in EventMark),
    )
    block: tuple[str, ...] = setting(
        many(text),
        (),
        "senders, in any spelling, whose events are skipped",
        unset="nobody",
        example=["+33639980001"],
    )
    opt_out_words: Mapping[OptOut, tuple[str, ...]] | None = setting(
        values.opt_out_words,
        None,
        "messages that mean STOP, START or HELP, in place of the kind's; `+` among them stands for "
        "the built-in ones",
        unset="those of the README for kind `twilio`, none for others",
        example={"stop": ["+", "BASTA"]},
        file_only=True,
    )
    later_status: int = setting(STATUS, 503, "the answer that makes the provider try again")
    unproven_status: int = setting(STATUS, 403, "the answer to a request that proves nothing")

    @property
    def is_built_in(self) -> bool:
        """Whether it exists without being named in the file."""
        return self.built_in is not None and self.built_in.name == self.name

    @property
    def address_alone(self) -> bool:
        """Whether nothing but the address proves who calls."""
        return False

    @property
    def own_listener(self) -> str | None:
        """The listener on which it receives alone."""
        return None

    @property
    def agents(self) -> frozenset[AgentName]:
        """Every agent that a message can go to."""
        return frozenset({self.agent})

    @property
    def skipped_marks(self) -> frozenset[EventMark]:
        """What is skipped by its marks."""
        return frozenset(self.skip or ())

    def errors(self) -> Iterator[Finding]:
        """Yield what is valid alone and not together."""
        return iter(())

    def cautions(self, came_from: Mapping[str, str]) -> Iterator[Finding]:
        """Yield what works and will hurt; `came_from` says of each field where its value stands."""
        del came_from
        return iter(())


class Kind(Protocol):
    """What the loader knows of a kind of channel."""

    @property
    def settings(self) -> type[ChannelSettings]:
        """The dataclass of its channels' settings."""

    @property
    def preset(self) -> Callable[[str], Mapping[str, Any]] | None:
        """What stands in a preset of a name, in place of defaults; `ValueError` without one."""

    def cautions(
        self, channel: ChannelSettings, settings: Settings, came_from: Mapping[str, str]
    ) -> Iterator[Finding]:
        """Yield what works and will hurt; `came_from` says of each field where its value stands."""


Kinds = Mapping[str, Kind]


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one process."""

    server: ServerSettings
    rate_limit: RateLimitSettings
    journal: JournalSettings
    consents: ConsentsSettings
    logs: LogSettings
    alerts: AlertSettings
    agents: AgentsSettings
    channels: Mapping[ChannelName, ChannelSettings]
    debug: bool = setting(
        boolean, False, "log more", restart=True, legacy=("DEBUG",), flag_only=True
    )
    dev: bool = setting(boolean, False, "throw-away secrets", restart=True, flag_only=True)


SECTIONS: Final[Mapping[str, type]] = {  # beside the tables of agents and channels
    "server": ServerSettings,
    "rate_limit": RateLimitSettings,
    "journal": JournalSettings,
    "consents": ConsentsSettings,
    "logs": LogSettings,
    "alerts": AlertSettings,
}
