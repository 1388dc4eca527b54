"""The transports of a process, found by an agent's target."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from berinia_webhookd.channels.contract import ChannelOf, no_channel
from berinia_webhookd.config.agent_settings import AgentsSettings
from berinia_webhookd.metrics import Metrics
from berinia_webhookd.model import AgentName, Entry
from berinia_webhookd.outbound.attachment_files import FetchAttachments, no_attachments
from berinia_webhookd.outbound.contract import Transport
from berinia_webhookd.outbound.http_agent import HttpAgents
from berinia_webhookd.outbound.log_agent import LogAgents, fields_of
from berinia_webhookd.outbound.payload import envelope
from berinia_webhookd.outbound.python_agent import PythonAgents

HTTP_TARGETS: Final = ("https://", "http://")
LOG_TARGET: Final = "log:"


class Transports:
    """All transports of a process; `reconfigure` at a reload, `close` at the end."""

    def __init__(
        self,
        settings: AgentsSettings,
        *,
        metrics: Metrics,
        channel_of: ChannelOf = no_channel,
        attachments: FetchAttachments = no_attachments,
        masked: Callable[[], bool] = lambda: True,
    ) -> None:
        """`channel_of` gives the channel that received an event, `attachments` the contents of its
        attachments; `masked` says whether `logs.personal_data` hides the event's values in what
        agents print and in their errors.
        """
        self._settings = settings
        self.python = PythonAgents(
            settings,
            metrics=metrics,
            channel_of=channel_of,
            attachments=attachments,
            masked=masked,
        )
        self._http = HttpAgents(settings, masked=masked)
        self._log = LogAgents()

    def of(self, agent: AgentName) -> Transport:
        """Return the transport by the agent's target; without a target, the registry's."""
        target = self._settings.of(agent).target or ""
        if target.startswith(HTTP_TARGETS):
            return self._http
        if target.startswith(LOG_TARGET):
            return self._log
        return self.python

    def given(self, entry: Entry) -> tuple[str, Mapping[str, Any]]:
        """Return how an entry is passed to its agent (handle, run, HTTP, log), and the payload;
        `handle` if the agent is not loaded in this process.
        """
        target = self._settings.of(entry.agent).target or ""
        if target.startswith(HTTP_TARGETS):
            return "HTTP", envelope(entry)
        if target.startswith(LOG_TARGET):
            return "log", fields_of(entry)
        return self.python.given(entry)

    def reconfigure(self, settings: AgentsSettings, keep: Collection[AgentName] = ()) -> None:
        """Use these settings from the next attempt on; agent hosts are replaced after their current
        one, those of agents in `keep` once their new code is loaded.
        """
        self._settings = settings
        self.python.reconfigure(settings, [name for name in keep if self.of(name) is self.python])
        self._http.reconfigure(settings)
        self._log.reconfigure()

    def goes_on(self, agent: AgentName) -> bool:
        """Return whether an agent still runs the code from before the last reload."""
        return self.python.goes_on(agent)

    async def close(self) -> None:
        """End agent hosts and connections; running attempts end as crashes."""
        await asyncio.gather(self.python.close(), self._http.close(), self._log.close())
