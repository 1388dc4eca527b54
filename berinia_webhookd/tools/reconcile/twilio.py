"""Asks Twilio's Messages API what our numbers received, by Twilio's own client:
https://www.twilio.com/docs/messaging/api/message-resource#read-multiple-message-resources.

The API filters by days; what is not within the time is left out here. It lists the newest first.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import date, datetime
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import urlencode, urlsplit

import aiohttp
from twilio.base.exceptions import TwilioException
from twilio.base.page import Page
from twilio.http import AsyncHttpClient
from twilio.http.response import Response
from twilio.rest import Client

from berinia_webhookd.channels import twilio_listed
from berinia_webhookd.channels.addresses_of_people import normal_party
from berinia_webhookd.channels.settings import TwilioSettings
from berinia_webhookd.channels.twilio import TwilioChannel
from berinia_webhookd.channels.twilio_listed import ListedFile, ListedMessage
from berinia_webhookd.errors import (
    CannotStart,
    CannotStartNow,
    DeliveryRejected,
    MalformedDelivery,
    WebhookdError,
)
from berinia_webhookd.http_client import HttpClient
from berinia_webhookd.journal.reconcile import Rebuilt
from berinia_webhookd.tools.reconcile.asking import (
    LONGEST_BYTES,
    PAUSES,
    AskAgain,
    CredentialsRefused,
    answer_to,
    days,
    patiently,
)
from berinia_webhookd.tools.reconcile.comparing import KnownByDigest, Tally

T = TypeVar("T")

TWILIO: Final = TwilioChannel.provider.name
PAGE: Final = 1000  # the most there is
MOST_PAGES: Final = 1000  # of one number and day
MOST_FILES: Final = 100  # of one message; Twilio takes ten
WHATSAPP: Final = "whatsapp:"
# With an edge and a region, if the environment has them. No other host may see the credentials.
_HOST: Final = re.compile(r"api(?:\.[a-z0-9-]+){0,2}\.twilio\.com")
# What the client raises for records and pages that are not as documented.
_UNREADABLE: Final = (
    *(ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError),
    TwilioException,
)
_log: Final = logging.getLogger(__name__)  # of the client, which is not heard


class _Http(AsyncHttpClient):
    """The way of Twilio's client to its API, or to another address in its place; no answer but a
    200 comes back.
    """

    def __init__(self, http: HttpClient, api_url: str) -> None:
        super().__init__(_log, is_async=True)
        self._http = http
        self._api_url = api_url

    async def request(  # type: ignore[override]
        self, method: str, uri: str, params: dict[str, Any] | None = None, **given: Any
    ) -> Response:
        """Send one request, which only reads; its deadline is ours, and no redirect is followed."""
        asked = urlsplit(uri)
        if not _HOST.fullmatch(asked.netloc) or not asked.path.startswith("/"):
            raise CannotStartNow("Twilio's answer leads to another host, which is not asked")
        query = "&".join(part for part in (asked.query, urlencode(params or {})) if part)
        url = f"{self._api_url}{asked.path}" + (f"?{query}" if query else "")
        credentials = aiohttp.encode_basic_auth(*given["auth"])
        headers = {**given["headers"], "Authorization": credentials}
        answer = await answer_to(self._http, method, url, headers)
        answer.require_ok(TWILIO)
        if len(answer.content) > LONGEST_BYTES:
            raise CannotStartNow("Twilio's answer is longer than any list of messages")
        return Response(answer.status, answer.content.decode("utf-8", "replace"))


class TwilioMessages(KnownByDigest):
    """What Twilio holds for one channel."""

    def __init__(
        self,
        channel: TwilioChannel,
        settings: TwilioSettings,
        numbers: Iterable[str],
        api_url: str,
        *,
        http: HttpClient,
        tally: Tally,
        pauses: Sequence[float] = PAUSES,
    ) -> None:
        """`numbers` are ours, as Twilio spells them; `tally` counts what cannot be read."""
        self._http = http
        self._tally = tally
        self._channel = channel
        self.asks_start = channel.asks_start
        self._accounts = settings.account_sids
        self._tokens = [token.reveal() for token in settings.tokens]
        self._numbers: dict[str, list[str]] = {}  # one conversation may be over several
        for number in numbers:
            self._numbers.setdefault(normal_party(number, settings.country), []).append(number)
        self._api_url = api_url
        self._pauses = pauses
        self._clients: dict[str, Client] = {}
        if not self._accounts or not self._tokens:
            missing = "tokens" if self._accounts else "account_sids"
            raise CannotStart(
                f"Twilio cannot be asked without channels.{channel.name}.{missing}",
                hint=f"set channels.{channel.name}.{missing} (Twilio's console: Account)",
            )
        if not self._numbers:
            raise WebhookdError(
                "no number is known, so nothing was compared",
                hint='set reconcile.twilio.numbers = ["+33…"]: the journal has seen none yet',
            )

    async def groups(
        self, since: datetime, until: datetime
    ) -> AsyncIterator[AsyncIterator[Sequence[ListedMessage]]]:
        """Yield what came to each number on each day, the oldest day first, in pages.

        Raises:
            CannotStart: the credentials are refused.
            CannotStartNow: there is no answer that can be read.
        """
        for account in self._accounts:
            self._clients[account] = await self._client(account)
            for day in days(since, until):
                for spellings in self._numbers.values():
                    yield self._group(account, day, spellings, since, until)

    async def rebuilt(self, message: ListedMessage, now: datetime) -> Rebuilt:
        """Return its callback, with its files.

        Raises:
            DeliveryRejected: its callback would have been refused as well.
        """
        files = [one async for one in self._files(message)] if message.media else []
        return Rebuilt(*twilio_listed.rebuilt(self._channel, message, files, now=now))

    async def _client(self, account: str) -> Client:
        for token in self._tokens:
            client = Client(account, token, http_client=_Http(self._http, self._api_url))
            try:
                await self._ask(partial(client.messages.page_async, page_size=1))
            except CredentialsRefused:
                continue
            return client
        raise CannotStart(
            f"Twilio refuses every token of channels.{self._channel.name}.tokens for {account}",
            hint="set the Auth Token of this account (Twilio's console: Account)",
        )

    async def _group(
        self, account: str, day: date, spellings: list[str], since: datetime, until: datetime
    ) -> AsyncIterator[Sequence[ListedMessage]]:
        messages = self._clients[account].messages
        ours = {normal_party(number) for number in spellings}
        for number in spellings:
            how = {"to": number, "date_sent": day.isoformat(), "page_size": PAGE}
            async for page in self._pages(partial(messages.page_async, **how), MOST_PAGES):
                found = self._listed(page, account, ours)
                yield [one for one in found if since <= one.at <= until]

    def _listed(self, page: Page, account: str, ours: set[str]) -> Iterator[ListedMessage]:
        """The messages of a page; one that cannot be read keeps no other back."""
        for record in _records(page):
            try:
                if isinstance(record, Exception):
                    raise MalformedDelivery(f"It is no message ({type(record).__name__}).")
                message = twilio_listed.listed(self._channel.name, record, account)
                if message is None:
                    continue
                if normal_party(message.to) not in ours:
                    raise MalformedDelivery("It is to another number.", invalid=("to",))
            except DeliveryRejected as error:
                self._tally.refuse(str(getattr(record, "sid", "a message")), error)
            else:
                yield message

    async def _files(self, message: ListedMessage) -> AsyncIterator[ListedFile]:
        media = self._clients[message.account_sid].messages(message.id).media
        count = 0
        async for page in self._pages(partial(media.page_async, page_size=MOST_FILES), 1):
            for record in _records(page):
                count += 1
                if count > MOST_FILES:
                    raise MalformedDelivery("It has more files than a message has.")
                yield twilio_listed.listed_file(record)

    async def _pages(self, first: Callable[[], Awaitable[Page]], most: int) -> AsyncIterator[Page]:
        seen: set[str] = set()
        page: Page | None = await self._ask(first)
        while page is not None:
            yield page
            following = page.next_page_url
            if not following or most == 1:
                return
            if following in seen:
                raise CannotStartNow("Twilio lists the same page again, without end")
            if len(seen) >= most:
                raise CannotStartNow(f"Twilio lists more than {most} pages of one day")
            seen.add(following)
            page = await self._ask(page.next_page_async)

    async def _ask(self, ask: Callable[[], Awaitable[T]]) -> T:
        async def once() -> T:
            try:
                return await ask()
            except _UNREADABLE as error:
                raise AskAgain("its answer cannot be read") from error

        return await patiently(once, TWILIO, self._pauses, waits=self._tally.waits)


def _records(page: Page) -> Iterator[Any]:
    """The records of a page, or what was raised in the place of one."""
    while True:
        try:
            record = next(page)
        except StopIteration:
            return
        except _UNREADABLE as error:
            yield error
        else:
            yield record


def spellings(numbers: Iterable[str]) -> list[str]:
    """Return numbers in normal form as Twilio may spell them."""
    return [
        spelling
        for number in numbers
        for spelling in ([number, WHATSAPP + number] if number.startswith("+") else [number])
    ]
