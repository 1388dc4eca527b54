"""`check-config`: checks all that `serve` would use, without listening, and lists all that is wrong
at once. It changes nothing, makes no journal, and shows no secrets.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Final

import click

from berinia_webhookd.channels import catalogue
from berinia_webhookd.clock import now
from berinia_webhookd.config.fields import Environ
from berinia_webhookd.config.load import Examined
from berinia_webhookd.config.settings import Settings, state_folder
from berinia_webhookd.errors import CannotStart, NotPermitted, WebhookdError
from berinia_webhookd.findings import Finding, Level, note, ok, warning, wrong
from berinia_webhookd.journal.consents_key import require_fit
from berinia_webhookd.journal.database import (
    Database,
    DatabaseError,
    open_database,
    path_of,
)
from berinia_webhookd.journal.lock import real_path, require_one_name
from berinia_webhookd.journal.migrate import SCHEMA_VERSION, stored_version
from berinia_webhookd.status.findings.agents import METRIC, of_loads
from berinia_webhookd.status.findings.channels import console_entries
from berinia_webhookd.status.findings.folders import (
    file_refusal,
    folder_refusal,
    foreign_logs,
    usable_folders,
)
from berinia_webhookd.status.findings.installation import AgentLoad
from berinia_webhookd.status.findings.probe import metric
from berinia_webhookd.tools import installation
from berinia_webhookd.tools.agent_loading import load_agents
from berinia_webhookd.tools.command_context import CommandContext
from berinia_webhookd.tools.config_view import Checked, document, lines
from berinia_webhookd.tools.installation import RunningDaemon, consents_key, shown_url
from berinia_webhookd.tools.terminal import json_text

JOURNAL_URL: Final = "journal.url"
CONSENTS_KEY: Final = "consents.key"
WHERE_AGENTS_ARE: Final = frozenset({"agents.path", "agents.python", "agents.registry"})
CONNECT_SECONDS: Final = 15.0
_WORST_LAST: Final = tuple(Level)


@click.command("check-config")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.option(
    "--offline", is_flag=True, help="Start no agent and connect to no database: only look at files."
)
@click.option("--all", "every", is_flag=True, help="Settings that are at their defaults as well.")
@click.pass_obj
def check_config_command(
    context: CommandContext, /, *, as_json: bool, offline: bool, every: bool
) -> None:
    """Show what is set and where it comes from, and all that is wrong.

    Loads each agent as `serve` would (so its module is imported and its instance made), opens the
    journal if there is one, and tests the folders, all as the current user: check as the user of
    the service. Exit code 1 if something is wrong; warnings alone give 0.
    """
    examined = context.examine()
    running = _running(context, examined)
    checked = asyncio.run(_check(examined, os.environ, running, offline=offline))
    if as_json:
        click.echo(json_text(document(checked)))
    else:
        for line in lines(checked, every=every):
            click.echo(line)
    is_wrong = any(finding.level is Level.WRONG for finding in checked.findings)
    click.get_current_context().exit(1 if is_wrong else 0)


def _running(context: CommandContext, examined: Examined) -> RunningDaemon | None:
    """Return the daemon that runs with this configuration, which flags may have told otherwise."""
    try:
        running = installation.read(os.environ, config_file=context.config_file)
    except NotPermitted:
        return None  # where it listens is for its own user; what is set is looked at all the same
    return running if running is not None and running.uses(examined.config_file) else None


async def _check(
    examined: Examined,
    environ: Mapping[str, str],
    running: RunningDaemon | None,
    *,
    offline: bool,
) -> Checked:
    """Check all but what depends on invalid settings: their defaults are not what is meant."""
    if not examined.complete:
        what = "agents, journal and folders were not checked: not all settings are known"
        return Checked(examined, (note("settings", what), *examined.problems))
    settings = examined.settings
    invalid = {name for name, origin in examined.origins.items() if not origin.valid}
    unknown = sorted(WHERE_AGENTS_ARE & invalid)
    found = list(examined.problems)
    loads: tuple[AgentLoad, ...] = ()
    if unknown:
        found.append(note("agents", f"not checked: {' and '.join(unknown)} not valid"))
    else:
        left_out = [n for n in settings.agents.by_name if f"agents.{n}.target" in invalid]
        loads = await load_agents(settings, offline=offline, left_out=left_out)
        loads = await _beside(running, loads)
        # One without a target is a warning on the settings.
        found += of_loads(settings.agents, loads, whole=True)
    if JOURNAL_URL not in invalid:
        found += await _journal(settings, environ, offline=offline)
    if settings.tracing.url is not None:
        found += _tracing()
    folders = usable_folders(settings, state_folder(environ))
    found += [folder for folder in folders if folder.subject not in invalid]
    found += foreign_logs(settings.logs.dir, settings.channels)
    urls = settings.server.public_url
    channels = catalogue.build(settings.channels, urls).values()
    address = installation.address(settings, environ, running, examined.config_file)
    found += console_entries(channels, urls, address)
    is_wrong = {finding.subject for finding in found if finding.level is Level.WRONG}
    found += [one for one in examined.warnings if one.subject not in is_wrong]
    found.sort(key=lambda finding: _WORST_LAST.index(finding.level))
    return Checked(examined, tuple(found), loads, running)


def _tracing() -> list[Finding]:
    """Check that what makes spans is installed."""
    try:
        import_module("berinia_webhookd.tracing")
    except CannotStart as error:
        return [wrong("tracing.url", str(error), *filter(None, [error.hint]))]
    return []


async def _beside(
    running: RunningDaemon | None, loads: tuple[AgentLoad, ...]
) -> tuple[AgentLoad, ...]:
    """What a running daemon has loaded goes on, whatever stands in the files by now."""
    if running is None or all(load.loads is not False for load in loads):
        return loads
    loaded = await metric(running.address, METRIC, "agent")
    return tuple(
        replace(load, goes_on=load.loads is False and loaded.get(load.agent, 0) > 0)
        for load in loads
    )


async def _journal(settings: Settings, environ: Environ, *, offline: bool) -> list[Finding]:
    """Open the journal if there is one; with `offline` connect to no database server."""
    url = settings.journal.url.reveal()
    shown = shown_url(url)
    keys: list[Finding] = []
    try:
        file = path_of(url)
        if (known := _without_opening(shown, file, offline=offline)) is not None:
            return [known]
        database = open_database(url, clock=now)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                version = await database.read(stored_version)
                if version == SCHEMA_VERSION:
                    keys += await _key(database, settings, environ)
        finally:
            await database.close()
    except TimeoutError:
        return [_unusable(shown, f"no answer within {CONNECT_SECONDS:g} s")]
    except WebhookdError as error:
        return [_unusable(shown, str(error), error.hint)]
    except DatabaseError as error:
        hint = "`serve` answers 503 until the database can be reached"
        if file is not None:
            hint = "`serve` cannot use this file: restore it, or set another `journal.url`"
        return [_unusable(shown, str(error), hint)]
    if version is None:
        return [note(JOURNAL_URL, f"{shown}: holds no journal yet; `serve` makes it")]
    upgraded = f"; `serve` upgrades it to {SCHEMA_VERSION}" if version < SCHEMA_VERSION else ""
    return [ok(JOURNAL_URL, f"{shown}: schema {version}{upgraded}"), *keys]


async def _key(database: Database, settings: Settings, environ: Environ) -> list[Finding]:
    """Check that the consents key fits the journal's digests of erased people."""
    try:
        key = consents_key(settings, environ, None)
        await database.read(partial(require_fit, key=key))
    except CannotStart as error:
        return [wrong(CONSENTS_KEY, str(error), *filter(None, [error.hint]))]
    except WebhookdError as error:
        return [warning(CONSENTS_KEY, str(error), *filter(None, [error.hint]))]
    return []


def _without_opening(shown: str, file: Path | None, *, offline: bool) -> Finding | None:
    """Return what can be told without opening it; None if it should be opened."""
    if file is None:
        what = f"{shown}: not connected to (--offline)"
        return note(JOURNAL_URL, what) if offline else None
    if os.path.lexists(file):
        if refusal := file_refusal(file):
            return _unusable(shown, refusal)
        require_one_name(real_path(file))
        return None
    if refusal := folder_refusal(file.parent, writing=True):
        return _unusable(shown, f"does not exist and cannot be made: its folder {refusal}")
    return note(JOURNAL_URL, f"{shown} does not exist yet; `serve` makes it")


def _unusable(shown: str, what: str, hint: str | None = None) -> Finding:
    hint = hint or "give the daemon's user the file and its folder, or set another journal.url"
    return wrong(JOURNAL_URL, f"{shown}: {what}", hint)
