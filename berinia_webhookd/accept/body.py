"""Reads the body of a request that nobody has verified yet, under five bounds: the channel's size,
the time without progress (and overall), the bytes in flight of all requests, a quarter of those for
one client, and a quarter that large bodies leave to short ones. What has arrived counts, never what
was announced. It refuses to decompress, so that what was counted is what is held.

What a client has not proven beyond its quarter is refused. What stands behind a message of its that
is proven, and being stored, waits: a provider's second large mail must not come back in ten minutes
because its first one is worked on. Short messages that are proven count for nobody.
"""

from __future__ import annotations

import asyncio
import ctypes
import io
from collections import deque
from types import TracebackType
from typing import Final, Self

from aiohttp import HttpVersion11, StreamReader, hdrs, web

from berinia_webhookd.errors import (
    BodyTooLarge,
    BodyTooSlow,
    MalformedDelivery,
    MediaTypeUnsupported,
    Overloaded,
)

_SHARES: Final = 4
# Large bodies leave this part of the bytes to those of at most so many bytes: short messages.
_SHORT_SHARE: Final = 4
SHORT_BODY_BYTES: Final = 65_536
# Progress by a byte at a time is bounded too: six silences, and this rate on average.
_SILENCES: Final = 6
_SLOWEST_BYTES_PER_SECOND: Final = 65_536
_UNFINISHED_BYTES: Final = 16_384

# Above this, a body is read in a thread, so that a huge mail delays no short message, and in turn.
LONG_BODY_BYTES: Final = 262_144
_WORKED_ON_BYTES: Final = 40 * 1024 * 1024  # as much as the largest mail
_M_MMAP_THRESHOLD: Final = -3  # malloc.h of glibc
_OWN_MAPPING_BYTES: Final = 1024 * 1024


def give_back_large_bodies() -> None:
    """Make glibc return memory of this size to the system as soon as it is free. By itself it keeps
    ever larger pieces once it has seen large ones, so that a flood of mails would be paid for ever.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries do without
        mallopt(_M_MMAP_THRESHOLD, _OWN_MAPPING_BYTES)


class ByteSemaphore:
    """A semaphore over bytes of large bodies: what becomes of one (text, fields, JSON, each a copy,
    and each up to four bytes wide for a character) weighs many times the body, so only so many are
    worked on at once. First come, first served; one alone is always let in.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.free_bytes = limit_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size_bytes: int) -> int:
        """Wait for room; return how much to `give` back."""
        weight = min(size_bytes, self.limit_bytes)
        if not self._waiting and weight <= self.free_bytes:
            self.free_bytes -= weight
            return weight
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((weight, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(weight)
            else:
                self._waiting.remove((weight, turn))
                self._let_in()
            raise
        return weight

    def give(self, weight: int) -> None:
        """Give back what was taken."""
        self.free_bytes += weight
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self._waiting[0][0] <= self.free_bytes:
            weight, turn = self._waiting.popleft()
            self.free_bytes -= weight
            turn.set_result(None)


class BodyBudget:
    """The bytes of bodies held in memory, of all requests."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.semaphore = ByteSemaphore(_WORKED_ON_BYTES)
        self.used_bytes = 0
        self.unverified_bytes: dict[bytes, int] = {}  # by client, of whom there is something
        self.verified_bytes: dict[bytes, int] = {}  # likewise, of bodies that are not short
        self.freed = asyncio.Event()


class Reservation:
    """The memory that one request of a client holds of the budget, for its body; the end of its
    `with` block gives it back.
    """

    __slots__ = (
        *("_budget", "_client", "_held_bytes", "_unverified", "_verified_bytes"),
        "_worked_on_bytes",
    )

    def __init__(self, budget: BodyBudget, client: bytes) -> None:
        self._budget = budget
        self._client = client
        self._held_bytes = 0
        self._worked_on_bytes = 0
        self._unverified = True
        self._verified_bytes = 0  # as they count in the client's share

    def require_room(self, size_bytes: int) -> int:
        """Refuse a body of this size where what others have sent leaves no room; hold nothing, and
        return how many bytes more it is than are held.

        Raises:
            Overloaded: the budget, or this client's share of it, is used up.
        """
        budget = self._budget
        more = size_bytes - self._held_bytes
        limit = budget.limit_bytes
        unverified = budget.unverified_bytes.get(self._client, 0)
        left_to_short = 0 if size_bytes <= SHORT_BODY_BYTES else limit // _SHORT_SHARE
        if budget.used_bytes + more > limit - left_to_short or unverified + more > limit // _SHARES:
            raise Overloaded("Too many bytes are being received; please retry.")
        return more

    def grow_to(self, size_bytes: int) -> None:
        """Hold so many bytes, which have arrived.

        Raises:
            Overloaded: there is no room for them.
        """
        more = self.require_room(size_bytes)
        self._budget.used_bytes += more
        unverified = self._budget.unverified_bytes
        unverified[self._client] = unverified.get(self._client, 0) + more
        self._held_bytes = size_bytes

    def must_wait(self, size_bytes: int) -> bool:
        """Whether what this client has proven leaves no room in its share for so many bytes."""
        budget = self._budget
        if not (verified := budget.verified_bytes.get(self._client)):
            return False
        others = verified + budget.unverified_bytes.get(self._client, 0) - self._held_bytes
        return others + size_bytes > budget.limit_bytes // _SHARES

    async def wait_for_room(self, size_bytes: int, timeout_seconds: float) -> None:
        """Wait until so many bytes are within the client's share.

        Raises:
            Overloaded: they were not in time.
        """
        freed = self._budget.freed
        try:
            async with asyncio.timeout(timeout_seconds):
                while self.must_wait(size_bytes):
                    freed.clear()
                    await freed.wait()
        except TimeoutError:
            raise Overloaded("Too many large messages at once; please retry.") from None

    async def begin_work(self, size_bytes: int, timeout_seconds: float) -> None:
        """Wait for a turn to read and store a body, if it is a large one.

        Raises:
            Overloaded: there was none in time.
        """
        if size_bytes <= LONG_BODY_BYTES:
            return
        try:
            async with asyncio.timeout(timeout_seconds):
                self._worked_on_bytes = await self._budget.semaphore.take(size_bytes)
        except TimeoutError:
            raise Overloaded("Too many large messages at once; please retry.") from None

    def end_work(self) -> None:
        """Let the next large body have its turn."""
        if self._worked_on_bytes:
            self._budget.semaphore.give(self._worked_on_bytes)
            self._worked_on_bytes = 0

    def verified(self) -> None:
        """Count the request no longer as one that may be anybody's: its sender is verified."""
        self._unverified = False
        _take(self._budget.unverified_bytes, self._client, self._held_bytes)
        if self._held_bytes > SHORT_BODY_BYTES:
            self._verified_bytes = self._held_bytes
            _take(self._budget.verified_bytes, self._client, -self._held_bytes)

    def hand_over(self) -> Reservation:
        """Let what is held outlive the request, for a commit that goes on without it; such a one
        costs more than its body, and enough of them leave no room for new requests.
        """
        kept = Reservation(self._budget, self._client)
        kept._unverified = False
        kept._held_bytes = self._held_bytes + _UNFINISHED_BYTES
        kept._worked_on_bytes, self._worked_on_bytes = self._worked_on_bytes, 0
        kept._verified_bytes, self._verified_bytes = self._verified_bytes, 0
        self._budget.used_bytes += _UNFINISHED_BYTES
        self._held_bytes = 0
        return kept

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._unverified:
            _take(self._budget.unverified_bytes, self._client, self._held_bytes)
        if self._worked_on_bytes:
            self.end_work()
        if self._verified_bytes:
            _take(self._budget.verified_bytes, self._client, self._verified_bytes)
            self._budget.freed.set()
        self._budget.used_bytes -= self._held_bytes
        self._held_bytes = 0


def _take(shares: dict[bytes, int], client: bytes, size_bytes: int) -> None:
    """Take bytes from a client's share; of whom nothing is left, nothing is remembered."""
    if left := shares.get(client, 0) - size_bytes:
        shares[client] = left
    else:
        shares.pop(client, None)


def body_at_hand(request: web.Request, reservation: Reservation, *, max_bytes: int) -> bytes | None:
    """Return the body where all of it came with the head, as nearly always; else None, also where
    it has to wait for room.

    Raises:
        MediaTypeUnsupported: it is compressed, be it on the way.
        BodyTooLarge, Overloaded: there is no room for it.
    """
    encoding = request.headers.get(hdrs.CONTENT_ENCODING)
    if encoding is not None and encoding.strip().lower() not in ("", "identity"):
        raise MediaTypeUnsupported("Compressed bodies are not accepted.")
    if not is_end_certain(request):
        raise MediaTypeUnsupported("Of transfer encodings only chunked is accepted.")
    stream = request.content
    if not stream.is_eof() or stream.exception() is not None:
        return None
    size = stream.total_bytes
    if size > max_bytes:
        raise _too_large(max_bytes)
    if reservation.must_wait(size):
        return None
    reservation.grow_to(size)
    return stream.read_nowait()


async def receive_body(
    request: web.Request,
    reservation: Reservation,
    *,
    max_bytes: int,
    timeout_seconds: float,
) -> bytes:
    """Wait for the rest of a body that was not at hand, and return it whole, byte for byte.

    Raises:
        BodyTooLarge, Overloaded: before anything is read, where there is a Content-Length.
        BodyTooSlow, MalformedDelivery: it stalls, or is not what HTTP allows.
    """
    length = request.content_length
    if length is not None:
        if length > max_bytes:
            raise _too_large(max_bytes)
        reservation.require_room(length)
    if "Expect" in request.headers:
        await _continue(request)
    return await _read(request.content, reservation, max_bytes, timeout_seconds)


def is_end_certain(request: web.Request) -> bool:
    """Whether all agree on where a body ends: of transfer encodings only chunked says so."""
    transfer = request.headers.get(hdrs.TRANSFER_ENCODING)
    return transfer is None or transfer.strip().lower() == "chunked"


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than {max_bytes} bytes.")


async def _continue(request: web.Request) -> None:
    """Ask for a body that its sender held back until now."""
    expected = request.headers["Expect"].lower()
    if expected != "100-continue" or request.version != HttpVersion11:
        return
    if not request.content.is_eof() and not request.content.total_bytes:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer itself has not begun


async def _read(
    stream: StreamReader, reservation: Reservation, max_bytes: int, timeout_seconds: float
) -> bytes:
    body = io.BytesIO()  # grows in place, and its value is no copy
    size = 0
    clock = asyncio.get_running_loop().time
    begun = clock()
    while not stream.at_eof():
        latest = begun + timeout_seconds * _SILENCES + size / _SLOWEST_BYTES_PER_SECOND
        try:
            async with asyncio.timeout_at(min(clock() + timeout_seconds, latest)):
                chunk = await stream.readany()
        except TimeoutError:
            raise BodyTooSlow("The body did not arrive in time.") from None
        except (web.RequestPayloadError, ConnectionError):
            raise MalformedDelivery("The body is not valid HTTP, or ended early.") from None
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        if reservation.must_wait(size):
            await reservation.wait_for_room(size, timeout_seconds)
        reservation.grow_to(size)
        body.write(chunk)
    return body.getvalue()
