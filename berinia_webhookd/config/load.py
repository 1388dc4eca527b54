"""From raw values to frozen settings: every value parsed, every rule between values checked, all
problems reported at once. Nothing secret appears in what is reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from berinia_webhookd.addresses import is_loopback
from berinia_webhookd.config import cautions
from berinia_webhookd.config.keys import AGENT_KEYS, KEYS, Environ, Key
from berinia_webhookd.config.settings import (
    AgentSettings,
    AgentsSettings,
    AlertSettings,
    ChannelsSettings,
    EmailSettings,
    JournalSettings,
    LogSettings,
    RateLimitSettings,
    ServerSettings,
    Settings,
    SmsSettings,
    WhatsAppSettings,
)
from berinia_webhookd.config.sources import Gathered, Given, Source, gather, readable
from berinia_webhookd.config.values import AGENT_NAME
from berinia_webhookd.errors import ConfigurationError
from berinia_webhookd.findings import Finding, wrong
from berinia_webhookd.model import AgentName

DEFAULTS: Final = "defaults"  # the table of what holds for all agents


@dataclass(frozen=True, slots=True)
class Origin:
    """A setting's value and where it came from."""

    value: Any
    source: Source
    where: str
    valid: bool = True  # if not, the value is the default


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that can be used."""

    settings: Settings
    origins: Mapping[str, Origin]
    warnings: tuple[Finding, ...]
    config_file: Path | None
    # What the file and .env say on keys that a higher source pins: a change there has no effect.
    pinned: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Examined:
    """What can be said of a configuration, usable or not; a value in error shows its default."""

    settings: Settings
    origins: Mapping[str, Origin]
    problems: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    config_file: Path | None
    complete: bool  # whether every source could be read, so that the rest is worth a look
    pinned: Mapping[str, Any] = field(repr=False)


def load(
    flags: Mapping[str, Any] | None = None,
    *,
    environ: Environ,
    working_folder: Path,
    config_file: Path | None = None,
) -> Loaded:
    """Read, check and freeze the configuration.

    Raises:
        ConfigurationError: with every problem found.
    """
    found = examine(flags, environ=environ, working_folder=working_folder, config_file=config_file)
    if found.problems:
        raise ConfigurationError(found.problems)
    return Loaded(found.settings, found.origins, found.warnings, found.config_file, found.pinned)


def examine(
    flags: Mapping[str, Any] | None = None,
    *,
    environ: Environ,
    working_folder: Path,
    config_file: Path | None = None,
) -> Examined:
    """Read and check the configuration without refusing it: for `check-config`."""
    problems: list[Finding] = []
    environ = readable(environ, problems)
    gathered = gather(
        flags or {}, environ=environ, working_folder=working_folder, config_file=config_file
    )
    problems += gathered.problems
    origins = {key.name: _chosen(key, key.name, gathered, environ, problems) for key in KEYS}
    _fill_in(origins)
    agents = _agents(gathered, environ, origins, problems)
    problems += cautions.errors(origins)
    settings = build({key.name: origins[key.name].value for key in KEYS}, agents)
    return Examined(
        settings=settings,
        origins=origins,
        problems=tuple(problems),
        warnings=cautions.warnings(settings, origins, gathered.config_file),
        config_file=gathered.config_file,
        complete=gathered.complete,
        pinned=_pinned(gathered, origins),
    )


def _chosen(
    key: Key, name: str, gathered: Gathered, environ: Environ, problems: list[Finding]
) -> Origin:
    for layer in gathered.layers:
        given = layer.given.get(name)
        if given is None:
            continue
        try:
            return Origin(key.parse(given.raw), given.source, given.where)
        except ValueError as error:
            problems.append(wrong(name, f"{_wrong(key, given)} is not valid", str(error)))
            default = key.default_value(environ)
            return Origin(default, given.source, given.where, valid=False)
    return Origin(key.default_value(environ), "default", "default")


def _wrong(key: Key, given: Given) -> str:
    """How a wrong value is shown: by its place if it may be a secret."""
    may_be_secret = key.secret or "://" in str(given.raw)  # a URL may hold a password
    shown = "the value" if may_be_secret else repr(given.raw)[:80]
    return f"{shown} from {given.where}"


def _fill_in(origins: dict[str, Origin]) -> None:
    """Defaults that depend on other settings."""
    if origins["rate_limit.verified_requests"].value is None:
        requests = origins["rate_limit.requests"].value
        origins["rate_limit.verified_requests"] = Origin(requests, "default", "default")


def _agents(
    gathered: Gathered, environ: Environ, origins: dict[str, Origin], problems: list[Finding]
) -> dict[AgentName, AgentSettings]:
    names = [DEFAULTS, *_agent_names(gathered, problems)]
    agents: dict[AgentName, AgentSettings] = {}
    shared: dict[str, Origin] = {}
    for name in names:
        chosen: dict[str, Origin] = {}
        for key in AGENT_KEYS:
            found = _chosen(key, f"agents.{name}.{key.name}", gathered, environ, problems)
            chosen[key.name] = found if found.source != "default" else shared.get(key.name, found)
        if name == DEFAULTS:
            shared = chosen
        origins.update({f"agents.{name}.{key}": origin for key, origin in chosen.items()})
        values = {key: origin.value for key, origin in chosen.items()}
        agents[AgentName(name)] = AgentSettings(name=AgentName(name), **values)
        problems += _unsigned(name, values)
    return agents


def _agent_names(gathered: Gathered, problems: list[Finding]) -> list[str]:
    known = {key.name for key in KEYS}
    names: list[str] = []
    for layer in gathered.layers:
        for full in layer.given:
            if not full.startswith("agents.") or full in known:
                continue
            name = full.removeprefix("agents.").rpartition(".")[0]
            if name == DEFAULTS or name in names:
                continue
            if AGENT_NAME.fullmatch(name):
                names.append(name)
            else:
                hint = "agents' names start with a capital: [agents.ResponseListenerAgent]"
                problems.append(wrong(f"agents.{name}", "is no agent's name", hint))
                names.append(name)
    return [name for name in names if AGENT_NAME.fullmatch(name)]


def _unsigned(name: str, values: Mapping[str, Any]) -> list[Finding]:
    """An agent that is reached over a network must be able to tell us from others."""
    target = values["target"]
    if target is None or not target.startswith("http") or values["signing_secret"] is not None:
        return []
    if is_loopback(urlsplit(target).hostname or ""):
        return []
    hint = "set a Standard Webhooks secret (whsec_…) that the agent knows too"
    return [wrong(f"agents.{name}.signing_secret", "is missing for an HTTP agent", hint)]


def _pinned(gathered: Gathered, origins: Mapping[str, Origin]) -> dict[str, Any]:
    pinned: dict[str, Any] = {}
    for layer in reversed(gathered.layers):
        if layer.source in ("file", ".env"):
            for name, given in layer.given.items():
                if name in origins and origins[name].source in (
                    "flag",
                    "environment",
                    "credential",
                ):
                    pinned[name] = given.raw
    return pinned


def build(values: Mapping[str, Any], agents: Mapping[AgentName, AgentSettings]) -> Settings:
    """The settings of these values; used again to join old and new ones at a reload."""

    def section(prefix: str) -> dict[str, Any]:
        return {
            name.removeprefix(prefix): value
            for name, value in values.items()
            if name.startswith(prefix) and "." not in name.removeprefix(prefix)
        }

    defaults = agents[AgentName(DEFAULTS)]
    by_name = {name: agent for name, agent in agents.items() if name != DEFAULTS}
    return Settings(
        server=ServerSettings(**section("server.")),
        rate_limit=RateLimitSettings(**section("rate_limit.")),
        journal=JournalSettings(**section("journal.")),
        logs=LogSettings(**section("logs.")),
        alerts=AlertSettings(**section("alerts.")),
        agents=AgentsSettings(**section("agents."), defaults=defaults, by_name=by_name),
        channels=ChannelsSettings(
            sms=SmsSettings(**section("channels.sms.")),
            email=EmailSettings(**section("channels.email.")),
            whatsapp=WhatsAppSettings(**section("channels.whatsapp.")),
        ),
        debug=values["debug"],
        dev=values["dev"],
    )
