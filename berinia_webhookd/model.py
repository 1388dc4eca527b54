"""The words of the flow as records that nobody changes; each stage hands the next a different one.
Those that every request makes are named tuples, which take a fifth of the time to make.

RawDelivery → VerifiedDelivery → Decoded → Receipts → Entry → Outcome → Settlement. Only a channel's
`verify` builds a `VerifiedDelivery` (and the journal restores one), so that skipping verification
does not type-check. Instants are aware datetimes in UTC; durations are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType
from typing import Any, Final, NamedTuple, NewType

IPAddress = IPv4Address | IPv6Address

EventId = NewType("EventId", str)  # UUIDv7, canonical text
EntryId = NewType("EntryId", int)  # its place in the order
ChannelName = NewType("ChannelName", str)  # [a-z][a-z0-9-]*: sms, email, whatsapp and others
AgentName = NewType("AgentName", str)  # starts with a capital

DIRECT_MESSAGE = "Direct Message"
LONGEST_PAUSE_SECONDS: Final = 1e9  # longer ones are mistakes
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class EntryState(StrEnum):
    """The life of an entry; `waiting` is waiting for a retry."""

    READY = "ready"
    RUNNING = "running"
    WAITING = "waiting"
    DONE = "done"
    DEAD = "dead"
    SKIPPED = "skipped"  # by a rule of its channel
    DISCARDED = "discarded"
    ERASED = "erased"


class EventKind(StrEnum):
    """What an event tells: something a person wrote, what became of a message of ours, or else."""

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
    REJECTED = "rejected"  # the agent wants no more of this: status "rejected", or HTTP 410
    LOST = "lost"  # the daemon that ran it died
    STOPPED = "stopped"  # the daemon stopped, and did not wait longer for it


class Delivery(StrEnum):
    """What becomes of an attempt that began and whose end nobody knows."""

    AT_LEAST_ONCE = "at-least-once"  # it is made again
    AT_MOST_ONCE = "at-most-once"  # it is not: its agent may have acted


class Word(StrEnum):
    """What an agent itself says of a failure; then there is no doubt about what it did."""

    FAILED = "failed"
    AGAIN = "again"  # it wants to be called again, whatever `retry_on` says
    NOTHING = "nothing"  # it did nothing: HTTP 429 and 503


class Guard(StrEnum):
    """What holds entries back: they stay ready, and start once it lets go of them."""

    BUDGET = "budget"  # so many runs for one person, or so much cost in a day
    LOOP = "loop"  # two machines that answer each other
    BREAKER = "breaker"  # its agent fails, whoever writes


@dataclass(frozen=True, slots=True)
class Rate:
    """So many runs in so much time."""

    count: int
    seconds: float
    text: str = ""  # as it is written: 20/h

    def __str__(self) -> str:
        return self.text


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
    """Which machine wrote a mail; a person's says nothing."""

    AUTO_REPLY = "auto_reply"
    BOUNCE = "bounce"
    LIST = "list"


class EventMark(StrEnum):
    """What an event is, for the rules of its channel that skip."""

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
    loopback_locked: bool = False  # something speaks against believing in a loopback address

    @property
    def over_unix_socket(self) -> bool:
        """Whether it came over a Unix socket; a TCP peer that is gone has no address either."""
        return self.peer is None and self.peer_trusted


class RawDelivery(NamedTuple):
    """One HTTP request as it came, proven by nobody."""

    channel: ChannelName
    caller: Caller
    target: str  # the request target byte for byte (surrogateescape), starts with "/"
    headers: Mapping[str, str]  # case-insensitive lookup
    content_type: str  # media type alone, lower case, without parameters
    content_type_header: str  # the whole header, with boundary and charset
    body: bytes
    received_at: datetime
    method: str = "POST"


class VerifiedDelivery(NamedTuple):
    """A delivery whose sender is proven. `fields` saves decoding a form twice, if verifying did."""

    channel: ChannelName
    content_type_header: str
    body: bytes
    received_at: datetime
    # What makes this very delivery unique (SHA-256 of the Mailgun signature), where one exists.
    replay_key: bytes | None = None
    fields: tuple[tuple[str, str], ...] | None = None
    target: str = ""  # the request target; secrets in its query are masked before it is stored
    headers: Mapping[str, str] = _NOTHING  # lower-case names the channel keeps

    def __repr__(self) -> str:
        """Name the delivery, and show nothing of its body."""
        return f"<VerifiedDelivery {self.channel} {self.received_at.isoformat()}>"


class Conversation(NamedTuple):
    """The unit of order, in normal form for comparison only: `+336…`, `whatsapp:+336…` are one."""

    channel: ChannelName
    sender: str
    party: str  # recipient or group


@dataclass(frozen=True, slots=True)
class Attachment:
    """What is known of an attached file; its content stays in the stored raw body."""

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
    """What a delivery means, in our shape. Provider values are untouched."""

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
    thread: str | None = None  # what stands for the group on a declared channel
    raw: Mapping[str, Any] = _NOTHING  # name → last value
    raw_multi: Mapping[str, list[Any]] = _NOTHING  # names that repeat → values
    # What its channel knows until it is stored: `skipped` is a column beside the event's data.
    marks: frozenset[EventMark] = frozenset()
    authors: frozenset[str] = frozenset()  # who else it is from, in normal form
    as_start: Event | None = None  # it, if its sender has opted out: then its word means START
    said_at: datetime | None = None  # its own time, where its provider tells it
    time_unknown: bool = False  # it was said before, and nobody knows when
    skipped: str | None = None  # why it is kept and handed to nobody
    about: str | None = None  # of a receipt with a rank: whose receipt it is
    rank: int | None = None  # its status among those of its channel

    @property
    def asks_consent(self) -> bool:
        """Whether it may say that its sender wants to be written to, or not."""
        word = self.opt_out or self.as_start
        return word is not None and word is not OptOut.HELP and bool(self.conversation.sender)

    @property
    def overtakes(self) -> bool:
        """Whether it goes before the rest of its conversation: HELP is a question like others."""
        return self.opt_out in {OptOut.STOP, OptOut.START}

    @property
    def gathers(self) -> bool:
        """Whether it may be part of a burst: it is something written that is no single word."""
        return self.kind is EventKind.MESSAGE and self.opt_out is None


@dataclass(frozen=True, slots=True)
class RejectedItem:
    """A part of a verified delivery that could not be read; names and positions, never values."""

    path: str  # where it stands in the body, such as entry.0.changes.1
    reason: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Why nothing of a conversation is dispatched, by whose word, and for how long."""

    by: str
    reason: str | None = None
    seconds: float | None = None  # None: until somebody resumes it


@dataclass(frozen=True, slots=True)
class PauseRequest:
    """A channel's word to pause: all conversations of a sender, all with a party (a group, also its
    later ones), or the one of both. In normal form, as in a `Conversation`.
    """

    channel: ChannelName
    sender: str | None
    party: str | None
    pause: Pause
    of_group: bool = True  # False: the party is an address of ours


class Decoded(NamedTuple):
    """What a verified delivery says: none to many events, what could not be read, and what is to be
    paused.
    """

    events: tuple[Event, ...]
    rejected: tuple[RejectedItem, ...] = ()
    pauses: tuple[PauseRequest, ...] = ()
    ignored: int = 0  # what its channel names as nothing to keep


class Receipt(NamedTuple):
    """The journal's word that an event is on disk, now or since an earlier copy."""

    event_id: EventId
    agent: AgentName
    duplicate: bool
    skipped: str | None = None  # why no agent gets it
    consent: ConsentState | None = None  # what its sender changed by it


Receipts = tuple[Receipt, ...]  # one for each event of a delivery, in their order


@dataclass(frozen=True, slots=True)
class Gathering:
    """For how long a conversation must be silent before its messages are handed over together, and
    how long the first of them waits at the most.
    """

    seconds: float
    most_seconds: float


@dataclass(frozen=True, slots=True)
class Member:
    """One message of a burst, which shares the attempt of the burst's last one."""

    event_id: EventId
    event: Event


@dataclass(frozen=True, slots=True)
class Entry:
    """One event for one agent (or one reply to post), leased to this process."""

    id: EntryId
    event_id: EventId
    kind: EntryKind
    agent: AgentName
    conversation_id: str
    attempt: int  # the number of the attempt this lease is for; 1 is the first ever
    retries: int  # how many steps of the retry schedule are used up
    event: Event
    consent: Consent | None = None  # of the person, when it was leased; None: never asked for
    reply_text: str | None = None  # kind reply only
    replied_at: datetime | None = None  # kind reply only: when the agent's reply was ready
    size_bytes: int = 0  # of the event as it is stored, with those of its members
    members: tuple[Member, ...] = ()  # of a burst: the messages before its own

    @property
    def messages(self) -> tuple[Member, ...]:
        """Every message that its attempt is about, in their order; its own is the last."""
        return (*self.members, Member(self.event_id, self.event))

    @property
    def text(self) -> str:
        """What the person wrote, in as many lines as there are messages."""
        if not self.members:
            return self.event.body
        return "\n".join(one.event.body for one in self.messages if one.event.body)

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        """The files of all messages."""
        if not self.members:
            return self.event.attachments
        return tuple(file for one in self.messages for file in one.event.attachments)


@dataclass(frozen=True, slots=True)
class Handoff:
    """An agent's word that somebody else goes on: its conversation is paused."""

    seconds: float | None = None  # None: until somebody resumes it
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt ended, as the transport saw it."""

    kind: OutcomeKind
    error: str | None = None  # for people: one line or a traceback, bounded
    reply: str | None = None  # the first non-blank of response, message, result
    retry_after_seconds: float | None = None
    uses_schedule: bool = True  # False: this machine failed before the agent was called
    word: Word | None = None  # of a failure: what the agent itself says; None: nothing
    cost: float | None = None  # what the agent says that it cost, in whatever the budget counts

    @property
    def agent_works(self) -> bool | None:
        """Whether this speaks for the agent: what it answers does, even with an error that has a
        text. None: it says nothing of the agent.
        """
        if self.kind in {OutcomeKind.LOST, OutcomeKind.STOPPED} or not self.uses_schedule:
            return None
        if self.kind is OutcomeKind.ERROR:
            return self.reply is not None
        return self.kind in {OutcomeKind.SUCCESS, OutcomeKind.REJECTED}

    handoff: Handoff | None = None  # of a success: a person is to go on with the conversation


@dataclass(frozen=True, slots=True)
class FailureReply:
    """What a person is told when nobody will try again and the agent said nothing."""

    text: str
    late: bool  # whether it can be posted where nobody waits for it


@dataclass(frozen=True, slots=True)
class Settlement:
    """What the journal shall record at the end of an attempt, counted from now."""

    entry: Entry
    outcome: Outcome
    took_seconds: float
    state: EntryState  # done, dead, waiting or ready
    due_in_seconds: float | None = None  # waiting only
    # For how long its failures hold back its conversation; counts from the first of them.
    hold_seconds: float | None = None
    retries: int = 0
    # Where a reply may go: the journal decides in the same transaction. `late` says a reply that
    # nobody waits for can be posted. What is not done has none but this one, if it is dead.
    late: bool = False
    failure_reply: FailureReply | None = None
    may_have_acted: bool = False  # dead, of an at-most-once agent that may have done its work
    pause: Pause | None = None  # the agent hands the conversation over
