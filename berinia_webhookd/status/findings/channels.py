"""Whether each channel can verify its provider, which requests were refused in the last 24 hours,
and what has to stand in the providers' consoles.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from berinia_webhookd.addresses import LOOPBACK, in_networks, is_loopback
from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.clock import now
from berinia_webhookd.findings import Finding, note, ok, warning, wrong
from berinia_webhookd.status.findings.installation import AS_DAEMON, Installation, no_key
from berinia_webhookd.status.findings.probe import (
    OUR_IDS,
    Reply,
    Sender,
    diagnosis,
    has_secret,
    is_readable,
    log_lines,
    sign_probe,
)

SIGNATURES: Final = "signatures"
REFUSED: Final = "refused"
CONSOLE: Final = "console"
PLACEHOLDER: Final = "https://your.host"
LAST: Final = timedelta(hours=24)
_NEVER: Final = datetime.min.replace(tzinfo=UTC)


# ---- signatures: a probe straight to the daemon, as nginx ought to pass it on


async def signatures(installation: Installation) -> AsyncIterator[Finding]:
    """Whether the daemon verifies what each provider signs."""
    for channel in installation.channels.values():
        if not channel.can_sign:
            who = channel.provider.name
            yield note(SIGNATURES, f"{channel.name}: only {who} has the key to sign a probe with")
            continue
        finding = await _signature(installation, channel)
        if finding is None:
            break  # the check of health says that nothing answers
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
        return True  # from anywhere, or from nowhere yet, which is said as what it is
    ipv4, ipv6 = LOOPBACK
    here = ipv6 if installation.address.startswith("[") else ipv4
    return in_networks(channel.allowed_networks, here)


def _as_proxied(installation: Installation, channel: Channel) -> dict[str, str]:
    """The headers that nginx has to set, for the first public URL."""
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
        return ok(SIGNATURES, f"{name}: a request signed as {provider} does is verified")
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
    """Signed with what stands in the settings, and refused: the daemon has other settings."""
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


# ---- refused: what the log says of real requests


@dataclass
class _Refusals:
    """What was refused on one channel, and whether requests were accepted after that."""

    count: int = 0
    last: datetime = _NEVER
    diagnosis: str | None = None
    client: str = ""  # empty: a proxy did not name it
    accepted_since: bool = False

    def when(self, what: str) -> str:
        """Say how many there were, and when."""
        plural, last = ("", "") if self.count == 1 else ("s", "the last ")
        at = f"{last}at {self.last.astimezone(UTC):%H:%M} UTC"
        return f"{self.count} request{plural} {what} in the last 24 h, {at}"


async def refused(installation: Installation) -> AsyncIterator[Finding]:
    """Real requests whose signature or address was refused."""
    if not is_readable(installation.logs):
        log = installation.logs / "webhook.log"
        yield note(REFUSED, f"not checked: {log} does not exist, or this user cannot read it")
        return
    signatures, addresses = _refusals(_recent(log_lines(installation.logs)))
    channels = installation.channels.values()
    findings = [
        *(_of_signatures(one, signatures[one.name]) for one in channels if one.name in signatures),
        *(_of_addresses(one, addresses[one.name]) for one in channels if one.name in addresses),
    ]
    nothing = "no request with a bad signature or from a wrong address in the last 24 h"
    for finding in findings or [ok(REFUSED, nothing)]:
        yield finding


def _recent(lines: Iterable[dict[str, Any]]) -> Iterator[tuple[datetime, dict[str, Any]]]:
    since = now() - LAST
    for line in lines:
        try:
            when = datetime.fromisoformat(str(line.get("timestamp")))
        except ValueError:
            continue
        if when.tzinfo is not None and when >= since:
            yield when, line


def _refusals(
    lines: Iterable[tuple[datetime, dict[str, Any]]],
) -> tuple[dict[str, _Refusals], dict[str, _Refusals]]:
    signatures: dict[str, _Refusals] = {}
    addresses: dict[str, _Refusals] = {}
    for when, line in lines:
        channel = str(line.get("channel"))
        if str(line.get("request_id")).startswith(OUR_IDS) or line.get("sample"):
            continue
        match line.get("event"):
            case "signature.invalid":
                found = signatures.setdefault(channel, _Refusals())
                found.diagnosis = line.get("diagnosis") or found.diagnosis
            case "address.refused":
                found = addresses.setdefault(channel, _Refusals())
                found.client = str(line.get("client") or "")
            case "event.accepted" | "event.duplicate" if channel in signatures:
                signatures[channel].accepted_since = True
                continue
            case _:
                continue
        found.count, found.last, found.accepted_since = found.count + 1, when, False
    return signatures, addresses


def _of_signatures(channel: Channel, refused: _Refusals) -> Finding:
    what = f"{channel.name}: {refused.when('with a bad signature')}"
    provider = channel.provider
    if refused.diagnosis is None:
        why = "no mistake of this installation explains it; strangers send such requests"
        return note(REFUSED, what, why=why)
    if refused.accepted_since:
        return note(REFUSED, f"{what}; later ones were verified", refused.diagnosis)
    why = f"messages of {provider.name} are refused"
    if provider.signs_url:
        why = (
            f"{provider.name} signs the URL in its console: while another URL arrives here, every "
            "message is refused"
        )
    return wrong(
        REFUSED,
        what,
        refused.diagnosis,
        f"then compare the URL in the console of {provider.name} with the one under `{CONSOLE}`",
        why=why,
    )


def _of_addresses(channel: Channel, refused: _Refusals) -> Finding:
    name, provider = channel.name, channel.provider
    what = f"{name}: {refused.when('from an address that is not allowed')}"
    if_provider = f"if it was {provider.name}, its messages are lost: {provider.retries}"
    here = is_loopback(refused.client) and in_networks(channel.allowed_networks or (), LOOPBACK[0])
    if here or not refused.client:
        return warning(
            REFUSED,
            f"{what}, through a proxy that does not say for whom",
            "in nginx: `proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;`",
            why=if_provider,
        )
    addresses = ", ".join(f'"{one}"' for one in dict.fromkeys(("127.0.0.1", refused.client)))
    return warning(
        REFUSED,
        f"{what}, from {refused.client}",
        f"if that is {provider.name}: `channels.{name}.allowed_ips = [{addresses}]`",
        why=if_provider,
    )


# ---- console: what to paste there


async def console(installation: Installation) -> AsyncIterator[Finding]:
    """What has to stand in each provider's console."""
    urls = installation.settings.server.public_url
    channels = installation.channels.values()
    for finding in console_entries(channels, urls, installation.address):
        yield finding
    if not urls:
        of_url = " and ".join(one.name for one in installation.providers if one.signs_url)
        yield warning(
            CONSOLE,
            f"server.public_url is not set, so {PLACEHOLDER} stands for the host that providers "
            "call",
            f'server.public_url = "{PLACEHOLDER}"',
            why=f"signatures of {of_url} depend on the Host and X-Forwarded-Proto headers that "
            "nginx sends"
            if of_url
            else "the URLs to enter are not known",
        )


def console_entries(
    channels: Iterable[Channel], public_urls: Sequence[str], address: str
) -> Iterator[Finding]:
    """Yield a note for each line to paste."""
    here = f"{address} " if address.startswith("unix:") else f"http://{address}"
    for channel in channels:
        provider = channel.provider
        for base in (public_urls or (PLACEHOLDER,)) if provider.from_outside else (here,):
            entered = provider.entered.format(url=base + channel.path)
            yield note(CONSOLE, f"{provider.console}: {entered}")
