"""Unsafe settings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Final

from berinia_webhookd.config.settings import Settings
from berinia_webhookd.findings import Finding, Level, note, ok, warning
from berinia_webhookd.status.findings.installation import Installation
from berinia_webhookd.status.findings.probe import has_secret

SAFETY: Final = "safety"
TRUSTED: Final = (".trusted_proxies", ".allowed_ips")  # who may claim to be others, or the bot


async def safety(installation: Installation) -> AsyncIterator[Finding]:
    """Check the daemon's user, who may read what, and who is trusted."""
    findings = [
        *_of_warnings(installation),
        *_of_user(installation),
        *_of_logs(installation.settings),
    ]
    for finding in findings or [ok(SAFETY, "no setting is unsafe")]:
        yield finding


def _of_warnings(installation: Installation) -> Iterator[Finding]:
    """Yield the warnings of `check-config` that no other check reports better."""
    said = {"user", "server.public_url"}  # the user is the daemon's, not the one who asks
    said |= {
        channel.provider.secret.key(channel.name)
        for channel in installation.channels.values()
        if not has_secret(channel)
    }
    for found in installation.warnings:
        setting = found.subject
        of_agent = setting.startswith("agents.") and setting.endswith(".target")
        if setting.endswith(TRUSTED):
            yield replace(found, level=Level.WRONG)
        elif setting not in said and not of_agent:
            yield found


def _of_user(installation: Installation) -> Iterator[Finding]:
    if installation.process is not None and installation.user == 0:
        yield warning(
            SAFETY,
            "the daemon runs as root",
            "give it a user of its own: contrib/systemd/berinia-webhook.service",
            why="an attacker who breaks into it, or into an agent, has the whole machine",
        )


def _of_logs(settings: Settings) -> Iterator[Finding]:
    if settings.logs.personal_data == "full":
        yield warning(
            "logs.personal_data",
            "is full: the logs show phone numbers, addresses and messages",
            '`logs.personal_data = "mask"`, then erase older logs',
            why="`events erase` does not reach into logs",
        )
    if settings.logs.password is None:
        yield note("logs.password", "is not set, so GET /webhook/logs is answered 503")
