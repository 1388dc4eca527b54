"""Declared channels for the tests of this folder, read as the file's are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from berinia_webhookd.channels.declared.channel import DeclaredChannel
from berinia_webhookd.channels.declared.settings import DeclaredSettings
from berinia_webhookd.config.fields import settings_of
from berinia_webhookd.model import AgentName, ChannelName, Decoded, VerifiedDelivery

NOW: Final = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
TOKEN: Final = {"verify": "token", "token": "header:X-Token"}


def settings_from(raw: Mapping[str, Any]) -> DeclaredSettings:
    """The settings of a declaration, named `x`."""
    known = settings_of(DeclaredSettings)
    values = {name: one.default for name, one in known.items()}
    values |= {"kind": "declared", "path": "/x", "agent": AgentName("Agent")}
    values |= {name: known[name].read(value) for name, value in raw.items()}
    return DeclaredSettings(name=ChannelName("x"), **values)


def channel_with(*blocks: Mapping[str, Any], **more: Any) -> DeclaredChannel:
    """A channel with these event blocks."""
    return DeclaredChannel(settings_from({**TOKEN, "secrets": ["s"], "event": blocks, **more}))


def read(
    body: object,
    *blocks: Mapping[str, Any],
    headers: Mapping[str, str] | None = None,
    target: str = "/x",
    **more: Any,
) -> Decoded:
    """What a verified body says to these event blocks."""
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    name = ChannelName("x")
    delivery = VerifiedDelivery(
        name, "application/json", content, NOW, target=target, headers=headers or {}
    )
    return channel_with(*blocks, **more).decode(delivery)


def texts(decoded: Decoded) -> Sequence[str]:
    """The texts of its events."""
    return [event.body for event in decoded.events]
