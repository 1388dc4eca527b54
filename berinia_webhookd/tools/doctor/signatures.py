"""Whether each channel can prove its provider: secrets that are missing, and a signed probe
straight to the daemon, as nginx ought to pass it on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Final
from urllib.parse import urlsplit

from berinia_webhookd.addresses import LOOPBACK, in_networks
from berinia_webhookd.channels import catalogue
from berinia_webhookd.channels.contract import PROBE_FIELD, Channel, SignedRequest
from berinia_webhookd.channels.provider import Provider
from berinia_webhookd.clock import now
from berinia_webhookd.errors import ChannelNotConfigured
from berinia_webhookd.findings import Finding, note, ok, warning, wrong
from berinia_webhookd.model import ChannelName
from berinia_webhookd.tools.doctor.probe import NEAR_SECONDS, Reply, Sender, diagnosis
from berinia_webhookd.tools.doctor.subject import Subject
from berinia_webhookd.tools.posting import Target

_SAY: Final = "signatures"
# What gets lost where somebody trims, recodes or decodes twice.
DELICATE: Final = " Été  + 100 % & « 🙂 »"


def enabled(subject: Subject, *public_url: str) -> Mapping[ChannelName, Channel]:
    """The channels that receive; they sign for these URLs, else for the configured ones."""
    urls = public_url or subject.settings.server.public_url
    return catalogue.build(subject.settings.channels, urls)


def providers(subject: Subject) -> tuple[Provider, ...]:
    """Who calls the channels that receive, each once."""
    return tuple(dict.fromkeys(channel.provider for channel in enabled(subject).values()))


def probe(channel: Channel, base_url: str, text: str = DELICATE, *, valid: bool) -> SignedRequest:
    """A probe of a channel as its provider would send it."""
    fields = {PROBE_FIELD: "1", channel.provider.text_field: text}
    return channel.sign(fields, base_url=base_url, now=now(), valid=valid)


def has_secret(channel: Channel) -> bool:
    """Whether there is a secret here to sign with."""
    try:
        channel.require_secret()
    except ChannelNotConfigured:
        return False
    return True


def as_proxied(subject: Subject) -> dict[str, str]:
    """The headers that nginx has to set, for the first public URL."""
    if not subject.settings.server.public_url:
        return {}
    parts = urlsplit(subject.settings.server.public_url[0])
    return {"Host": parts.netloc, "X-Forwarded-Proto": parts.scheme}


async def verifiable(subject: Subject) -> AsyncIterator[Finding]:
    """Each channel by a probe straight to the daemon."""
    for channel in enabled(subject).values():
        finding = await _channel(subject, channel)
        if finding is None:
            break  # the check of health says that nobody answers
        yield finding


async def _channel(subject: Subject, channel: Channel) -> Finding | None:
    name = channel.name
    if subject.running is None:
        return _without_daemon(channel)
    target = Target.from_text(subject.running.address)
    if not _may_call(subject, channel):
        allowed = ", ".join(map(str, channel.allowed_networks or ()))
        return note(_SAY, f"{name}: cannot be tried from here; only {allowed} may call")
    proxied = as_proxied(subject) if channel.provider.from_outside else {}
    sender = Sender(target, proxied, NEAR_SECONDS)
    signable = has_secret(channel)
    if not signable and subject.as_daemon:
        return missing_secret(channel)
    reply = await sender.post(probe(channel, target.base_url, valid=signable))
    if not signable and reply.status == channel.unproven_status:
        return note(
            _SAY,
            f"{name}: the daemon has a secret, which this user cannot read; nothing was proved",
            "sudo berinia-webhookd doctor",
        )
    return await _judged(subject, channel, reply)


def _may_call(subject: Subject, channel: Channel) -> bool:
    """Whether this machine's loopback address is one that the channel may be called from."""
    if not channel.allowed_networks:
        return True  # from anywhere, or from nowhere yet, which is said as what it is
    ipv4, ipv6 = LOOPBACK
    address = ipv6 if subject.address.startswith("[") else ipv4
    return in_networks(channel.allowed_networks, address)


def _without_daemon(channel: Channel) -> Finding:
    if has_secret(channel):
        return note(_SAY, f"{channel.name}: not tried, since the daemon does not run")
    return missing_secret(channel)


def missing_secret(channel: Channel) -> Finding:
    """The finding of a channel that can prove nothing."""
    name, provider = channel.name, channel.provider
    return wrong(
        _SAY,
        f"{name}: {provider.secret.key(name)} is not set",
        provider.secret.fix,
        f"then reload the daemon; or channels.{name}.enabled = false",
        why=f"nothing of {provider.name} can be proved, so all of it is answered "
        f"{channel.later_status}",
    )


async def _judged(subject: Subject, channel: Channel, reply: Reply) -> Finding | None:
    name, provider = channel.name, channel.provider.name
    if reply.seen is not None:
        return ok(_SAY, f"{name}: a request signed as {provider} does is verified")
    if reply.failure is not None:
        return None
    if reply.status == channel.unproven_status:
        return await _refused(subject, channel, reply)
    if channel.provider.secret.key(name) in reply.detail:
        return missing_secret(channel)
    if reply.status == 429:  # noqa: PLR2004 - HTTP
        return warning(
            _SAY,
            f"{name}: not tried, since this machine's requests are over the limit",
            "wait a minute and ask again; see rate_limit.requests",
            why="somebody on this machine sends many requests that fail",
        )
    return wrong(
        _SAY,
        f"{name}: a signed probe is answered {reply.status} {reply.detail}".rstrip(),
        subject.look_at_log,
        why=f"{provider} is answered in the same way",
    )


async def _refused(subject: Subject, channel: Channel, reply: Reply) -> Finding:
    """Signed with what stands in the settings, and refused: the daemon has other settings."""
    _, said = await diagnosis(subject.logs, reply.request_id)
    own = [] if subject.as_daemon else ["sudo berinia-webhookd doctor, which sees its settings"]
    return wrong(
        _SAY,
        f"{channel.name}: the daemon refuses what is signed with the configured secret",
        *([said] if said else []),
        *own,
        f"let it read the settings that stand there now: {subject.command('reload')}",
        why=f"what {channel.provider.name} signs with that secret is answered "
        f"{channel.unproven_status} and is lost",
    )
