"""What has to stand in the providers' consoles, and what the log says of requests that were refused
lately: a wrong URL there shows itself in signatures that fail.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.clock import now
from berinia_webhookd.findings import Finding, note, ok, warning, wrong
from berinia_webhookd.model import ChannelName
from berinia_webhookd.tools.doctor.probe import OUR_IDS, is_readable, log_lines
from berinia_webhookd.tools.doctor.signatures import enabled, providers
from berinia_webhookd.tools.doctor.subject import Subject

_CONSOLE: Final = "console"
_REFUSED: Final = "refused"
PLACEHOLDER: Final = "https://your.host"
LATELY: Final = timedelta(hours=24)


async def urls(subject: Subject) -> AsyncIterator[Finding]:
    """The lines to paste."""
    bases = subject.settings.server.public_url
    for channel in enabled(subject).values():
        for url in _urls(subject, channel, bases or (PLACEHOLDER,)):
            yield note(_CONSOLE, f"{channel.provider.console}: {url}")
    if not bases and (signing := [one.name for one in providers(subject) if one.signs_url]):
        yield warning(
            _CONSOLE,
            f"server.public_url is not set, so {PLACEHOLDER} stands for the host that providers "
            "call",
            'server.public_url = "https://your.host"',
            why=f"signatures of {' and '.join(signing)} then depend on the Host and "
            "X-Forwarded-Proto headers that nginx sends",
        )


def _urls(subject: Subject, channel: Channel, bases: tuple[str, ...]) -> Iterator[str]:
    if channel.provider.from_outside:
        for base in bases:
            yield channel.provider.entered.format(url=base + channel.path)
    elif subject.address.startswith("unix:"):
        yield f"{subject.address} {channel.path}"
    else:
        yield f"http://{subject.address}{channel.path}"


@dataclass
class _Refusals:
    """What was refused on one channel, and what was not after that."""

    count: int = 0
    diagnosis: str | None = None
    client: str | None = None
    accepted_since: bool = False


async def lately(subject: Subject) -> AsyncIterator[Finding]:
    """Real requests that failed their proof."""
    if not is_readable(subject.logs):
        yield note(_REFUSED, f"{subject.logs / 'webhook.log'} is not there, or cannot be read")
        return
    since = now() - LATELY
    channels = enabled(subject)
    signatures, addresses = _refusals(
        channels, [line for line in log_lines(subject.logs) if _is_recent(line, since)]
    )
    findings = [
        *(_of_signatures(channels[name], refused) for name, refused in signatures.items()),
        *(_of_addresses(channels[name], refused) for name, refused in addresses.items()),
    ]
    for finding in findings:
        yield finding
    if not findings:
        yield ok(_REFUSED, "no signature and no address was refused lately")


def _is_recent(line: dict[str, Any], since: datetime) -> bool:
    try:
        when = datetime.fromisoformat(str(line.get("timestamp")))
    except ValueError:
        return False
    return when.tzinfo is not None and when >= since


_ByChannel = dict[ChannelName, _Refusals]


def _refusals(
    channels: Collection[ChannelName], lines: list[dict[str, Any]]
) -> tuple[_ByChannel, _ByChannel]:
    signatures: defaultdict[ChannelName, _Refusals] = defaultdict(_Refusals)
    addresses: defaultdict[ChannelName, _Refusals] = defaultdict(_Refusals)
    for line in lines:
        channel = ChannelName(str(line.get("channel")))
        if str(line.get("request_id")).startswith(OUR_IDS) or channel not in channels:
            continue
        match line.get("event"):
            case "signature.invalid":
                refused = signatures[channel]
                refused.count += 1
                refused.accepted_since = False
                refused.diagnosis = line.get("diagnosis") or refused.diagnosis
            case "address.refused":
                refused = addresses[channel]
                refused.count += 1
                refused.client = str(line.get("client"))
            case "event.accepted" | "event.duplicate" if channel in signatures:
                signatures[channel].accepted_since = True
    return dict(signatures), dict(addresses)


def _of_signatures(channel: Channel, refused: _Refusals) -> Finding:
    provider = channel.provider
    what = f"{channel.name}: {_times(refused.count)} lately a signature was wrong"
    if refused.diagnosis is None:
        return note(_REFUSED, what, why="strangers try; a provider's own requests are explained")
    if refused.accepted_since:
        return note(_REFUSED, f"{what}; since then some held", refused.diagnosis)
    if not provider.signs_url:
        return wrong(_REFUSED, what, refused.diagnosis, why=f"until then {provider.retries}")
    return wrong(
        _REFUSED,
        what,
        refused.diagnosis,
        f"then compare with the URL in the console of {provider.name}, under `console`",
        why=f"{provider.name} signs the URL in its console: where another one arrives here, "
        "every message is refused",
    )


def _of_addresses(channel: Channel, refused: _Refusals) -> Finding:
    provider = channel.provider
    return warning(
        _REFUSED,
        f"{channel.name}: {_times(refused.count)} lately a request came from an address that is "
        f"not listed, last from {refused.client}",
        f"if that is {provider.name}: add {refused.client} to channels.{channel.name}.allowed_ips",
        why=f"if it was {provider.name}, its messages are refused; {provider.retries}",
    )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
