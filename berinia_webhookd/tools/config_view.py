"""Shows what `check-config` found, as text and as JSON, without secrets."""

from __future__ import annotations

import os
import pwd
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final

import click

from berinia_webhookd import __version__
from berinia_webhookd.config.load import Examined, Origin
from berinia_webhookd.config.secret import REDACTED, Secret
from berinia_webhookd.findings import Finding
from berinia_webhookd.status.findings.agents import without_secrets
from berinia_webhookd.status.findings.installation import AgentLoad
from berinia_webhookd.tools import findings_view
from berinia_webhookd.tools.installation import RunningDaemon, shown_url
from berinia_webhookd.tools.terminal import fitted, json_text, printable, terminal_width, wrapped

NOT_SET: Final = "(not set)"
NOT_VALID: Final = "(not valid: see below)"
JOURNAL_URL: Final = "journal.url"
COMMAND: Final = "alerts.command"


@dataclass(frozen=True, slots=True)
class Checked:
    """The results of `check-config`."""

    examined: Examined
    findings: tuple[Finding, ...]
    agents: tuple[AgentLoad, ...] = ()
    running: RunningDaemon | None = None  # with this configuration


def shown_value(name: str, origin: Origin) -> Any:
    """Return a setting's value for JSON, without secrets."""
    value = origin.value
    if value is None or value == ():
        return None if value is None else []
    if name == JOURNAL_URL:
        return shown_url(value.reveal())
    if isinstance(value, str) and origin.setting.secret:
        return REDACTED
    if name == COMMAND:  # its arguments may hold a password
        program, _, arguments = value.partition(" ")
        return f"{program} {REDACTED}" if arguments else program
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return sorted(map(str, value))
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    return _as_text(value)


def _as_text(value: Any) -> str:
    if isinstance(value, Secret):
        return REDACTED
    if isinstance(value, IPv4Network | IPv6Network) and value.num_addresses == 1:
        return str(value.network_address)
    return without_secrets(str(value))


# ---- for programs


def document(checked: Checked) -> dict[str, Any]:
    """Return the results as one JSON document."""
    examined = checked.examined
    file = examined.config_file
    return {
        "version": __version__,
        "user": _user(),
        "configuration": None if file is None else str(file),
        "settings": {
            name: {
                "value": shown_value(name, origin) if origin.valid else None,
                "source": origin.source,
                "where": origin.where,
                "valid": origin.valid,
            }
            for name, origin in examined.origins.items()
        },
        "agents": [asdict(load) for load in checked.agents],
        "findings": [finding.fields for finding in checked.findings],
    }


# ---- for people


def lines(checked: Checked, *, every: bool = True) -> Iterator[str]:
    """Yield the results as lines; what is wrong comes last, where a terminal stops. Settings at
    their defaults are shown only with `every`.
    """
    examined = checked.examined
    yield f"berinia-webhookd {__version__}, checked as user {_user()}"
    yield f"configuration file: {_shown(str(examined.config_file or 'none'))}"
    if checked.running is not None:
        yield f"running: process {checked.running.pid} on {checked.running.address}"
    shown = {
        name: origin
        for name, origin in examined.origins.items()
        if every or origin.source != "default" or not origin.valid
    }
    title = "Settings" if every else "Settings that are not at their defaults (--all: every one)"
    rows = [_row(*item) for item in shown.items()]
    yield from _section(title, list(fitted(rows, terminal_width(), indent=2)))
    yield from _section("Agents that do not load", _agent_lines(checked.agents))
    yield ""
    yield from findings_view.lines(checked.findings)


def _section(title: str, content: Sequence[str]) -> Iterator[str]:
    if content:
        yield ""
        yield click.style(title, bold=True)
        yield from content


def _row(name: str, origin: Origin) -> tuple[str, str, str]:
    value = shown_value(name, origin)
    if not origin.valid:
        text = click.style(NOT_VALID, fg="red")
    elif value is None or (value == [] and origin.source == "default"):
        text = NOT_SET
    else:
        text = _shown(value if isinstance(value, str) else json_text(value, indent=None))
    named = origin.source in ("flag", "environment", ".env")  # files are shown elsewhere
    where = f"{origin.source} {origin.where}" if named else origin.source
    return _shown(name), _shown(where), text


def _agent_lines(loads: Sequence[AgentLoad]) -> list[str]:
    """Return why agents do not load: traceback and output, each once."""
    alike: defaultdict[tuple[str, Sequence[str]], list[AgentLoad]] = defaultdict(list)
    for load in loads:
        if load.loads is False and ("\n" in (load.reason or "") or load.output):
            alike[load.reason or "", load.output].append(load)
    found: list[str] = []
    for (reason, output), those in alike.items():
        names = ", ".join(f"{_shown(load.agent)} ({_shown(load.target)})" for load in those)
        found += _below(names, 2)
        found += (line for text in printable(reason).splitlines() for line in _below(text, 6))
        if output:
            found.append("      Printed meanwhile:")
            found += (line for text in output for line in _below(f"| {click.unstyle(text)}", 6))
    return found


def _below(text: str, margin: int) -> Iterator[str]:
    indent = len(text) - len(text.lstrip(" "))
    for line in wrapped(text.lstrip(" "), terminal_width(), margin + indent, margin + indent):
        yield " " * (margin + indent) + line


def _shown(text: str) -> str:
    """Return a text as one safe line."""
    return printable(" ".join(text.split()))


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # an id without a name, as in containers
        return f"with id {os.geteuid()}"
