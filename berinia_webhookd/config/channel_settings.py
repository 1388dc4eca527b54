"""The settings that channels of every kind have, and what the loader must know of a kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from berinia_webhookd.config import values
from berinia_webhookd.config.agent_settings import RETRY_SCHEDULE
from berinia_webhookd.config.fields import Required, setting
from berinia_webhookd.config.values import (
    BYTES,
    MARKS,
    MIB,
    SCHEDULE,
    SECONDS,
    STATUS,
    agent_name,
    boolean,
    http_path,
    many,
    text,
)
from berinia_webhookd.findings import Finding
from berinia_webhookd.model import AgentName, ChannelName, Delivery, EventMark, OptOut

if TYPE_CHECKING:
    from berinia_webhookd.config.settings import Settings


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
