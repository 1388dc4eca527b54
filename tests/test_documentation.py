"""What an operator can meet is in docs/reference.md: commands, log events, metrics, files."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from prometheus_client import generate_latest

from berinia_webhookd.channels.catalogue import KINDS
from berinia_webhookd.cli import root
from berinia_webhookd.config.load import load
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import ChannelName

PROJECT = Path(__file__).parents[1]
REFERENCE = (PROJECT / "docs" / "reference.md").read_text()
GUIDES = ("configuring", "configuration", "providers", "fournisseurs")
PACKAGE = PROJECT / "berinia_webhookd"
LOG_EVENT = re.compile(
    "(?:address|agent|agent_host|attempt|config|connection|consent|delivery|entry|events?|health|journal"
    "|rate_limit|reply|request|server|signature|alert)[.][a-z_]+"
)


def commands() -> Iterator[str]:
    context = click.Context(root)
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        if isinstance(command, click.Group):
            yield from (f"{name} {under}" for under in command.commands)
        else:
            yield name


def log_events() -> set[str]:
    """The names of log events in the modules that log, such as `event.accepted`."""
    return {
        node.value
        for file in PACKAGE.rglob("*.py")
        if "structlog" in (source := file.read_text()) or "log.info(" in source
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and LOG_EVENT.fullmatch(node.value)
    }


def test_no_hint_installs_our_name_from_an_index() -> None:
    """Whoever owns that name there could be anybody: what is missing is installed by its own."""
    for file in (PROJECT / "berinia_webhookd").rglob("*.py"):
        assert not re.search(r"pip install[^\n]*berinia", file.read_text()), file


def test_every_command_is_in_the_reference() -> None:
    """A command that nobody can find does not exist."""
    names = [name for name in commands() if name.removeprefix("events ") not in REFERENCE]
    assert not names
    assert "events replay" in REFERENCE


def test_every_log_event_is_in_the_reference() -> None:
    """Operators search for these names."""
    events = log_events()
    assert "event.accepted" in events
    assert not [name for name in sorted(events) if f"`{name}`" not in REFERENCE]


def test_every_metric_is_in_the_reference() -> None:
    """Dashboards are built on these names."""
    names = {
        name.removeprefix("berinia_webhookd_")
        for line in generate_latest(Metrics().registry).decode().splitlines()
        if line.startswith("# TYPE")
        for name in [line.split()[2]]
        if not name.endswith("_created")
    }
    assert "requests_total" in names
    assert not [name for name in sorted(names) if f"`{name}`" not in REFERENCE]


def pages() -> list[Path]:
    return [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *(PROJECT / "docs").glob("*.md")]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    """Files exist, and headings too."""
    text = page.read_text()
    headings = {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if link.startswith("#"):
            assert link[1:] in headings, link
        elif not link.startswith("https://"):
            assert (page.parent / link.partition("#")[0]).exists(), link


def test_every_file_on_the_way_exists() -> None:
    """docs/flow.md names each by its path below the package."""
    text = (PROJECT / "docs" / "flow.md").read_text()
    named = set(re.findall(r"`((?:\w+/)*\w+(?:\.py|/))`", text)) - {"berinia_webhookd/"}
    assert {"accept/application.py", "journal/sql/", "app.py"} < named
    assert not [path for path in sorted(named) if not (PACKAGE / path).exists()]


def test_the_settings_in_the_guides_are_settings(tmp_path: Path) -> None:
    """The examples are read as they stand there."""
    guides = [(PROJECT / "docs" / f"{one}.md").read_text() for one in GUIDES]
    examples = re.findall(r"```toml\n(.+?)```", "".join(guides), re.DOTALL)
    assert examples
    for number, example in enumerate(examples):
        tomllib.loads(example)
        file = tmp_path / f"{number}.toml"
        file.write_text(example)
        file.chmod(0o600)
        loaded = load({}, kinds=KINDS, environ={}, working_folder=tmp_path, config_file=file)
        first = loaded.settings.server.public_url == ("https://app.berinia.com",)
        assert first or ChannelName("meta") in loaded.settings.channels


def test_no_help_is_cut_in_eighty_columns() -> None:
    """What a command does can be read in the list of its group."""
    context = click.Context(root, info_name="berinia-webhookd", terminal_width=80)
    groups: list[click.Group] = [root]
    groups += [
        one
        for name in root.list_commands(context)
        if isinstance(one := root.get_command(context, name), click.Group)
    ]
    for group in groups:
        lines = (
            click.Context(group, info_name=group.name, terminal_width=80).get_help().splitlines()
        )
        listed = lines[lines.index("Commands:") :]
        assert [line for line in listed if line.endswith("...")] == []
        assert max(map(len, lines)) <= 80
