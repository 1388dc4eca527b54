"""`check-config`: looks at all that `serve` would use, without listening, and lists everything that
is wrong at once. It changes nothing and makes no journal; secrets are shown to nobody.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Mapping
from typing import Final

import click

from berinia_webhookd.channels import catalogue
from berinia_webhookd.config.load import Examined
from berinia_webhookd.config.settings import Settings, state_folder
from berinia_webhookd.tools.agent_check import AgentFinding, check_agents
from berinia_webhookd.tools.command_context import CommandContext
from berinia_webhookd.tools.config_view import Findings, document, lines
from berinia_webhookd.tools.folder_check import check_folders, foreign_logs
from berinia_webhookd.tools.journal_check import check_journal
from berinia_webhookd.tools.terminal import json_text

WHERE_AGENTS_ARE: Final = frozenset({"agents.path", "agents.python", "agents.registry"})


@click.command("check-config")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.option(
    "--offline", is_flag=True, help="Start no agent and connect to no database: only look at files."
)
@click.pass_obj
def check_config_command(context: CommandContext, /, *, as_json: bool, offline: bool) -> None:
    """Show every setting and where it comes from, and all that is wrong.

    Loads each agent as `serve` would (so its module is imported and its instance made), opens the
    journal if there is one, and tests the folders, all as the current user: check as the user of
    the service. Exit code 1 if there is a problem; warnings alone give 0.
    """
    findings = asyncio.run(_look(context.examine(), os.environ, offline=offline))
    if as_json:
        click.echo(json_text(document(findings)))
    else:
        for line in lines(findings):
            click.echo(line)
    click.get_current_context().exit(1 if findings.problems else 0)


async def _look(examined: Examined, environ: Mapping[str, str], *, offline: bool) -> Findings:
    """What depends on a setting that is not valid is not looked at: its default is not meant."""
    if not examined.complete:
        note = "agents, journal and folders were not looked at: the settings are not all known"
        return Findings(examined, examined.problems, (), (note,))
    settings = examined.settings
    invalid = {name for name, origin in examined.origins.items() if not origin.valid}
    agents, notes = await _look_at_agents(settings, invalid, offline=offline)
    journal = None
    if "journal.url" not in invalid:
        journal = await check_journal(settings.journal, offline=offline)
    folders = [
        folder
        for folder in check_folders(settings, state_folder(environ))
        if folder.setting not in invalid
    ]
    found = [one.problem for one in (*agents, journal, *folders) if one is not None]
    problems = (*examined.problems, *(problem for problem in found if problem is not None))
    wrong = {problem.subject for problem in problems}
    return Findings(
        examined=examined,
        problems=problems,
        warnings=tuple(warning for warning in examined.warnings if warning.subject not in wrong),
        notes=(*notes, *_console_lines(settings), *foreign_logs(settings, settings.logs.dir)),
        agents=agents,
        journal=journal,
        folders=tuple(folders),
    )


async def _look_at_agents(
    settings: Settings, invalid: Collection[str], *, offline: bool
) -> tuple[tuple[AgentFinding, ...], list[str]]:
    if unknown := sorted(WHERE_AGENTS_ARE.intersection(invalid)):
        return (), [f"no agent was tried: {' and '.join(unknown)} not valid"]
    left_out = [name for name in settings.agents.by_name if f"agents.{name}.target" in invalid]
    return await check_agents(settings, offline=offline, left_out=left_out), []


def _console_lines(settings: Settings) -> list[str]:
    """What to enter where a provider does not send again by itself."""
    channels = catalogue.build(settings.channels, settings.server.public_url)
    return [
        f"{channel.provider.console}: {channel.provider.entered.format(url=base + channel.path)}"
        for channel in channels.values()
        if channel.provider.from_outside and not channel.provider.retries_by_itself
        for base in settings.server.public_url or ("https://your.host",)
    ]
