"""`doctor`: looks at a running installation and says what is wrong, why it matters, and what mends
it. It changes nothing: its probes are verified and answered by the daemon, and stored nowhere.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import Final

import click

from berinia_webhookd import __version__
from berinia_webhookd.errors import WebhookdError
from berinia_webhookd.findings import Finding, Level, wrong
from berinia_webhookd.tools.command_context import CommandContext, working_folder
from berinia_webhookd.tools.doctor import (
    agents,
    console,
    journal,
    log_folder,
    machine,
    nginx,
    outside,
    safety,
    service,
    signatures,
)
from berinia_webhookd.tools.doctor.subject import Subject, find, settings_findings
from berinia_webhookd.tools.findings_view import document, lines
from berinia_webhookd.tools.installation import shown_url
from berinia_webhookd.tools.terminal import json_text

Check = Callable[[Subject], AsyncIterator[Finding]]

# In the order in which somebody would look: each one's findings make sense after those before.
CHECKS: Final[dict[str, Check]] = {
    "service": service.up,
    "port": service.port,
    "version": service.version,
    "health": service.health,
    "signatures": signatures.verifiable,
    "nginx": nginx.passes_on,
    "outside": outside.closed,
    "refused": console.lately,
    "agents": agents.loadable,
    "journal": journal.file,
    "contents": journal.contents,
    "disk": machine.disk,
    "clock": machine.clock,
    "logs": log_folder.folder,
    "safety": safety.settings,
    "console": console.urls,
}
CHECK_SECONDS: Final = 120.0


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.pass_context
def doctor_command(ctx: click.Context, /, *, as_json: bool) -> None:
    """Look at the running installation: what is wrong, why it matters, what mends it.

    Asks the daemon, the port, nginx (by a signed probe through server.public_url), the journal,
    the agents, disks, clock and logs. Run it as root or as the user of the service: others see
    less. Exit code 1: something is wrong; warnings alone give 0.
    """
    context = ctx.find_object(CommandContext)
    assert context is not None  # noqa: S101 - the group makes it
    subject = find(context.config_file, os.environ, working_folder())
    findings = asyncio.run(examine(subject))
    if as_json:
        click.echo(json_text(report(subject, findings)))
    else:
        for line in lines(findings):
            click.echo(line)
    ctx.exit(0 if _is_healthy(findings) else 1)


async def examine(subject: Subject) -> list[Finding]:
    """All checks, one after another; one that cannot look does not keep the others from it."""
    findings = list(settings_findings(subject))
    for name, check in CHECKS.items():
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                async for finding in check(subject):
                    findings.append(finding)  # noqa: PERF401 - kept when the next one fails
        except (WebhookdError, OSError) as error:
            findings.append(_unseen(name, error))
    return findings


def _unseen(name: str, error: WebhookdError | OSError) -> Finding:
    hint = error.hint if isinstance(error, WebhookdError) and error.hint else None
    text = str(error) or f"no end within {CHECK_SECONDS:g} s"
    mend = (hint,) if hint else ()
    return wrong(
        name, f"could not be looked at: {text}", *mend, why="what nobody can look at may be broken"
    )


def report(subject: Subject, findings: list[Finding]) -> dict[str, object]:
    """What `--json` prints."""
    running = subject.running
    return {
        "healthy": _is_healthy(findings),
        "version": __version__,
        "process": None if running is None else running.pid,
        "address": subject.address,
        "configuration": subject.examined.config_file,
        "journal": shown_url(subject.journal_url),
        "logs": subject.logs,
        "findings": [document(finding) for finding in findings],
    }


def _is_healthy(findings: list[Finding]) -> bool:
    return all(finding.level is not Level.WRONG for finding in findings)
