"""The context of a command: its configuration, and the running daemon that uses it. Nothing is
cached: each call reads again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from berinia_webhookd.channels.catalogue import KINDS
from berinia_webhookd.config.load import Examined, Loaded, examine, load
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.errors import CannotStart, ConfigurationError
from berinia_webhookd.tools import installation
from berinia_webhookd.tools.installation import RunningDaemon


def working_folder() -> Path:
    """Return the working folder.

    Raises:
        CannotStart: it was deleted, or this user may not look into it.
    """
    try:
        return Path.cwd()
    except OSError as error:
        raise CannotStart(
            f"the working folder cannot be found: {error.strerror}",
            hint="go to a folder that exists, for example: cd /",
        ) from error


class CommandContext:
    """One call of the program, with its `--config`."""

    def __init__(self, config_file: Path | None) -> None:
        self.config_file = config_file

    def load(
        self, flags: Mapping[str, object] | None = None, *, before: Loaded | None = None
    ) -> Loaded:
        """Load the configuration as it is now; `flags` are settings by key, and every file that was
        read `before` must still exist.

        Raises:
            ConfigurationError: with every problem found.
        """
        return load(
            flags or {},
            kinds=KINDS,
            environ=os.environ,
            working_folder=working_folder(),
            config_file=self.config_file,
            before=before,
        )

    def examine(self) -> Examined:
        """Load the configuration, even if it has problems."""
        return examine(
            kinds=KINDS,
            environ=os.environ,
            working_folder=working_folder(),
            config_file=self.config_file,
        )

    def load_with_installation(self) -> tuple[Loaded, RunningDaemon | None]:
        """Load the configuration, and find the running daemon that uses it, if there is one.

        Raises:
            ConfigurationError: with every problem found.
        """
        loaded = self.load()
        running = installation.read(os.environ, config_file=self.config_file)
        if running is None or not running.uses(loaded.config_file):
            return loaded, None
        return loaded, running

    def look_with_installation(self) -> tuple[Settings, RunningDaemon | None]:
        """Do the same for commands that only read: if a running daemon says where its journal and
        logs are, mistakes in the settings do not matter.

        Raises:
            ConfigurationError: there are mistakes, and no such daemon.
        """
        examined = self.examine()
        running = installation.read(os.environ, config_file=self.config_file)
        if running is not None and not running.uses(examined.config_file):
            running = None
        if examined.problems:
            if running is None or running.journal is None:
                raise ConfigurationError(examined.problems)
            click.echo(
                "The settings have mistakes, which the running daemon does not use: see"
                " `berinia-webhookd check-config`.",
                err=True,
            )
        return examined.settings, running


class ConfiguredChannel(click.ParamType[str, str]):
    """The name of a configured channel, enabled or not."""

    name = "channel"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the names that begin like this."""
        from berinia_webhookd.tools import completion  # noqa: PLC0415 - which needs this module

        return completion.channels(ctx, param, incomplete)

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name.

        Raises:
            click.BadParameter: no such channel is configured.
        """
        context = None if ctx is None else ctx.find_object(CommandContext)
        known = tuple((context or CommandContext(None)).examine().settings.channels)
        if value not in known:
            self.fail(f"{value!r} is not one of {', '.join(known)}", param, ctx)
        return value
