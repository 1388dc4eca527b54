"""The declarations that come with the daemon, one file per provider in `presets/`: its proof,
events and answers, and the facts about it.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Final

from berinia_webhookd.channels.provider import Provider, SecretSetting
from berinia_webhookd.model import ChannelName

FACTS: Final = "provider"  # the table of facts beside the declaration
_FOLDER: Final = resources.files(__package__).joinpath("presets")


@cache
def names() -> tuple[str, ...]:
    """Return the names of all presets."""
    found = (file.name for file in _FOLDER.iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml")))


@cache
def _whole(name: str) -> Mapping[str, Any]:
    return tomllib.loads(_FOLDER.joinpath(f"{name}.toml").read_text("utf-8"))


def declaration(name: str) -> Mapping[str, Any]:
    """Return the settings of a preset, as in the file.

    Raises:
        ValueError: there is no preset of that name.
    """
    if name not in names():
        nearest = difflib.get_close_matches(name, names(), n=1)
        meant = f"did you mean {nearest[0]}? " if nearest else ""
        raise ValueError(f"{meant}presets are {', '.join(names())}")
    return {key: value for key, value in _whole(name).items() if key != FACTS}


def facts(name: str | None) -> Mapping[str, Any]:
    """Return the facts about a preset's provider."""
    known = name is not None and name in names()
    return _whole(name)[FACTS] if known and name is not None else {}


def provider_of(preset: str | None, channel: ChannelName) -> Provider:
    """Return the provider of a channel, by the facts of its preset."""
    known = facts(preset)
    return Provider(
        name=known.get("name", f"the provider of {channel}"),
        console=known.get("console", "the provider's console"),
        secret=SecretSetting("secrets", known.get("secret", "the provider's console")),
        text_field="text",
        sample=known.get("sample", "a message"),
        retries=known.get("retries", "whether the provider tries again is not known here"),
        retries_by_itself=known.get("retries_by_itself", True),
        signs_url=known.get("signs_url", False),
        signs_body=known.get("signs_body", True),
        signs_time=known.get("signs_time", False),
    )
