"""The commented file in contrib and the guide's table, made from the settings' fields.

`python -m tests.config.reference` writes both; a test compares them.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from berinia_webhookd.channels.catalogue import KINDS
from berinia_webhookd.channels.declared.answers import FixedAnswer
from berinia_webhookd.channels.declared.settings import DeclaredSettings
from berinia_webhookd.config.channel_settings import ChannelSettings
from berinia_webhookd.config.fields import Required, SameAs, Setting, settings_of
from berinia_webhookd.config.tables import Tables

PROJECT = Path(__file__).parents[2]
FILE = PROJECT / "contrib" / "config" / "berinia-webhookd.toml"
PAGE = PROJECT / "docs" / "configuring.md"
BEGIN, END = "<!-- made by tests/config/reference.py -->", "<!-- end of what is made -->"
GROUPS = "channels.whatsapp.groups"
WIDTH = 100

KEYS = Tables.of({}, KINDS).keys()
# What is not commented out: what a BerinIA installation wants beside the defaults.
IN_USE = {"rate_limit.verified_requests"}

HEAD = """\
# /etc/berinia-webhookd/config.toml: settings of berinia-webhookd, with every key a file may have.
#
# A key that is commented out stands at its default; where that depends on the machine, the value
# here is an example and the text says what the default is. What is not commented out is what a
# BerinIA installation wants beside the defaults.
#
# Highest first: flag, environment (BERINIA_WEBHOOKD_<SECTION>__<KEY>, for example
# BERINIA_WEBHOOKD_SERVER__PORT), .env in the working folder, systemd credential, this file,
# default. Secrets are better kept in .env or in systemd credentials; if one stands here, root and
# the group of the daemon's user alone should read the file: chmod 640.
#
# `berinia-webhookd check-config` shows what holds and what is wrong. `systemctl reload` makes the
# daemon read this file again; [restart] marks what needs a restart.
"""

ABOVE = {
    "agents.defaults": """\
# What holds for every agent that does not say otherwise; any of these may also stand in a table
# of one agent, such as [agents.ResponseListenerAgent].
""",
    "channels.sms": "# SMS, by Twilio.\n",
    "channels.email": "# Mail, by Mailgun's routes.\n",
    "channels.whatsapp": "# The BerinIA WhatsApp bot.\n",
}

BELOW = {
    "agents.defaults": """
# One agent with settings of its own:
#[agents.ResponseListenerAgent]
#target = "python:agents.response_listener.response_listener_agent:ResponseListenerAgent"
#timeout_seconds = 120
""",
    "channels.whatsapp": """
# The table above is the map of BerinIA's guide. The server that the daemon replaces did otherwise:
# it sent every group to MetaAgent, which is an empty table here (see contrib/config/berinia.toml):
#[channels.whatsapp]
#groups = {}

# Any other name (small letters, digits and -) is a channel as well, with the keys of its kind. It
# receives at /webhook/<name> unless it says otherwise.
#[channels.second-number]
#kind = "twilio"
#agent = "ResponseListenerAgent"
#tokens = ["the other account's auth token"]

# A provider that is none of the three is declared, here by a preset; its keys and the others are
# in docs/declaring-a-channel.md.
#[channels.meta]
#preset = "meta-whatsapp"
#agent = "ResponseListenerAgent"
#secrets = ["the app secret"]
#handshake_secrets = ["the verify token"]
""",
}

DECLARED = """
# What a declared channel has beside the keys of all; docs/declaring-a-channel.md explains them.
"""


def toml(value: Any) -> str:
    """A value as a settings file has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{int(value):_}" if value == int(value) and value >= 10_000 else f"{value:g}"
    if isinstance(value, frozenset):
        return toml(sorted(value))
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(toml, value)) + "]"
    single = str(value).removesuffix("/32").removesuffix("/128")  # an address as a network
    return json.dumps(single, ensure_ascii=False)


def has_value(setting: Setting) -> bool:
    """Whether the default can be written down."""
    default = setting.default
    nothing = default is None or default in ((), {}) or isinstance(default, SameAs)
    return not nothing and not callable(default)


def written(setting: Setting) -> Any:
    """The value that is written down."""
    return setting.default if has_value(setting) else setting.example


def file() -> str:
    """The commented file."""
    return HEAD + "".join(section(name, settings) for name, settings in sections()) + declared()


def declared() -> str:
    """What a declared channel has beside the keys of all, in a line each: a preset sets most."""
    shared = settings_of(ChannelSettings)
    own = {key: one for key, one in settings_of(DeclaredSettings).items() if key not in shared}
    lines = [f"#   {key} = {inline(written(setting))}" for key, setting in own.items()]
    return DECLARED + "\n".join(lines) + "\n"


def inline(value: Any) -> str:
    """A value in one line: a table as TOML writes it in one; what stands in blocks by its place."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{name} = {inline(of)}" for name, of in value.items()) + " }"
    if isinstance(value, FixedAnswer):
        return '{ status = 200, content_type = "text/plain", body = "" }'
    return "…  # [[channels.<name>.event]]" if value is None else toml(value)


def sections() -> Iterator[tuple[str, Mapping[str, Setting]]]:
    found: dict[str, dict[str, Setting]] = {}
    for key, setting in KEYS.items():
        table, _, name = key.rpartition(".")
        if not setting.flag_only and name != "kind":
            found.setdefault(table, {})[name] = setting
    for table, settings in found.items():
        tables_last = sorted(settings.items(), key=lambda one: isinstance(written(one[1]), Mapping))
        yield table, dict(tables_last)


def section(name: str, settings: Mapping[str, Setting]) -> str:
    entries = (entry(name, key, setting) for key, setting in settings.items())
    return f"\n{ABOVE.get(name, '')}[{name}]\n" + "\n".join(entries) + BELOW.get(name, "")


def entry(table: str, name: str, setting: Setting) -> str:
    text = setting.meaning[:1].upper() + setting.meaning[1:] + "."
    if not has_value(setting):
        text += f" Default: {setting.unset or 'not set'}."
    if setting.restart:
        text += " [restart]"
    comment = textwrap.fill(
        text.replace("`", ""),
        WIDTH,
        initial_indent="# ",
        subsequent_indent="# ",
        break_on_hyphens=False,
        break_long_words=False,
    )
    value = written(setting)
    if isinstance(value, Mapping):
        lines = [f"#[{table}.{name}]", *(f"#{toml(one)} = {toml(of)}" for one, of in value.items())]
    else:
        lines = [f"{'' if f'{table}.{name}' in IN_USE else '#'}{name} = {toml(value)}"]
    return "\n".join([comment, *lines, ""])


def table() -> str:
    """The page's table."""
    lines = ["| key | default | meaning |", "| --- | --- | --- |"]
    lines += [row(key, setting) for key, setting in rows()]
    return "\n".join(lines) + "\n"


def rows() -> Iterator[tuple[str, Setting]]:
    """Every key once: what all channels and all agents have under `<name>` and `<Name>`."""
    shared = settings_of(ChannelSettings)
    for key, setting in KEYS.items():
        section, _, name = key.rpartition(".")
        if setting.flag_only or name == "kind":
            continue
        if section == "channels.sms" and name == "enabled":
            yield from ((f"channels.<name>.{one}", of) for one, of in shared.items())
        if section.startswith("channels.") and same(setting, shared.get(name)):
            continue
        yield key.replace("agents.defaults", "agents.<Name>"), setting


def same(setting: Setting, other: Setting | None) -> bool:
    return other is not None and setting.default == other.default


def row(key: str, setting: Setting) -> str:
    names = "".join(f", `{name}`" for name in setting.legacy)
    value = setting.default
    if isinstance(value, Mapping):
        default = ", ".join(f"`{one}` → `{of}`" for one, of in value.items())
    elif has_value(setting):
        default = f"`{toml(value)}`"
    else:
        default = setting.unset or ("must be set" if value is Required else "not set")
    meaning = setting.meaning + (" (restart)" if setting.restart else "")
    return f"| `{key}`{names} | {default} | {meaning} |"


def page() -> str:
    """The page with the table as it should be."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n{END}{after}"


if __name__ == "__main__":
    FILE.write_text(file())
    PAGE.write_text(page())
