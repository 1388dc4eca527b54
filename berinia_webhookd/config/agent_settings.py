"""The settings of agents and of the hosts that Python agents run in."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from berinia_webhookd.config import values
from berinia_webhookd.config.fields import setting
from berinia_webhookd.config.secret import Secret
from berinia_webhookd.config.values import (
    DAY,
    MIB,
    SCHEDULE,
    Rate,
    boolean,
    folder,
    many,
    number,
    one_of,
    whole,
)
from berinia_webhookd.model import AgentName, OutcomeKind

RETRY_SCHEDULE: Final = (5.0, 30.0, 120.0, 600.0, 3600.0, 10_800.0, 28_800.0)
DEFAULTS: Final = AgentName("defaults")  # the table for all agents
SAMPLES: Final = AgentName("Samples")  # gets what only `send` has proven, and logs it


class Delivery(StrEnum):
    """What happens to an attempt that began and whose result is unknown."""

    AT_LEAST_ONCE = "at-least-once"  # it is repeated
    AT_MOST_ONCE = "at-most-once"  # it is not: the agent may have acted


@dataclass(frozen=True, slots=True)
class Gathering:
    """When a burst of messages is handed over as one."""

    seconds: float  # of silence in the conversation
    most_seconds: float  # that its first message waits


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
        "limit of one attempt",
        unset="`60`, `900` for entries of kind `berinia-whatsapp`",
        example=60,
    )
    delivery: Delivery | None = setting(
        one_of(*Delivery),
        None,
        "`at-least-once`: what failed or was lost is tried again; `at-most-once`: an attempt that "
        "began is never repeated by itself, for agents that must not act twice",
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
        "agents with the same word share one host process on a machine, one attempt at a time, and "
        "so share one memory",
        unset="any host",
        example="berinia",
    )
    loop_guard: bool = setting(
        boolean,
        True,
        "whether to hold a conversation that looks like two machines answering each other: the "
        "same text three times in a day, ten quick turns, a mail that says it is automatic",
    )
    per_sender: tuple[Rate, ...] = setting(
        many(values.rate),
        (),
        "how often it runs for one person: one or several limits per second, minute, hour or day "
        "(`s`, `m`, `h`, `d`); further messages wait until a run is long enough ago",
        unset="no limit",
        example=["20/h", "60/d"],
    )
    daily_cost: float | None = setting(
        number(0.0001, 1e9),
        None,
        "what its results may cost in a day, UTC: the sum of the `cost` that it returns; further "
        "messages wait for the next day",
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
        values.kinds,
        values.RETRIABLE,
        "failures that are tried again; after others the entry is dead at once",
    )
    order_hold_seconds: float = setting(
        number(0, 30 * DAY), 300.0, "how long a waiting retry holds back its conversation"
    )
    gather_seconds: float = setting(
        number(0, DAY),
        0.0,
        "one run for a burst of messages: it begins when the conversation has been silent this "
        "long; `0`: a run for each message",
    )
    gather_max_seconds: float = setting(
        number(0, DAY), 30.0, "how long the first message of a burst waits for its run at most"
    )
    memory_limit_bytes: int | None = setting(
        whole(16 * MIB, 2**50), None, "memory limit of its host", unset="no limit", example=2**30
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
        """How its bursts are gathered, if they are."""
        if not self.gather_seconds:
            return None
        return Gathering(self.gather_seconds, self.gather_max_seconds)

    @property
    def shared_host(self) -> str | None:
        """The word of the host that it shares, if it does."""
        in_host = self.target is None or self.target.startswith("python:")
        return self.host if in_host else None


@dataclass(frozen=True, slots=True)
class AgentsSettings:
    """What holds for all agents, and the agents that have settings of their own."""

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
        number(0, 30 * DAY), 600.0, "a host without work for this long is stopped; 0: never"
    )
    environment: tuple[str, ...] = setting(
        many(values.variable),
        (),
        "variables that agents get although they are withheld by default: `BERINIA_WEBHOOKD_*`, "
        "`TWILIO_TOKEN`, `MAILGUN_*`, `CREDENTIALS_DIRECTORY`, `NOTIFY_SOCKET`, `WATCHDOG_*`, "
        "`LISTEN_*`",
        unset="none",
        example=["TWILIO_TOKEN"],
    )

    def of(self, name: AgentName) -> AgentSettings:
        """Return the settings of an agent; the defaults where it has none."""
        found = self.by_name.get(name, self.defaults)
        only_logs = name == SAMPLES and found is self.defaults
        return replace(found, target="log:") if only_logs else found

    def gathering_of(self, name: AgentName) -> Gathering | None:
        """Return how an agent's messages are gathered; None where each is handed over by itself."""
        return self.of(name).gathering
