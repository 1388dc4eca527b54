"""The folder of `serve --dev`: throw-away secrets, a journal and an agent to edit; and the lines to
paste. Nothing outside the folder is written, and nothing in it is overwritten.
"""

from __future__ import annotations

import os
import secrets
import shlex
import sys
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Final

import click

from berinia_webhookd.config.files import (
    CONFIG_VARIABLE,
    LOCAL_FILE,
    SYSTEM_FILE,
    distrust,
    is_there,
)
from berinia_webhookd.errors import CannotStart
from berinia_webhookd.findings import Finding, warning
from berinia_webhookd.tools import installation
from berinia_webhookd.tools.command_context import CommandContext, working_folder

FOLDER: Final = ".dev"
CONFIG_NAME: Final = "berinia-webhookd.toml"

CONFIG: Final = """\
# Written by `berinia-webhookd serve --dev`: throw-away secrets, for this machine alone.
# Delete the folder to start afresh; `berinia-webhookd reload` makes the daemon read it again.

[journal]
url = "sqlite:///{folder}/journal.db"

[logs]
dir = "{folder}/unified_logs"
personal_data = "full"
password = "{logs_password}"

[rate_limit]
verified_requests = 6000

[agents]
path = "{folder}/agents"
defaults.loop_guard = false  # whoever tries things sends the same text again

# agents/dev_agent.py is yours to edit.
[agents.ResponseListenerAgent]
target = "python:dev_agent:DevAgent"
[agents.MetaAgent]
target = "python:dev_agent:DevAgent"
[agents.AdminInterpreterAgent]
target = "python:dev_agent:DevAgent"

[console]
enabled = true

[channels.sms]
tokens = ["{twilio_token}"]

[channels.email]
signing_keys = ["{mailgun_key}"]
"""


def configuration_here(environ: Mapping[str, str]) -> Path | None:
    """Return the configuration of the working folder's `.dev/`, for commands that were given none,
    where nothing is installed.

    Raises:
        CannotStart: it is there, and may be somebody else's.
    """
    config = _alone_here(environ)
    if config is None or installation.read(environ) is not None:
        return None
    _require_ours(config.parent, config)
    return config


def _alone_here(environ: Mapping[str, str]) -> Path | None:
    """Return the configuration of the working folder's `.dev/`, if there is no other."""
    here = working_folder()
    config = here / FOLDER / CONFIG_NAME
    others = (SYSTEM_FILE, here / LOCAL_FILE)
    if environ.get(CONFIG_VARIABLE) or any(map(is_there, others)) or not is_there(config):
        return None
    return config


def keep_state(config_file: Path | None) -> None:
    """Have a command that works with a `.dev/` look for its state where `serve --dev` has it."""
    if config_file is not None and config_file.absolute().parts[-2:] == (FOLDER, CONFIG_NAME):
        os.environ.setdefault("STATE_DIRECTORY", str(config_file.absolute().parent))


def passed_over(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Yield that `serve` without `--dev` uses no settings at all, beside a `.dev/`."""
    if _alone_here(environ) is not None:
        yield warning(
            "configuration",
            f"there is no file of settings; {FOLDER}/ in this folder is for `serve --dev` alone",
            "berinia-webhookd serve --dev",
        )


def prepare(folder: Path) -> CommandContext:
    """Make the folder if need be; return the context with its configuration file.

    Raises:
        CannotStart: it cannot be made, or may be somebody else's, whose agents would run as us.
    """
    config = folder / CONFIG_NAME
    try:
        _require_ours(folder, config, folder / "agents")
        _make(folder, config)
    except OSError as error:
        hint = "go to a folder of your own, for example: cd"
        raise CannotStart(f"{folder} cannot be used: {error.strerror}", hint=hint) from error
    keep_state(config)
    return CommandContext(config)


def _require_ours(*paths: Path) -> None:
    for path in paths:
        if is_there(path) and (why := distrust(path.stat())):
            hint = f"chown it to yourself and chmod go-w {path}, or go to another folder"
            raise CannotStart(f"{path} {why}, so it is not used", hint=hint)


def _make(folder: Path, config: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    if not config.exists():
        text = CONFIG.format(
            folder=folder,
            logs_password=secrets.token_urlsafe(12),
            twilio_token=secrets.token_hex(16),
            mailgun_key=secrets.token_hex(16),
        )
        config.touch(mode=0o600)
        config.write_text(text)
    agent = folder / "agents" / "dev_agent.py"
    agent.parent.mkdir(mode=0o700, exist_ok=True)
    if not agent.exists():
        source = resources.files("berinia_webhookd.outbound").joinpath("dev_agent.py")
        agent.write_text(source.read_text())


def show_lines_to_paste(address: str, console: str | None, *, reloads: bool) -> None:
    """Print the commands that a newcomer tries first."""
    program = _relative(Path(sys.argv[0]))
    config = Path.cwd() / FOLDER / CONFIG_NAME
    elsewhere = {name: value for name, value in os.environ.items() if name != "STATE_DIRECTORY"}
    found = configuration_here(elsewhere) == config
    command = program if found else f"{program} --config {_relative(config)}"
    agent = f"{FOLDER}/agents/dev_agent.py"
    edit = f"Edit {agent}, then: {command} reload"
    if reloads:
        edit = f"Edit {agent} and save it: it is loaded anew."
    browser = ""
    if console is not None:
        browser = f"""and in a browser, by a link that is good once, for five minutes:

    {console}

"""
    to = "" if address.endswith(":8001") else f" --to http://{address}"
    click.echo(
        f"""
berinia-webhookd listens on http://{address} with throw-away secrets (in .dev/). Ctrl-C ends it.

Paste into another terminal of this folder, to send what Twilio, Mailgun and the bot would send:

    {command} send sms{to} --set Body='Bonjour, rappelez-moi'
    {command} send email{to} --set stripped-text='Oui, ça m’intéresse'
    {command} send whatsapp{to} --set content='Combien de leads ?'

and to see what became of it:

    {command} events list
    {command} events show ID  # an id from that list
    {command} logs -n 20

{browser}{edit}
""",
        err=True,
    )


def _relative(path: Path) -> str:
    absolute = path.absolute()
    here = Path.cwd()
    return shlex.quote(
        str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(path)
    )
