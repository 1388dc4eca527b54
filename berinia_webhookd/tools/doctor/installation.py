"""Finds the installation that `doctor` looks at: the running daemon, if there is one, and the
settings as that daemon has them. A shell lacks the credentials and variables of the service, so
they are read off the daemon's own process where this user may do that; nothing of them is shown.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from berinia_webhookd.channels import catalogue
from berinia_webhookd.channels.catalogue import KINDS
from berinia_webhookd.config.fields import ENVIRONMENT_PREFIX
from berinia_webhookd.config.load import Examined, examine
from berinia_webhookd.config.settings import state_folder
from berinia_webhookd.findings import Finding, note, ok
from berinia_webhookd.journal.database import path_of
from berinia_webhookd.journal.inspecting import inspect_file
from berinia_webhookd.journal.operations import Operations
from berinia_webhookd.journal.saved_copies import saved_copies
from berinia_webhookd.listening import configured_address
from berinia_webhookd.status.findings.installation import (
    AS_DAEMON,
    Commands,
    Installation,
    JournalAccess,
)
from berinia_webhookd.tools import installation
from berinia_webhookd.tools.agent_loading import load_agents
from berinia_webhookd.tools.dev import CONFIG_NAME, FOLDER
from berinia_webhookd.tools.doctor import processes
from berinia_webhookd.tools.installation import RunningDaemon

UNIT: Final = "berinia-webhook"
UNIT_FOLDERS: Final = (Path("/etc/systemd/system"), Path("/lib/systemd/system"))
SETTINGS: Final = "settings"


@dataclass(frozen=True, slots=True)
class Found:
    """The installation, with what only the command line needs to know."""

    installation: Installation
    config_file: Path | None
    running: RunningDaemon | None
    other: RunningDaemon | None  # a daemon that runs with another configuration


def find(config_file: Path | None, environ: Mapping[str, str], working_folder: Path) -> Found:
    """The installation that `--config` names, else the one that is running, else the configured."""
    running = installation.read(environ, config_file=config_file)
    if running is not None and config_file is None:
        config_file = running.configuration
    borrowed = None if running is None else processes.environment_of(running.pid)
    folder = None if running is None else processes.folder_of(running.pid)
    knows_environment = borrowed is not None and folder is not None
    if borrowed is not None and folder is not None:
        # What the operator says here for this one look goes first.
        said = {name: text for name, text in environ.items() if name.startswith(ENVIRONMENT_PREFIX)}
        environ, working_folder = {**borrowed, **said}, folder
    examined = examine(
        kinds=KINDS, environ=environ, working_folder=working_folder, config_file=config_file
    )
    other = None
    if running is not None and not running.uses(examined.config_file):
        running, other, knows_environment = None, running, False
    return Found(
        installation=_installation(examined, running, environ, knows_environment=knows_environment),
        config_file=examined.config_file,
        running=running,
        other=other,
    )


def _installation(
    examined: Examined,
    running: RunningDaemon | None,
    environ: Mapping[str, str],
    *,
    knows_environment: bool,
) -> Installation:
    settings = examined.settings
    user = processes.user_of(running.pid) if running else None
    address = installation.address(settings, environ, running, examined.config_file)
    told = "" if address == configured_address(settings.server) else _flag(address)
    return Installation(
        settings=settings,
        problems=examined.problems,
        warnings=examined.warnings,
        knows_environment=knows_environment,
        process=running.pid if running else None,
        address=address,
        user=os.geteuid() if user is None else user,
        logs=installation.logs_folder(settings, running),
        state=state_folder(environ) if running is None else running.state,
        key=installation.own_key(environ, running),
        journal=_journal(installation.journal_url(settings, running)),
        commands=_commands(running, examined.config_file, told),
        channels_for=lambda urls: catalogue.build(settings.channels, urls),
        load_agents=lambda: load_agents(settings, offline=False),
    )


def _journal(url: str) -> JournalAccess:
    return JournalAccess(
        file=path_of(url),
        shown_url=installation.shown_url(url),
        inspect=lambda: Operations(url),
        inspect_file=inspect_file,
        saved_copies=saved_copies,
    )


def _flag(address: str) -> str:
    """Return the flag by which `serve` was told an address that the settings do not say."""
    if address.startswith("unix:"):
        return f" --uds {shlex.quote(address.removeprefix('unix:'))}"
    return f" --port {address.rpartition(':')[2]}"


def _commands(running: RunningDaemon | None, config_file: Path | None, told: str) -> Commands:
    unit = processes.unit_of(running.pid) if running else _installed_unit()
    if unit is not None:
        start, restart, reload = (f"systemctl {v} {unit}" for v in ("start", "restart", "reload"))
        parts = f"{UNIT}.socket {UNIT}.service" if unit == UNIT else unit
        log = f"journalctl -u {unit} -n 50"
        return Commands(start, f"systemctl stop {parts}", restart, reload, show_log=log)
    serve = _serve(config_file) + told
    stop: str | None = None
    restart = reload = serve
    if running is not None:
        stop = f"kill {running.pid}"
        restart, reload = f"{stop}; {serve}", f"kill -HUP {running.pid}"
    return Commands(serve, stop, restart, reload, "berinia-webhookd logs --type error -n 50")


def _serve(config_file: Path | None) -> str:
    if config_file is None:
        return "berinia-webhookd serve"
    if config_file.parts[-2:] == (FOLDER, CONFIG_NAME):
        return f"cd {shlex.quote(str(config_file.parents[1]))}; berinia-webhookd serve --dev"
    return f"berinia-webhookd --config {shlex.quote(str(config_file))} serve"


def _installed_unit() -> str | None:
    there = any((folder / f"{UNIT}.service").exists() for folder in UNIT_FOLDERS)
    return UNIT if there else None


async def settings(found: Found) -> AsyncIterator[Finding]:
    """Whether the settings can be used, and whether they are those of the daemon."""
    why = "with a wrong setting the daemon neither starts nor reloads"
    for problem in found.installation.problems:
        yield replace(problem, why=why)
    if found.running is not None and not found.installation.knows_environment:
        yield note(
            SETTINGS,
            "this user cannot read the environment of the daemon; its credentials and variables "
            "are unknown here",
            AS_DAEMON,
        )
    if not found.installation.problems:
        file = found.config_file
        yield ok(SETTINGS, f"read from {file}" if file else "no file: environment and defaults")
