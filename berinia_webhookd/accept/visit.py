"""What is known of one request, handed inwards from step to step. It holds facts only: `Visit` from
the first step on, `Proven` once the signature has been checked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from aiohttp import web

from berinia_webhookd.accept.body import Reservation
from berinia_webhookd.accept.rate_limit import caller_key
from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.model import Caller, VerifiedDelivery

_shown = lru_cache(4096)(str)  # an address as text; most requests come from a few
UNKNOWN_CALLER: Final = Caller(
    peer=None, client=None, scheme="http", host="", forwarded=False, peer_trusted=False
)


@dataclass(frozen=True, slots=True)
class Page:
    """Something to read: its handler raises `DeliveryRejected` for whatever it refuses."""

    handler: Callable[[web.Request, Caller], Awaitable[web.StreamResponse]]
    label: str  # logs, health or other: the `channel` of its metrics
    limited: bool  # whether each reading takes a token from the bucket of failures


@dataclass(slots=True)
class Visit:
    """One request on its way in."""

    request_id: str
    path: str  # of the request target, without the query, byte for byte
    label: str  # the channel's name, or logs, health, other
    channel: Channel | None
    page: Page | None
    caller: Caller = UNKNOWN_CALLER
    key: bytes = b""  # whose buckets it takes from, and whose share of the memory
    whose: dict[str, str | None] = field(init=False)  # what every log line about it says

    def __post_init__(self) -> None:
        self.whose = {"request_id": self.request_id, "channel": self.label, "client": None}

    def comes_from(self, caller: Caller) -> None:
        """Note who asks."""
        self.caller = caller
        self.key = caller_key(caller)
        self.whose["client"] = None if caller.client is None else _shown(caller.client)


@dataclass(slots=True)
class Proven:
    """A verified delivery, when its body was complete (on the event loop's clock), and the memory
    set aside for it.
    """

    delivery: VerifiedDelivery
    complete_at: float
    reservation: Reservation


Step = Callable[[web.Request, Visit], Awaitable[web.StreamResponse]]
