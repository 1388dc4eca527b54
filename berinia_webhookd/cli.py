"""The command line: the list of commands, and how errors end the process. Each command is in
`tools/`, and imported when it is called, so that every command starts quickly.
"""

from __future__ import annotations

import difflib
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Final

import click
from click.shell_completion import CompletionItem

from berinia_webhookd import __version__, held_signals
from berinia_webhookd.errors import ConfigurationError, WebhookdError
from berinia_webhookd.logs.control_characters import escape_controls

_TOOLS: Final = "berinia_webhookd.tools"


class Commands(click.Group):
    """A group that imports a command's module when it is called."""

    # Where each is, and what it does in a line of 80 columns.
    modules: ClassVar[dict[str, tuple[str, str, str]]] = {
        "serve": (f"{_TOOLS}.serve", "serve", "Receive callbacks and dispatch them to the agents."),
        "worker": (f"{_TOOLS}.serve", "worker", "Dispatch only, from a journal in PostgreSQL."),
        "check-config": (
            f"{_TOOLS}.check_config",
            "check_config_command",
            "Show every setting, and all that is wrong.",
        ),
        "doctor": (f"{_TOOLS}.doctor", "doctor_command", "Look at the running installation."),
        "reload": (f"{_TOOLS}.reload", "reload", "Have the daemon read its configuration again."),
        "send": (f"{_TOOLS}.send", "send", "Send signed sample callbacks of a channel."),
        "events": (f"{_TOOLS}.events", "events", "See, replay, discard, erase or export events."),
        "channels": (f"{_TOOLS}.channels", "channels", "See channels, try a captured request."),
        "consents": (f"{_TOOLS}.consents", "consents", "Ask who may be written to."),
        "conversations": (
            f"{_TOOLS}.conversations",
            "conversations",
            "See what was said with whom; pause, resume.",
        ),
        "console": (f"{_TOOLS}.console", "console", "Log in to the web console."),
        "reconcile": (
            f"{_TOOLS}.reconcile",
            "reconcile",
            "Ask a provider for what never arrived.",
        ),
        "journal": (f"{_TOOLS}.journal", "journal", "Back up, restore or copy a whole journal."),
        "prove": (f"{_TOOLS}.prove", "prove", "Try what a 2xx is worth on this machine's disk."),
        "logs": (f"{_TOOLS}.logs", "logs", "Read the unified logs."),
    }

    daemons: ClassVar = frozenset({"serve", "worker"})  # handle signals as soon as they can

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's interface
        """Return the names of all commands, in the order of docs/reference.md."""
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
        module, name, _ = self.modules[cmd_name]
        command: click.Command = getattr(import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that is meant, or name the nearest one."""
        nearest = difflib.get_close_matches(args[0], self.modules, n=1)
        if args[0] not in self.modules and nearest:
            ctx.fail(f"No such command {args[0]!r}. Did you mean {nearest[0]!r}?")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands that begin like this, without importing any, else the options."""
        found = [
            CompletionItem(name, help=said)
            for name, (_, _, said) in self.modules.items()
            if name.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's interface
        formatter: click.HelpFormatter,
    ) -> None:
        """Write every command with what it does, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, said) for name, (_, _, said) in self.modules.items()])


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False, readable=False),  # see NotPermitted
    metavar="FILE",
    help="The TOML file with the settings. Default: $BERINIA_WEBHOOKD_CONFIG, else "
    "/etc/berinia-webhookd/config.toml, else ./berinia-webhookd.toml, else that of `serve --dev` "
    "in .dev/; none is required.",
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
    from berinia_webhookd.tools.dev import configuration_here, keep_state  # noqa: PLC0415 - likewise

    if ctx.invoked_subcommand not in Commands.daemons:
        config_file = config_file or configuration_here(os.environ)
        keep_state(config_file)
    ctx.obj = CommandContext(config_file)


def main(arguments: list[str] | None = None) -> Any:
    """Run one command; errors are one clear line on stderr, never a traceback."""
    try:
        status = root.main(arguments, prog_name="berinia-webhookd", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.NoSuchOption as error:
        if error.option_name == "--config":
            said = f"{error.message} It stands before the command: berinia-webhookd --config FILE …"
            error = click.NoSuchOption(error.option_name, message=said, ctx=error.ctx)
        error.show()
        sys.exit(error.exit_code)
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
