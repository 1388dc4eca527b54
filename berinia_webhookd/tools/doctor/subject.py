"""What `doctor` looks at: the running daemon, if there is one, and the settings as that daemon has
them. A shell lacks the credentials and variables of the service, so they are read off the daemon's
own process where this user may do that; nothing of them is shown.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from berinia_webhookd.config.fields import ENVIRONMENT_PREFIX
from berinia_webhookd.config.load import Examined, examine
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.findings import Finding, note, ok, wrong
from berinia_webhookd.tools import installation
from berinia_webhookd.tools.doctor import processes
from berinia_webhookd.tools.installation import Installation

UNIT: Final = "berinia-webhook"
UNIT_FOLDERS: Final = (Path("/etc/systemd/system"), Path("/lib/systemd/system"))
_SAY: Final = "settings"


@dataclass(frozen=True, slots=True)
class Subject:
    """One installation, running or not."""

    examined: Examined
    running: Installation | None
    other: Installation | None  # a daemon that runs with another configuration
    environ: Mapping[str, str]  # what the settings were read with
    as_daemon: bool  # whether that is the daemon's own environment

    @property
    def settings(self) -> Settings:
        """The settings; a value in error shows its default."""
        return self.examined.settings

    @property
    def address(self) -> str:
        """Where the daemon listens, or would."""
        if self.running is not None:
            return self.running.address
        server = self.settings.server
        host = f"[{server.host}]" if ":" in server.host else server.host
        return f"{host}:{server.port}"

    @property
    def journal_url(self) -> str:
        """Where the journal is; may hold a password."""
        return installation.journal_url(self.settings, self.running)

    @property
    def logs(self) -> Path:
        """The unified logs."""
        return installation.logs_folder(self.settings, self.running)

    @property
    def user(self) -> int:
        """Whom the daemon runs as; who asks, while it does not run."""
        found = processes.user_of(self.running.pid) if self.running else None
        return os.geteuid() if found is None else found

    def command(self, verb: str) -> str:
        """How to `start`, `restart` or `reload` it."""
        unit = processes.unit_of(self.running.pid) if self.running else _installed_unit()
        if unit is not None:
            return f"systemctl {verb} {unit}"
        file = self.examined.config_file
        program = f"berinia-webhookd --config {file}" if file else "berinia-webhookd"
        serve = f"{program} serve"
        if self.running is None:
            return serve
        pid = self.running.pid
        return f"kill -HUP {pid}" if verb == "reload" else f"kill {pid}, then {serve}"

    @property
    def look_at_log(self) -> str:
        """The command that shows what the daemon said last."""
        unit = processes.unit_of(self.running.pid) if self.running else _installed_unit()
        if unit is not None:
            return f"journalctl -u {unit} -n 50"
        return "berinia-webhookd logs --type error -n 50"


def find(config_file: Path | None, environ: Mapping[str, str], working_folder: Path) -> Subject:
    """The installation that `--config` names, else the one that is running, else the configured."""
    running = installation.read(environ, config_file=config_file)
    if running is not None and config_file is None:
        config_file = running.configuration
    borrowed = None if running is None else processes.environment_of(running.pid)
    folder = None if running is None else processes.folder_of(running.pid)
    as_daemon = borrowed is not None and folder is not None
    if borrowed is not None and folder is not None:
        # What the operator says here for this one look goes first.
        said = {name: text for name, text in environ.items() if name.startswith(ENVIRONMENT_PREFIX)}
        environ, working_folder = {**borrowed, **said}, folder
    examined = examine(environ=environ, working_folder=working_folder, config_file=config_file)
    ours = running is not None and running.uses(examined.config_file)
    return Subject(
        examined=examined,
        running=running if ours else None,
        other=None if ours else running,
        environ=environ,
        as_daemon=as_daemon,
    )


def settings_findings(subject: Subject) -> Iterator[Finding]:
    """Whether the settings can be used, and whether they are those of the daemon."""
    for problem in subject.examined.problems:
        yield wrong(
            _SAY,
            f"{problem.subject}: {problem.what}",
            *problem.fix,
            why="with a wrong setting the daemon neither starts nor reloads",
        )
    if subject.running is not None and not subject.as_daemon:
        yield note(
            _SAY,
            "the daemon's own environment cannot be read by this user; its credentials and "
            "variables are unknown here",
            "sudo berinia-webhookd doctor",
        )
    if not subject.examined.problems:
        file = subject.examined.config_file
        yield ok(
            _SAY, f"read from {file}" if file else "no settings file; environment and defaults"
        )


def _installed_unit() -> str | None:
    there = any((folder / f"{UNIT}.service").exists() for folder in UNIT_FOLDERS)
    return UNIT if there else None
