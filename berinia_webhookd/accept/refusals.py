"""Counts refused requests that resemble the provider's: whether its messages get in is judged by
what happened, and begins anew with every one that does.
"""

from __future__ import annotations

from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import ChannelName


class Refusals:
    """Those of this process, by channel, since its last accepted request."""

    def __init__(self, metrics: Metrics) -> None:
        self._gauge = metrics.provider_refused
        self._channels: set[ChannelName] = set()

    def refused(self, channel: ChannelName) -> None:
        """Count one."""
        self._channels.add(channel)
        self._gauge.labels(channel=channel).inc()

    def accepted(self, channel: ChannelName) -> None:
        """Begin anew."""
        if channel in self._channels:
            self._channels.discard(channel)
            self._gauge.labels(channel=channel).set(0)
