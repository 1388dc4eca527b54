"""What has to stand in the providers' consoles, and what the log says of requests that were refused
lately: a wrong URL there shows itself in signatures that fail.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.clock import now
from berinia_webhookd.findings import Finding, note, ok, warning, wrong
from berinia_webhookd.tools.doctor.probe import OUR_IDS, is_readable, log_lines
from berinia_webhookd.tools.doctor.signatures import PROVIDER, enabled
from berinia_webhookd.tools.doctor.subject import Subject

_CONSOLE: Final = "console"
_REFUSED: Final = "refused"
PLACEHOLDER: Final = "https://your.host"
RETRIES: Final = "#rc=5&rp=all"  # Twilio: try again five times, whatever the failure
LATELY: Final = timedelta(hours=24)
CONSOLES: Final = {
    "sms": "Twilio's console, Phone Numbers, Messaging, A message comes in (HTTP POST)",
    "email": "Mailgun, Receiving, Routes, forward()",
    "whatsapp": "the WhatsApp bot's webhook URL",
}


async def urls(subject: Subject) -> AsyncIterator[Finding]:
    """The lines to paste."""
    bases = subject.settings.server.public_url
    for channel in enabled(subject).values():
        for url in _urls(subject, channel, bases or (PLACEHOLDER,)):
            yield note(_CONSOLE, f"{CONSOLES[channel.name]}: {url}")
    if not bases:
        yield warning(
            _CONSOLE,
            f"server.public_url is not set, so {PLACEHOLDER} stands for the host that providers "
            "call",
            'server.public_url = "https://your.host"',
            why="Twilio's signatures then hang on what nginx says of scheme and host",
        )


def _urls(subject: Subject, channel: Channel, bases: tuple[str, ...]) -> Iterator[str]:
    match channel.name:
        case "sms":
            for base in bases:
                yield (
                    f"{base}{channel.path}{RETRIES} and, as the fallback URL, {base}{channel.path}"
                )
        case "whatsapp" if subject.address.startswith("unix:"):
            yield f"{subject.address} {channel.path}"
        case "whatsapp":
            yield f"http://{subject.address}{channel.path}"
        case _:
            for base in bases:
                yield f"{base}{channel.path}"


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
    signatures, addresses = _refusals(
        [line for line in log_lines(subject.logs) if _is_recent(line, since)]
    )
    findings = [
        *(_of_signatures(name, refused) for name, refused in signatures.items()),
        *(_of_addresses(name, refused) for name, refused in addresses.items()),
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


def _refusals(lines: list[dict[str, Any]]) -> tuple[dict[str, _Refusals], dict[str, _Refusals]]:
    signatures: defaultdict[str, _Refusals] = defaultdict(_Refusals)
    addresses: defaultdict[str, _Refusals] = defaultdict(_Refusals)
    for line in lines:
        channel = str(line.get("channel"))
        if str(line.get("request_id")).startswith(OUR_IDS) or channel not in PROVIDER:
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


def _of_signatures(channel: str, refused: _Refusals) -> Finding:
    what = f"{channel}: {_times(refused.count)} lately a signature was wrong"
    if refused.diagnosis is None:
        return note(_REFUSED, what, why="strangers try; a provider's own requests are explained")
    if refused.accepted_since:
        return note(_REFUSED, f"{what}; since then some held", refused.diagnosis)
    return wrong(
        _REFUSED,
        what,
        refused.diagnosis,
        f"then compare with the URL in the console of {PROVIDER[channel]}, under `console`",
        why=f"{PROVIDER[channel]} signs the URL in its console: where another one arrives here, "
        "every message is refused",
    )


def _of_addresses(channel: str, refused: _Refusals) -> Finding:
    return warning(
        _REFUSED,
        f"{channel}: {_times(refused.count)} lately a request came from an address that is not "
        f"listed, last from {refused.client}",
        f'if that is the bot: channels.{channel}.allowed_ips = ["127.0.0.1", "{refused.client}"]',
        why="if it was the bot, its messages are lost: it does not send them again",
    )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
