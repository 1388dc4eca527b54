"""Reconciliations that race with late callbacks: each message is here once, whoever is first.

A race is one reconciliation of two messages that never came. Their callbacks are let go while it
works, each of them twice, beside one that is of no list: of SMS and of a declared channel when it
is about to ask the journal, of mails when it is about to take them in. One daemon gets them all.
There are 50 races of each kind on each engine: where nothing but a key keeps a mail from being
there twice, and it does not, every race shows it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from berinia_webhookd.channels.declared.channel import DeclaredChannel
from berinia_webhookd.channels.declared.settings import DeclaredSettings
from berinia_webhookd.channels.mailgun import MailgunChannel
from berinia_webhookd.channels.settings import MailgunSettings, TwilioSettings
from berinia_webhookd.channels.twilio import TwilioChannel
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.http_client import HttpClient
from berinia_webhookd.journal.queries import Filters
from berinia_webhookd.journal.reconcile import Rebuilt, Reconciliation
from berinia_webhookd.model import ChannelName
from berinia_webhookd.tools.reconcile.comparing import Comparison, Source, Tally, Wanted
from berinia_webhookd.tools.reconcile.declared import ProviderList
from berinia_webhookd.tools.reconcile.mailgun import MailgunMails
from berinia_webhookd.tools.reconcile.twilio import TwilioMessages

from .daemon import TOKEN, Daemon, sample_sms, signed_sms
from .list_api import GATEWAY, KEY, ListApi, post
from .list_api import settings as declared_as
from .mailgun_api import DOMAIN, MailgunApi
from .provider_api import served
from .providers import ALL_CHANNELS, EMAIL_PATH, posted_mail, proof, sample_mail
from .reconciling import age_deliveries, ago
from .twilio_api import ACCOUNT, TwilioApi

RACES, EACH, SENDERS = 50, 2, 3
SMS, EMAIL = ChannelName("sms"), ChannelName("email")
OURS = "+33639980002"
Fields = dict[str, str]


class OfSms:
    """Messages that are the same by their digest."""

    channel, questions = SMS, 1

    def __init__(self) -> None:
        self.api = TwilioApi(TOKEN)

    def new(self, text: str) -> Fields:
        return sample_sms(Body=text, From=f"+3363998{hash(text) % 10_000:04d}")

    def lists(self, fields: Fields, at: datetime) -> None:
        self.api.holds(fields, at)

    def forget(self) -> None:
        self.api.messages.clear()

    def post(self, daemon: Daemon, fields: Fields) -> int:
        return daemon.post_sms(*signed_sms(fields)).status

    def source(self, loaded: Settings, http: HttpClient, tally: Tally) -> Source[Any]:
        settings = loaded.channels[SMS]
        assert isinstance(settings, TwilioSettings)
        how: dict[str, Any] = {"http": http, "tally": tally, "pauses": []}
        return TwilioMessages(TwilioChannel(settings), settings, [OURS], self.api.url, **how)


class OfMails:
    """Mails that are the same by their key alone, as their texts are read differently."""

    channel, questions = EMAIL, 1 + EACH

    def __init__(self) -> None:
        self.api = MailgunApi("key")

    def new(self, text: str) -> Fields:
        return sample_mail(stripped_text=text)

    def lists(self, fields: Fields, at: datetime) -> None:
        self.api.holds({**fields, "stripped-text": f"{fields['stripped-text']}."}, at)

    def forget(self) -> None:
        self.api.items.clear()

    def post(self, daemon: Daemon, fields: Fields) -> int:
        return daemon.request("POST", EMAIL_PATH, *posted_mail({**fields, **proof()})).status

    def source(self, loaded: Settings, http: HttpClient, tally: Tally) -> Source[Any]:
        settings = loaded.channels[EMAIL]
        assert isinstance(settings, MailgunSettings)
        how: dict[str, Any] = {"http": http, "tally": tally, "pauses": []}
        return MailgunMails(MailgunChannel(settings), loaded.reconcile_mailgun, **how)


class OfList:
    """Messages of a declared channel that are the same by the fields of `id`, whatever else their
    callbacks bring.
    """

    channel, questions = GATEWAY, 1

    def __init__(self) -> None:
        self.api = ListApi(KEY)

    def new(self, text: str) -> Fields:
        return {"id": uuid4().hex, "text": text, "from": f"+3363998{hash(text) % 10_000:04d}"}

    def lists(self, fields: Fields, at: datetime) -> None:
        self.api.holds(fields["id"], at, f"{fields['text']}.", **{"from": fields["from"]})

    def forget(self) -> None:
        self.api.messages.clear()

    def post(self, daemon: Daemon, fields: Fields) -> int:
        return post(daemon, {"received_at": ago(hours=0).isoformat(), **fields}).status

    def source(self, loaded: Settings, http: HttpClient, tally: Tally) -> Source[Any]:
        settings = loaded.channels[GATEWAY]
        assert isinstance(settings, DeclaredSettings)
        return ProviderList(DeclaredChannel(settings), http=http, tally=tally, pauses=[])


Kind = OfSms | OfMails | OfList


@pytest.mark.parametrize("kind", [OfSms, OfMails, OfList])
def test_nothing_is_doubled_or_lost_in_a_race_with_late_callbacks(
    tmp_path: Path,
    journal: str,
    kind: type[Kind],
    record_property: Callable[[str, object], None],
) -> None:
    """As many events as messages, however often each of them came."""
    of = kind()
    with ExitStack() as stack:
        stack.enter_context(served(of.api))
        daemon = stack.enter_context(closing(Daemon(tmp_path, settings(of, journal))))
        daemon.start()
        assert of.post(daemon, of.new("the first")) == 200
        age_deliveries(daemon, hours=48)
        senders = stack.enter_context(ThreadPoolExecutor(SENDERS))
        taken_in = asyncio.run(race(daemon, of, senders))
        assert len(asyncio.run(events(daemon, of))) == 1 + (EACH + 1) * RACES
    record_property(
        "proof",
        f"races of reconciliations with callbacks, {of.channel}: {RACES} of {EACH} messages; of "
        f"{EACH * RACES} messages {taken_in} were taken in first, and none is there twice",
    )


def settings(of: Kind, journal: str) -> str:
    api = of.api
    return f"""
    {ALL_CHANNELS}
    channels.sms.account_sids = ["{ACCOUNT}"]
    reconcile.mailgun.api_key = "key"
    reconcile.mailgun.domain = "{DOMAIN}"
    reconcile.mailgun.api_url = "{api.url}"
    channels.sms.agent = "Quiet"
    channels.email.agent = "Quiet"
    agents.Quiet.target = "log:"
    {journal}
    {declared_as(api) if isinstance(api, ListApi) else ""}
    """


async def race(daemon: Daemon, of: Kind, senders: ThreadPoolExecutor) -> int:
    """How many messages the reconciliations had first."""
    loaded, first = daemon.settings, 0
    async with Reconciliation(loaded.journal.url.reveal()) as desk, HttpClient() as http:
        for number in range(RACES):
            missing = [of.new(f"{number}/{one}") for one in range(EACH)]
            of.forget()
            for one, fields in enumerate(missing):
                of.lists(fields, ago(minutes=60 - one))
            go = threading.Event()
            callbacks = [*missing, of.new(f"{number}/other"), *missing]
            posted = [senders.submit(late, go, of, daemon, fields) for fields in callbacks]
            tally = Tally()
            at = datetime.now(UTC)
            wanted = Wanted(of.channel, at - timedelta(hours=3), at, at, False, False, True)
            how: dict[str, Any] = {"moved": lambda: None, "tell": list}
            source = Released(of.source(loaded, http, tally), go, of.questions)
            try:
                await Comparison(desk, source, wanted, tally, **how).run()
            finally:
                go.set()
            first += tally.taken_in
            answers = [await asyncio.wrap_future(answer) for answer in posted]
            assert set(answers) == {200}
            assert (tally.listed, tally.refused) == (EACH, 0)
    return first


def late(go: threading.Event, of: Kind, daemon: Daemon, fields: Fields) -> int:
    """Post it once it may."""
    go.wait()
    return of.post(daemon, fields)


class Released:
    """A provider whose callbacks are let go after so many questions: one to the journal which of
    its messages are here, then one to it for each message.
    """

    def __init__(self, source: Source[Any], go: threading.Event, questions: int) -> None:
        self._source, self._go, self._left = source, go, questions
        self.pending_seconds, self.takes_pending = source.pending_seconds, source.takes_pending
        self.doubt, self.asks_start = source.doubt, source.asks_start

    def groups(self, since: datetime, until: datetime) -> AsyncIterator[AsyncIterator[Any]]:
        return self._source.groups(since, until)

    async def here(self, journal: Reconciliation, some: Sequence[Any]) -> set[bytes]:
        self._asked()
        return await self._source.here(journal, some)

    async def rebuilt(self, message: Any, now: datetime) -> Rebuilt:
        found = await self._source.rebuilt(message, now)
        self._asked()
        return found

    def _asked(self) -> None:
        self._left -= 1
        if not self._left:
            self._go.set()


async def events(daemon: Daemon, of: Kind) -> Sequence[object]:
    """Those of the channel."""
    async with Reconciliation(daemon.settings.journal.url.reveal()) as desk:
        return await desk.list_events(Filters(channel=of.channel), limit=10_000)
