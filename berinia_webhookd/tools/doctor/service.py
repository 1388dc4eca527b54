"""Whether the daemon is up, holds its port, answers, and is the program that is installed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Final

from berinia_webhookd import __version__
from berinia_webhookd.errors import WebhookdError
from berinia_webhookd.findings import Finding, note, ok, warning, wrong
from berinia_webhookd.tools.doctor import processes
from berinia_webhookd.tools.doctor.probe import fetch
from berinia_webhookd.tools.doctor.processes import Process
from berinia_webhookd.tools.doctor.signatures import providers
from berinia_webhookd.tools.doctor.subject import Subject

OLD_SCRIPT: Final = "run_webhook.py"
_SERVICE: Final = "service"
_PORT: Final = "port"
_VERSION: Final = "version"
_HEALTH: Final = "health"

HEALTH_HELP: Final = {
    "journal": ("nothing can be accepted: providers get 503", "see the journal's findings below"),
    "agents": ("their messages wait in the journal", "see the agents' findings below"),
    "dispatcher": ("accepted messages wait in the journal", "restart the daemon, and keep its log"),
    "disk": ("a full disk ends in 503 for every message", "df -h, then make room"),
}


async def up(subject: Subject) -> AsyncIterator[Finding]:
    """Whether the process is there."""
    running = subject.running
    if running is not None:
        user = "as root" if subject.user == 0 else f"as user {subject.user}"
        yield ok(_SERVICE, f"process {running.pid} runs on {running.address}, {user}")
        return
    other = subject.other
    also = f"; process {other.pid} runs with {other.configuration}" if other else ""
    yield wrong(
        _SERVICE,
        f"no daemon runs with this configuration{also}",
        *((f"berinia-webhookd --config {other.configuration} doctor",) if other else ()),
        subject.command("start"),
        subject.look_at_log,
        why="; ".join(("no callback is received", *(one.retries for one in providers(subject)))),
    )


async def port(subject: Subject) -> AsyncIterator[Finding]:
    """Whether the port is held by the daemon, or by whom."""
    number = processes.port_of(subject.address)
    if number is None:
        yield note(_PORT, f"listens on {subject.address}")
        return
    inodes = processes.listening_inodes(number)
    for finding in _port_findings(subject, number, inodes, processes.holders(inodes)):
        yield finding


def _port_findings(
    subject: Subject, number: int, inodes: set[int], found: list[Process]
) -> Iterator[Finding]:
    running = subject.running
    if running is not None and running.pid in {process.pid for process in found}:
        others = [process for process in found if process.pid not in (running.pid, 1)]
        if others:
            yield _shared_port(number, others)
        else:
            yield ok(_PORT, f"{subject.address} is held by the daemon")
    elif not inodes:
        yield _closed(subject, number)
    elif found:
        yield _taken(subject, number, found)
    else:
        yield note(
            _PORT,
            f"port {number} is held by a process that this user cannot see",
            f"sudo ss -ltnp 'sport = :{number}'",
        )


def _closed(subject: Subject, number: int) -> Finding:
    if subject.running is None:
        return note(_PORT, f"nobody listens on port {number}")
    return wrong(
        _PORT,
        f"nobody listens on {subject.address}, although process {subject.running.pid} runs",
        subject.command("restart"),
        subject.look_at_log,
        why="no callback gets in",
    )


def _shared_port(number: int, others: list[Process]) -> Finding:
    return warning(
        _PORT,
        f"port {number} is also held by {others[0]}",
        f"stop it: kill {others[0].pid}",
        why="callbacks that reach the other process are not seen by the daemon",
    )


def _taken(subject: Subject, number: int, found: list[Process]) -> Finding:
    holder = found[0]
    stop = f"stop it: kill {holder.pid}"
    if OLD_SCRIPT in holder.words:
        stop = "it is the old webhook script; stop and disable its unit"
    elif "berinia" in holder.words:
        stop = f"it is another berinia-webhookd; stop it first: kill {holder.pid}"
    return wrong(
        _PORT,
        f"port {number} is held by {holder}",
        f"sudo ss -ltnp 'sport = :{number}'",
        f"{stop}, or set server.port to another port here and in nginx",
        subject.command("start"),
        why="the daemon cannot listen, and callbacks go to the other process",
    )


async def version(subject: Subject) -> AsyncIterator[Finding]:
    """Whether what runs is what is installed."""
    running = subject.running
    if running is None:
        return
    if running.version == __version__:
        yield ok(_VERSION, f"{__version__} runs and is installed")
        return
    yield wrong(
        _VERSION,
        f"{running.version} runs, {__version__} is installed",
        subject.command("restart"),
        why="an upgrade takes effect with a restart, and until then its corrections are missing",
    )


async def health(subject: Subject) -> AsyncIterator[Finding]:
    """Whether it answers, and what it says of itself."""
    if subject.running is None:
        return
    try:
        page = await fetch(subject.running.address, "/health")
    except WebhookdError as error:
        yield wrong(
            _HEALTH,
            f"the daemon does not answer: {error}",
            subject.look_at_log,
            subject.command("restart"),
            why="providers get no answer either",
        )
        return
    if page.status == 200:  # noqa: PLR2004 - as it is written everywhere
        yield ok(_HEALTH, "answers, and is healthy")
        return
    reasons = _reasons(page.text)
    for name, reason in reasons.items():
        why, mend = HEALTH_HELP.get(name, ("the daemon cannot do its work", subject.look_at_log))
        yield wrong(_HEALTH, f"{name}: {reason}", mend, why=why)
    if not reasons:
        yield wrong(
            _HEALTH,
            f"answers {page.status} to GET /health, without reasons",
            subject.look_at_log,
            "let this machine read them: server.metrics_allowed_ips",
            why="the daemon says that it cannot do its work",
        )


def _reasons(text: str) -> dict[str, str]:
    try:
        found = json.loads(text)["reasons"]
    except (ValueError, KeyError, TypeError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(name): str(reason) for name, reason in found.items()}
