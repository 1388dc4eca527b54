"""Whether each channel can verify what its provider signs, and what to enter in its console."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Final
from urllib.parse import urlsplit

from berinia_webhookd.addresses import LOOPBACK, in_networks
from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.errors import LoopbackLocked
from berinia_webhookd.findings import Finding, joined, note, ok, warning, wrong
from berinia_webhookd.metrics import PREFIX
from berinia_webhookd.status.durations import duration
from berinia_webhookd.status.findings.installation import AS_DAEMON, Installation, no_key
from berinia_webhookd.status.findings.probe import (
    Reply,
    Sender,
    diagnosis,
    has_secret,
    metric,
    sign_probe,
)

SIGNATURES: Final = "signatures"
SILENCE: Final = "silence"
SILENT: Final = f"{PREFIX}_channel_silent"
SINCE: Final = f"{PREFIX}_last_accepted_seconds"
CONSOLE: Final = "console"
PLACEHOLDER: Final = "https://your.host"


# ---- signatures: a probe straight to the daemon, as nginx should pass it on


async def signatures(installation: Installation) -> AsyncIterator[Finding]:
    """Check that the daemon verifies what each provider signs."""
    for channel in installation.channels.values():
        if not channel.can_sign:
            who = channel.provider.name
            yield note(SIGNATURES, f"{channel.name}: only {who} has the key to sign a probe with")
            continue
        finding = await _signature(installation, channel)
        if finding is None:
            break  # reported by the check of health
        yield finding


async def _signature(installation: Installation, channel: Channel) -> Finding | None:
    name = channel.name
    signable = has_secret(channel)
    if not signable and (installation.process is None or installation.knows_environment):
        return missing_secret(channel)
    if installation.process is None:
        return note(SIGNATURES, f"{name}: not checked: the daemon does not run")
    if not _may_call_from_here(installation, channel):
        allowed = ", ".join(map(str, channel.allowed_networks or ()))
        return note(
            SIGNATURES,
            f"{name}: cannot be checked from here: only {allowed} may call "
            f"(channels.{name}.allowed_ips)",
        )
    if installation.key is None:
        return note(SIGNATURES, f"{name}: {no_key(installation)}", AS_DAEMON)
    address = channel.listen or installation.address
    sender = Sender.to_daemon(address, _as_proxied(installation, channel))
    probe = sign_probe(channel, sender.base_url, installation.key, valid=signable)
    reply = await sender.post(probe)
    if not signable and reply.status == channel.unproven_status:
        return note(
            SIGNATURES,
            f"{name}: the daemon has a secret that this user cannot read, so nothing was verified",
            AS_DAEMON,
        )
    return await _judged(installation, channel, reply)


def _may_call_from_here(installation: Installation, channel: Channel) -> bool:
    if not channel.allowed_networks:
        return True  # anybody may call, or nobody yet, which another finding says
    ipv4, ipv6 = LOOPBACK
    here = ipv6 if installation.address.startswith("[") else ipv4
    return in_networks(channel.allowed_networks, here)


def _as_proxied(installation: Installation, channel: Channel) -> dict[str, str]:
    """Return the headers that nginx should set, for the first public URL."""
    urls = installation.settings.server.public_url
    if not urls or not channel.provider.from_outside:
        return {}
    parts = urlsplit(urls[0])
    return {"Host": parts.netloc, "X-Forwarded-Proto": parts.scheme}


def missing_secret(channel: Channel) -> Finding:
    """Return the finding on a channel that can verify nothing."""
    provider = channel.provider
    return wrong(
        SIGNATURES,
        f"{channel.name}: {provider.secret.key(channel.name)} is not set",
        channel.secret_line,
        f"then reload the daemon; or set `channels.{channel.name}.enabled = false`",
        why=f"no request of {provider.name} can be verified, so each is answered "
        f"{channel.later_status}",
    )


async def _judged(installation: Installation, channel: Channel, reply: Reply) -> Finding | None:
    name, provider = channel.name, channel.provider.name
    if reply.seen is not None:
        own = f"{name}: a request signed with the secret that is set here is verified"
        return ok(SIGNATURES, f"{own}; `refused` shows whether {provider} has the same one")
    if reply.error is not None:
        return None
    if channel.provider.secret.key(name) in reply.detail:
        return missing_secret(channel)
    if reply.status == channel.unproven_status:
        return await _refused(installation, channel, reply)
    if reply.status == 429:  # noqa: PLR2004 - HTTP
        return warning(
            SIGNATURES,
            f"{name}: not checked: this machine's requests are over the rate limit",
            "wait a minute, then `berinia-webhookd doctor`; see `rate_limit.requests`",
            why="something on this machine sends many requests that fail",
        )
    return wrong(
        SIGNATURES,
        f"{name}: a signed probe is answered {reply.status} {reply.detail}".rstrip(),
        installation.commands.show_log,
        why=f"{provider} gets the same answer",
    )


async def _refused(installation: Installation, channel: Channel, reply: Reply) -> Finding:
    """Return the finding on a refused probe: the daemon has other settings, unless it says that
    it believes no loopback address, which the check of that reports.
    """
    if reply.detail == str(LoopbackLocked()):
        return note(SIGNATURES, f"{channel.name}: not checked: no loopback address is believed")
    _, said = await diagnosis(installation.logs, reply.request_id)
    own = () if installation.knows_environment else (f"`{AS_DAEMON}` sees its settings",)
    return wrong(
        SIGNATURES,
        f"{channel.name}: the daemon refuses a request signed with the configured secret",
        *((said,) if said else ()),
        *own,
        f"let the daemon read its settings again: `{installation.commands.reload}`",
        why=f"what {channel.provider.name} signs with that secret is refused",
    )


# ---- silence: what does not come makes nothing fail


async def silence(installation: Installation) -> AsyncIterator[Finding]:
    """Report channels that are silent far beyond their habit, as the daemon sees it."""
    if installation.process is None:
        return
    silent = await metric(installation.address, SILENT, "channel")
    since = await metric(installation.address, SINCE, "channel")
    for name, channel in installation.channels.items():
        if silent.get(name) and name in since:
            urls = installation.settings.server.public_url
            yield warning(
                SILENCE,
                f"{name}: nothing accepted for {duration(since[name])}, far beyond its habit of "
                "this weekday and hour",
                "send it a message yourself",
                *(
                    f"if that does not come: {line}"
                    for line in console_lines(channel, urls, installation.address)
                ),
                why="where a number or a route points elsewhere, no request fails, so nothing else "
                "would notice",
            )
    if silent and not any(silent.values()):
        yield ok(SILENCE, "no channel is silent beyond its habit")


# ---- console: what to enter there


async def console(installation: Installation) -> AsyncIterator[Finding]:
    """Say what to enter in each provider's console."""
    urls = installation.settings.server.public_url
    channels = installation.channels.values()
    for finding in console_entries(channels, urls, installation.address):
        yield finding
    if not urls:
        names = [one.name for one in installation.providers if one.signs_url]
        yield warning(
            CONSOLE,
            f"server.public_url is not set, so {PLACEHOLDER} stands for the host that providers "
            "call",
            f'server.public_url = "{PLACEHOLDER}"',
            why=f"signatures of {joined(names)} depend on the Host and X-Forwarded-Proto headers "
            "that nginx sends"
            if names
            else "the URLs to enter are not known",
        )


def console_entries(
    channels: Iterable[Channel], public_urls: Sequence[str], address: str
) -> Iterator[Finding]:
    """Yield a note for each line to enter."""
    for channel in channels:
        for line in console_lines(channel, public_urls, address):
            yield note(CONSOLE, line)


def console_lines(channel: Channel, public_urls: Sequence[str], address: str) -> Iterator[str]:
    """Yield what to enter in the console of a channel's provider."""
    provider = channel.provider
    here = f"{address} " if address.startswith("unix:") else f"http://{address}"
    for base in (public_urls or (PLACEHOLDER,)) if provider.from_outside else (here,):
        yield f"{provider.console}: {provider.entered.format(url=base + channel.path)}"
