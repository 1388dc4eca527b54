"""The manual pages and the shell completion in contrib, made of what click knows of the commands.

`python -m tests.tools.manual` writes them; a test compares them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from berinia_webhookd import __version__
from berinia_webhookd.cli import root

PROGRAM = "berinia-webhookd"
CONTRIB = Path(__file__).parents[2] / "contrib"
MAN = CONTRIB / "man"
# Where each shell looks for it, below share/ of an installation: setup.cfg puts it there.
COMPLETION = {
    "bash": CONTRIB / "completion" / "bash" / PROGRAM,
    "zsh": CONTRIB / "completion" / "zsh" / f"_{PROGRAM}",
    "fish": CONTRIB / "completion" / "fish" / f"{PROGRAM}.fish",
}
_HYPHEN = r"\-"
FILES = f"""\
.SH FILES
.TP
.I /etc/{PROGRAM}/config.toml
the settings; `check\\-config \\-\\-all` shows each with its value
.TP
.I /etc/{PROGRAM}/.env
secrets, as variables
.TP
.I /var/lib/{PROGRAM}/journal.db
the journal
.TP
.I /var/log/{PROGRAM}/*.log
the unified logs
"""


def files() -> Mapping[Path, str]:
    """Every file with its text."""
    pages = {MAN / f"{name.replace(' ', '-')}.1": text for name, text in _pages()}
    shells = {file: _script(shell) for shell, file in COMPLETION.items()}
    return {**pages, **shells}


def _script(shell: str) -> str:
    """As click writes it, ending without a word where the program cannot be run."""
    made = get_completion_class(shell)
    assert made is not None
    text = made(root, {}, PROGRAM, "_BERINIA_WEBHOOKD_COMPLETE").source()
    quiet, calls = re.subn(rf"(_complete[^)\n]* (?:\$1|{PROGRAM}))\)", r"\1 2>/dev/null)", text)
    fish, others = re.subn(rf"(\(commandline -t\) {PROGRAM})\)", r"\1 2>/dev/null)", quiet)
    assert calls + others == 1, text
    return fish.strip() + "\n"


def _pages() -> Iterator[tuple[str, str]]:
    """A page for the program, and one for each of its commands, with theirs."""
    context = click.Context(root, info_name=PROGRAM, **root.context_settings)
    names = root.list_commands(context)
    commands = {name: root.get_command(context, name) for name in names}
    listed = [(f"{PROGRAM} {name}", root.modules[name][2]) for name in names]
    yield PROGRAM, _page(root, context, _listed(listed) + FILES, see=names)
    for name, command in commands.items():
        assert command is not None
        below = click.Context(command, info_name=name, parent=context)
        more = ""
        if isinstance(command, click.Group):
            more = "".join(_section(sub, below) for sub in command.commands.values())
        yield f"{PROGRAM} {name}", _page(command, below, more, see=())


def _page(
    command: click.Command, context: click.Context, more: str, *, see: list[str] | tuple[()]
) -> str:
    path = context.command_path
    summary = command.get_short_help_str(limit=200).rstrip(".")
    pages = ", ".join(f".BR {PROGRAM}\\-{name.replace('-', _HYPHEN)} (1)" for name in see)
    others = pages.replace(", ", " ,\n") or f".BR {PROGRAM.replace('-', _HYPHEN)} (1)"
    return "".join(
        [
            f'.TH "{path.upper().replace(" ", "-")}" 1 "" "{PROGRAM} {__version__}"\n',
            f".SH NAME\n{escaped(path.replace(' ', '-'))} \\- {escaped(summary)}\n",
            f".SH SYNOPSIS\n{_usage(command, context)}",
            f".SH DESCRIPTION\n{_text(command.help)}",
            _options(command, context, ".SH OPTIONS\n"),
            more,
            f".SH SEE ALSO\n{others}\n",
        ]
    )


def _section(command: click.Command, parent: click.Context) -> str:
    """One command of a group."""
    context = click.Context(command, info_name=command.name, parent=parent)
    title = f'.SH "{escaped(context.command_path.removeprefix(PROGRAM + " ")).upper()}"\n'
    return f"{title}{_usage(command, context)}.PP\n{_text(command.help)}" + _options(
        command, context, ""
    )


def _usage(command: click.Command, context: click.Context) -> str:
    pieces = " ".join(command.collect_usage_pieces(context))
    return f".B {escaped(context.command_path)}\n{escaped(pieces)}\n"


def _listed(commands: list[tuple[str, str]]) -> str:
    rows = (f".TP\n.B {escaped(name)}\n{escaped(said)}\n" for name, said in commands)
    return ".SH COMMANDS\n" + "".join(rows)


def _options(command: click.Command, context: click.Context, heading: str) -> str:
    records = [one.get_help_record(context) for one in command.params]
    shown = [record for record in records if record is not None]
    # click keeps the option for help as the first context had it, here or in another test.
    shown.append((", ".join(context.help_option_names), "Show this message and exit."))
    rows = (f".TP\n.B {escaped(names)}\n{escaped(said)}\n" for names, said in shown)
    return (heading + "".join(rows)) if shown else ""


def _text(text: str | None) -> str:
    paragraphs = re.split(r"\n\s*\n", (text or "").strip())
    return "\n.PP\n".join(escaped(" ".join(one.split())) for one in paragraphs) + "\n"


def escaped(text: str) -> str:
    """As roff shows it letter by letter: hyphens to be pasted, nothing taken for a request."""
    shown = text.replace("\\", r"\e").replace("-", _HYPHEN)
    return re.sub(r"(?m)^([.'])", r"\\&\1", shown)


def write() -> None:
    for file, text in files().items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


if __name__ == "__main__":
    write()
