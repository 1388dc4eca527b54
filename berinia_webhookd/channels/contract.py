"""The contract between a channel and the rest of the daemon. Channels do no I/O: time, secrets and
bytes are arguments; none opens a socket, reads a clock, logs or looks up a setting.
"""

from __future__ import annotations

import math
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any, ClassVar, Final

from berinia_webhookd.addresses import Network
from berinia_webhookd.channels.addresses_of_people import normal_party
from berinia_webhookd.channels.opt_out import OptOutWords, Words
from berinia_webhookd.channels.provider import Provider
from berinia_webhookd.config.channel_settings import ChannelSettings
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.errors import CannotSign
from berinia_webhookd.findings import Finding
from berinia_webhookd.model import (
    ChannelName,
    Decoded,
    Event,
    EventKind,
    EventMark,
    OptOut,
    RawDelivery,
    Receipts,
    VerifiedDelivery,
)
from berinia_webhookd.own_requests import HEADER, InstallationKey, Purpose
from berinia_webhookd.trace_context import TRACEPARENT, valid_traceparent

# Looked up once: a member of an enumeration is found by a function of Python's.
_MESSAGE: Final = EventKind.MESSAGE
_RECEIPT: Final = EventKind.RECEIPT


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, as the provider reads it."""

    status: int
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A sample callback, as the provider would send it."""

    path: str  # request target
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    def marked(
        self, key: InstallationKey, purpose: Purpose, now: datetime, nonce: str = ""
    ) -> SignedRequest:
        """Return it with the mark of this installation."""
        mark = key.mark(purpose, now, self.body, nonce)
        return replace(self, headers={**self.headers, HEADER: mark})


def sample_phone() -> str:
    """Return a random number from the range reserved for fiction: the same text from the same
    number again and again would look like a loop.
    """
    return f"+3363998{secrets.randbelow(10_000):04d}"


def sample_mail() -> str:
    """Return a random made-up address."""
    return f"lead-{secrets.randbelow(10_000):04d}@example.com"


@dataclass(frozen=True, slots=True)
class Replies:
    """How an agent's reply gets back to the sender of the message."""

    wait_seconds: float  # how long the request waits for it
    # Where later replies are posted; may hold a password. None: nowhere.
    late_url: str | None = field(default=None, repr=False)
    late_max_age_seconds: float = math.inf  # older ones are dropped
    failure_text: str = ""  # of a failed command whose agent said nothing; {reason} is why

    def can_be_posted(self, event: Event) -> bool:
        """Return whether what nobody waits for can be posted into the chat of an event."""
        return self.late_url is not None and event.group is not None


class Channel(ABC):
    """One configured way in: a provider, a path, a secret. The defaults fit most providers."""

    kind: ClassVar[str]
    provider: ClassVar[Provider]
    media_types: ClassVar[frozenset[str]]  # of bodies; a GET has none
    methods: frozenset[str] = frozenset({"POST"})
    kept_headers: frozenset[str] = frozenset()  # lower case; the delivery keeps them for `decode`
    allowed_networks: tuple[Network, ...] | None = None  # who may call; None: anybody
    address_is_proof: bool = False  # whether only the address proves the caller
    listen: str | None = None  # its own listener, as `listening.address_of` writes it; None: all
    replies: Replies | None = None  # None: replies are dropped
    opt_out_words: Words = MappingProxyType({})  # of its kind
    can_sign: bool = True  # False: only the provider has the key; see `for_samples`
    sample_names: frozenset[str] = frozenset()  # that `sign` takes besides the fields it sends
    secret_parameter: str | None = None  # of the query; masked wherever it is shown or stored
    receipts_hint: str | None = None  # what to change if receipts are sent here by mistake

    def __init__(self, settings: ChannelSettings, public_urls: Sequence[str] = ()) -> None:
        """`public_urls` is `server.public_url`: scheme and host that signatures are over."""
        del public_urls
        self.name = settings.name
        self.path = settings.path
        self.max_body_bytes = settings.max_body_bytes
        self.agent = settings.agent
        self.agents = settings.agents
        self.secret_line = self.provider.secret.line(settings)  # what to write if it is missing
        # Shorter than the provider's timeout, after which it tries again; None: the server's.
        self.ack_timeout_seconds = settings.ack_timeout_seconds
        # Makes the provider try again; unless it is 503, also sent in place of 429 and 408.
        self.later_status = settings.later_status
        self.unproven_status = settings.unproven_status
        self._opt_out_words = OptOutWords(self.opt_out_words, settings.opt_out_words)
        self._skipped_marks = settings.skipped_marks
        self.country = settings.country
        self._blocked = frozenset(normal_party(one, self.country) for one in settings.block)

    @classmethod
    def provider_of(cls, settings: ChannelSettings) -> Provider:
        """Return the provider of a channel with these settings."""
        del settings
        return cls.provider

    @abstractmethod
    def require_secret(self) -> None:
        """Raise `ChannelNotConfigured` if there is no secret to verify with."""

    def handshake(self, delivery: RawDelivery) -> Answer | None:
        """Return the answer to the provider's handshake; None if this is not one. It is called
        before `verify`, so it must verify the caller itself.

        Raises:
            SignatureInvalid: the caller is not the provider.
        """
        del delivery
        return None

    @abstractmethod
    def verify(self, delivery: RawDelivery) -> VerifiedDelivery:
        """Verify who sent it, by the bytes received.

        Raises:
            SignatureInvalid, AddressRefused: it is not the provider.
            MalformedDelivery: the body cannot be decoded enough to verify it.
        """

    def _verified(
        self,
        delivery: RawDelivery,
        *,
        replay_key: bytes | None = None,
        fields: tuple[tuple[str, str], ...] | dict[str, str] | None = None,
    ) -> VerifiedDelivery:
        """Build what `verify` returns."""
        headers = delivery.headers
        kept: dict[str, str] = {}
        if self.kept_headers:
            kept = {name: headers[name] for name in self.kept_headers if name in headers}
        if (given := headers.get(TRACEPARENT)) and (trace := valid_traceparent(given)):
            kept[TRACEPARENT] = trace
        return VerifiedDelivery(
            self.name,
            delivery.content_type_header,
            delivery.body,
            delivery.received_at,
            replay_key,
            fields,
            delivery.target,
            kept,
        )

    def decode(self, delivery: VerifiedDelivery) -> Decoded:
        """Return what `read` finds, with its request's trace, and with opt-outs and the channel's
        rules for skipping applied.

        Raises:
            MalformedDelivery, AccountRefused: by `read`.
        """
        decoded = self.read(delivery)
        if (trace := delivery.headers.get(TRACEPARENT)) is not None:
            traced = (event._replace(traceparent=trace) for event in decoded.events)
            decoded = decoded._replace(events=tuple(traced))
        judged = tuple(map(self._judged, decoded.events))
        return decoded if judged == decoded.events else decoded._replace(events=judged)

    def asks_start(self, event: Event) -> bool:
        """Whether it is START, or is as soon as its sender has opted out."""
        judged = self._judged(event)
        return judged.as_start is not None or judged.opt_out is OptOut.START

    def _judged(self, event: Event) -> Event:
        if event.opt_out is None and event.kind is _MESSAGE:
            meaning = self._opt_out_words.meaning(event.body)
            if meaning is OptOut.START:  # "Yes" is an answer, unless the person opted out before
                start = self._skipped_if_ruled(event._replace(opt_out=OptOut.START))
                event = event._replace(as_start=start)
            elif meaning is not None:
                event = event._replace(opt_out=meaning)
        return self._skipped_if_ruled(event)

    def _skipped_if_ruled(self, event: Event) -> Event:
        reason = self._skip_reason(event)
        return event if reason is None else event._replace(skipped=reason)

    def _skip_reason(self, event: Event) -> str | None:
        if self._blocked and event.conversation.sender in self._blocked:
            return "blocked"
        if not self._skipped_marks:
            return None
        if event.opt_out is not None:
            return EventMark.OPT_OUT if EventMark.OPT_OUT in self._skipped_marks else None
        marks = event.marks
        if event.kind is _RECEIPT:
            marks |= {EventMark.RECEIPT}
        elif not event.body.strip() and self.is_empty(event):
            marks |= {EventMark.EMPTY}
        return min(marks & self._skipped_marks, default=None) if marks else None

    def is_empty(self, event: Event) -> bool:
        """Whether it has neither text nor attachment."""
        return not (event.attachments or event.body.strip() or (event.subject or "").strip())

    @abstractmethod
    def read(self, delivery: VerifiedDelivery) -> Decoded:
        """Read, validate and normalise a delivery: its events, and the items that cannot be read.

        Raises:
            MalformedDelivery: nothing in it can be read.
            AccountRefused: its account is not ours.
        """

    @abstractmethod
    def answer(self, receipts: Receipts) -> Answer:
        """Return what the provider expects once the events are on disk; a probe has none."""

    def rejected_answer(self) -> Answer | None:
        """Return the answer to a rejected delivery; None: 400 with the wrong fields."""
        return None

    def diagnose(self, delivery: RawDelivery) -> str | None:
        """Return the likely reason of a failed signature, and what setting or nginx line to change;
        or None. It accepts nothing, and shows no signature.
        """
        del delivery
        return None

    @abstractmethod
    def resembles_provider(self, delivery: RawDelivery) -> bool:
        """Whether a refused request looks like the provider's, so that the mistake is likely ours.
        It proves nothing. Called for every forgery, so it must be cheap.
        """

    @abstractmethod
    def sign(
        self, fields: Mapping[str, str], *, base_url: str, now: datetime, valid: bool = True
    ) -> SignedRequest:
        """Return a sample callback; the given fields replace or extend those of the sample."""

    def for_samples(self) -> tuple[Channel, bytes]:
        """Return the channel as one that signs with a new key pair of our own, where only the
        provider has the real one, and the pair's public key, which proves those samples alone.

        Raises:
            CannotSign: its own secret signs.
        """
        raise CannotSign(f"Samples for {self.name} are signed with its own secret.")

    def attachment_contents(self, delivery: VerifiedDelivery) -> Iterable[bytes]:
        """Return the contents of the attachments, in the order of `Event.attachments`."""
        del delivery
        return ()


ChannelOf = Callable[[ChannelName], Channel | None]  # None: no longer configured


def no_channel(name: ChannelName) -> Channel | None:
    """Return None: nothing is configured."""
    del name
    return None


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of channel: its class and its settings."""

    channel: type[Channel]
    settings: type[ChannelSettings]
    # Returns the settings of a preset; raises ValueError if there is none of that name.
    preset: Callable[[str], Mapping[str, Any]] | None = None

    def warnings(
        self, channel: ChannelSettings, settings: Settings, came_from: Mapping[str, str]
    ) -> Iterator[Finding]:
        """Yield settings that will cause trouble; `came_from` says where each value came from."""
        yield from self.channel.provider_of(channel).warnings(channel, settings)
        yield from channel.warnings(came_from)
