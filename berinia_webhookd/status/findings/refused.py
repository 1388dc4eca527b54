"""Which real requests were refused in the last 24 hours, and whose they were: the provider's, if
they look like it and none was accepted since; else strangers'.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from berinia_webhookd.addresses import LOOPBACK, in_networks, is_loopback
from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.clock import now
from berinia_webhookd.findings import Finding, note, ok, warning, wrong
from berinia_webhookd.status.durations import counted
from berinia_webhookd.status.findings.channels import console_lines
from berinia_webhookd.status.findings.installation import AS_DAEMON, Installation
from berinia_webhookd.status.findings.probe import OUR_IDS, is_readable, log_lines, metric

REFUSED: Final = "refused"
LAST: Final = timedelta(hours=24)
LINES: Final = 20_000
METRIC: Final = "berinia_webhookd_provider_refused"
# Events of a verified request. One whose events are all ignored has none of them.
ACCEPTED: Final = frozenset(
    {
        "event.accepted",
        "event.duplicate",
        "event.skipped",
        "conversation.paused",
        "delivery.rejected",
    }
)


@dataclass
class _Refusals:
    """Requests that were refused for one reason."""

    count: int = 0
    last: datetime | None = None  # None: the log does not say
    diagnosis: str | None = None  # of the last one that was looked at
    client: str = ""  # empty: a proxy did not name it

    def add(self, when: datetime, line: Mapping[str, Any]) -> None:
        """Count one more; it keeps the last diagnosis if it has none of its own."""
        self.count, self.last = self.count + 1, when
        self.diagnosis = line.get("diagnosis", self.diagnosis)
        self.client = str(line.get("client") or "")

    def pass_to(self, others: _Refusals) -> None:
        """Move the count to another one."""
        others.count += self.count
        others.last = max(filter(None, (others.last, self.last)), default=None)
        self.count, self.last, self.diagnosis, self.client = 0, None, None, ""

    def __str__(self) -> str:
        return counted(self.count, "request")

    @property
    def when(self) -> str:
        """The time of the last."""
        if self.last is None:
            return ""
        return f", {'' if self.count == 1 else 'the last '}at {self.last.astimezone(UTC):%H:%M} UTC"


@dataclass
class _OfChannel:
    """What was refused on one channel."""

    provider: _Refusals = field(default_factory=_Refusals)  # since the last accepted request
    strangers: _Refusals = field(default_factory=_Refusals)
    addresses: _Refusals = field(default_factory=_Refusals)  # since the last accepted request

    def read(self, when: datetime, line: Mapping[str, Any]) -> None:
        """Count a line of the log."""
        match line.get("event"):
            case "signature.invalid" if line.get("resembles_provider"):
                self.provider.add(when, line)
            case "signature.invalid":
                self.strangers.add(when, line)
            case "address.refused":
                self.addresses.add(when, line)
            case event if event in ACCEPTED:
                self.accepted()

    def accepted(self) -> None:
        """Start again: a request of the provider was accepted."""
        self.provider.pass_to(self.strangers)
        self.addresses.pass_to(self.strangers)


async def refused(installation: Installation) -> AsyncIterator[Finding]:
    """Report real requests whose signature or address was refused."""
    log = installation.logs / "webhook.log"
    if not log.exists():  # raises where this user may not look
        yield note(REFUSED, f"not checked: {log} does not exist")
        return
    if not is_readable(installation.logs):
        yield note(REFUSED, f"not checked: this user may not read {log}", AS_DAEMON)
        return
    found: dict[str, _OfChannel] = {name: _OfChannel() for name in installation.channels}
    for when, line in recent(log_lines(installation.logs, LINES)):
        ours = str(line.get("request_id")).startswith(OUR_IDS) or line.get("sample")
        if not ours and (one := found.get(str(line.get("channel")))) is not None:
            one.read(when, line)
    if installation.process is not None:
        _as_the_daemon_counts(found, await metric(installation.address, METRIC, "channel"))
    findings = [
        finding
        for channel in installation.channels.values()
        for finding in _of_channel(installation, channel, found[channel.name])
    ]
    nothing = (
        "no request with a bad signature or from a wrong address in the last 24 h (those of `send` "
        "are not counted)"
    )
    for finding in findings or [ok(REFUSED, nothing)]:
        yield finding


def recent(lines: Iterable[dict[str, Any]]) -> Iterator[tuple[datetime, dict[str, Any]]]:
    """Yield those of the last 24 hours, with their times."""
    since = now() - LAST
    for line in lines:
        try:
            when = datetime.fromisoformat(str(line.get("timestamp")))
        except ValueError:
            continue
        if when.tzinfo is not None and when >= since:
            yield when, line


def _as_the_daemon_counts(found: Mapping[str, _OfChannel], counts: Mapping[str, float]) -> None:
    """Prefer the running daemon's counts: the log may be rotated, or lack accepted requests."""
    for name, count in counts.items():
        if name not in found:
            continue
        if not count:
            found[name].accepted()
        found[name].provider.count = max(found[name].provider.count, round(count))


def _of_channel(
    installation: Installation, channel: Channel, found: _OfChannel
) -> Iterator[Finding]:
    if found.strangers.count:
        yield note(
            REFUSED,
            f"{channel.name}: {found.strangers} of strangers refused in the last 24 h"
            f"{found.strangers.when}",
        )
    if found.addresses.count:
        yield _of_addresses(channel, found.addresses)
    if found.provider.count:
        yield _of_provider(installation, channel, found.provider)


def _of_provider(installation: Installation, channel: Channel, refused: _Refusals) -> Finding:
    provider = channel.provider
    if refused.diagnosis is not None:
        fix = [refused.diagnosis]
    else:
        fix = [f"see each: `berinia-webhookd logs --type {channel.name}`"]
        if provider.from_outside:
            reload = f"`{installation.commands.reload}`"
            fix = [f"if its secret was changed: {channel.secret_line}, then {reload}"]
        if provider.from_outside and provider.signs_url:
            urls = installation.settings.server.public_url
            fix += [f"if not: {one}" for one in console_lines(channel, urls, installation.address)]
    finding = wrong(
        REFUSED,
        f"{channel.name}: {refused} of {provider.name} refused for the signature, none accepted "
        f"since{refused.when}",
        *fix,
        why=f"{provider.what_it_signs}; {provider.retries}",
    )
    return replace(finding, follows=("clock",) if provider.signs_time else ())


def _of_addresses(channel: Channel, refused: _Refusals) -> Finding:
    name, provider = channel.name, channel.provider
    what = f"{name}: {refused} from an address that is not allowed in the last 24 h{refused.when}"
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
