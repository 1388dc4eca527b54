"""The one table of settings: name, how it is read, default, meaning. Environment names,
`check-config`, the commented file and its test all derive from it.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from berinia_webhookd.config import values
from berinia_webhookd.config.settings import Secret
from berinia_webhookd.config.values import (
    SCHEDULE,
    Parser,
    agent_name,
    boolean,
    folder,
    http_path,
    many,
    network,
    number,
    one_of,
    secret,
    text,
    whole,
)

MIB: Final = 1024 * 1024
ENVIRONMENT_PREFIX: Final = "BERINIA_WEBHOOKD_"

Environ = Mapping[str, str]
Default = Callable[[Environ], Any]


@dataclass(frozen=True, slots=True)
class Key:
    """One setting."""

    name: str
    parse: Parser
    default: Any  # the value, or a `Default` of the environment
    meaning: str
    secret: bool = False
    restart: bool = False  # whether a change needs a restart
    legacy: tuple[str, ...] = ()  # variables of the older installation, first one wins
    flag_only: bool = False

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return ENVIRONMENT_PREFIX + self.name.upper().replace(".", "__")

    def default_value(self, environ: Environ) -> Any:
        """What holds when nobody sets it."""
        return self.default(environ) if callable(self.default) else self.default


def state_folder(environ: Environ) -> Path:
    """`<state>`: what systemd gives, else a folder in the home."""
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


def _hosts(_: Environ) -> int:
    return (os.cpu_count() or 1) + 1


def _node(_: Environ) -> str:
    return socket.gethostname() or "localhost"


def _python(_: Environ) -> Path:
    return Path(sys.executable)


LOOPBACK: Final = (values.network("127.0.0.1"), values.network("::1"))
DAY: Final = 86_400.0
SECONDS: Final = number(0.001, DAY)


def _channel(
    name: str, path: str, most_bytes: int, schedule: tuple[float, ...] | None
) -> list[Key]:
    return [
        Key(f"channels.{name}.enabled", boolean, True, "whether the channel receives"),
        Key(f"channels.{name}.path", http_path, path, "where it receives"),
        Key(
            f"channels.{name}.max_body_bytes",
            whole(1024, 1024 * MIB),
            most_bytes,
            "larger bodies are refused with 413",
        ),
        Key(
            f"channels.{name}.retry_schedule_seconds",
            SCHEDULE,
            schedule,
            "pauses between attempts; unset: the agent's",
        ),
    ]


KEYS: Final[tuple[Key, ...]] = (
    Key("server.host", text, "127.0.0.1", "address to listen on", restart=True),
    Key("server.port", whole(0, 65_535), 8001, "port to listen on", restart=True),
    Key("server.uds", folder, None, "Unix socket", restart=True, flag_only=True),
    Key(
        "server.trusted_proxies",
        many(network),
        LOOPBACK,
        "addresses or networks whose forwarded headers are believed",
    ),
    Key(
        "server.public_url",
        many(values.origin),
        (),
        "scheme and host that providers call; replaces them in URL signatures",
    ),
    Key(
        "server.metrics_allowed_ips",
        many(network),
        (values.network("127.0.0.0/8"), values.network("::1")),
        "who may read /metrics and the reasons of /health",
    ),
    Key("server.ack_timeout_seconds", SECONDS, 10.0, "from complete body to commit; past it 503"),
    Key("server.body_timeout_seconds", SECONDS, 10.0, "without progress in a body: 408"),
    Key(
        "server.shutdown_grace_seconds",
        number(0, 3600),
        30.0,
        "for running attempts when stopping",
    ),
    Key("server.max_connections", whole(1, 1_000_000), 1024, "over it: 503 before reading"),
    Key(
        "server.max_body_bytes_in_flight",
        whole(MIB, 1024 * 1024 * MIB),
        256 * MIB,
        "bytes of bodies being received at once; over it: 503 before reading",
    ),
    Key("rate_limit.requests", whole(1, 10**9), 100, "requests per client address that may fail"),
    Key("rate_limit.per_seconds", number(0.1, DAY), 60.0, "the time they may fail in"),
    Key(
        "rate_limit.verified_requests",
        whole(1, 10**9),
        None,
        "requests per client address that verified; unset: as many as rate_limit.requests",
    ),
    Key(
        "journal.url",
        values.journal_url,
        _journal_url,
        "sqlite:///path or postgresql://…",
        secret=True,
        restart=True,
    ),
    Key("journal.lease_seconds", number(1, 3600), 15.0, "renewed at a third", restart=True),
    Key(
        "journal.retention_days",
        number(0.01, 36_500),
        30.0,
        "finished entries are kept that long; dead ones for ever",
        restart=True,
    ),
    Key(
        "journal.dedupe_days",
        number(0.01, 36_500),
        400.0,
        "how long an event is recognised as seen",
        restart=True,
    ),
    Key(
        "journal.rejected_max",
        whole(0, 10**7),
        10_000,
        "how many rejected deliveries are kept",
        restart=True,
    ),
    Key(
        "journal.pool_size",
        whole(3, 1000),
        5,
        "connections to PostgreSQL that one process has at most",
        restart=True,
    ),
    Key("journal.node", text, _node, "written on what this node receives and runs", restart=True),
    Key("logs.dir", folder, _logs_folder, "folder of the unified logs", restart=True),
    Key("logs.level", one_of("debug", "info", "warning", "error"), "info", "least level written"),
    Key(
        "logs.personal_data",
        one_of("mask", "full"),
        "mask",
        "mask hides phone numbers, e-mail addresses and message text; full shows them",
    ),
    Key("logs.username", text, "berinia", "user name of GET /webhook/logs"),
    Key("logs.password", secret, None, "password of GET /webhook/logs", secret=True),
    Key("alerts.command", values.command, None, "run with an alert as JSON on its standard input"),
    Key("alerts.url", values.web_url, None, "alerts are posted there as JSON", secret=True),
    Key("agents.path", folder, None, "first on the agents' import path; their working folder"),
    Key("agents.python", folder, _python, "interpreter of the agent hosts"),
    Key("agents.registry", values.registry, None, "module:object that finds agents by name"),
    Key("agents.max_hosts", whole(1, 256), _hosts, "agent hosts on this node"),
    *_channel("sms", "/webhook/sms-response", MIB, None),
    Key("channels.sms.agent", agent_name, "ResponseListenerAgent", "who gets the messages"),
    Key(
        "channels.sms.tokens",
        many(secret),
        (),
        "Twilio auth tokens; all are accepted, for rotation",
        secret=True,
        legacy=("TWILIO_TOKEN",),
    ),
    Key(
        "channels.sms.account_sids",
        many(text),
        (),
        "when set, requests of other accounts are refused",
    ),
    *_channel("email", "/webhook/email-response", 40 * MIB, None),
    Key("channels.email.agent", agent_name, "ResponseListenerAgent", "who gets the mails"),
    Key(
        "channels.email.signing_keys",
        many(secret),
        (),
        "Mailgun HTTP webhook signing keys; all are accepted",
        secret=True,
        legacy=("MAILGUN_SIGNING_KEY", "MAILGUN_API_KEY"),
    ),
    Key(
        "channels.email.max_age_seconds",
        number(60, 30 * DAY),
        43_200.0,
        "older signatures are refused; Mailgun retries for eight hours",
    ),
    *_channel("whatsapp", "/webhook/whatsapp", MIB, (2.0, 10.0, 30.0)),
    Key("channels.whatsapp.agent", agent_name, "MetaAgent", "who gets what no group matches"),
    Key(
        "channels.whatsapp.allowed_ips",
        many(network),
        LOOPBACK,
        "addresses or networks the bot may call from",
    ),
    Key(
        "channels.whatsapp.secret",
        secret,
        None,
        "bearer token the bot must send as well",
        secret=True,
    ),
    Key(
        "channels.whatsapp.groups",
        values.groups,
        {
            "Support IA / Chatbot": agent_name("AdminInterpreterAgent"),
            "Discussion libre": agent_name("AdminInterpreterAgent"),
        },
        "group name → agent; compared without emoji, letter case and blanks around",
    ),
    Key(
        "channels.whatsapp.reply_wait_seconds",
        number(0, 3600),
        30.0,
        "how long the bot's request waits for the agent's reply",
    ),
    Key(
        "channels.whatsapp.late_reply_url",
        values.web_url,
        None,
        "the bot's POST /send: where later replies go",
        secret=True,
    ),
    Key(
        "channels.whatsapp.late_reply_max_age_seconds",
        number(1, DAY),
        900.0,
        "older replies are dropped",
    ),
    Key("debug", boolean, False, "log more", restart=True, legacy=("DEBUG",), flag_only=True),
    Key("dev", boolean, False, "throw-away secrets", restart=True, flag_only=True),
)

# Each of these in a table `agents.<Name>`, or in `agents.defaults` for all agents.
AGENT_KEYS: Final[tuple[Key, ...]] = (
    Key("target", values.target, None, "python:module:Name, https://… or log:; unset: registry"),
    Key("timeout_seconds", number(0.1, DAY), 60.0, "one attempt's limit"),
    Key("concurrency", whole(1, 10_000), None, "attempts at once on a node"),
    Key(
        "retry_schedule_seconds",
        SCHEDULE,
        (5.0, 30.0, 120.0, 600.0, 3600.0, 10_800.0, 28_800.0),
        "pauses between attempts, ±20 %; after the last: dead",
    ),
    Key("retry_on", values.kinds, values.RETRIABLE, "kinds of failure that are retried"),
    Key(
        "order_hold_seconds",
        number(0, 30 * DAY),
        300.0,
        "how long an entry waiting for its retry holds back its conversation",
    ),
    Key("memory_limit_bytes", whole(16 * MIB, 2**50), None, "of its host"),
    Key("signing_secret", secret, None, "Standard Webhooks secret of an HTTP agent", secret=True),
)

BY_NAME: Final[Mapping[str, Key]] = {key.name: key for key in KEYS}
