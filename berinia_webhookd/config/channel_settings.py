"""The settings that channels of every kind have, and what the loader must know of a kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from berinia_webhookd.config import values
from berinia_webhookd.config.agent_settings import RETRY_SCHEDULE, Delivery
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
from berinia_webhookd.model import AgentName, ChannelName, EventMark, OptOut

if TYPE_CHECKING:
    from berinia_webhookd.config.settings import Settings


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """A channel that exists without being named in the file."""

    name: ChannelName
    path: str
    agent: AgentName


@dataclass(frozen=True, slots=True)
class ChannelSettings:
    """What channels of every kind have; `channels/settings.py` adds what each kind has."""

    built_in: ClassVar[BuiltIn | None] = None
    # The defaults of a kind, where neither the channel nor its agent says otherwise.
    kind_retry_schedule_seconds: ClassVar[tuple[float, ...]] = RETRY_SCHEDULE
    kind_timeout_seconds: ClassVar[float] = 60.0
    kind_delivery: ClassVar[Delivery] = Delivery.AT_LEAST_ONCE
    kind_stop_grace_seconds: ClassVar[float | None] = None  # None: the server's

    name: ChannelName
    kind: str = setting(
        text,
        Required,
        "its kind",
        unset="must be set on further channels, or `preset` (`channels.<name>.preset`)",
        file_only=True,
    )
    enabled: bool = setting(boolean, True, "if false, its path answers 404")
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
        "events that are stored as `skipped` and given to no agent: "
        + ", ".join(f"`{mark}`" for mark in EventMark),
    )
    block: tuple[str, ...] = setting(
        many(text),
        (),
        "senders, in any spelling, whose events are skipped",
        unset="nobody",
        example=["+33639980001"],
    )
    country: str | None = setting(
        values.country,
        None,
        "the country of phone numbers that are written without one, as ISO 3166 writes it",
        unset="they are compared as written",
        example="FR",
    )
    opt_out_words: Mapping[OptOut, tuple[str, ...]] | None = setting(
        values.opt_out_words,
        None,
        "messages that mean STOP, START or HELP, in place of the kind's; `+` in a list stands for "
        "the built-in ones",
        unset="those of docs/agents.md for kind `twilio`, none for others",
        example={"stop": ["+", "BASTA"]},
        file_only=True,
    )
    later_status: int = setting(STATUS, 503, "the answer that makes the provider try again")
    unproven_status: int = setting(STATUS, 403, "the answer to a request that is not proven")

    @property
    def is_built_in(self) -> bool:
        """Whether it exists without being named in the file."""
        return self.built_in is not None and self.built_in.name == self.name

    @property
    def address_alone(self) -> bool:
        """Whether only the address proves who calls."""
        return False

    @property
    def own_listener(self) -> str | None:
        """The address that it alone listens on."""
        return None

    @property
    def agents(self) -> frozenset[AgentName]:
        """Every agent that it can route to."""
        return frozenset({self.agent})

    @property
    def skipped_marks(self) -> frozenset[EventMark]:
        """The marks of events that are skipped."""
        return frozenset(self.skip or ())

    def errors(self) -> Iterator[Finding]:
        """Yield settings that are valid, but not together."""
        return iter(())

    def warnings(self, came_from: Mapping[str, str]) -> Iterator[Finding]:
        """Yield what will cause trouble; `came_from` says where each field's value came from."""
        del came_from
        return iter(())


class Kind(Protocol):
    """What the loader knows of a kind of channel."""

    @property
    def settings(self) -> type[ChannelSettings]:
        """The dataclass of its channels' settings."""

    @property
    def preset(self) -> Callable[[str], Mapping[str, Any]] | None:
        """Return the values of a preset; `ValueError` if there is none of that name."""

    def warnings(
        self, channel: ChannelSettings, settings: Settings, came_from: Mapping[str, str]
    ) -> Iterator[Finding]:
        """Yield what will cause trouble; `came_from` says where each field's value came from."""


Kinds = Mapping[str, Kind]
