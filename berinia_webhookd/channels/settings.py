"""What can be set on channels of each kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from berinia_webhookd.addresses import Network, widest
from berinia_webhookd.config import values
from berinia_webhookd.config.fields import setting
from berinia_webhookd.config.secret import Secret
from berinia_webhookd.config.settings import BYTES, DAY, LOOPBACK, MIB, BuiltIn, ChannelSettings
from berinia_webhookd.config.values import many, network, number, text
from berinia_webhookd.findings import Finding, warning
from berinia_webhookd.model import AgentName, ChannelName


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
        unset="every account's are taken",
        example=["AC00000000000000000000000000000000"],
    )


@dataclass(frozen=True, slots=True)
class MailgunSettings(ChannelSettings):
    """A channel of kind `mailgun`."""

    built_in: ClassVar = BuiltIn(
        ChannelName("email"), "/webhook/email-response", AgentName("ResponseListenerAgent")
    )

    max_body_bytes: int = setting(BYTES, 40 * MIB, "larger bodies are refused with 413")
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

    def cautions(self, came_from: Mapping[str, str]) -> Iterator[Finding]:
        """Yield a key that is likely another one of Mailgun's."""
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
    kind_retry_schedule_seconds: ClassVar = (2.0, 10.0, 30.0)  # somebody waits in the chat

    allowed_ips: tuple[Network, ...] = setting(
        many(network), LOOPBACK, "addresses or networks the bot may call from"
    )
    secret: Secret | None = setting(
        values.secret,
        None,
        "bearer token that the bot must send as well",
        unset="the address is enough",
        example="a long random text",
        secret=True,
    )
    groups: Mapping[str, AgentName] = setting(
        values.groups,
        {
            "Support IA / Chatbot": AgentName("AdminInterpreterAgent"),
            "Discussion libre": AgentName("AdminInterpreterAgent"),
        },
        "group name → agent; compared without emoji, letter case and blanks around; `agent` gets "
        "what none matches; a table here replaces the default one",
        file_only=True,
    )

    reply_wait_seconds: float = setting(
        number(0, 3600), 30.0, "how long the bot's request waits for the agent's reply"
    )
    late_reply_url: str | None = setting(
        values.web_url,
        None,
        "the bot's `POST /send`, where later replies go",
        unset="none, and later replies go nowhere",
        example="http://127.0.0.1:3000/send",
        secret=True,
    )
    late_reply_max_age_seconds: float = setting(number(1, DAY), 900.0, "older replies are dropped")

    def cautions(self, came_from: Mapping[str, str]) -> Iterator[Finding]:  # noqa: ARG002 - the interface
        """Yield allowed addresses that nearly everybody has, where nothing else is proof."""
        if self.secret is None and (wide := widest(self.allowed_ips)):
            yield warning(
                f"channels.{self.name}.allowed_ips",
                f"lets {wide} speak as the WhatsApp bot, without a secret",
                f"list its address alone, or set `channels.{self.name}.secret`",
                why="its messages command the agents",
            )

    @property
    def agents(self) -> frozenset[AgentName]:
        """The agents of all groups, and the one for the rest."""
        return frozenset({self.agent, *self.groups.values()})
