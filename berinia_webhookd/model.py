"""The immutable records that stages hand to each other, each stage another one: RawDelivery →
VerifiedDelivery → Decoded → Receipts → Entry → Outcome. Only a channel's `verify` makes a
`VerifiedDelivery` (and the journal restores one), so skipping verification does not type-check.

Instants are aware datetimes in UTC, durations are seconds. What every request makes is a named
tuple, which takes a fifth of the time of a frozen dataclass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType
from typing import Any, Final, NamedTuple, NewType

from berinia_webhookd.trace_context import traceparent_of

IPAddress = IPv4Address | IPv6Address

EventId = NewType("EventId", str)  # UUIDv7, canonical text
EntryId = NewType("EntryId", int)  # its place in the order
ChannelName = NewType("ChannelName", str)  # [a-z][a-z0-9-]*: sms, email, whatsapp and others
AgentName = NewType("AgentName", str)  # starts with a capital

LONGEST_PAUSE_SECONDS: Final = 1e9  # longer ones are mistakes
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class EntryState(StrEnum):
    """The states of an entry; `waiting` is for a retry."""

    READY = "ready"
    RUNNING = "running"
    WAITING = "waiting"
    DONE = "done"
    DEAD = "dead"
    SKIPPED = "skipped"  # by a rule of its channel
    DISCARDED = "discarded"
    ERASED = "erased"


class EventKind(StrEnum):
    """Something a person wrote, what became of a message of ours, or anything else."""

    MESSAGE = "message"
    RECEIPT = "receipt"
    OTHER = "other"


class EntryKind(StrEnum):
    """An entry is one event for one agent, or one late reply to post."""

    AGENT = "agent"
    REPLY = "reply"


class OutcomeKind(StrEnum):
    """How an attempt ended. `rejected` and `lost` are never retried by the schedule."""

    SUCCESS = "success"
    ERROR = "error"  # the agent said so: status "error", or an HTTP answer other than 2xx
    EXCEPTION = "exception"
    TIMEOUT = "timeout"
    CRASH = "crash"
    UNREACHABLE = "unreachable"
    REJECTED = "rejected"  # the agent refuses it for good: status "rejected", or HTTP 410
    LOST = "lost"  # the daemon died during the attempt
    STOPPED = "stopped"  # the daemon stopped, and its grace was over


class Word(StrEnum):
    """What an agent itself reports of a failure, which leaves no doubt about what it did."""

    FAILED = "failed"
    AGAIN = "again"  # it asks to be called again, whatever `retry_on` says
    NOTHING = "nothing"  # it did nothing: HTTP 429 and 503


class OptOut(StrEnum):
    """What a person asked for with a single word."""

    STOP = "STOP"
    START = "START"
    HELP = "HELP"


class ConsentState(StrEnum):
    """Whether a person may be written to."""

    OPTED_OUT = "opted_out"
    OPTED_IN = "opted_in"


class AutoSubmitted(StrEnum):
    """What kind of machine wrote a mail."""

    AUTO_REPLY = "auto_reply"
    BOUNCE = "bounce"
    LIST = "list"


class EventMark(StrEnum):
    """What a channel's `skip` setting can name."""

    EMPTY = "empty"  # no text, no attachment
    BROADCAST = "broadcast"  # a status or story
    AUTO_REPLY = "auto_reply"
    BOUNCE = "bounce"
    OPT_OUT = "opt_out"
    ECHO = "echo"  # our own message coming back
    RECEIPT = "receipt"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is on the other end, as far as it can be believed (see `accept/proxy_headers.py`)."""

    peer: IPAddress | None  # the other end of the socket; None on a Unix socket
    client: IPAddress | None  # the right-most untrusted address; None on an unforwarded Unix socket
    scheme: str  # http or https, as the client used it
    host: str  # the Host header, byte for byte, port included
    forwarded: bool  # carries any of X-Forwarded-*, Forwarded, Via, X-Real-IP
    peer_trusted: bool  # the peer is one of server.trusted_proxies, or a Unix socket
    http_version: tuple[int, int] = (1, 1)
    loopback_locked: bool = False  # loopback addresses prove nothing at present (loopback_lock.py)

    @property
    def over_unix_socket(self) -> bool:
        """Whether it came over a Unix socket; a TCP peer that is gone has no address either."""
        return self.peer is None and self.peer_trusted


class SampleKey(NamedTuple):
    """The public key of the pair that `send` made for its samples of a channel, where only the
    provider has the real one.
    """

    public: bytes
    to_agent: bool  # False: they are only logged


class RawDelivery(NamedTuple):
    """One HTTP request as it came, unverified."""

    channel: ChannelName
    caller: Caller
    target: str  # the request target byte for byte (surrogateescape), starts with "/"
    headers: Mapping[str, str]  # case-insensitive lookup
    content_type: str  # media type alone, lower case, without parameters
    content_type_header: str  # the whole header, with boundary and charset
    body: bytes
    received_at: datetime
    method: str = "POST"
    sample_key: SampleKey | None = None  # what proves it, in place of its channel's keys


class VerifiedDelivery(NamedTuple):
    """A delivery whose sender is proven; `fields` is its form, if verifying had to decode it: its
    pairs, or by name where it is of a kind that its channel knows.
    """

    channel: ChannelName
    content_type_header: str
    body: bytes
    received_at: datetime
    # Unique to this delivery (SHA-256 of the Mailgun signature), where there is such a thing.
    replay_key: bytes | None = None
    fields: tuple[tuple[str, str], ...] | dict[str, str] | None = None
    target: str = ""  # the request target; secrets in its query are masked before it is stored
    headers: Mapping[str, str] = _NOTHING  # those that its channel keeps, names in lower case

    def __repr__(self) -> str:
        """Name the delivery, and show nothing of its body."""
        return f"<VerifiedDelivery {self.channel} {self.received_at.isoformat()}>"


class Conversation(NamedTuple):
    """The unit of order, in normal form: `+336…` and `whatsapp:+336…` are one."""

    channel: ChannelName
    sender: str
    party: str  # recipient or group


@dataclass(frozen=True, slots=True)
class Attachment:
    """An attached file; its content stays in the stored raw body."""

    file_name: str  # as the mail says; never used as a path
    content_type: str
    size_bytes: int
    sha256: str  # lower-case hex


@dataclass(frozen=True, slots=True)
class Consent:
    """What the register says of a person on a channel."""

    state: ConsentState
    since: datetime | None  # None: nobody knows


class Event(NamedTuple):
    """What a delivery means, in our shape; the provider's values are unchanged."""

    channel: ChannelName
    agent: AgentName  # who gets it, by the channel's routing
    conversation: Conversation
    digest: bytes  # 32 bytes: the same digest is the same event
    received_at: datetime
    sender: str
    recipient: str
    body: str
    subject: str | None = None
    message_id: str | None = None
    group: str | None = None  # exactly as received; None for direct messages
    profile_name: str | None = None
    opt_out: OptOut | None = None
    auto_submitted: AutoSubmitted | None = None
    attachments: tuple[Attachment, ...] = ()
    kind: EventKind = EventKind.MESSAGE
    status: str | None = None  # of a receipt: what became of the message
    thread: str | None = None  # the group of a declared channel
    traceparent: str | None = None  # W3C; None: its provider sent none, and nothing traces here
    sample: bool = False  # nobody but `send` has proven it
    reconciled: bool = False  # taken in from what its provider holds, as its request never came
    raw: Mapping[str, Any] = _NOTHING  # name → last value
    raw_multi: Mapping[str, list[Any]] = _NOTHING  # names that repeat → values
    # The rest is not part of the stored event; `skipped` is a column beside it.
    marks: frozenset[EventMark] = frozenset()
    authors: frozenset[str] = frozenset()  # who else it is from, in normal form
    as_start: Event | None = None  # what it is if its sender has opted out: its word is START then
    said_at: datetime | None = None  # its own time, where its provider tells it
    time_unknown: bool = False  # older than its arrival, by an unknown time
    skipped: str | None = None  # why no agent gets it
    about: str | None = None  # of a receipt with a rank: the message it is about
    rank: int | None = None  # its status among those of its channel
    reconcile_key: bytes | None = None  # by what its provider's list knows it, if not by the digest

    @property
    def asks_consent(self) -> bool:
        """Whether it may opt its sender out or in."""
        word = self.opt_out or self.as_start
        if word is None or word is OptOut.HELP or self.sample:
            return False
        return bool(self.conversation.sender)

    @property
    def overtakes(self) -> bool:
        """Whether it goes before the rest of its conversation; HELP does not."""
        return self.opt_out in _OVERTAKE

    @property
    def gathers(self) -> bool:
        """Whether it may be part of a burst: a message that is no opt-out word."""
        return self.opt_out is None and self.kind is _MESSAGE


# Looked up once: a member of an enumeration is found by a function of Python's.
_OVERTAKE: Final = frozenset({OptOut.STOP, OptOut.START})
_MESSAGE: Final = EventKind.MESSAGE
_OF_NO_AGENT: Final = frozenset({OutcomeKind.LOST, OutcomeKind.STOPPED})
_AGENT_WORKS: Final = frozenset({OutcomeKind.SUCCESS, OutcomeKind.REJECTED})
_ERROR: Final = OutcomeKind.ERROR


@dataclass(frozen=True, slots=True)
class RejectedItem:
    """A part of a verified delivery that could not be read, without its values."""

    path: str  # where it stands in the body, such as entry.0.changes.1
    reason: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Who paused a conversation, why, and for how long."""

    by: str
    reason: str | None = None
    seconds: float | None = None  # None: until somebody resumes it


@dataclass(frozen=True, slots=True)
class PauseRequest:
    """A pause of a sender's conversations, of a party's (a group's future ones too), or of the one
    between both; in normal form, as in a `Conversation`.
    """

    channel: ChannelName
    sender: str | None
    party: str | None
    pause: Pause
    of_group: bool = True  # False: the party is an address of ours


class Decoded(NamedTuple):
    """What a verified delivery holds."""

    events: tuple[Event, ...]
    rejected: tuple[RejectedItem, ...] = ()
    pauses: tuple[PauseRequest, ...] = ()
    ignored: int = 0  # how many its channel is told to ignore

    def as_reconciled(self, at: datetime) -> Decoded:
        """Return the same as events of their own time, which never arrived by themselves."""
        own: dict[str, Any] = {"received_at": at, "said_at": at, "reconciled": True}
        events = tuple(
            event._replace(**own, as_start=event.as_start and event.as_start._replace(**own))
            for event in self.events
        )
        return self._replace(events=events)


class Receipt(NamedTuple):
    """Says that an event is on disk, now or since an earlier copy."""

    event_id: EventId
    agent: AgentName
    duplicate: bool
    skipped: str | None = None  # why no agent gets it
    consent: ConsentState | None = None  # what its sender changed by it


Receipts = tuple[Receipt, ...]  # one for each event of a delivery, in their order


class Member(NamedTuple):
    """One message of a burst, which shares the attempt of the burst's last one."""

    event_id: EventId
    event: Event


class Entry(NamedTuple):
    """One event for one agent (or one reply to post), leased to this process."""

    id: EntryId
    event_id: EventId
    kind: EntryKind
    agent: AgentName
    conversation_id: str
    attempt: int  # the number of the attempt this lease is for; 1 is the first ever
    retries: int  # steps of the retry schedule used so far
    event: Event
    consent: Consent | None = None  # of the person, when it was leased
    reply_text: str | None = None  # kind reply only
    replied_at: datetime | None = None  # kind reply only: when the agent's reply was ready
    size_bytes: int = 0  # as stored, members included
    members: tuple[Member, ...] = ()  # of a burst: the messages before its own

    @property
    def messages(self) -> tuple[Member, ...]:
        """Every message of its attempt, in order; its own is the last."""
        return (*self.members, Member(self.event_id, self.event))

    @property
    def traceparent(self) -> str:
        """The trace that its attempts belong to: its request's, else one of its own."""
        return self.event.traceparent or traceparent_of(self.event_id)

    @property
    def text(self) -> str:
        """What the person wrote, a line a message."""
        return "\n".join(one.event.body for one in self.messages if one.event.body)

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        """The files of all messages."""
        return tuple(file for one in self.messages for file in one.event.attachments)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt ended, as the transport saw it."""

    kind: OutcomeKind
    error: str | None = None  # for people: one line or a traceback, bounded
    reply: str | None = None  # the first non-blank of response, message, result
    retry_after_seconds: float | None = None
    uses_schedule: bool = True  # False: this machine failed before the agent was called
    word: Word | None = None  # of a failure: what the agent itself reports
    cost: float | None = None  # as the agent reports it, in the unit of its budget
    pause: Pause | None = None  # of a success: a person is to take over its conversation

    @property
    def agent_works(self) -> bool | None:
        """Whether this shows that the agent works, as any reply does; None: it shows neither."""
        if self.kind in _OF_NO_AGENT or not self.uses_schedule:
            return None
        return self.kind in _AGENT_WORKS or (self.kind is _ERROR and self.reply is not None)
