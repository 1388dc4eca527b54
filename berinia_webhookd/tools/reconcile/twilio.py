"""Asks Twilio's Messages API what our numbers received, by Twilio's own client:
https://www.twilio.com/docs/messaging/api/message-resource#read-multiple-message-resources.

The API filters by days; what is not within the time is left out here. It lists the newest first.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from twilio.base.page import Page
from twilio.http.http_client import TwilioHttpClient
from twilio.http.response import Response
from twilio.rest import Client

from berinia_webhookd.channels import twilio_listed
from berinia_webhookd.channels.addresses_of_people import normal_party
from berinia_webhookd.channels.settings import TwilioSettings
from berinia_webhookd.channels.twilio import TwilioChannel
from berinia_webhookd.channels.twilio_listed import ListedFile, ListedMessage
from berinia_webhookd.errors import CannotStart, CannotStartNow, WebhookdError
from berinia_webhookd.journal.reconcile import Rebuilt
from berinia_webhookd.tools.reconcile.asking import (
    PAUSES,
    PENDING_SECONDS,
    AskAgain,
    CredentialsRefused,
    patiently,
    status_error,
)

T = TypeVar("T")

TWILIO: Final = TwilioChannel.provider.name
PAGE: Final = 1000  # the most there is
ASK_SECONDS: Final = 30.0
WHATSAPP: Final = "whatsapp:"
# With an edge and a region, if the environment has them. No other host may see the credentials.
_HOST: Final = re.compile(r"api(?:\.[a-z0-9-]+){0,2}\.twilio\.com")


class _Http(TwilioHttpClient):
    """Twilio's HTTP client, at another address if need be; no answer but a 200 comes back."""

    def __init__(self, api_url: str) -> None:
        super().__init__(timeout=ASK_SECONDS)
        self._api_url = api_url

    def request(self, method: str, uri: str, *args: Any, **kwargs: Any) -> Response:  # type: ignore[override]
        """Send one request."""
        asked = urlsplit(uri)
        if not _HOST.fullmatch(asked.netloc) or not asked.path.startswith("/"):
            raise CannotStartNow("Twilio's answer leads to another host, which is not asked")
        url = f"{self._api_url}{asked.path}" + (f"?{asked.query}" if asked.query else "")
        try:
            response = super().request(method, url, *args, **kwargs)
        except OSError as error:  # what all exceptions of `requests` are
            raise AskAgain(f"there is no answer ({type(error).__name__})") from error
        if response.status_code != 200:  # noqa: PLR2004 - what it answers whatever it lists
            headers = response.headers or {}
            raise status_error(TWILIO, response.status_code, headers.get("Retry-After"))
        return response


class TwilioMessages:
    """What Twilio holds for one channel."""

    pending_seconds = PENDING_SECONDS
    takes_pending = True  # by its digest none can double

    def __init__(
        self,
        channel: TwilioChannel,
        settings: TwilioSettings,
        numbers: Iterable[str],
        api_url: str,
        *,
        pauses: Sequence[float] = PAUSES,
    ) -> None:
        """`numbers` are ours, as Twilio spells them."""
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
            for day in _days(since, until):
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
            client = Client(account, token, http_client=_Http(self._api_url))
            try:
                await self._ask(partial(client.messages.page, page_size=1))
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
        for number in spellings:
            how = {"to": number, "date_sent": day.isoformat(), "page_size": PAGE}
            async for page in self._pages(partial(messages.page, **how)):
                found = (twilio_listed.listed(self._channel.name, one) for one in page)
                yield [one for one in found if one is not None and since <= one.at <= until]

    async def _files(self, message: ListedMessage) -> AsyncIterator[ListedFile]:
        media = self._clients[message.account_sid].messages(message.id).media
        async for page in self._pages(partial(media.page, page_size=PAGE)):
            for file in page:
                path = str(file.uri).removesuffix(".json")
                yield ListedFile(f"https://api.twilio.com{path}", str(file.content_type))

    async def _pages(self, first: Callable[[], Page]) -> AsyncIterator[Page]:
        seen: set[str] = set()
        page: Page | None = await self._ask(first)
        while page is not None:
            yield page
            following = page.next_page_url or ""
            if following in seen:
                raise CannotStartNow("Twilio lists the same page again, without end")
            seen.add(following)
            page = await self._ask(page.next_page)

    async def _ask(self, ask: Callable[[], T]) -> T:
        async def once() -> T:
            try:
                return await asyncio.to_thread(ask)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise AskAgain("its answer cannot be read") from error

        return await patiently(once, TWILIO, self._pauses)


def spellings(numbers: Iterable[str]) -> list[str]:
    """Return numbers in normal form as Twilio may spell them."""
    return [
        spelling
        for number in numbers
        for spelling in ([number, WHATSAPP + number] if number.startswith("+") else [number])
    ]


def _days(since: datetime, until: datetime) -> Iterable[date]:
    first, last = since.astimezone(UTC).date(), until.astimezone(UTC).date()
    return (first + timedelta(days) for days in range((last - first).days + 1))
