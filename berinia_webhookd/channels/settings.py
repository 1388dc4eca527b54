"""The settings of each kind of channel; those of declared ones are in `declared/settings.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from berinia_webhookd.addresses import THIS_HOST, Network, widest
from berinia_webhookd.config import values
from berinia_webhookd.config.agent_settings import Delivery
from berinia_webhookd.config.channel_settings import BuiltIn, ChannelSettings
from berinia_webhookd.config.fields import setting
from berinia_webhookd.config.secret import Secret
from berinia_webhookd.config.values import (
    BYTES,
    DAY,
    MARKS,
    MIB,
    agent_name,
    failure_text,
    many,
    network,
    number,
    text,
)
from berinia_webhookd.findings import Finding, warning
from berinia_webhookd.model import AgentName, ChannelName, EventMark

FAILURE_REPLY: Final = (
    "La commande n'a pas abouti ({reason}). Elle ne sera pas relancée : "
    "vérifiez ce qui a été fait avant de recommencer."
)
LONG_ANSWER_SECONDS: Final = 300  # enough for a slow command


@dataclass(frozen=True, slots=True)
class TwilioSettings(ChannelSettings):
    """A channel of kind `twilio`."""

    built_in: ClassVar = BuiltIn(
        ChannelName("sms"), "/webhook/sms-response", AgentName("ResponseListenerAgent")
    )

    tokens: tuple[Secret, ...] = setting(
        many(values.secret),
        (),
        "Twilio auth tokens; all are accepted, for rotation",
        unset="none, and every SMS is answered 503",
        example=["your auth token"],
        secret=True,
        legacy=("TWILIO_TOKEN",),
    )
    account_sids: tuple[str, ...] = setting(
        many(text),
        (),
        "when set, requests of other accounts are refused",
        unset="every account is accepted",
        example=["AC00000000000000000000000000000000"],
    )
    skip: tuple[EventMark, ...] | None = setting(
        MARKS,
        None,
        "marks of events that are kept and handed to no agent",
        unset='`["receipt"]`, unless `receipt_agent` is set',
        example=["receipt", "empty"],
    )
    receipt_agent: AgentName | None = setting(
        agent_name,
        None,
        "who gets Twilio's status callbacks about messages that were sent",
        unset="nobody: they are skipped",
        example="ReceiptAgent",
    )

    @property
    def agents(self) -> frozenset[AgentName]:
        """The agent of messages, and that of receipts."""
        return frozenset({self.agent, self.receipt_agent or self.agent})

    @property
    def skipped_marks(self) -> frozenset[EventMark]:
        """The marks of events that are skipped: by default receipts without an agent."""
        if self.skip is None:
            return frozenset({EventMark.RECEIPT} if self.receipt_agent is None else ())
        return frozenset(self.skip)


@dataclass(frozen=True, slots=True)
class MailgunSettings(ChannelSettings):
    """A channel of kind `mailgun`."""

    built_in: ClassVar = BuiltIn(
        ChannelName("email"), "/webhook/email-response", AgentName("ResponseListenerAgent")
    )

    max_body_bytes: int = setting(BYTES, 40 * MIB, "larger bodies are refused with 413")
    skip: tuple[EventMark, ...] | None = setting(
        MARKS, (EventMark.AUTO_REPLY,), "marks of events that are kept and handed to no agent"
    )
    signing_keys: tuple[Secret, ...] = setting(
        many(values.secret),
        (),
        "Mailgun HTTP webhook signing keys; all are accepted, for rotation",
        unset="none, and every e-mail is answered 503",
        example=["your signing key"],
        secret=True,
        legacy=("MAILGUN_SIGNING_KEY", "MAILGUN_API_KEY"),
    )
    max_age_seconds: float = setting(
        number(60, 30 * DAY),
        43_200.0,
        "older signatures are refused; Mailgun tries again for eight hours",
    )

    def warnings(self, came_from: Mapping[str, str]) -> Iterator[Finding]:
        """Yield a warning if the key looks like another one of Mailgun's."""
        named = came_from["signing_keys"] == "MAILGUN_API_KEY"
        if named or any(key.reveal().startswith("key-") for key in self.signing_keys):
            yield warning(
                f"channels.{self.name}.signing_keys",
                "may be Mailgun's sending key, which signs nothing",
                "set MAILGUN_SIGNING_KEY, or this setting, to the HTTP webhook signing key",
                why="without the signing key every e-mail is refused with 403",
            )


@dataclass(frozen=True, slots=True)
class WhatsAppSettings(ChannelSettings):
    """A channel of kind `berinia-whatsapp`."""

    built_in: ClassVar = BuiltIn(
        ChannelName("whatsapp"), "/webhook/whatsapp", AgentName("MetaAgent")
    )
    kind_retry_schedule_seconds: ClassVar = (2.0, 10.0, 30.0)  # a person waits in the chat
    # A command may take long, and a campaign must not go out twice.
    kind_delivery: ClassVar = Delivery.AT_MOST_ONCE
    kind_timeout_seconds: ClassVar = 900.0
    kind_stop_grace_seconds: ClassVar = 900.0

    skip: tuple[EventMark, ...] | None = setting(
        MARKS,
        (EventMark.EMPTY, EventMark.BROADCAST),
        "marks of events that are kept and handed to no agent",
    )
    allowed_ips: tuple[Network, ...] = setting(
        many(network), THIS_HOST, "addresses or networks the bot may call from"
    )
    secret: Secret | None = setting(
        values.secret,
        None,
        "bearer token that the bot must send as well",
        unset="the address is enough",
        example="a long random text",
        secret=True,
    )
    listen: str | None = setting(
        values.own_listener,
        None,
        "a loopback address and port, or a Unix socket, for the bot alone; the path exists only "
        "there, and the socket unit can pass it",
        unset="the daemon's own address",
        example="127.0.0.1:8003",
        restart=True,
    )
    groups: Mapping[str, AgentName] = setting(
        values.groups,
        {
            "Support IA / Chatbot": AgentName("AdminInterpreterAgent"),
            "Discussion libre": AgentName("AdminInterpreterAgent"),
        },
        "group name → agent; emoji, letter case and blanks around the name do not count; other "
        "groups go to `agent`; a table here replaces the default one",
        file_only=True,
    )

    reply_wait_seconds: float = setting(
        number(0, 3600), 30.0, "how long the bot's request waits for the agent's reply"
    )
    late_reply_url: str | None = setting(
        values.web_url,
        None,
        "the bot's `POST /send`, where later replies go",
        unset="none, and later replies are dropped",
        example="http://127.0.0.1:3030/send",
        secret=True,
    )
    late_reply_max_age_seconds: float = setting(number(1, DAY), 900.0, "older replies are dropped")
    failure_reply: str = setting(
        failure_text,
        FAILURE_REPLY,
        "what the chat is told when a command failed for good and its agent said nothing; "
        "`{reason}` is why, in French; empty: nothing",
    )

    def warnings(self, came_from: Mapping[str, str]) -> Iterator[Finding]:  # noqa: ARG002 - the interface
        """Yield wide networks without a secret, and ways in which answers get lost."""
        if self.secret is None and (wide := widest(self.allowed_ips)):
            yield warning(
                f"channels.{self.name}.allowed_ips",
                f"lets {wide} act as the WhatsApp bot, without a secret",
                f"list only its address, or set `channels.{self.name}.secret`",
                why="its messages command the agents",
            )
        yield from self._unanswered()

    def _unanswered(self) -> Iterator[Finding]:
        waits = f"{self.reply_wait_seconds:g} s"
        if self.late_reply_url is None:
            yield warning(
                f"channels.{self.name}.late_reply_url",
                f"not set, so an answer that takes longer than {waits} reaches nobody",
                f'channels.{self.name}.late_reply_url = "http://127.0.0.1:3030/send" (the bot\'s)',
                why="the bot stops waiting then, and there is nowhere to post a later answer",
            )
        if self.reply_wait_seconds < LONG_ANSWER_SECONDS:
            yield warning(
                f"channels.{self.name}.reply_wait_seconds",
                f"a direct message that takes longer than {waits} is never answered",
                f"channels.{self.name}.reply_wait_seconds = {LONG_ANSWER_SECONDS}",
                why="the bot can post later answers to groups only",
            )

    @property
    def address_alone(self) -> bool:
        """Whether only the address proves the bot, on a listener that others use too."""
        return self.secret is None and self.listen is None

    @property
    def own_listener(self) -> str | None:
        """The address that it alone listens on."""
        return self.listen

    @property
    def agents(self) -> frozenset[AgentName]:
        """The agents of all groups, and the one for the rest."""
        return frozenset({self.agent, *self.groups.values()})
