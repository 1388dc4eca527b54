"""The command line: the list of commands, and how errors leave the process. Each command stands in
`tools/`, and is imported when it is called, so that each starts quickly.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import click

from berinia_webhookd import __version__, held_signals
from berinia_webhookd.errors import ConfigurationError, WebhookdError
from berinia_webhookd.logs.control_characters import escape_controls


class Commands(click.Group):
    """A group that imports a command's module when it is called."""

    modules: ClassVar[dict[str, tuple[str, str]]] = {
        "serve": ("berinia_webhookd.tools.serve", "serve"),
        "worker": ("berinia_webhookd.tools.serve", "worker"),
        "check-config": ("berinia_webhookd.tools.check_config", "check_config_command"),
        "doctor": ("berinia_webhookd.tools.doctor", "doctor_command"),
        "send": ("berinia_webhookd.tools.send", "send"),
        "events": ("berinia_webhookd.tools.events", "events"),
        "channels": ("berinia_webhookd.tools.channels", "channels"),
        "consents": ("berinia_webhookd.tools.consents", "consents"),
        "conversations": ("berinia_webhookd.tools.conversations", "conversations"),
        "journal": ("berinia_webhookd.tools.journal", "journal"),
        "prove": ("berinia_webhookd.tools.prove", "prove"),
        "logs": ("berinia_webhookd.tools.logs", "logs"),
    }

    daemons: ClassVar = frozenset({"serve", "worker"})  # handle signals as soon as they can

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's interface
        """Return the names of all commands, in the order of the README."""
        return list(self.modules)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's interface
        cmd_name: str,
    ) -> click.Command | None:
        """Import one command."""
        if cmd_name not in self.modules:
            return None
        if cmd_name not in self.daemons:
            held_signals.let_come()
        module, name = self.modules[cmd_name]
        command: click.Command = getattr(import_module(module), name)
        return command


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The TOML file with the settings. Default: $BERINIA_WEBHOOKD_CONFIG, else "
    "/etc/berinia-webhookd/config.toml, else ./berinia-webhookd.toml; none is required.",
)
@click.version_option(__version__, prog_name="berinia-webhookd")
@click.pass_context
def root(ctx: click.Context, config_file: Path | None) -> None:
    """Receive callbacks of Twilio, Mailgun and the WhatsApp bot for BerinIA's agents.

    Verifies who sent each, stores it durably, answers at once, and hands it to its agent, in order,
    with retries.

    Exit codes: 0 done; 1 the check found a problem, or what was asked for does not exist; 2 usage;
    3 cannot start and will not by itself; 4 cannot start now.
    """
    from berinia_webhookd.tools.command_context import CommandContext  # noqa: PLC0415 - see above

    ctx.obj = CommandContext(config_file)


def main(arguments: list[str] | None = None) -> Any:
    """Run one command; whatever goes wrong is one clear line on stderr, never a traceback."""
    try:
        status = root.main(arguments, prog_name="berinia-webhookd", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except WebhookdError as error:
        _show(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does.
        sys.stderr.close()
        sys.exit(0)
    sys.exit(status if isinstance(status, int) else 0)


def _show(error: WebhookdError) -> None:
    hint = f" — {error.hint}" if error.hint else ""
    click.echo(escape_controls(f"berinia-webhookd: {error}{hint}", keep_line_ends=True), err=True)
    if isinstance(error, ConfigurationError):
        for finding in error.findings[1:]:
            fixes = "".join(f" — {step}" for step in finding.fix)
            also = f"  also {finding.subject}: {finding.what}{fixes}"
            click.echo(escape_controls(also), err=True)
