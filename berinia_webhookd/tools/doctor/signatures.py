"""Whether each channel can prove its provider: secrets that are missing, and a signed probe
straight to the daemon, as nginx ought to pass it on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from berinia_webhookd.addresses import LOOPBACK, in_networks
from berinia_webhookd.channels import catalogue
from berinia_webhookd.channels.contract import PROBE_FIELD, Channel, SignedRequest
from berinia_webhookd.channels.whatsapp import WHATSAPP
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
TEXT_FIELD: Final[Mapping[str, str]] = {"sms": "Body", "email": "stripped-text"}
PROVIDER: Final[Mapping[str, str]] = {
    "sms": "Twilio",
    "email": "Mailgun",
    "whatsapp": "the WhatsApp bot",
}
# What the providers do with what was not taken.
SENDS_AGAIN: Final[Mapping[str, str]] = {
    "sms": "Twilio does not send again, unless the URL in its console ends in #rc=5&rp=all",
    "email": "Mailgun tries again for eight hours, then drops the mail",
}


@dataclass(frozen=True, slots=True)
class Secret:
    """Where a channel's secret stands."""

    setting: str
    mend: str


SECRETS: Final[Mapping[str, Secret]] = {
    "sms": Secret("channels.sms.tokens", "TWILIO_TOKEN=… (Twilio's console: Account, Auth Token)"),
    "email": Secret(
        "channels.email.signing_keys",
        "MAILGUN_SIGNING_KEY=… (Mailgun: Send, Webhooks, HTTP webhook signing key)",
    ),
}


def enabled(subject: Subject, *public_url: str) -> Mapping[ChannelName, Channel]:
    """The channels that receive; they sign for these URLs, else for the configured ones."""
    urls = public_url or subject.settings.server.public_url
    return catalogue.build(subject.settings.channels, urls)


def probe(channel: Channel, base_url: str, text: str = DELICATE, *, valid: bool) -> SignedRequest:
    """A probe of a channel as its provider would send it."""
    fields = {PROBE_FIELD: "1"}
    if channel.name in TEXT_FIELD:
        fields[TEXT_FIELD[channel.name]] = text
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
    if name == WHATSAPP:
        if not _may_ask_as_bot(subject):
            allowed = ", ".join(map(str, subject.settings.channels.whatsapp.allowed_ips))
            return note(_SAY, f"{name}: cannot be tried from here; only {allowed} may call")
        request = probe(channel, target.base_url, valid=True)
        return await _judged(subject, channel, await Sender(target, {}, NEAR_SECONDS).post(request))
    sender = Sender(target, as_proxied(subject), NEAR_SECONDS)
    signable = has_secret(channel)
    if not signable and subject.as_daemon:
        return missing_secret(name)
    reply = await sender.post(probe(channel, target.base_url, valid=signable))
    if not signable and reply.status == 403:  # noqa: PLR2004 - HTTP
        return note(
            _SAY,
            f"{name}: the daemon has a secret, which this user cannot read; nothing was proved",
            "sudo berinia-webhookd doctor",
        )
    return await _judged(subject, channel, reply)


def _may_ask_as_bot(subject: Subject) -> bool:
    """Whether this machine's loopback address is one the bot may call from."""
    networks = subject.settings.channels.whatsapp.allowed_ips
    ipv4, ipv6 = LOOPBACK
    return in_networks(networks, ipv6 if subject.address.startswith("[") else ipv4)


def _without_daemon(channel: Channel) -> Finding:
    if has_secret(channel):
        return note(_SAY, f"{channel.name}: not tried, since the daemon does not run")
    return missing_secret(channel.name)


def missing_secret(name: ChannelName) -> Finding:
    """The finding of a channel that can prove nothing."""
    secret = SECRETS[name]
    return wrong(
        _SAY,
        f"{name}: {secret.setting} is not set",
        secret.mend,
        f"then reload the daemon; or channels.{name}.enabled = false",
        why=f"nothing of {PROVIDER[name]} can be proved, so all of it is answered 503",
    )


async def _judged(subject: Subject, channel: Channel, reply: Reply) -> Finding | None:
    name, provider = channel.name, PROVIDER[channel.name]
    if reply.seen is not None:
        return ok(_SAY, f"{name}: a request signed as {provider} does is verified")
    if reply.failure is not None:
        return None
    if reply.status == 403:  # noqa: PLR2004 - HTTP
        return await _refused(subject, channel, reply)
    if reply.status == 503 and "no secret" in reply.detail:  # noqa: PLR2004 - HTTP
        return missing_secret(name)
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
        why=f"what {PROVIDER[channel.name]} signs with that secret is answered 403 and is lost",
    )
