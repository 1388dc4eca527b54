"""Settings that work and will hurt, beside what `check-config` warns of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Final

from berinia_webhookd.addresses import Network
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.findings import Finding, note, ok, warning, wrong
from berinia_webhookd.tools.doctor.signatures import enabled
from berinia_webhookd.tools.doctor.subject import Subject

_SAY: Final = "safety"
# Said better elsewhere in the report: the user is the daemon's, not the one who asks.
SAID_ELSEWHERE: Final = frozenset({"user", "server.public_url"})
WHY: Final = {
    "rate_limit.verified_requests": "a burst of answers to a campaign is refused with 429 and lost",
    "server.host": "messages and passwords travel readable, and no nginx stands before the daemon",
    "agents.python": "no Python agent can run; messages wait",
    "agents.path": "the agents cannot be imported; messages wait",
    "alerts.command": "nobody hears of dead entries or a full disk",
}
WHY_FILES: Final = "who has the secrets can forge every message"  # the setting is a file's path
WHY_OTHERS: Final = "it works as long as nothing unusual happens"
WIDE: Final = {4: 8, 6: 16}  # shorter prefixes are no list of one's own machines


async def settings(subject: Subject) -> AsyncIterator[Finding]:
    """Whom the daemon runs as, who may read what, and who is believed."""
    findings = [
        *_of_warnings(subject),
        *_of_user(subject),
        *_of_lists(subject.settings),
        *_of_channels(subject),
        *_of_logs(subject.settings),
    ]
    for finding in findings:
        yield finding
    if not findings:
        yield ok(_SAY, "no setting is unsafe")


def _of_warnings(subject: Subject) -> Iterator[Finding]:
    secrets = {one.provider.secret.key(name) for name, one in enabled(subject).items()}
    for one in subject.examined.warnings:
        of_agent = one.subject.startswith("agents.") and one.subject.endswith(".target")
        if one.subject not in SAID_ELSEWHERE | secrets and not of_agent:
            yield warning(
                _SAY,
                f"{one.subject}: {one.what}",
                *one.fix,
                why=WHY.get(one.subject, WHY_FILES if "/" in one.subject else WHY_OTHERS),
            )


def _of_user(subject: Subject) -> Iterator[Finding]:
    if subject.running is not None and subject.user == 0:
        yield warning(
            _SAY,
            "the daemon runs as root",
            "give it a user of its own: contrib/systemd/berinia-webhook.service",
            why="whoever breaks into it, or into an agent, has the whole machine",
        )


def _of_lists(settings: Settings) -> Iterator[Finding]:
    if wide := _widest(settings.server.trusted_proxies):
        yield wrong(
            _SAY,
            f"server.trusted_proxies believes {wide}",
            'server.trusted_proxies = ["127.0.0.1", "::1"], and the addresses of your proxies',
            why="whoever is trusted as a proxy may claim any address, scheme and host",
        )
    if wide := _widest(settings.server.metrics_allowed_ips):
        yield warning(
            _SAY,
            f"server.metrics_allowed_ips shows metrics to {wide}",
            "list the machines that collect metrics",
            why="metrics tell strangers how much comes in and what fails",
        )


def _of_channels(subject: Subject) -> Iterator[Finding]:
    for name, channel in enabled(subject).items():
        wide = _widest(channel.allowed_networks or ())
        if wide and channel.address_is_proof:
            who = channel.provider.name
            yield wrong(
                _SAY,
                f"{channel.provider.secret.key(name)} lets {wide} speak as {who}, without a secret",
                f"list the address of {who} alone, or set channels.{name}.secret",
                why="whoever calls from there commands the agents",
            )


def _widest(networks: tuple[Network, ...]) -> Network | None:
    for network in networks:
        if network.prefixlen < WIDE[network.version]:
            return network
    return None


def _of_logs(settings: Settings) -> Iterator[Finding]:
    if settings.logs.personal_data == "full":
        yield warning(
            _SAY,
            "logs.personal_data = full: numbers, addresses and messages stand in the logs",
            'logs.personal_data = "mask", then erase older logs',
            why="`events erase` does not reach into logs",
        )
    if settings.logs.password is None:
        yield note(_SAY, "logs.password is not set, so GET /webhook/logs is answered 503")
