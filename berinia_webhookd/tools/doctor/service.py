"""Whether the daemon is up, holds its port, answers, and is the program that is installed: asked
from outside of it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Final

from berinia_webhookd import __version__
from berinia_webhookd.errors import WebhookdError
from berinia_webhookd.findings import Finding, note, ok, warning, wrong
from berinia_webhookd.status.findings.probe import Sender
from berinia_webhookd.tools.doctor import processes
from berinia_webhookd.tools.doctor.installation import UNIT, UNIT_FOLDERS, Found
from berinia_webhookd.tools.doctor.processes import Process

OLD_SCRIPT: Final = "run_webhook.py"
SERVICE: Final = "service"
PORT: Final = "port"
VERSION: Final = "version"
HEALTH: Final = "health"

HEALTH_HELP: Final = {
    "journal": ("nothing can be accepted: providers get 503", "see the findings on the journal"),
    "agents": ("their messages wait in the journal", "see the findings on the agents"),
    "dispatcher": ("accepted messages wait in the journal", "restart the daemon, and keep its log"),
    "disk": ("on a full disk every message is answered 503", "`df -h`, then make room"),
}

MORE_OF: Final = {"journal": ("disk",)}  # besides the check of the same name


async def service(found: Found) -> AsyncIterator[Finding]:
    """Whether the process is there."""
    installation, running, other = found.installation, found.running, found.other
    if running is not None:
        user = "root" if installation.user == 0 else f"user {installation.user}"
        yield ok(SERVICE, f"process {running.pid} runs on {running.address}, as {user}")
        return
    retries = (provider.retries for provider in installation.providers)
    also = f"; process {other.pid} runs with {other.configuration}" if other else ""
    down = wrong(
        SERVICE,
        f"no daemon runs with this configuration{also}",
        *((f"`berinia-webhookd --config {other.configuration} doctor`",) if other else ()),
        installation.commands.start,
        installation.commands.show_log,
        why="; ".join(("no callback is received", *retries)),
    )
    refused = (finding.subject.partition(".")[0] for finding in installation.problems)
    yield replace(down, follows=(PORT, *refused))


async def port(found: Found) -> AsyncIterator[Finding]:
    """Whether the port is held by the daemon, or by whom."""
    address = found.installation.address
    number = processes.port_of(address)
    if number is None:
        yield note(PORT, f"the daemon listens on {address}")
        return
    inodes = processes.listening_inodes(number)
    for finding in _port_findings(found, number, inodes, processes.holders(inodes)):
        yield finding


def _port_findings(
    found: Found, number: int, inodes: set[int], holders: list[Process]
) -> Iterator[Finding]:
    pid = found.installation.process
    by_our_socket = processes.socket_unit_has(number, f"{UNIT}.socket", UNIT_FOLDERS)
    ours = [one for one in holders if pid is not None and processes.is_within(one.pid, pid)]
    others = [one for one in holders if one.pid != 1 and one not in ours]
    if ours:
        if others:
            yield _shared_port(number, others[0])
        else:
            yield ok(PORT, f"{found.installation.address} is held by the daemon")
    elif not inodes:
        yield _closed(found, number)
    elif others:
        yield _taken(found, number, others[0])
    elif holders and by_our_socket:
        yield ok(
            PORT,
            f"port {number} is held by {UNIT}.socket, as it should be; its next connection starts "
            "the daemon",
        )
    elif holders:
        yield _taken(found, number, holders[0])
    else:
        yield note(
            PORT,
            f"port {number} is held by a process that this user cannot see",
            f"sudo ss -ltnp 'sport = :{number}'",
        )


def _closed(found: Found, number: int) -> Finding:
    if found.running is None:
        return note(PORT, f"nothing listens on port {number}")
    return wrong(
        PORT,
        f"nothing listens on {found.running.address}, although process {found.running.pid} runs",
        found.installation.commands.restart,
        found.installation.commands.show_log,
        why="no callback gets in",
    )


def _shared_port(number: int, other: Process) -> Finding:
    return warning(
        PORT,
        f"port {number} is also held by {other}",
        _stop(other, number),
        why="callbacks that reach the other process are not seen by the daemon",
    )


def _stop(holder: Process, number: int) -> str:
    """Say how to have a process let go of the port; one that systemd has started, through it."""
    unit = processes.unit_of(holder.pid)
    if holder.pid == 1:
        return f"find the unit that it is for: `systemctl list-sockets | grep {number}`; stop it"
    if OLD_SCRIPT in holder.name:
        return "it is the old webhook script; stop and disable its unit"
    if unit is not None:
        return f"stop it: `systemctl stop {unit}`"
    if "berinia" in holder.name:
        return "it is another berinia-webhookd; end it where it was started"
    return f"stop it: `kill {holder.pid}`"


def _taken(found: Found, number: int, holder: Process) -> Finding:
    return wrong(
        PORT,
        f"port {number} is held by {holder}",
        f"sudo ss -ltnp 'sport = :{number}'",
        f"{_stop(holder, number)}; or set `server.port` to another port here and in nginx",
        found.installation.commands.start,
        why="the daemon cannot listen, and callbacks go to the other process",
    )


async def version(found: Found) -> AsyncIterator[Finding]:
    """Whether what runs is what is installed."""
    running = found.running
    if running is None:
        return
    if running.version == __version__:
        yield ok(VERSION, f"{__version__} runs and is installed")
        return
    yield wrong(
        VERSION,
        f"{running.version} runs, {__version__} is installed",
        found.installation.commands.restart,
        why="an upgrade takes effect with a restart; until then its corrections are missing",
    )


async def health(found: Found) -> AsyncIterator[Finding]:
    """Whether it answers, and what it says of itself."""
    if found.running is None:
        return
    commands = found.installation.commands
    try:
        status, text = await Sender.to_daemon(found.running.address).get("/health")
    except WebhookdError as error:
        yield wrong(
            HEALTH,
            f"the daemon does not answer: {error}",
            commands.show_log,
            commands.restart,
            why="providers get no answer either",
        )
        return
    if status == 200:  # noqa: PLR2004 - as it is written everywhere
        yield ok(HEALTH, "the daemon answers, and is healthy")
        return
    reasons = _reasons(text)
    for name, reason in reasons.items():
        why, fix = HEALTH_HELP.get(name, ("the daemon cannot do its work", commands.show_log))
        finding = wrong(HEALTH, f"{name}: {reason}", fix, why=why)
        yield replace(finding, follows=(name, *MORE_OF.get(name, ())))
    if not reasons:
        yield wrong(
            HEALTH,
            f"the daemon answers {status} to GET /health, without reasons",
            commands.show_log,
            "let this machine read them: `server.metrics_allowed_ips`",
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
