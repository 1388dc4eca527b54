"""Whether nginx has the locations, and passes on requests unchanged and with the right scheme, host
and address. A signed probe goes through `server.public_url`, and the daemon reports how it arrived.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from berinia_webhookd.channels.contract import Channel, SignedRequest
from berinia_webhookd.channels.signatures import port_forms
from berinia_webhookd.findings import Finding, joined, note, ok, warning, wrong
from berinia_webhookd.own_requests import InstallationKey
from berinia_webhookd.status.findings import before_daemon
from berinia_webhookd.status.findings.before_daemon import NGINX, RELOAD
from berinia_webhookd.status.findings.installation import AS_DAEMON, Installation, no_key
from berinia_webhookd.status.findings.probe import (
    Reply,
    Seen,
    Sender,
    diagnosis,
    has_secret,
    is_readable,
    sign_probe,
)

MOST_URLS: Final = 5
DIAGNOSIS_PAUSE_SECONDS: Final = 1.1  # the daemon diagnoses one failure a second
# Never assigned: if it arrives as the last address, no proxy added the real one.
FORGED_CLIENT: Final = "192.0.2.77"
ADDRESS_LINE: Final = "in nginx: `proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;`"
UNCHANGED: Final = (
    "pass the body on unchanged: look for what rewrites requests there (an nginx module, a web "
    "application firewall, another proxy)"
)


@dataclass(frozen=True, slots=True)
class _Way:
    """One channel through one public URL."""

    installation: Installation
    public_url: str
    channel: Channel
    key: InstallationKey

    @property
    def shown(self) -> str:
        return self.public_url + self.channel.path

    @property
    def proxy_pass(self) -> str:
        return f"in nginx: `proxy_pass http://{self.installation.address};`"

    @property
    def sender(self) -> Sender:
        return Sender(self.public_url, headers={"X-Forwarded-For": FORGED_CLIENT})

    def signed(self, **text: str) -> SignedRequest:
        valid = self.channel.can_sign and has_secret(self.channel)
        return sign_probe(self.channel, self.public_url, self.key, valid=valid, **text)


async def nginx(installation: Installation) -> AsyncIterator[Finding]:
    """Check every public URL with each channel whose provider calls from outside."""
    urls = installation.settings.server.public_url
    if not urls:
        yield note(
            NGINX,
            "not checked: server.public_url, the URL that providers call, is not set",
            'server.public_url = "https://your.host"',
            "to check only once: "
            "`BERINIA_WEBHOOKD_SERVER__PUBLIC_URL=https://your.host berinia-webhookd doctor`",
        )
        return
    if installation.process is None:
        yield note(NGINX, "not checked: the daemon does not run")
        return
    if installation.key is None:
        yield note(NGINX, no_key(installation), AS_DAEMON)
        return
    for url in urls[:MOST_URLS]:
        ways = [
            _Way(installation, url, channel, installation.key)
            for channel in installation.channels_for((url,)).values()
            if channel.provider.from_outside
        ]
        async for finding in _through(ways):
            yield finding


async def _through(ways: Sequence[_Way]) -> AsyncIterator[Finding]:
    """Try all channels of one URL."""
    elsewhere: list[_Way] = []
    for way in ways:
        request = way.signed()
        reply = await way.sender.post(request)
        if reply.of_daemon and reply.seen is None and reply.status == HTTPStatus.NOT_FOUND:
            elsewhere.append(way)
            continue
        async for finding in _judged(way, request, reply):
            yield finding
        if reply.error is not None:
            break  # the other channels' would be the same
    if elsewhere:
        yield _at_another_path(elsewhere)


async def _judged(way: _Way, request: SignedRequest, reply: Reply) -> AsyncIterator[Finding]:
    channel, provider = way.channel, way.channel.provider
    if reply.error is not None:
        yield before_daemon.unreachable(way.installation, way.public_url, reply.error)
    elif not reply.of_daemon:
        yield before_daemon.intercepted(way.shown, way.installation.address, channel, reply)
    elif reply.seen is not None:
        findings = list(_compared(way, request, reply.seen))
        unchanged = f"{way.shown}: arrives unchanged, with its scheme, host and client address"
        for finding in findings or [ok(NGINX, unchanged)]:
            yield finding
    elif reply.status == channel.unproven_status and channel.can_sign and has_secret(channel):
        yield await _refused(way, reply)
    elif (
        reply.status == channel.unproven_status or provider.secret.key(channel.name) in reply.detail
    ):
        unknown = "without its secret, the signature could not be checked"
        yield note(NGINX, f"{way.shown}: reaches the daemon; {unknown}")
    else:
        yield wrong(
            NGINX,
            f"{way.shown}: the daemon answers {reply.status} {reply.detail}".rstrip(),
            way.installation.commands.show_log,
            why=f"{provider.name} gets the same answer",
        )


def _at_another_path(ways: Sequence[_Way]) -> Finding:
    """The channels of a URL whose requests come to the daemon with another path: one mistake."""
    first = ways[0]
    others = "".join(f", {way.channel.path}" for way in ways[1:])
    providers = [way.channel.provider for way in ways]
    names = joined(dict.fromkeys(one.name for one in providers))
    likewise = f"; likewise for {others.removeprefix(', ')}" if others else ""
    return wrong(
        NGINX,
        f"{first.shown}{others}: nginx passes on another path than it was called with",
        f"in nginx: `location = {first.channel.path} {{ proxy_pass http://"
        f"{first.installation.address}; … }}`, without a path after the port{likewise}",
        RELOAD,
        why="; ".join([f"404 for {names}", *dict.fromkeys(one.retries for one in providers)]),
    )


def _compared(way: _Way, request: SignedRequest, seen: Seen) -> Iterator[Finding]:
    """Compare what the daemon saw with what was sent."""
    process = way.installation.process
    if seen.process != process:
        yield wrong(
            NGINX,
            f"{way.shown}: another daemon answers (process {seen.process}, not {process})",
            way.proxy_pass,
            why="callbacks do not reach this one",
        )
        return
    if seen.body_sha256 != hashlib.sha256(request.body).hexdigest():
        yield _changed(way)
    yield from _scheme_and_host(way, seen)
    yield from _client(way, seen)


def _scheme_and_host(way: _Way, seen: Seen) -> Iterator[Finding]:
    scheme, host = urlsplit(way.public_url).scheme, urlsplit(way.public_url).netloc
    provider = way.channel.provider
    say = warning if provider.signs_url else note
    if seen.scheme != scheme and seen.peer_trusted:
        yield say(
            NGINX,
            f"{way.shown}: the daemon sees {seen.scheme} instead of {scheme}",
            "in nginx: `proxy_set_header X-Forwarded-Proto $scheme;`",
            why=provider.if_url_differs,
        )
    if seen.host.lower() not in {urlsplit(form).netloc for form in port_forms(way.public_url)}:
        yield say(
            NGINX,
            f"{way.shown}: the daemon sees the host {seen.host!r} instead of {host}",
            "in nginx: `proxy_set_header Host $http_host;`",
            why=provider.if_url_differs,
        )


def _client(way: _Way, seen: Seen) -> Iterator[Finding]:
    provider = way.channel.provider
    if seen.forwarded_for.rpartition(",")[2].strip() == FORGED_CLIENT:
        yield wrong(
            NGINX,
            f"{way.shown}: the client address is taken from the caller's own X-Forwarded-For",
            ADDRESS_LINE,
            RELOAD,
            why="anybody can claim any address: rate limits and lists of allowed addresses have no "
            "effect",
        )
    elif not seen.peer_trusted:
        yield wrong(
            NGINX,
            f"{way.shown}: the proxy at {seen.client} is not in server.trusted_proxies, so its "
            "headers are ignored",
            f'`server.trusted_proxies = ["127.0.0.1", "::1", "{seen.client}"]`',
            why="all callers count as one address and share its rate limit"
            + ("; without server.public_url signatures fail" if provider.signs_url else ""),
        )
    elif not seen.forwarded or seen.client is None:
        yield wrong(
            NGINX,
            f"{way.shown}: nginx does not pass on the address that a request came from",
            ADDRESS_LINE,
            RELOAD,
            why=f"all callers share one rate limit, so that one of them can block {provider.name}",
        )


def _changed(way: _Way, *said: str) -> Finding:
    return wrong(
        NGINX,
        f"{way.shown}: the body is changed between the public URL and the daemon",
        *said,
        UNCHANGED,
        why=way.channel.provider.if_altered,
    )


async def _refused(way: _Way, reply: Reply) -> Finding:
    """Return why the daemon refuses a signature that it accepts without the proxy."""
    logs, provider = way.installation.logs, way.channel.provider
    found, said = await diagnosis(logs, reply.request_id)
    if found and said is None:
        await asyncio.sleep(DIAGNOSIS_PAUSE_SECONDS)
        again = await way.sender.post(way.signed())
        found, said = await diagnosis(logs, again.request_id)
    plain = await way.sender.post(way.signed(text="probe"))
    remedy = (said,) if said else ()
    if plain.seen is not None:
        return _changed(way, *remedy)
    if not found and is_readable(logs):
        return wrong(
            NGINX,
            f"{way.shown}: a daemon refuses the signature, but it is not this one: its log has "
            "no such request",
            way.proxy_pass,
            why="callbacks do not reach this daemon",
        )
    headers = (
        f"in nginx: `proxy_pass http://{way.installation.address};` without a path, "
        "`proxy_set_header Host $http_host;`, `proxy_set_header X-Forwarded-Proto $scheme;` "
        "(contrib/nginx/berinia-webhook.conf)"
    )
    fixes = (*(remedy or (headers,)), RELOAD) if provider.signs_url else remedy or (UNCHANGED,)
    return wrong(
        NGINX,
        f"{way.shown}: the signature no longer matches where the request reaches the daemon",
        *fixes,
        why=f"what {provider.name} sends is answered {reply.status}; {provider.retries}",
    )
