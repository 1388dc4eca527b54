"""`send`: sends correctly signed sample callbacks, as the provider would; to another machine only
with `--really`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final
from urllib.parse import urlsplit

import click

from berinia_webhookd import json_text
from berinia_webhookd.channels import catalogue
from berinia_webhookd.channels.contract import Channel, SignedRequest
from berinia_webhookd.channels.form import URLENCODED
from berinia_webhookd.clock import now
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.errors import CannotSign, WebhookdError
from berinia_webhookd.model import ChannelName, SampleKey
from berinia_webhookd.own_requests import InstallationKey, Purpose
from berinia_webhookd.sample_keys import SampleKeyFile
from berinia_webhookd.status.durations import duration
from berinia_webhookd.tools import installation
from berinia_webhookd.tools.command_context import CommandContext, ConfiguredChannel
from berinia_webhookd.tools.installation import RunningDaemon, own_key
from berinia_webhookd.tools.posting import Posted, Tally, Target, post_all
from berinia_webhookd.tools.terminal import json_text as shown_json
from berinia_webhookd.tools.terminal import one_line, printable
from berinia_webhookd.urlencoded import decode_urlencoded

MOST: Final = 1_000_000
MOST_LISTED: Final = 10_000  # in the JSON document
ANSWER_CHARACTERS: Final = 160


def _fields(
    _context: click.Context, _option: click.Parameter, given: tuple[str, ...]
) -> dict[str, str]:
    fields = {}
    for word in given:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{word!r} is not KEY=VALUE")
        fields[name] = value
    return fields


@click.command("send")
@click.argument("channel", type=ConfiguredChannel())
@click.option(
    "--to",
    metavar="URL",
    help="Where to send: http://host:port, with the channel's path or without, or unix:/path."
    "  [default: the running daemon]",
)
@click.option(
    "--set",
    "fields",
    metavar="KEY=VALUE",
    multiple=True,
    callback=_fields,
    help="Set a field of the message, as the provider names it (Body=…). Repeatable.",
)
@click.option("--count", type=click.IntRange(1, MOST), default=1, show_default=True)
@click.option(
    "--rate",
    type=click.FloatRange(0, 10_000, min_open=True),
    help="How many to start a second, in parallel.  [default: one after another]",
)
@click.option("--bad-signature", is_flag=True, help="Sign wrongly; the expected answer is 403.")
@click.option(
    "--to-agent",
    is_flag=True,
    help="Hand samples to the agent that the provider's key did not sign, instead of the log.",
)
@click.option("--really", is_flag=True, help="Send even to another machine.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of lines.")
@click.pass_obj
def send(
    context: CommandContext,
    *,
    channel: str,
    to: str | None,
    fields: Mapping[str, str],
    count: int,
    rate: float | None,
    bad_signature: bool,
    to_agent: bool,
    really: bool,
    as_json: bool,
) -> None:
    """Send signed sample callbacks of CHANNEL, and show what is answered.

    Numbers are from the range reserved for fiction. Each message is a new one unless its id is
    set. Where only the provider has the key that signs, they are signed with a new one, which the
    daemon takes while the command runs, from this machine alone, and only logs. Exit code 1: an
    answer was not 2xx (with --bad-signature: not 403).
    """
    loaded, running = context.load_with_installation()
    settings = loaded.settings
    configured = _configured(settings, channel)
    address = configured.listen or _called_on(
        installation.address(settings, os.environ, running, loaded.config_file)
    )
    target = Target.from_text(to or address, configured.path)
    if not really and not target.is_loopback():
        raise click.UsageError(
            f"{target} is not this machine; add --really to send there all the same"
        )
    sample = Sample(
        channel=configured,
        fields=fields,
        base_url=(*settings.server.public_url, target.base_url)[0],
        valid=not bad_signature,
        key=own_key(os.environ, running),
    )
    if sample.valid and not configured.can_sign:
        sample = sample.with_own_pair(running, target, to_agent=to_agent)
    for name, nearest in sample.unknown_fields():
        click.echo(
            f"note: the sample has no field {printable(name)}, which is sent all the same;"
            f" did you mean {printable(nearest)}?",
            err=True,
        )
    report = Report(bad_signature=bad_signature, as_json=as_json, most=count)
    tally = asyncio.run(post_all(target, sample.sign, count=count, rate=rate, posted=report.posted))
    report.finish(channel, target, tally)
    if tally.broken is not None:
        raise tally.broken
    if report.unexpected:
        click.get_current_context().exit(1)


@dataclass(frozen=True)
class Sample:
    """A sample callback of a channel."""

    channel: Channel
    fields: Mapping[str, str]
    base_url: str
    valid: bool
    key: InstallationKey | None
    own_pair: SampleKeyFile | None = None

    def with_own_pair(
        self, running: RunningDaemon | None, target: Target, *, to_agent: bool
    ) -> Sample:
        """Return it as one that is signed with a new key pair, until the command ends.

        Raises:
            CannotSign: the daemon would not take it.
        """
        name, who = self.channel.name, self.channel.provider.name
        if running is None or self.key is None or not target.is_loopback():
            raise CannotSign(
                f"only {who} has the key that signs for {name}, and a key pair of our own is good"
                " for a daemon that runs on this machine alone",
                hint="start it, call this as its user or with sudo, and leave --to away",
            )
        signing, public = self.channel.for_samples()
        file = SampleKeyFile(running.runtime, name, SampleKey(public, to_agent))
        click.get_current_context().with_resource(file)
        return replace(self, channel=signing, own_pair=file)

    def sign(self) -> SignedRequest:
        """Return a new message, signed now; marked as ours if we have the installation's key."""
        at, nonce = now(), ""
        made = self.channel.sign(self.fields, base_url=self.base_url, now=at, valid=self.valid)
        if self.own_pair is not None:
            self.own_pair.renew(at)
            nonce = self.own_pair.nonce
        return made if self.key is None else made.marked(self.key, Purpose.SAMPLE, at, nonce)

    def unknown_fields(self) -> list[tuple[str, str]]:
        """Return the given fields that the sample lacks, each with the nearest name."""
        plain, given = field_names(replace(self, fields={}).sign()), field_names(self.sign())
        known = {*plain, *self.channel.sample_names}
        # Where letter case does not matter, a field was replaced by another spelling.
        replaced = {name.lower() for name in plain - given}
        return [
            (name, max(sorted(known), key=partial(_likeness, name)))
            for name in self.fields
            if name not in known and name.lower() not in replaced and known
        ]


def field_names(request: SignedRequest) -> set[str]:
    """Return the names of a request's fields; in JSON, every name and every path."""
    content_type = request.headers.get("Content-Type", "")
    if content_type.startswith(URLENCODED):
        return {name for name, _ in decode_urlencoded(request.body)}
    if not request.body:
        return {name for name, _ in decode_urlencoded(urlsplit(request.path).query.encode())}
    return set(_paths(json_text.decode(request.body)))


def _paths(document: Any) -> Iterator[str]:
    if isinstance(document, list):
        document = dict(enumerate(document))
    for name, value in document.items() if isinstance(document, dict) else ():
        yield str(name)
        for path in _paths(value):
            yield path
            yield f"{name}.{path}"


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, one.lower(), other.lower()).ratio()


class Report:
    """Prints each answer as it comes, and counts unexpected ones."""

    def __init__(self, *, bad_signature: bool, as_json: bool, most: int) -> None:
        self.unexpected = 0
        self._bad_signature = bad_signature
        self._as_json = as_json
        self._width = len(str(most))
        self._listed: list[dict[str, object]] = []

    def posted(self, posted: Posted) -> None:
        """Report one answer."""
        good = self._is_expected(posted.status)
        self.unexpected += not good
        if not self._as_json:
            status = click.style(f"{posted.status} {posted.reason}", fg="green" if good else "red")
            number = f"#{posted.number:<{self._width}}"
            answer = one_line(posted.answer, ANSWER_CHARACTERS)
            click.echo(f"{number}  {status}  {duration(posted.latency_seconds)}  {answer}".rstrip())
        elif len(self._listed) < MOST_LISTED:
            self._listed.append(
                {
                    "status": posted.status,
                    "latency_ms": round(posted.latency_seconds * 1000, 3),
                    "answer": posted.answer,
                }
            )

    def _is_expected(self, status: int) -> bool:
        return status == 403 if self._bad_signature else 200 <= status < 300  # noqa: PLR2004

    def finish(self, channel: str, target: Target, tally: Tally) -> None:
        """Print the summary."""
        figures = tally.latencies()
        if self._as_json:
            summary = {
                "sent": tally.sent,
                "unexpected": self.unexpected,
                "broken": tally.broken and str(tally.broken),
                "statuses": {str(status): n for status, n in sorted(tally.statuses.items())},
                "seconds": round(tally.seconds, 3),
                "latency_ms": {name: round(s * 1000, 3) for name, s in figures.items()},
            }
            document = {"channel": channel, "to": str(target), "requests": self._listed}
            click.echo(shown_json({**document, "summary": summary}))
            return
        statuses = ", ".join(f"{n} × {status}" for status, n in sorted(tally.statuses.items()))
        times = ", ".join(f"{name} {duration(seconds)}" for name, seconds in figures.items())
        done = f"{tally.sent} sent to" if tally.broken is None else f"{tally.sent} answered by"
        told = f": {statuses}; {times}" if tally.sent else ""
        click.echo(f"{done} {target} in {duration(tally.seconds)}{told}")


def _called_on(address: str) -> str:
    """Return where it is called: on loopback, if it listens on all addresses."""
    host, _, port = address.rpartition(":")
    loopback = {str(IPv4Address(0)): "127.0.0.1", f"[{IPv6Address(0)}]": "[::1]"}.get(host)
    return f"{loopback}:{port}" if loopback else address


def _configured(settings: Settings, name: str) -> Channel:
    channels = catalogue.build(settings.channels, settings.server.public_url)
    channel = channels.get(ChannelName(name))
    if channel is None:
        raise WebhookdError(
            f"the channel {name} is not enabled", hint=f"set channels.{name}.enabled = true"
        )
    channel.require_secret()
    return channel
