"""Checks that look at several settings, or at the machine: what is wrong, and what works but will
cause trouble.
"""

from __future__ import annotations

import os
import shlex
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from berinia_webhookd.addresses import address_text, is_loopback, widest
from berinia_webhookd.config import descriptors
from berinia_webhookd.config.agent_settings import AgentsSettings, Delivery
from berinia_webhookd.config.channel_settings import ChannelSettings, Kinds
from berinia_webhookd.config.fields import settings_of
from berinia_webhookd.config.settings import ServerSettings, Settings
from berinia_webhookd.findings import Finding, joined, warning, wrong
from berinia_webhookd.model import AgentName

if TYPE_CHECKING:
    from berinia_webhookd.config.load import Origin


PAGES: Final = ("/", "/health", "/metrics", "/webhook/logs")


def errors(settings: Settings) -> Iterator[Finding]:
    """Yield settings that are valid, but not together."""
    if settings.dev and not is_loopback(settings.server.host):
        hint = "leave out --host, or run without --dev and with your own secrets"
        yield wrong("server.host", "--dev listens on loopback addresses only", hint)
    taken = {page: f"the daemon's own page {page}" for page in PAGES}
    for name, channel in settings.channels.items():
        key = f"channels.{name}.path"
        if channel.path in taken:
            hint = "give each channel a path of its own"
            yield wrong(key, f"is the same as {taken[channel.path]}", hint)
        taken[channel.path] = key
        yield from channel.errors()
    for word, names in _shared_hosts(settings).items():
        if len({settings.agents.of(name).memory_limit_bytes for name in names}) > 1:
            yield wrong(
                f"agents.{names[0]}.memory_limit_bytes",
                f'{joined(names)} share the host "{word}" but have different limits',
                "give all agents of a host the same memory limit",
            )
    yield from _crossed_listeners(settings)
    console = settings.console
    if console.enabled and console.listen.startswith("unix:") and console.url is None:
        yield wrong(
            "console.url",
            "not set, though the console listens on a Unix socket, which browsers do not reach",
            'set console.url to what is typed into the browser: "https://console.example.com"',
        )


def _crossed_listeners(settings: Settings) -> Iterator[Finding]:
    """Yield channels, or a console, whose own listener is another's."""
    server = settings.server
    shared = f"unix:{server.uds}" if server.uds else address_text((server.host, server.port))
    others = {f"channels.{n}.listen": one.own_listener for n, one in settings.channels.items()}
    if settings.console.enabled:
        others["console.listen"] = settings.console.listen
    for key, listener in others.items():
        if listener == shared:
            hint = "give it another port, or unset it"
            yield wrong(key, "is where the daemon itself listens", hint)
        elif key == "console.listen" and list(others.values()).count(listener) > 1:
            yield wrong(key, "is where a channel listens", "give it another port")


def warnings(
    settings: Settings, origins: Mapping[str, Origin], kinds: Kinds, config_file: Path | None
) -> Iterator[Finding]:
    """Yield settings that work and will cause trouble."""
    for channel in settings.channels.values():
        yield from about_channel(channel, settings, origins, kinds)
    if settings.consents.key is None and settings.journal.file is None:
        yield warning(
            "consents.key",
            "not set, which a journal in PostgreSQL needs",
            "set it to what `openssl rand -hex 32` prints, the same on every node",
            why="a person who opted out cannot be erased: the opt-out would be forgotten",
        )
    yield from _about_agents(settings)
    yield from _about_useless_hosts(settings.agents)
    yield from _about_gathering(settings)
    yield from _about_budgets(settings)
    yield from _about_shared_hosts(settings)
    yield from _about_networks(settings.server)
    yield from _about_this_machine(settings)
    yield from _about_descriptors(settings)
    in_file = any(one.source == "file" and one.setting.secret for one in origins.values())
    if config_file is not None and in_file and _others_read(config_file):
        yield warning(
            str(config_file),
            "holds secrets, and others can read it",
            _right_mode(config_file),
            why="whoever has the secrets can forge any message",
        )


def about_channel(
    channel: ChannelSettings, settings: Settings, origins: Mapping[str, Origin], kinds: Kinds
) -> Iterator[Finding]:
    """Yield settings of a channel that work and will cause trouble."""
    if not channel.enabled:
        return
    name = channel.name
    fields = settings_of(type(channel))
    came_from = {field: origins[f"channels.{name}.{field}"].where for field in fields}
    yield from kinds[channel.kind].warnings(channel, settings, came_from)
    if channel.address_alone and settings.server.public_url:
        yield warning(
            f"channels.{name}.secret",
            "not set, so a loopback address alone proves who calls",
            f"set channels.{name}.secret (`openssl rand -hex 32`), which the caller sends as "
            "`Authorization: Bearer …`",
            f"or give it a listener of its own: channels.{name}.listen",
            why="behind a proxy that does not pass on who calls, every stranger looks like a "
            "program on this machine",
        )


def _about_agents(settings: Settings) -> Iterator[Finding]:
    agents = settings.agents
    if not os.access(agents.python, os.X_OK):
        yield warning(
            "agents.python",
            f"{agents.python} cannot be executed by this user",
            "name the interpreter of the agents' virtual environment, and let this user reach it",
            why="no Python agent can run; messages wait",
        )
    if agents.path is not None and not os.access(agents.path, os.R_OK | os.X_OK):
        yield warning(
            "agents.path",
            f"{agents.path} cannot be read by this user",
            "let this user reach it, or move the agents",
            why="the agents cannot be imported; messages wait",
        )
    for name in sorted(_routed(settings)):
        if agents.of(name).target is None and agents.registry is None:
            yield warning(
                f"agents.{name}.target",
                "not set, and neither is agents.registry: its messages wait",
                *where_it_may_be(agents, name),
            )


def where_it_may_be(agents: AgentsSettings, name: AgentName) -> tuple[str, ...]:
    """Return the settings by which an agent would be found; BerinIA's registry, if it is near."""
    target = f'agents.{name}.target = "python:module:Name"'
    near = [agents.python.absolute().parents[2]] if len(agents.python.parts) > 3 else []  # noqa: PLR2004
    if agents.path is not None:
        near = [agents.path, agents.path.parent, *near]
    for folder in (*near, Path.cwd()):
        if os.access(folder / "agents" / "registry.py", os.F_OK):
            registry = 'agents.registry = "agents.registry:registry"'
            if folder == agents.path:
                return (f"`{registry}`", f"or `{target}`")
            return (f'`agents.path = "{folder}"` and `{registry}`', f"or `{target}`")
    return (f"`{target}`", 'or `agents.registry = "module:object"`')


def _routed(settings: Settings) -> frozenset[AgentName]:
    """Return the agents of enabled channels."""
    enabled = [channel.agents for channel in settings.channels.values() if channel.enabled]
    return frozenset[AgentName]().union(*enabled)


def _about_useless_hosts(agents: AgentsSettings) -> Iterator[Finding]:
    """Yield agents with a `host` that run in none."""
    for name in sorted(agents.by_name):
        agent = agents.of(name)
        if agent.shared_host is None and agent.host not in {None, agents.defaults.host}:
            yield warning(
                f"agents.{name}.host",
                "has no effect on an HTTP agent, nor on `log:`",
                f"remove `agents.{name}.host`, or give the agent a `python:` target",
                why="only Python agents run in hosts; an HTTP agent keeps its memory where it runs",
            )


def _about_gathering(settings: Settings) -> Iterator[Finding]:
    """Yield bursts that may last longer than callers wait for the answer."""
    for channel in settings.channels.values():
        wait = getattr(channel, "reply_wait_seconds", None)
        if wait is None or not channel.enabled:
            continue
        for name in sorted(channel.agents):
            gathering = settings.agents.of(name).gathering
            if gathering is not None and gathering.most_seconds >= wait:
                yield warning(
                    f"agents.{name}.gather_max_seconds",
                    f"a burst may wait {gathering.most_seconds:g} s for its run, and callers of "
                    f"{channel.name} wait {wait:g} s",
                    f"a longer `channels.{channel.name}.reply_wait_seconds`, or a shorter "
                    f"`agents.{name}.gather_max_seconds`",
                    why="somebody who keeps writing gets no answer in the chat, or a late one",
                )


def _about_budgets(settings: Settings) -> Iterator[Finding]:
    """Yield budgets that have no effect, and those that have commands run at another time."""
    agents = settings.agents
    for channel in settings.channels.values():
        for name in sorted(channel.agents) if channel.enabled else ():
            agent = agents.of(name)
            budget = "per_sender" if agent.per_sender else "daily_cost"
            if not agent.per_sender and agent.daily_cost is None:
                continue
            if (agent.delivery or channel.kind_delivery) is Delivery.AT_MOST_ONCE:
                yield warning(
                    f"agents.{name}.{budget}",
                    f"what {channel.name} brings over it runs once there is room: hours later",
                    "see what is held: `berinia-webhookd conversations list`",
                    "give it up: `berinia-webhookd conversations resume --sender … --discard`",
                    why="a command that must not run twice may be wrong by then, and nobody waits",
                )
    for name in sorted(_routed(settings)):
        agent = agents.of(name)
        if agent.daily_cost is not None and (agent.target or "").startswith("log:"):
            yield warning(
                f"agents.{name}.daily_cost",
                "has no effect on `log:`, which costs nothing",
                f"remove `agents.{name}.daily_cost`",
            )


def _shared_hosts(settings: Settings) -> dict[str, list[AgentName]]:
    """Return the agents of each word of `agents.<Name>.host`."""
    shared: dict[str, list[AgentName]] = {}
    for name in sorted(_routed(settings) | settings.agents.by_name.keys()):
        if (word := settings.agents.of(name).shared_host) is not None:
            shared.setdefault(word, []).append(name)
    return shared


def _about_shared_hosts(settings: Settings) -> Iterator[Finding]:
    agents, shared = settings.agents, _shared_hosts(settings)
    for names in shared.values():
        key = f"agents.{names[0]}.host"
        waits: list[tuple[ChannelSettings, float]] = [
            (channel, wait)
            for channel in settings.channels.values()
            if channel.enabled and channel.agents & set(names)
            if (wait := getattr(channel, "reply_wait_seconds", None)) is not None
        ]
        for channel, wait in waits:
            longest = max(
                agents.of(n).timeout_seconds or channel.kind_timeout_seconds for n in names
            )
            if longest > wait:
                name = channel.name
                yield warning(
                    key,
                    f"an attempt may take {longest:g} s, and callers of {name} wait {wait:g} s",
                    f"`channels.{name}.late_reply_url`, or a shorter `timeout_seconds`",
                    why="while the shared host is busy the others wait for it, and get 202",
                )
        if settings.journal.file is None:
            yield warning(
                key,
                "each machine has a memory of its own",
                "let one machine alone dispatch: `serve --no-dispatch` on the others",
                why="a question that was asked on one machine may be answered on another",
            )
    if shared and len(shared) >= agents.max_hosts:
        yield warning(
            "agents.max_hosts",
            f"{agents.max_hosts}, and {len(shared)} of them keep a memory (`agents.<Name>.host`)",
            f"`agents.max_hosts = {len(shared) + 2}`",
            why="another agent that needs a host stops one of these, and its memory is lost",
        )


def _about_networks(server: ServerSettings) -> Iterator[Finding]:
    if wide := widest(server.trusted_proxies):
        yield warning(
            "server.trusted_proxies",
            f"believes {wide}",
            '`server.trusted_proxies = ["127.0.0.1", "::1"]`, and the addresses of your proxies',
            why="whoever is trusted as a proxy may claim any address, scheme and host",
        )
    if wide := widest(server.metrics_allowed_ips):
        yield warning(
            "server.metrics_allowed_ips",
            f"shows metrics to {wide}",
            "list the machines that collect metrics",
            why="metrics tell strangers how much arrives and what fails",
        )


def _about_descriptors(settings: Settings) -> Iterator[Finding]:
    most, needed = descriptors.most(), descriptors.needed(settings)
    if most < needed:
        yield warning(
            "descriptors",
            f"at most {most} files and connections may be open at once, and {needed} may be needed",
            f"`LimitNOFILE={needed}` in the unit, or `ulimit -Hn {needed}` before it starts",
            "or lower `server.max_connections` and `agents.max_hosts`",
            why="callers would not be answered, and agents would not start",
        )


def _about_this_machine(settings: Settings) -> Iterator[Finding]:
    if os.geteuid() == 0:
        yield warning(
            "user",
            "runs as root",
            "run it as a user of its own: see contrib/systemd/berinia-webhook.service",
        )
    if not is_loopback(settings.server.host) and settings.server.uds is None:
        yield warning(
            "server.host",
            "is reachable from outside without TLS",
            'set server.host = "127.0.0.1" and put nginx in front: contrib/nginx',
            why="messages and passwords travel unencrypted, and no nginx protects the daemon",
        )
    if settings.alerts.command is not None:
        program = shlex.split(settings.alerts.command)[0]
        if shutil.which(program) is None:
            yield warning(
                "alerts.command",
                f"{program} cannot be run by this user, so no alert is sent",
                "give the full path of a program that this user may run",
                why="nobody hears of dead entries or a full disk",
            )


def _others_read(file: Path) -> bool:
    """Whether others can read it; of root's file, the daemon's group may."""
    try:
        found = file.stat()
    except OSError:
        return False  # reading it failed as well, which is reported
    too_open = stat.S_IROTH if found.st_uid == 0 else stat.S_IROTH | stat.S_IRGRP
    return bool(found.st_mode & too_open)


def _right_mode(file: Path) -> str:
    """Return the command that closes it to all but the daemon."""
    if file.stat().st_uid == 0:
        return f"chgrp berinia-webhook {file} && chmod 640 {file} (the group of the daemon's user)"
    return f"chmod 600 {file}"
