"""What is wrong between settings (errors), and what works but will hurt (warnings)."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from berinia_webhookd.addresses import is_loopback
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.findings import Finding, warning, wrong
from berinia_webhookd.model import AgentName

if TYPE_CHECKING:
    from berinia_webhookd.config.load import Origin


def errors(origins: Mapping[str, Origin]) -> Iterator[Finding]:
    """Settings that are valid alone and not together."""
    if origins["dev"].value and not is_loopback(origins["server.host"].value):
        hint = "leave --host away, or run without --dev and with secrets of your own"
        yield wrong("server.host", "--dev listens on loopback addresses only", hint)
    paths: dict[str, str] = {}
    for name in ("sms", "email", "whatsapp"):
        key = f"channels.{name}.path"
        path = origins[key].value
        if path in paths:
            yield wrong(key, f"is the same as {paths[path]}", "give each channel its own path")
        paths[path] = key
        if path in ("/", "/health", "/metrics", "/webhook/logs"):
            yield wrong(key, f"{path} is taken by the daemon itself", "choose another path")


def warnings(
    settings: Settings, origins: Mapping[str, Origin], config_file: Path | None
) -> tuple[Finding, ...]:
    """What an operator should know before the night."""
    found: list[Finding] = []

    def warn(setting: str, message: str, hint: str) -> None:
        found.append(warning(setting, message, hint))

    _about_channels(settings, warn)
    _about_agents(settings, warn)
    _about_this_machine(settings, warn)
    if config_file is not None and _others_read(config_file) and _in_file(origins):
        warn(str(config_file), "holds secrets, and others can read it", _closing(config_file))
    return tuple(found)


Warn = Callable[[str, str, str], None]


def _about_channels(settings: Settings, warn: Warn) -> None:
    channels, limits = settings.channels, settings.rate_limit
    if channels.sms.enabled and not channels.sms.tokens:
        warn(
            "channels.sms.tokens",
            "not set, so every SMS is answered 503",
            "set TWILIO_TOKEN to the account's auth token, or channels.sms.enabled = false",
        )
    if channels.email.enabled and not channels.email.signing_keys:
        warn(
            "channels.email.signing_keys",
            "not set, so every e-mail is answered 503",
            "set MAILGUN_SIGNING_KEY to the HTTP webhook signing key, "
            "or channels.email.enabled = false",
        )
    if channels.sms.enabled and limits.verified_requests == limits.requests:
        base = settings.server.public_url[0] if settings.server.public_url else "https://your.host"
        warn(
            "rate_limit.verified_requests",
            "equals rate_limit.requests, and Twilio does not retry after 429 by default",
            "set rate_limit.verified_requests = 6000; in Twilio's console enter "
            f"{base}{channels.sms.path}#rc=5&rp=all and a fallback URL",
        )


def _about_agents(settings: Settings, warn: Warn) -> None:
    agents = settings.agents
    if not os.access(agents.python, os.X_OK):
        warn(
            "agents.python",
            f"{agents.python} cannot be executed by this user",
            "name the interpreter of the agents' virtual environment, and let this user reach it",
        )
    if agents.path is not None and not os.access(agents.path, os.R_OK | os.X_OK):
        warn(
            "agents.path",
            f"{agents.path} cannot be read by this user",
            "let this user reach it, or move the agents",
        )
    for name in _routed(settings):
        if agents.of(name).target is None and agents.registry is None:
            warn(
                f"agents.{name}.target",
                "not set, and neither is agents.registry: its messages wait",
                f'set agents.{name}.target = "python:module:Name"',
            )


def _routed(settings: Settings) -> list[AgentName]:
    """The agents that enabled channels hand messages to."""
    sms, email, whatsapp = (
        settings.channels.sms,
        settings.channels.email,
        settings.channels.whatsapp,
    )
    routed = {channel.agent for channel in (sms, email, whatsapp) if channel.enabled}
    if whatsapp.enabled:
        routed.update(whatsapp.groups.values())
    return sorted(routed)


def _about_this_machine(settings: Settings, warn: Warn) -> None:
    if os.geteuid() == 0:
        warn(
            "user",
            "runs as root",
            "run it as a user of its own: see contrib/systemd/berinia-webhook.service",
        )
    if not is_loopback(settings.server.host) and settings.server.uds is None:
        warn(
            "server.host",
            "is reachable from outside without TLS",
            'set server.host = "127.0.0.1" and put nginx in front: contrib/nginx',
        )
    if settings.alerts.command is not None:
        program = shlex.split(settings.alerts.command)[0]
        if shutil.which(program) is None:
            warn(
                "alerts.command",
                f"{program} is no program that this user can run, so nobody is told of anything",
                "begin with the whole path of a program, and let this user run it",
            )


def _others_read(file: Path) -> bool:
    """Root's file is opened to one group on purpose: the daemon's, which could not read it else."""
    try:
        found = file.stat()
    except OSError:
        return False  # that it cannot be read is a problem, and said as one
    too_open = stat.S_IROTH if found.st_uid == 0 else stat.S_IROTH | stat.S_IRGRP
    return bool(found.st_mode & too_open)


def _closing(file: Path) -> str:
    """How to close it without locking the daemon out."""
    if file.stat().st_uid == 0:
        return f"chgrp berinia-webhook {file} && chmod 640 {file} (the group of the daemon's user)"
    return f"chmod 600 {file}"


def _in_file(origins: Mapping[str, Origin]) -> bool:
    """Whether the TOML file itself holds a secret."""
    return any(origin.source == "file" and origin.setting.secret for origin in origins.values())
