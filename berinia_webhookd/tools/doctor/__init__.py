"""`doctor`: looks at a running installation and says what is wrong, why it matters, and what fixes
it. It changes nothing: its probes are verified and answered by the daemon, and stored nowhere.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import click

from berinia_webhookd import __version__
from berinia_webhookd.errors import WebhookdError
from berinia_webhookd.findings import Finding, Level
from berinia_webhookd.journal.inspecting import glance
from berinia_webhookd.loopback_lock import LoopbackLock
from berinia_webhookd.status.findings import CHECKS, Check, findings_of
from berinia_webhookd.tools.command_context import CommandContext, working_folder
from berinia_webhookd.tools.doctor.installation import Found, find, settings
from berinia_webhookd.tools.doctor.service import health, port, service, version
from berinia_webhookd.tools.findings_view import lines
from berinia_webhookd.tools.terminal import json_text

# Come before those that need no command line.
FIRST_CHECKS: Final[Mapping[str, Check[Found]]] = {
    "settings": settings,
    "service": service,
    "port": port,
    "version": version,
    "health": health,
}


PROBES: Final = frozenset({"signatures", "nginx", "outside", "clock"})


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.option("--problems", is_flag=True, help="Only what needs somebody: what is wrong.")
@click.option(
    "--trust-loopback",
    is_flag=True,
    help="First end the lock of loopback; what speaks against it later locks it again.",
)
@click.pass_obj
def doctor_command(
    context: CommandContext, /, *, as_json: bool, problems: bool, trust_loopback: bool
) -> None:
    """Look at the running installation: what is wrong, why it matters, what fixes it.

    Asks the daemon, the port, nginx (by a signed probe through server.public_url), the journal,
    the agents, disks, clock and logs. Run it as root or as the user of the service: others see
    less. The worst comes last. Exit code 1: something is wrong; warnings alone give 0.
    """
    found = find(context.config_file, os.environ, working_folder())
    if trust_loopback:
        _trust_loopback(found)
    findings = asyncio.run(examine(found))
    shown = [one for one in findings if one.level is Level.WRONG or not problems]
    if as_json:
        click.echo(json_text(report(found, shown)))
    else:
        for line in lines(shown, of=findings):
            click.echo(line)
    click.get_current_context().exit(0 if _is_healthy(findings) else 1)


def _trust_loopback(found: Found) -> None:
    lock = LoopbackLock(found.installation.state)
    try:
        lock.remove()
    except OSError as error:
        hint = "sudo berinia-webhookd doctor --trust-loopback"
        raise WebhookdError(
            f"{lock.file} cannot be removed: {error.strerror}", hint=hint
        ) from error


async def examine(found: Found) -> list[Finding]:
    """Return the findings of all checks, the worst last; those as bad in the checks' order."""
    first = await findings_of(FIRST_CHECKS, found)
    later = await findings_of(CHECKS, found.installation)
    findings = _without_consequences([*first, *later])
    return sorted(findings, key=lambda finding: list(Level).index(finding.level))


def _without_consequences(findings: list[Finding]) -> list[Finding]:
    """Make a note of what only follows from something else that is wrong."""
    checks = {one.subject.partition(".")[0] for one in findings if one.level is Level.WRONG}
    return [
        replace(one, level=Level.NOTE, why=None, fix=())
        if one.level is Level.WRONG and checks.intersection(one.follows)
        else one
        for one in findings
    ]


async def without_probes(config_file: Path | None) -> list[Finding]:
    """Return the findings that need no probe, the worst last, as the daemon itself sees them. The
    journal's pages are not checked, and nothing takes the writer's turn.
    """
    installation = find(config_file, os.environ, working_folder()).installation
    journal = replace(installation.journal, inspect_file=glance)
    checks = {name: check for name, check in CHECKS.items() if name not in PROBES}
    findings = await findings_of(checks, replace(installation, journal=journal))
    return sorted(findings, key=lambda finding: list(Level).index(finding.level))


def report(found: Found, findings: list[Finding]) -> dict[str, object]:
    """Return what `--json` prints."""
    installation = found.installation
    return {
        "healthy": _is_healthy(findings),
        "version": __version__,
        "process": installation.process,
        "address": installation.address,
        "configuration": found.config_file,
        "journal": installation.journal.shown_url,
        "logs": installation.logs,
        "findings": [finding.fields for finding in findings],
    }


def _is_healthy(findings: list[Finding]) -> bool:
    return all(finding.level is not Level.WRONG for finding in findings)
