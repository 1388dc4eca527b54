"""The way from the public URL to the daemon: whether nginx has the locations, hands the requests on
untouched, and says rightly which scheme, host and address they came with. A signed probe goes
through `server.public_url`, and the daemon says how it arrived.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from berinia_webhookd.channels.authority import port_forms
from berinia_webhookd.channels.contract import Channel, SignedRequest
from berinia_webhookd.findings import Finding, note, ok, warning, wrong
from berinia_webhookd.tools.doctor import before_daemon
from berinia_webhookd.tools.doctor.probe import (
    FORGED_CLIENT,
    Reply,
    Seen,
    Sender,
    diagnosis,
    is_readable,
)
from berinia_webhookd.tools.doctor.signatures import enabled, has_secret, probe
from berinia_webhookd.tools.doctor.subject import Subject
from berinia_webhookd.tools.posting import Target

_SAY: Final = "nginx"
MOST_URLS: Final = 5
DIAGNOSIS_PACE_SECONDS: Final = 1.1  # the daemon looks for a reason once a second
THREE_LINES: Final = (
    "in nginx: `proxy_pass http://{address};` without a path, `proxy_set_header Host $http_host;`, "
    "`proxy_set_header X-Forwarded-Proto $scheme;` (contrib/nginx/berinia-webhook.conf)"
)
ADDRESS_LINE: Final = (
    "in nginx: `proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;`, "
    "then `nginx -t && systemctl reload nginx`"
)

UNTOUCHED: Final = (
    "hand the body on untouched: look for what rewrites requests there (a module, a firewall "
    "for web applications, another proxy)"
)


@dataclass(frozen=True, slots=True)
class _Way:
    """One channel through one public URL."""

    subject: Subject
    public_url: str
    channel: Channel

    @property
    def shown(self) -> str:
        return self.public_url + self.channel.path

    @property
    def signs_url(self) -> bool:
        return self.channel.provider.signs_url

    @property
    def address(self) -> str:
        return self.subject.address

    @property
    def sender(self) -> Sender:
        return Sender(Target.from_text(self.public_url), {"X-Forwarded-For": FORGED_CLIENT})

    def signed(self, text: str | None = None) -> SignedRequest:
        valid = has_secret(self.channel)
        if text is None:
            return probe(self.channel, self.public_url, valid=valid)
        return probe(self.channel, self.public_url, text, valid=valid)


async def passes_on(subject: Subject) -> AsyncIterator[Finding]:
    """Every public URL with the channels whose providers call from outside."""
    urls = subject.settings.server.public_url
    if not urls:
        yield note(
            _SAY,
            "not looked at: server.public_url, the URL that providers call, is not set",
            'server.public_url = "https://your.host"',
            "to look only once: BERINIA_WEBHOOKD_SERVER__PUBLIC_URL=https://your.host "
            "berinia-webhookd doctor",
        )
        return
    if subject.running is None:
        yield note(_SAY, "not looked at, since the daemon does not run")
        return
    for url in urls[:MOST_URLS]:
        for channel in enabled(subject, url).values():
            if not channel.provider.from_outside:
                continue
            way = _Way(subject, url, channel)
            request = way.signed()
            reply = await way.sender.post(request)
            async for finding in _judged(way, request, reply):
                yield finding
            if reply.failure is not None:
                break  # the other channel's would be the same


async def _judged(way: _Way, request: SignedRequest, reply: Reply) -> AsyncIterator[Finding]:
    provider, unproven = way.channel.provider, way.channel.unproven_status
    if reply.failure is not None:
        yield before_daemon.unreachable(way.public_url, enabled(way.subject).values(), reply)
    elif not reply.of_daemon:
        yield before_daemon.intercepted(way.shown, way.address, way.channel, reply)
    elif reply.seen is not None:
        findings = list(_compared(way, request, reply.seen))
        for finding in findings:
            yield finding
        if not findings:
            yield ok(_SAY, f"{way.shown}: arrives untouched, with its scheme, host and address")
    elif reply.status == 404:  # noqa: PLR2004 - HTTP
        yield wrong(
            _SAY,
            f"{way.shown}: the daemon is reached at another path than {way.channel.path}",
            f"in nginx: `location = {way.channel.path} {{ proxy_pass http://{way.address}; … }}`, "
            "proxy_pass without a path after the port",
            why=f"{provider.name} gets 404; {provider.retries}",
        )
    elif reply.status == unproven and has_secret(way.channel):
        yield await _refused(way, reply)
    elif reply.status == unproven or provider.secret.key(way.channel.name) in reply.detail:
        yield note(_SAY, f"{way.shown}: reaches the daemon; without the secret no more can be said")
    else:
        yield wrong(
            _SAY,
            f"{way.shown}: the daemon answers {reply.status} {reply.detail}".rstrip(),
            way.subject.look_at_log,
            why=f"{way.channel.provider.name} is answered in the same way",
        )


def _compared(way: _Way, request: SignedRequest, seen: Seen) -> Iterator[Finding]:
    """What the daemon saw beside what was sent."""
    running = way.subject.running
    if running is not None and seen.process != running.pid:
        yield wrong(
            _SAY,
            f"{way.shown}: another daemon answers (process {seen.process}, not {running.pid})",
            f"in nginx: `proxy_pass http://{way.address};`",
            why="callbacks do not reach this one",
        )
        return
    if seen.body_sha256 != hashlib.sha256(request.body).hexdigest():
        yield _altered(way)
    yield from _scheme_and_host(way, seen)
    yield from _client(way, seen)


def _scheme_and_host(way: _Way, seen: Seen) -> Iterator[Finding]:
    scheme, host = urlsplit(way.public_url).scheme, urlsplit(way.public_url).netloc
    why = way.channel.provider.if_url_differs
    say = warning if way.signs_url else note
    if seen.scheme != scheme and seen.peer_trusted:
        yield say(
            _SAY,
            f"{way.shown}: the daemon sees {seen.scheme} instead of {scheme}",
            "in nginx: `proxy_set_header X-Forwarded-Proto $scheme;`",
            why=why,
        )
    if seen.host.lower() not in {urlsplit(form).netloc for form in port_forms(way.public_url)}:
        yield say(
            _SAY,
            f"{way.shown}: the daemon sees the host {seen.host!r} instead of {host}",
            "in nginx: `proxy_set_header Host $http_host;`",
            why=why,
        )


def _client(way: _Way, seen: Seen) -> Iterator[Finding]:
    if seen.forwarded_for.rpartition(",")[2].strip() == FORGED_CLIENT:
        yield wrong(
            _SAY,
            f"{way.shown}: the client address is taken from the caller's own X-Forwarded-For",
            ADDRESS_LINE,
            why="anybody can pick an address: rate limits and the list of allowed addresses "
            "mean nothing",
        )
    elif not seen.peer_trusted:
        yield wrong(
            _SAY,
            f"{way.shown}: the proxy at {seen.client} is not trusted, so its headers are ignored",
            f'server.trusted_proxies = ["127.0.0.1", "::1", "{seen.client}"]',
            why="all callers count as one address and share its rate limit"
            + ("; without server.public_url signatures fail" if way.signs_url else ""),
        )
    elif not seen.forwarded or seen.client is None:
        yield wrong(
            _SAY,
            f"{way.shown}: nginx does not say which address a request came from",
            ADDRESS_LINE,
            why="all callers share one rate limit, so that one stranger can shut out "
            f"{way.channel.provider.name}",
        )


def _altered(way: _Way, *said: str) -> Finding:
    return wrong(
        _SAY,
        f"{way.shown}: the body is altered between the public URL and the daemon",
        *said,
        UNTOUCHED,
        why=way.channel.provider.if_altered,
    )


async def _refused(way: _Way, reply: Reply) -> Finding:
    """The daemon takes the signature straight, but not through the proxy: what is different?"""
    found, said = await diagnosis(way.subject.logs, reply.request_id)
    if found and said is None:
        await asyncio.sleep(DIAGNOSIS_PACE_SECONDS)
        again = await way.sender.post(way.signed())
        found, said = await diagnosis(way.subject.logs, again.request_id)
    plain = await way.sender.post(way.signed("probe"))
    remedy = (said,) if said else ()
    if plain.seen is not None:
        return _altered(way, *remedy)
    if not found and is_readable(way.subject.logs):
        return wrong(
            _SAY,
            f"{way.shown}: a daemon refuses the signature, but it is not this one: its log has "
            "no such request",
            f"in nginx: `proxy_pass http://{way.address};`",
            why="callbacks do not reach this daemon",
        )
    return wrong(
        _SAY,
        f"{way.shown}: the signature does not survive the way to the daemon",
        *_mends_signature(way, remedy),
        why=f"what {way.channel.provider.name} sends is answered {way.channel.unproven_status}; "
        f"{way.channel.provider.retries}",
    )


def _mends_signature(way: _Way, remedy: tuple[str, ...]) -> tuple[str, ...]:
    if not way.signs_url:
        return remedy or (UNTOUCHED,)
    return (*(remedy or (THREE_LINES.format(address=way.address),)), before_daemon.RELOAD)
