"""Asks the provider of a declared channel what it holds, as its table `reconcile` says."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from berinia_webhookd.channels.declared.channel import DeclaredChannel
from berinia_webhookd.channels.declared.fields import Unreadable
from berinia_webhookd.channels.declared.listed import ListedEvent, listed, rebuilt
from berinia_webhookd.channels.declared.listing import item_of
from berinia_webhookd.errors import CannotStart, CannotStartNow, DeliveryRejected
from berinia_webhookd.findings import joined
from berinia_webhookd.http_client import HttpClient
from berinia_webhookd.journal.reconcile import Rebuilt
from berinia_webhookd.tools.reconcile.asking import (
    LONGEST_BYTES,
    PAUSES,
    AskAgain,
    CredentialsRefused,
    answer_to,
    days,
    parsed,
    patiently,
)
from berinia_webhookd.tools.reconcile.comparing import KnownByDigest, Tally

# Of one day, or of all if the list has no end that can be said.
MOST_PAGES: Final = 10_000
MOST_ITEMS: Final = 200_000
MOST_BYTES: Final = 512 * 1024 * 1024
DIGEST_BYTES: Final = 16
_URL: Final = re.compile(r"[!-~]{1,8192}")


class ProviderList(KnownByDigest):
    """What the provider of one channel holds."""

    def __init__(
        self,
        channel: DeclaredChannel,
        *,
        http: HttpClient,
        tally: Tally,
        pauses: Sequence[float] = PAUSES,
    ) -> None:
        """`tally` counts the items that cannot be read.

        Raises:
            CannotStart: a setting is missing.
        """
        settings = channel.settings
        prefix = f"channels.{channel.name}"
        if settings.reconcile is None or settings.missing_to_ask:
            missing = joined(f"{prefix}.{one}" for one in settings.missing_to_ask)
            raise CannotStart(
                f"{channel.provider.name} cannot be asked without {missing}",
                hint=f"set {missing} (docs/declaring-a-channel.md)",
            )
        auth, secret = settings.reconcile.auth, settings.reconcile_secret
        self._headers = {"Accept": "application/json"}
        if auth is not None and secret is not None:
            self._headers |= auth.headers(secret.reveal())
        self._channel = channel
        self._name = channel.provider.name
        self.asks_start = channel.asks_start
        self._listing = settings.reconcile
        self._values = settings.reconcile_values
        self._setting = f"{prefix}.reconcile"
        self._http = http
        self._tally = tally
        self._pauses = pauses

    async def groups(
        self, since: datetime, until: datetime
    ) -> AsyncIterator[AsyncIterator[Sequence[ListedEvent]]]:
        """Yield what is listed of each day, the oldest first; of all at once if only the beginning
        of a time can be said.

        Raises:
            CannotStart: the credentials are refused.
            CannotStartNow: there is no answer that can be read.
        """
        if not self._listing.url.has_end:
            yield self._group(since, until)
            return
        for day in days(since, until):
            begin = datetime.combine(day, time(), UTC)
            yield self._group(max(begin, since), min(begin + timedelta(days=1), until))

    async def rebuilt(self, message: ListedEvent, now: datetime) -> Rebuilt:
        """Return its delivery."""
        return Rebuilt(*rebuilt(self._channel, message, now))

    async def _group(
        self, since: datetime, until: datetime
    ) -> AsyncIterator[Sequence[ListedEvent]]:
        number = 0
        async for answer, items in self._pages(since, until):
            found: list[ListedEvent] = []
            for item in items:
                number += 1
                try:
                    one = listed(self._channel, self._listing, item_of(answer, item), since, until)
                except DeliveryRejected as error:
                    self._tally.refuse(f"item {number} since {since:%Y-%m-%d %H:%M}", error)
                else:
                    found += [one] if one is not None else []
            yield found

    async def _pages(
        self, since: datetime, until: datetime
    ) -> AsyncIterator[tuple[Any, Sequence[Any]]]:
        paging = self._listing.paging
        first = self._listing.url.of(since, until, self._values)
        url: str | None = first if paging is None else paging.begun(first)
        seen: set[bytes] = set()  # what was asked, and what the pages had
        pages = received = size = 0
        while url is not None:
            self._once(seen, url.encode())
            answer, content = await self._ask(url)
            items = self._listing.items_of(answer)
            if items is None:
                raise self._told(f"has no list at items = {self._listing.items!r} in its answer")
            pages, received, size = pages + 1, received + len(items), size + len(content)
            if pages > MOST_PAGES or received > MOST_ITEMS or size > MOST_BYTES:
                raise self._told(f"lists too much at once ({pages} pages, {received} items)")
            if items:
                self._once(seen, _written(items) or content)
            yield answer, items
            if paging is None:
                return
            try:
                url = paging.following(url, answer, items, pages=pages, received=received)
            except (Unreadable, ValueError) as error:
                raise self._told(f"does not say which page is next: {error}") from None
            if url is not None:
                self._require_fit(first, url)

    def _once(self, seen: set[bytes], what: bytes) -> None:
        digest = hashlib.blake2b(what, digest_size=DIGEST_BYTES).digest()
        if digest in seen:
            raise self._told("lists the same page again, without end")
        seen.add(digest)

    def _require_fit(self, first: str, url: str) -> None:
        """Nobody else may see the credentials."""
        if not _URL.fullmatch(url):
            raise self._told("leads to a page whose URL is too long, or has spaces in it")
        ours, theirs = urlsplit(first), urlsplit(url)
        if (theirs.scheme, theirs.netloc) != (ours.scheme, ours.netloc):
            raise self._told("leads to another host, which is not asked")

    async def _ask(self, url: str) -> tuple[Any, bytes]:
        async def once() -> tuple[Any, bytes]:
            answer = await answer_to(self._http, "GET", url, self._headers)
            answer.require_ok(self._name)
            if len(answer.content) > LONGEST_BYTES:
                raise self._told(f"answers with more than {LONGEST_BYTES} bytes")
            try:
                return parsed(answer.content), answer.content
            except (ValueError, RecursionError) as error:
                raise AskAgain("its answer is no JSON") from error

        try:
            return await patiently(once, self._name, self._pauses, waits=self._tally.waits)
        except CredentialsRefused as error:
            key = f"channels.{self._channel.name}.reconcile_secret"
            raise CredentialsRefused(
                str(error), hint=f"set {key}, or {self._setting}.auth"
            ) from error
        except CannotStartNow as error:
            raise CannotStartNow(str(error), hint=error.hint or self._hint) from error

    def _told(self, what: str) -> CannotStartNow:
        return CannotStartNow(f"{self._name} {what}", hint=self._hint)

    @property
    def _hint(self) -> str:
        return f"see {self._setting}: docs/declaring-a-channel.md says what each of its keys means"


def _written(items: Sequence[Any]) -> bytes | None:
    """The items of a page, without what else is new in each answer; None: too deep."""
    try:
        return orjson.dumps(items, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        return None
