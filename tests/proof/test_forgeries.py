"""Nothing forged: a real daemon refuses every one of a matrix of forgeries, by every channel."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.channels.deliveries import MAILGUN_KEY, PUBLIC_URL
from tests.end_to_end.daemon import Daemon

from . import forged_chat, forged_http, forged_mail, forged_sms
from .conftest import Say
from .wire import Forgery, Request, chunked, exchange, statuses

CHANNELS = f"""
    channels.email.signing_keys = ["{MAILGUN_KEY}"]
    channels.whatsapp.secret = "{forged_chat.SECRET.decode()}"
    channels.whatsapp.reply_wait_seconds = 0
    server.trusted_proxies = ["127.0.0.1"]
    agents.MetaAgent.target = "log:"
    agents.AdminInterpreterAgent.target = "log:"
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with all channels."""
    daemon = Daemon(tmp_path_factory.mktemp("daemon"), CHANNELS)
    yield daemon.start()
    daemon.close()


@pytest.fixture
def claimed_url_daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that believes the proxy about the URL that was called."""
    daemon = Daemon(tmp_path, CHANNELS)
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace(f'server.public_url = "{PUBLIC_URL}"', ""))
    yield daemon.start()
    daemon.close()


def send(daemon: Daemon, request: Request) -> list[int]:
    return statuses(exchange(daemon.port, request.wire, source=request.source))


def events(daemon: Daemon) -> list[dict[str, object]]:
    """What is stored and would reach an agent."""
    listed = json.loads(daemon.run("events", "list", "--limit", "10000", "--json").stdout)
    return [event for event in listed if event["state"] != "rejected"]


def try_all(daemon: Daemon, forgeries: Iterable[Forgery], say: Say, what: str) -> None:
    """Send them; none may be answered 2xx or 5xx, or leave an event."""
    before = len(events(daemon))
    found = [(forgery.name, send(daemon, forgery.request)) for forgery in forgeries]
    accepted = [name for name, answers in found if any(200 <= a < 300 for a in answers)]
    failed = [name for name, answers in found if any(a >= 500 for a in answers)]
    silent = [name for name, answers in found if not answers]
    kinds = Counter(str(answers[0]) if answers else "closed" for _, answers in found)
    told = " ".join(f"{count}×{kind}" for kind, count in sorted(kinds.items()))
    say(what, tried=len(found), accepted=len(accepted), answered_5xx=len(failed), answers=told)
    assert accepted == []
    assert failed == []
    assert silent == []
    assert len(events(daemon)) == before
    assert not [line for line in daemon.lines if line.get("level") == "error"]


@pytest.mark.parametrize(
    "honest",
    [forged_sms.honest, forged_mail.honest, forged_chat.honest],
    ids=["sms", "mail", "chat"],
)
def test_what_the_forgeries_are_made_from_is_accepted(daemon: Daemon, honest: object) -> None:
    """The unaltered request, so that what is refused below is refused for its alteration."""
    assert callable(honest)
    (status,) = send(daemon, honest())
    assert status in {200, 202}
    request = honest()
    framed = request.carrying(chunked(request.body)).adding((b"Transfer-Encoding", b"chunked"))
    (status,) = send(daemon, framed)
    assert status in {200, 202}


def test_altered_sms_are_refused(daemon: Daemon, say: Say) -> None:
    """Every field and header of a captured message altered in every way."""
    parts = (forged_sms.fields, forged_sms.glued, forged_sms.signatures, forged_sms.targets)
    forgeries = [*itertools.chain.from_iterable(part() for part in parts), *forged_sms.media()]
    assert len(forgeries) >= 400
    try_all(daemon, forgeries, say, "forged SMS")


def test_sms_for_other_urls_are_refused(claimed_url_daemon: Daemon, say: Say) -> None:
    """Host, port, letter case, user-info and scheme are part of what is signed."""
    proper = (
        *((b"X-Forwarded-For", b"203.0.113.9"), (b"X-Forwarded-Proto", b"https")),
        (b"Host", b"app.example.com"),
    )
    assert send(claimed_url_daemon, forged_sms.honest().adding(*proper)) == [200]
    try_all(claimed_url_daemon, forged_sms.unclaimed_hosts(), say, "SMS signed for other URLs")


def test_altered_mails_are_refused(daemon: Daemon, say: Say) -> None:
    """Every part of the proof altered; other mails behind a proof that was used."""
    original, behind_used = forged_mail.used_proofs()
    assert send(daemon, original) == [200]
    forgeries = [*behind_used, *forged_mail.proofs(), *forged_mail.media()]
    assert len(forgeries) >= 150
    try_all(daemon, forgeries, say, "forged mails")


def test_strangers_do_not_pass_for_the_bot(daemon: Daemon, say: Say) -> None:
    """Forged proxy headers, guessed secrets, documents that mean two things."""
    forgeries = [
        *forged_chat.addresses(),
        *forged_chat.secrets_guessed(),
        *forged_chat.ambiguous(),
    ]
    assert len(forgeries) >= 100
    try_all(daemon, forgeries, say, "forged WhatsApp messages")


def test_odd_framing_lets_nothing_in(daemon: Daemon, say: Say) -> None:
    """Contradicting lengths, trailers, packed bodies, requests within requests."""
    forgeries = [
        *forged_http.framings(),
        *forged_http.trailers(),
        *forged_http.encodings(),
        *forged_http.smuggled(),
    ]
    try_all(daemon, forgeries, say, "odd framing")


def repeats(request: Request) -> Iterator[Request]:
    """The same message, sent again as it is or in another dress."""
    yield request
    yield request.carrying(chunked(request.body)).adding((b"Transfer-Encoding", b"chunked"))
    yield request.adding((b"X-Request-ID", b"again"), (b"Cookie", b"a=b"))
    yield request.having(b"User-Agent", b"replay")


def test_replays_change_nothing(daemon: Daemon, say: Say) -> None:
    """A captured message sent again is answered as before, and handed on once."""
    originals = [forged_sms.honest(), forged_mail.honest(), forged_chat.honest()]
    pairs = forged_sms.fresh_fields()
    sms = forged_sms.honest(pairs)
    reordered = sms.carrying(forged_sms.encoded(pairs[::-1]))
    before = len(events(daemon))
    sent = [*itertools.chain.from_iterable(map(repeats, originals)), sms, reordered]
    answers = [send(daemon, request) for request in sent]
    assert all(answer in ([200], [202]) for answer in answers)
    stored = len(events(daemon)) - before
    say("replays", sent=len(sent), different_messages=len(originals) + 1, stored=stored)
    assert stored == len(originals) + 1
