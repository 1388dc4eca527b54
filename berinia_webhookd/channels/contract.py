"""The contract of a channel with the rest of the daemon. Channels refuse to do I/O: time, secrets
and bytes come in as arguments; none opens a socket, reads a clock, logs or looks a setting up.
"""

from __future__ import annotations

import math
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any, ClassVar

from berinia_webhookd.addresses import Network
from berinia_webhookd.channels.addresses_of_people import normal_party
from berinia_webhookd.channels.opt_out import OptOutWords, Words
from berinia_webhookd.channels.provider import Provider
from berinia_webhookd.config.channel_settings import ChannelSettings
from berinia_webhookd.config.settings import Settings
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

    def marked(self, key: InstallationKey, purpose: Purpose, now: datetime) -> SignedRequest:
        """Return it with the mark of this installation."""
        mark = key.mark(purpose, now, self.body)
        return replace(self, headers={**self.headers, HEADER: mark})


def sample_phone() -> str:
    """Return a number of somebody made up, from the range reserved for fiction. Each sample is
    another person's: the same words of one person, time and again, look like a loop.
    """
    return f"+3363998{secrets.randbelow(10_000):04d}"


def sample_mail() -> str:
    """Return the address of somebody made up."""
    return f"lead-{secrets.randbelow(10_000):04d}@example.com"


@dataclass(frozen=True, slots=True)
class Replies:
    """The ways of an agent's answer back to who sent the message."""

    wait_seconds: float  # the request waits that long; 0: not at all
    # Where later ones are posted, which may hold a password; None: nowhere.
    late_url: str | None = field(default=None, repr=False)
    late_max_age_seconds: float = math.inf  # older ones are dropped
    failure_text: str = ""  # of a command that failed for good without a word; {reason} is why


class Channel(ABC):
    """One configured way in: a provider, a path, a secret. The defaults are what most want."""

    kind: ClassVar[str]
    provider: ClassVar[Provider]
    media_types: ClassVar[frozenset[str]]  # of bodies; a GET has none
    methods: frozenset[str] = frozenset({"POST"})
    kept_headers: frozenset[str] = frozenset()  # lower case; `decode` finds them in the delivery
    allowed_networks: tuple[Network, ...] | None = None  # whence it may be called; None: anywhere
    address_is_proof: bool = False  # whether nothing but the address proves the caller
    listen: str | None = None  # its own listener, as `listening.address_of` writes it; None: all
    replies: Replies | None = None  # None: an agent's answer goes nowhere
    opt_out_words: Words = MappingProxyType(
        {}
    )  # those of the kind, which are looked for in every message
    can_sign: bool = True  # False: only the provider has the key, so there are no samples
    sample_names: frozenset[str] = frozenset()  # of `sign`, beside the names that are sent
    secret_parameter: str | None = None  # of the query, which is shown and stored nowhere
    receipts_hint: str | None = None  # what to change where receipts come by mistake

    def __init__(self, settings: ChannelSettings, public_urls: Sequence[str] = ()) -> None:
        """`public_urls` is `server.public_url`: scheme and host that signatures are over."""
        del public_urls
        self.name = settings.name
        self.path = settings.path
        self.max_body_bytes = settings.max_body_bytes
        self.agent = settings.agent
        self.agents = settings.agents  # all that a message can go to
        self.secret_line = self.provider.secret.line(settings)  # what to write where it is missing
        # A 2xx that comes later crosses the provider's next try; None: the server's timeout.
        self.ack_timeout_seconds = settings.ack_timeout_seconds
        # What makes the provider try again: in place of 503, 429 and 408, unless it is 503.
        self.later_status = settings.later_status
        self.unproven_status = settings.unproven_status
        self._opt_out_words = OptOutWords(self.opt_out_words, settings.opt_out_words)
        self._skipped_marks = settings.skipped_marks
        self._blocked = frozenset(map(normal_party, settings.block))

    @classmethod
    def provider_of(cls, settings: ChannelSettings) -> Provider:
        """Return the provider of a channel with these settings."""
        del settings
        return cls.provider

    @abstractmethod
    def require_secret(self) -> None:
        """Raise `ChannelNotConfigured` while nothing can be proved on this channel."""

    def handshake(self, delivery: RawDelivery) -> Answer | None:
        """Return the answer to a question that the provider asks before it sends anything, or None
        where this is none. It is called before `verify`, so the caller must be proved here.

        Raises:
            SignatureInvalid: the caller is not.
        """
        del delivery
        return None

    @abstractmethod
    def verify(self, delivery: RawDelivery) -> VerifiedDelivery:
        """Prove who sent it, over the bytes received.

        Raises:
            SignatureInvalid, AddressRefused: the proof fails.
            MalformedDelivery: the body cannot be decoded far enough to be verified.
        """

    def _verified(
        self,
        delivery: RawDelivery,
        *,
        replay_key: bytes | None = None,
        fields: tuple[tuple[str, str], ...] | None = None,
    ) -> VerifiedDelivery:
        """Build what `verify` returns."""
        headers = delivery.headers
        return VerifiedDelivery(
            self.name,
            delivery.content_type_header,
            delivery.body,
            delivery.received_at,
            replay_key,
            fields,
            delivery.target,
            {name: headers[name] for name in self.kept_headers if name in headers},
        )

    def decode(self, delivery: VerifiedDelivery) -> Decoded:
        """Return what a delivery says: what `read` finds, with the opt-outs that people wrote, and
        what the channel's rules skip. A rejected delivery that is replayed is decoded again.

        Raises:
            MalformedDelivery, AccountRefused: as `read` does.
        """
        decoded = self.read(delivery)
        judged = tuple(map(self._judged, decoded.events))
        return decoded if judged == decoded.events else decoded._replace(events=judged)

    def _judged(self, event: Event) -> Event:
        if event.opt_out is None and event.kind is EventKind.MESSAGE:
            meaning = self._opt_out_words.meaning(event.body)
            if meaning is OptOut.START:  # "Yes" is an answer, unless the person said STOP before
                start = self._skipped_if_ruled(event._replace(opt_out=OptOut.START))
                event = event._replace(as_start=start)
            elif meaning is not None:
                event = event._replace(opt_out=meaning)
        return self._skipped_if_ruled(event)

    def _skipped_if_ruled(self, event: Event) -> Event:
        reason = self._skip_reason(event)
        return event if reason is None else event._replace(skipped=reason)

    def _skip_reason(self, event: Event) -> str | None:
        if event.conversation.sender in self._blocked:
            return "blocked"
        if event.opt_out is not None:
            return EventMark.OPT_OUT if EventMark.OPT_OUT in self._skipped_marks else None
        marks = event.marks
        if event.kind is EventKind.RECEIPT:
            marks |= {EventMark.RECEIPT}
        elif self.is_empty(event):
            marks |= {EventMark.EMPTY}
        return min(marks & self._skipped_marks, default=None) if marks else None

    def is_empty(self, event: Event) -> bool:
        """Whether there is neither a text nor an attachment."""
        return not (event.attachments or event.body.strip() or (event.subject or "").strip())

    @abstractmethod
    def read(self, delivery: VerifiedDelivery) -> Decoded:
        """Read, validate and normalise: none to many events, and the items that cannot be read.

        Raises:
            MalformedDelivery: nothing in it can be read.
            AccountRefused: it is not for us.
        """

    @abstractmethod
    def answer(self, receipts: Receipts) -> Answer:
        """Return what the provider expects once the events (of a probe, none) are on disk."""

    def rejected_answer(self) -> Answer | None:
        """Return the answer to what was kept as rejected; None: 400, and which fields are wrong."""
        return None

    def diagnose(self, delivery: RawDelivery) -> str | None:
        """Return the likely mistake behind a failed signature and the setting or nginx line to
        change, or None. It accepts nothing, and shows no signature.
        """
        del delivery
        return None

    @abstractmethod
    def resembles_provider(self, delivery: RawDelivery) -> bool:
        """Whether a request whose signature was refused has all that only the provider's have, so
        that the mistake is likelier ours. It proves nothing, and is asked of every forgery: cheap.
        """

    @abstractmethod
    def sign(
        self, fields: Mapping[str, str], *, base_url: str, now: datetime, valid: bool = True
    ) -> SignedRequest:
        """Return a sample callback with the given fields laid over the sample's own."""

    def attachment_contents(self, delivery: VerifiedDelivery) -> Iterable[bytes]:
        """Return the contents of the attachments, in the order of `Event.attachments`."""
        del delivery
        return ()


ChannelOf = Callable[[ChannelName], Channel | None]  # None: it is configured no more


def no_channel(name: ChannelName) -> Channel | None:
    """Return None: nothing is configured."""
    del name
    return None


@dataclass(frozen=True, slots=True)
class Kind:
    """A class of channels, and what can be set on them."""

    channel: type[Channel]
    settings: type[ChannelSettings]
    # What stands in a preset of that name, in place of defaults; it raises ValueError without one.
    preset: Callable[[str], Mapping[str, Any]] | None = None

    def warnings(
        self, channel: ChannelSettings, settings: Settings, came_from: Mapping[str, str]
    ) -> Iterator[Finding]:
        """Yield findings about settings that work and will cause trouble; `came_from` says of each
        field where its value stands.
        """
        yield from self.channel.provider_of(channel).warnings(channel, settings)
        yield from channel.warnings(came_from)
