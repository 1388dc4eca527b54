"""`channels`: lists and shows the configured channels, and tests a captured request."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from berinia_webhookd.channels.catalogue import build_all
from berinia_webhookd.channels.contract import Channel
from berinia_webhookd.channels.declared import presets
from berinia_webhookd.channels.declared.channel import DeclaredChannel
from berinia_webhookd.channels.declared.fields import never_held
from berinia_webhookd.channels.declared.listed import listed as listed_as
from berinia_webhookd.channels.declared.listing import item_of
from berinia_webhookd.channels.json_body import decode_json
from berinia_webhookd.clock import now
from berinia_webhookd.config.load import Origin
from berinia_webhookd.errors import DeliveryRejected, NotFound
from berinia_webhookd.model import ChannelName, Decoded, Event
from berinia_webhookd.tools.captured import captured, content_of
from berinia_webhookd.tools.command_context import CommandContext, ConfiguredChannel
from berinia_webhookd.tools.config_view import shown_value
from berinia_webhookd.tools.terminal import (
    fitted,
    headed,
    json_text,
    one_line,
    printable,
    terminal_width,
)

_json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
_TEXT_CHARACTERS: Final = 60
_DIGITS: Final = 16  # of what an event is recognised by, as shown
_ALWAYS: Final = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
ALWAYS: Final = frozenset({"kind", "path", "agent"})  # shown at their defaults, too


@click.group("channels")
def channels() -> None:
    """See the configured channels, and test a captured request."""


@channels.command("list", short_help="List the configured channels.")
@_json_option
@click.pass_obj
def list_(context: CommandContext, /, *, as_json: bool) -> None:
    """List the configured channels: kind, path and agent of each."""
    settings = context.load().settings
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "kind": getattr(channel, "preset", None) or channel.kind,
            "path": channel.path,
            "agent": channel.agent,
            "enabled": channel.enabled,
        }
        for name, channel in settings.channels.items()
    ]
    if as_json:
        click.echo(json_text(rows))
        return
    heading = [click.style(name, bold=True) for name in ("NAME", "KIND", "PATH", "AGENT")]
    cells = [
        [
            row["name"],
            row["kind"],
            row["path"] if row["enabled"] else f"{row['path']} (switched off)",
            row["agent"],
        ]
        for row in rows
    ]
    click.echo("\n".join(fitted([heading, *cells], terminal_width())))


@channels.command("show", short_help="Show the settings of a channel.")
@click.argument("name", type=ConfiguredChannel())
@_json_option
@click.pass_obj
def show(context: CommandContext, /, *, name: str, as_json: bool) -> None:
    """Show the settings of a channel, its preset included, and where each value comes from."""
    loaded = context.load()
    prefix = f"channels.{name}."
    origins = {
        key.removeprefix(prefix): origin
        for key, origin in loaded.origins.items()
        if key.startswith(prefix)
    }
    preset = origins["preset"].value if "preset" in origins else None
    declared = {} if preset is None else presets.declaration(preset)
    values = {key: _written(key, origin, declared) for key, origin in origins.items()}
    facts = presets.facts(preset)
    if as_json:
        click.echo(json_text({"settings": values, "provider": dict(facts)}))
        return
    rows = [
        (key, origin.source, _in_line(shown_value(key, origin)))
        for key, origin in origins.items()
        if origin.source != "default" or key in ALWAYS
    ]
    click.echo("\n".join(fitted(rows, terminal_width())))
    for fact, text in facts.items():
        said = ", ".join(text) if isinstance(text, list) else _in_line(text)
        for line in headed(f"{click.style(fact, bold=True)}: ", said, terminal_width(), 4):
            click.echo(line)


def _written(key: str, origin: Origin, declared: Mapping[str, Any]) -> Any:
    """Return a value as it is in the file or the preset, without secrets."""
    if origin.source == "preset":
        return declared[key]
    return shown_value(key, origin)


def _in_line(value: Any) -> str:
    return printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


@channels.command("test", short_help="Test how a captured request is read.")
@click.argument("name", type=ConfiguredChannel())
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.option("--listed", is_flag=True, help="FILE is an answer to what `reconcile` asks.")
@_json_option
@click.pass_obj
def test(context: CommandContext, /, *, name: str, file: Path, listed: bool, as_json: bool) -> None:
    """Test a captured request: is it proven, and if not why; which events; which agent.

    FILE is a request as it goes over the wire, or as a proxy writes it: the request line, headers,
    an empty line, the body. With --listed it is the JSON that the provider of a declared channel
    answers when `reconcile` asks. Nothing is sent or stored. Exit code 1: it is not proven, or
    nothing in it can be read; with --listed, an item cannot be taken in.
    """
    loaded = context.load()
    channel = build_all(loaded.settings.channels, loaded.settings.server.public_url).get(
        ChannelName(name)
    )
    if channel is None:
        raise NotFound(f"there is no channel {name}")
    report: dict[str, Any] = {"proven": False, "why": None, "events": [], "rejected": []}
    report |= _of_list(channel, file) if listed else _of_request(channel, file)
    click.echo(json_text(report) if as_json else "\n".join(_report_lines(report, listed)))
    left_out = listed and report["rejected"]
    if not report["proven"] or (report["why"] and not report["events"]) or left_out:
        click.get_current_context().exit(1)


def _of_list(channel: Channel, file: Path) -> dict[str, Any]:
    """Return what the items of a provider's answer are; who answered is not in question."""
    if not isinstance(channel, DeclaredChannel) or channel.settings.reconcile is None:
        raise click.UsageError(f"channels.{channel.name}.reconcile is not set")
    table = channel.settings.reconcile
    report: dict[str, Any] = {"proven": True, "ignored": 0, "events": [], "rejected": []}
    try:
        answer = decode_json(content_of(file))
    except DeliveryRejected as error:
        return {**report, "why": str(error)}
    items = table.items_of(answer)
    if items is None:
        return {**report, "why": f"there is no list at items = {table.items!r}"}
    of_answer = [item_of(answer, item) for item in items]
    report["unmet"] = [f"reconcile: {one}" for one in never_held(table.where, of_answer)]
    for number, item in enumerate(of_answer):
        try:
            one = listed_as(channel, table, item, *_ALWAYS)
        except DeliveryRejected as error:
            path = f"{table.items}.{number}".lstrip(".")
            report["rejected"].append(
                {"path": path, "reason": getattr(error, "in_full", str(error))}
            )
            continue
        if one is None:
            report["ignored"] += 1
        else:
            report["events"] += _read(channel.decode(one.delivery))["events"]
    return report


def _of_request(channel: Channel, file: Path) -> dict[str, Any]:
    delivery = captured(file, channel.name, now())
    report: dict[str, Any] = {"proven": False}
    try:
        answer = channel.handshake(delivery)
        if answer is not None:
            report |= {"proven": True, "answer": answer.body.decode("utf-8", "replace")}
        else:
            channel.require_secret()
            verified = channel.verify(delivery)
            report["proven"] = True
            if isinstance(channel, DeclaredChannel):
                report["unmet"] = channel.unmet(verified)
            report |= _read(channel.decode(verified))
    except DeliveryRejected as error:
        report["why"] = getattr(error, "in_full", str(error))
        if not report["proven"]:
            report["why"] = channel.diagnose(delivery) or report["why"]
    return report


def _read(decoded: Decoded) -> dict[str, Any]:
    return {
        "events": [_event(event) for event in decoded.events],
        "rejected": [{"path": one.path, "reason": one.reason} for one in decoded.rejected],
        "ignored": decoded.ignored,
    }


def _event(event: Event) -> dict[str, Any]:
    return {
        "kind": event.kind.value,
        "agent": event.agent,
        "sender": event.sender,
        "recipient": event.recipient,
        "text": event.body,
        "subject": event.subject,
        "status": event.status,
        "opt_out": event.opt_out.value if event.opt_out else None,
        "conversation": f"{event.conversation.sender}:{event.conversation.party}",
        "skipped": event.skipped,
        "recognised_by": event.digest.hex()[:_DIGITS],
    }


def _report_lines(report: Mapping[str, Any], listed: bool) -> Iterator[str]:
    good = report["proven"]
    yield click.style("proven" if good else "not proven", fg="green" if good else "red", bold=True)
    if report["why"]:
        yield f"  {printable(report['why'])}"
    if "answer" in report:
        yield f"a handshake, answered: {printable(report['answer'])}"
    for event in report["events"]:
        to = f"skipped: {event['skipped']}" if event["skipped"] else f"→ {event['agent']}"
        yield f"{event['kind']} {to}"
        for name in (
            "sender",
            "recipient",
            "subject",
            "text",
            "status",
            "opt_out",
            "recognised_by",
        ):
            if event[name]:
                yield f"    {name}: {one_line(str(event[name]), _TEXT_CHARACTERS)}"
    for item in report["rejected"]:
        fate = "not taken in" if listed else "kept as rejected"
        yield f"{fate}: {item['path'] or 'the whole'}: {printable(item['reason'])}"
    if report.get("ignored"):
        yield f"ignored, as declared: {report['ignored']}"
    for line in report.get("unmet", ()):
        yield f"note: {printable(line)}"
