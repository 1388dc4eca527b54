"""How `check-config` shows what it found, to people and to programs. Secrets stay hidden here: a
value is shown by its setting and type, never by what somebody else made of it.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, Final

import click

from berinia_webhookd import __version__
from berinia_webhookd.config.load import Examined, Origin
from berinia_webhookd.config.secret import REDACTED, Secret
from berinia_webhookd.findings import Finding
from berinia_webhookd.tools.agent_check import AgentFinding, without_secrets
from berinia_webhookd.tools.findings_view import document as finding_document
from berinia_webhookd.tools.folder_check import FolderFinding
from berinia_webhookd.tools.installation import shown_url
from berinia_webhookd.tools.journal_check import JournalFinding
from berinia_webhookd.tools.terminal import columns, json_text, printable

NOT_SET: Final = "(not set)"
NOT_VALID: Final = "(not valid: see Problems)"
JOURNAL_URL: Final = "journal.url"
COMMAND: Final = "alerts.command"
NOT_STARTED: Final = ("http://", "https://", "log:")  # targets of which nothing is loaded


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything the check saw."""

    examined: Examined
    problems: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    notes: tuple[str, ...]
    agents: tuple[AgentFinding, ...] = ()
    journal: JournalFinding | None = None
    folders: tuple[FolderFinding, ...] = ()


def shown_value(name: str, origin: Origin) -> Any:
    """A setting's value as JSON can hold it, without what is secret in it."""
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


def document(findings: Findings) -> dict[str, Any]:
    """The whole as one JSON document."""
    examined = findings.examined
    return {
        "version": __version__,
        "user": _user(),
        "config_file": _text(examined.config_file),
        "settings": {
            name: {
                "value": shown_value(name, origin) if origin.valid else None,
                "source": origin.source,
                "where": origin.where,
                "valid": origin.valid,
            }
            for name, origin in examined.origins.items()
        },
        "problems": [finding_document(problem) for problem in findings.problems],
        "warnings": [finding_document(problem) for problem in findings.warnings],
        "notes": list(findings.notes),
        "agents": [
            {
                "agent": agent.name,
                "target": agent.target,
                "loads": agent.loads,
                "reason": agent.reason,
                "output": list(agent.output),
            }
            for agent in findings.agents
        ],
        "journal": None
        if findings.journal is None
        else {
            "url": findings.journal.shown_url,
            "state": findings.journal.state,
            "detail": findings.journal.detail,
        },
        "folders": [
            {
                "setting": folder.setting,
                "path": str(folder.path),
                "need": folder.need,
                "ok": folder.refusal is None,
                "detail": folder.refusal,
            }
            for folder in findings.folders
        ],
    }


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


# ---- for people


def lines(findings: Findings) -> Iterator[str]:
    """The whole as lines, what is wrong last, where a terminal stops."""
    examined = findings.examined
    yield f"berinia-webhookd {__version__}, looked at as user {_user()}"
    yield f"configuration file: {_shown(_text(examined.config_file) or 'none')}"
    yield from _section("Settings", columns([_row(*item) for item in examined.origins.items()]))
    yield from _section("Agents", _agent_lines(findings.agents))
    if findings.journal is not None:
        found = findings.journal
        yield from _section("Journal", [f"{_shown(found.shown_url)}: {_shown(found.detail)}"])
    yield from _section("Folders", _folder_lines(findings.folders))
    yield from _section("Notes", [_shown(note) for note in findings.notes])
    yield from _section("Warnings", _problem_lines(findings.warnings, "yellow"))
    yield from _section("Problems", _problem_lines(findings.problems, "red"))
    yield ""
    yield f"{_count(findings.problems, 'problem')}, {_count(findings.warnings, 'warning')}."


def _section(title: str, content: Sequence[str]) -> Iterator[str]:
    if content:
        yield ""
        yield click.style(title, bold=True)
        for line in content:
            yield f"  {line}"


def _row(name: str, origin: Origin) -> tuple[str, str, str]:
    value = shown_value(name, origin)
    if not origin.valid:
        text = click.style(NOT_VALID, fg="red")
    elif value is None or value == []:
        text = NOT_SET
    else:
        text = _shown(value if isinstance(value, str) else json_text(value, indent=None))
    named = origin.source in ("flag", "environment", ".env")  # the files are said elsewhere
    where = f"{origin.source} {origin.where}" if named else origin.source
    return _shown(name), _shown(where), text


def _agent_lines(agents: Sequence[AgentFinding]) -> list[str]:
    found: list[str] = []
    for agent in agents:
        found.append(f"{_shown(agent.name)} ({_shown(agent.target)}): {_verdict(agent)}")
        if agent.loads is False:
            found += [f"    {line}" for line in printable(agent.reason or "").splitlines()]
        if agent.output:
            found.append("    What was printed meanwhile:")
            found += [f"    | {printable(click.unstyle(line))}" for line in agent.output]
    return found


def _verdict(agent: AgentFinding) -> str:
    if agent.loads is None:
        return click.style(agent.reason or "not tried", fg="yellow")
    if not agent.loads:
        return click.style("does not load", fg="red")
    started = not agent.target.startswith(NOT_STARTED)
    return click.style("loads" if started else "set up; used when there is a message", fg="green")


def _folder_lines(folders: Sequence[FolderFinding]) -> list[str]:
    rows = [
        (
            folder.setting,
            _shown(str(folder.path)),
            click.style(f"can be {folder.need}", fg="green")
            if folder.refusal is None
            else click.style(folder.refusal, fg="red"),
        )
        for folder in folders
    ]
    return columns(rows) if rows else []


def _problem_lines(problems: Sequence[Finding], colour: str) -> list[str]:
    found: list[str] = []
    for problem in problems:
        setting = click.style(_shown(problem.subject), fg=colour)
        found += [f"{setting}: {_shown(problem.what)}"]
        found += [f"    {_shown(step)}" for step in problem.fix]
    return found


def _count(problems: Sequence[Finding], word: str) -> str:
    number = str(len(problems)) if problems else "no"
    return f"{number} {word}{'' if len(problems) == 1 else 's'}"


def _shown(text: str) -> str:
    """One safe line, whole."""
    return printable(" ".join(text.split()))


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # an id without a name, as in containers
        return f"with id {os.geteuid()}"
