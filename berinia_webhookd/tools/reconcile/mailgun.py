"""Asks Mailgun's logs which mails it accepted for a domain, and its stored messages what they say.

https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/logs/post-v1-analytics-logs
The logs do not tell a mail's Date, by which mails of one Message-Id differ: where two of a day have
the same one, their stored messages are asked.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from email.utils import format_datetime
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlsplit

import orjson

from berinia_webhookd.channels import mailgun_listed
from berinia_webhookd.channels.mailgun import MailgunChannel
from berinia_webhookd.channels.mailgun_listed import ListedMail, StoredFile
from berinia_webhookd.config.settings import ReconcileMailgunSettings
from berinia_webhookd.errors import (
    CannotStart,
    CannotStartNow,
    DeliveryRejected,
    MalformedDelivery,
)
from berinia_webhookd.http_client import HttpClient
from berinia_webhookd.journal.reconcile import Rebuilt, Reconciliation, first_keyed_at, keyed
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
from berinia_webhookd.tools.reconcile.comparing import Tally
from berinia_webhookd.tools.reconcile.seen import Seen

T = TypeVar("T")

MAILGUN: Final = MailgunChannel.provider.name
# It calls again for eight hours:
# https://documentation.mailgun.com/docs/mailgun/user-manual/receive-forward-store/receive-http
RETRIES_SECONDS: Final = 9 * 3600.0
REGIONS: Final = {"eu": "https://api.eu.mailgun.net", "us": "https://api.mailgun.net"}
PAGE: Final = 100  # the most there is
MOST_PAGES: Final = 10_000  # of one day
GONE: Final = frozenset((400, 404, 410))  # of a stored message
TRIES: Final = 3  # of a stored message that cannot be read: the next answer may be a whole one
# Stored messages are at other hosts than the API, all of which are Mailgun's; no other may see the
# credentials.
_HOST: Final = re.compile(r"(?:[a-z0-9-]+\.)+mailgun\.net(?::443)?")
_PATH: Final = re.compile(r"/v\d/[!-~]*")


class _Gone(Exception):
    """There is nothing at this address any more."""


class MailgunMails:
    """What Mailgun accepted for one domain."""

    pending_seconds = RETRIES_SECONDS
    takes_pending = False

    def __init__(
        self,
        channel: MailgunChannel,
        settings: ReconcileMailgunSettings,
        others: Collection[str] = (),
        *,
        http: HttpClient,
        tally: Tally,
        pauses: Sequence[float] = PAUSES,
    ) -> None:
        """`others` are the paths of Mailgun's other channels; `tally` counts what is unreadable."""
        if settings.api_key is None or settings.domain is None:
            missing = "domain" if settings.api_key else "api_key"
            raise CannotStart(
                f"Mailgun cannot be asked without reconcile.mailgun.{missing}",
                hint=f"set reconcile.mailgun.{missing} (Mailgun: API keys, Sending domains)",
            )
        credentials = b64encode(f"api:{settings.api_key.reveal()}".encode()).decode()
        self._authorization = {"Authorization": f"Basic {credentials}"}
        self._channel, self._others = channel, others
        self.asks_start = channel.asks_start
        self._domain = settings.domain
        self._region = settings.region
        self._own_url = settings.api_url  # in place of every host of Mailgun's
        self._http = http
        self._tally = tally
        self._pauses = pauses
        self._keyed_since: datetime | None = None

    async def here(self, journal: Reconciliation, mails: Sequence[ListedMail]) -> set[bytes]:
        """Return which keys, or beginnings of them, are here."""
        if self._keyed_since is None:
            self._keyed_since = await journal.read(first_keyed_at)
        return await journal.read(keyed, sorted({one.digest for one in mails if one.digest}))

    def doubt(self, mail: ListedMail) -> str | None:
        """Say why it cannot be told whether a mail came, if so."""
        if not mail.digest:
            return "It has no Message-Id, so its callback could double it."
        if self._keyed_since is None or mail.at < self._keyed_since:
            return "It is older than the first mail that is here, so it may have come and gone."
        return None

    async def groups(
        self, since: datetime, until: datetime
    ) -> AsyncIterator[AsyncIterator[Sequence[ListedMail]]]:
        """Yield what was accepted on each day, the oldest first, in pages.

        Raises:
            CannotStart: the credentials are refused, or the domain is unknown.
            CannotStartNow: there is no answer that can be read.
        """
        await self._require_domain()
        for day in days(since, until):
            begin = datetime.combine(day, time(), UTC)
            yield self._day(max(begin, since), min(begin + timedelta(days=1), until))

    async def rebuilt(self, mail: ListedMail, now: datetime) -> Rebuilt:
        """Return its callback, with its files.

        Raises:
            DeliveryRejected: its callback would have been refused as well, or it was deleted.
        """
        stored = await self._stored(mail)
        files: list[tuple[StoredFile, bytes]] = []
        left = self._channel.max_body_bytes
        for file in mailgun_listed.files_of(stored):
            try:
                content = await self._ask("GET", self._url_of(file.url), most_bytes=left)
            except _Gone:
                raise MalformedDelivery("Mailgun has deleted its attachment.") from None
            left -= len(content)
            files.append((file, content))
        return Rebuilt(*mailgun_listed.rebuilt(self._channel, mail, stored, files, now=now))

    async def _require_domain(self) -> None:
        try:
            await self._ask("GET", self._api(f"/v4/domains/{quote(self._domain, safe='')}"))
        except _Gone:
            raise CannotStart(
                f"Mailgun's region {self._region} has no domain {self._domain}",
                hint="set reconcile.mailgun.domain or .region (eu, us)",
            ) from None
        except MalformedDelivery:
            raise CannotStartNow("Mailgun's answer is longer than any about a domain") from None
        except CredentialsRefused as error:
            raise CredentialsRefused(
                f"Mailgun refuses reconcile.mailgun.api_key in its region {self._region}",
                hint="set an API key that may read logs and messages (Mailgun: API keys)",
            ) from error

    async def _day(self, begin: datetime, end: datetime) -> AsyncIterator[Sequence[ListedMail]]:
        with Seen() as seen:
            async for items in self._pages(begin, end):
                found: list[ListedMail] = []
                for item in items:
                    mail = self._listed(item)
                    if mail is not None and begin <= mail.at < end:
                        found += await self._told_apart(mail, seen)
                yield found

    def _listed(self, item: object) -> ListedMail | None:
        try:
            return mailgun_listed.listed(self._channel.name, item, self._others)
        except DeliveryRejected as error:
            name = item.get("id") if isinstance(item, Mapping) else None
            self._tally.refuse(f"event {name}", error)
            return None

    async def _told_apart(self, mail: ListedMail, seen: Seen) -> Sequence[ListedMail]:
        """Return a mail unless the list had it before: each address that a route forwards to has an
        event of its own. One that is stored elsewhere may be another, by its Date.
        """
        before = seen.first(mail.digest or mail.event.encode(), mail.at, mail.places)
        if before is None:
            return [mail]
        if before.places == mail.places:
            return []
        first = mail._replace(at=before.at, places=before.places)  # all else is in the shared key
        return [one for one in [await self._with_date(one) for one in (first, mail)] if one]

    async def _with_date(self, mail: ListedMail) -> ListedMail | None:
        try:
            stored = await self._stored(mail)
            _, decoded = mailgun_listed.rebuilt(self._channel, mail, stored, (), now=mail.at)
        except DeliveryRejected as error:
            self._tally.refuse(mail.id, error)
            return None
        (event,) = decoded.events
        return mail._replace(digest=event.reconcile_key or b"")

    async def _pages(self, begin: datetime, end: datetime) -> AsyncIterator[list[Any]]:
        asked: dict[str, Any] = {
            "start": format_datetime(begin.replace(microsecond=0)),
            "end": format_datetime(end.replace(microsecond=0) + timedelta(seconds=1)),
            "metric_events": ["accepted_incoming"],
            "filter": {
                "AND": [
                    {
                        "attribute": "domain",
                        "comparator": "=",
                        "values": [{"label": self._domain, "value": self._domain}],
                    }
                ]
            },
            "pagination": {"sort": "timestamp:asc", "limit": PAGE},
        }
        tokens: set[str] = set()
        while True:
            items, token = await self._page(asked)
            if items:
                yield items
            if not items or not token:
                return
            if token in tokens:
                raise CannotStartNow("Mailgun lists the same page again, without end")
            if len(tokens) >= MOST_PAGES:
                raise CannotStartNow(f"Mailgun lists more than {MOST_PAGES} pages of one day")
            tokens.add(token)
            asked["pagination"]["token"] = token

    async def _page(self, asked: Mapping[str, Any]) -> tuple[list[Any], str | None]:
        def read(body: bytes) -> tuple[list[Any], str | None]:
            answer = parsed(body)
            items, token = answer["items"], (answer.get("pagination") or {}).get("next")
            if not isinstance(items or [], list) or not isinstance(token, str | None):
                raise TypeError("no list of events")
            return items or [], token

        url = self._api("/v1/analytics/logs")
        try:
            return await self._ask_for(read, "POST", url, body=orjson.dumps(asked))
        except _Gone:
            raise CannotStartNow("Mailgun lists nothing of this time") from None
        except MalformedDelivery:
            raise CannotStartNow("Mailgun's answer is longer than any list of mails") from None

    async def _stored(self, mail: ListedMail) -> Mapping[str, Any]:
        left = TRIES

        def read(body: bytes) -> Mapping[str, Any]:
            nonlocal left
            try:
                message = parsed(body)
            except (ValueError, RecursionError):
                message = None
            if isinstance(message, dict):
                return message
            left -= 1
            if left:
                raise AskAgain("its answer cannot be read")
            raise MalformedDelivery("The stored message cannot be read.")

        for place in mail.places[:2]:
            try:
                most = self._channel.max_body_bytes
                return await self._ask_for(read, "GET", self._url_of(place), most_bytes=most)
            except _Gone:
                continue
        raise MalformedDelivery("Mailgun has deleted the stored message.")

    def _api(self, path: str) -> str:
        return (self._own_url or REGIONS[self._region]) + path

    def _url_of(self, place: str) -> str:
        """Return the URL of a stored message, or of a file of one, at a host of Mailgun's."""
        if "/" not in place:
            domain, key = quote(self._domain, safe=""), quote(place, safe="=")
            return self._api(f"/v3/domains/{domain}/messages/{key}")
        try:
            parts = urlsplit(place)
        except ValueError:
            parts = urlsplit("")
        if (
            parts.scheme != "https"
            or not _HOST.fullmatch(parts.netloc)
            or not _PATH.fullmatch(parts.path)
            or parts.query
        ):
            raise MalformedDelivery("It is stored at another host than Mailgun's, or in no place.")
        return (self._own_url or f"https://{parts.netloc}") + parts.path

    async def _ask(self, method: str, url: str, *, most_bytes: int = LONGEST_BYTES) -> bytes:
        return await self._ask_for(bytes, method, url, most_bytes=most_bytes)

    async def _ask_for(
        self,
        read: Callable[[bytes], T],
        method: str,
        url: str,
        *,
        body: bytes | None = None,
        most_bytes: int = LONGEST_BYTES,
    ) -> T:
        async def once() -> T:
            try:
                return read(await self._once(method, url, body, most_bytes))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise AskAgain("its answer cannot be read") from error

        return await patiently(once, MAILGUN, self._pauses, waits=self._tally.waits)

    async def _once(self, method: str, url: str, body: bytes | None, most_bytes: int) -> bytes:
        kind = {} if body is None else {"Content-Type": "application/json"}
        headers = {**self._authorization, **kind}
        answer = await answer_to(self._http, method, url, headers, body=body, most_bytes=most_bytes)
        if answer.status in GONE:
            raise _Gone
        answer.require_ok(MAILGUN)
        if len(answer.content) > most_bytes:
            raise MalformedDelivery("It is larger than a mail may be.")
        return answer.content
