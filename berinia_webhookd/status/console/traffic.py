"""The number of messages on each channel in the last 24 hours. An hour that is over is counted
once, then cached.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from berinia_webhookd.journal.console import ConsoleJournal, last_of_channel, received_by_hour
from berinia_webhookd.journal.contract import Received

HOURS: Final = 24
HOUR_SECONDS: Final = 3600
LATE_SECONDS: Final = 120  # commits come later than their messages arrive, and clocks differ


@dataclass(frozen=True, slots=True)
class ChannelTraffic:
    """When a channel's last message came, and how many came in each of the last 24 hours."""

    last_at: datetime | None
    by_hour: tuple[int, ...]  # the oldest first


class Traffic:
    """A cache of the counts."""

    def __init__(self) -> None:
        self._hours: dict[int, dict[str, Received]] = {}  # complete hours, counted since 1970
        self._before: dict[str, datetime | None] = {}  # channels without recent messages

    async def of(
        self, journal: ConsoleJournal, channels: Iterable[str], now: datetime
    ) -> dict[str, ChannelTraffic]:
        """Return the traffic of these channels, and of others with messages."""
        present = int(now.timestamp()) // HOUR_SECONDS
        hours = range(present - HOURS + 1, present + 1)
        first = next((hour for hour in hours if hour not in self._hours), present)
        counted = await journal.read(received_by_hour, first)
        known = {hour: counted.get(hour, self._hours.get(hour, {})) for hour in hours}
        over = (int(now.timestamp()) - LATE_SECONDS) // HOUR_SECONDS
        self._hours = {hour: of for hour, of in known.items() if hour < over}
        came = sorted({channel for of in known.values() for channel in of})
        return {
            channel: await self._of_channel(journal, channel, known)
            for channel in dict.fromkeys([*channels, *came])
        }

    async def _of_channel(
        self, journal: ConsoleJournal, channel: str, known: dict[int, dict[str, Received]]
    ) -> ChannelTraffic:
        found = [of.get(channel) for of in known.values()]
        last_at = max((one.last_at for one in found if one), default=None)
        if last_at is None:
            if channel not in self._before:
                self._before[channel] = await journal.read(last_of_channel, channel)
            last_at = self._before[channel]
        else:
            self._before[channel] = last_at
        return ChannelTraffic(last_at, tuple(one.count if one else 0 for one in found))
