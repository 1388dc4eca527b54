"""The facts of a provider, said once: each class of channels has a `Provider`, which `send`,
`doctor`, `check-config` and `run` agents ask. What people read about it is made of its facts, so
that every provider has the sentences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from berinia_webhookd.config.channel_settings import ChannelSettings
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.findings import Finding, warning
from berinia_webhookd.model import ChannelName, Event

RunInput = Callable[[Event], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class SecretSetting:
    """The setting that holds what proves the provider."""

    setting: str  # of the channel: tokens
    found: str  # where an operator finds the value
    variable: str | None = None  # of the environment, for the channel that exists by itself

    def key(self, channel: ChannelName) -> str:
        """Return the setting's whole name."""
        return f"channels.{channel}.{self.setting}"

    def line(self, channel: ChannelSettings) -> str:
        """Return the line to write, and where its value is found."""
        variable = self.variable if channel.is_built_in else None
        return f"{variable or self.key(channel.name)}=… ({self.found})"


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider, as people know it and as it behaves."""

    name: str
    console: str  # where our URL is entered
    secret: SecretSetting
    text_field: str  # of a sample: the name of the message's text
    sample: str  # what `send` sends, such as "an SMS"
    retries: str  # what becomes of a request that was not answered 2xx: a main clause
    entered: str = "{url}"  # what is entered in the console
    retries_by_itself: bool = True  # False: what was answered 429 or 503 is lost, as configured
    from_outside: bool = True  # False: a program on this machine, of which nginx knows nothing
    # What the proof covers decides which damage on the way is refused, and which goes unnoticed.
    signs_url: bool = False
    signs_body: bool = True
    signs_time: bool = False
    run_input: RunInput | None = None  # what `run` agents get; None: the neutral shape

    @property
    def what_it_signs(self) -> str:
        """What its signature is over: a main clause."""
        covered = {
            "the URL that it calls": self.signs_url,
            "what it sends": self.signs_body,
            "the time": self.signs_time,
        }
        parts = [part for part, is_signed in covered.items() if is_signed]
        if not parts:
            return f"{self.name} signs nothing: its secret is all that proves it"
        return f"{self.name} signs {' and '.join(parts)}"

    @property
    def if_redirected(self) -> str:
        """What a redirection does to its requests."""
        other_url = ", or its signature is over another URL" if self.signs_url else ""
        return f"a redirected POST loses its body{other_url}"

    @property
    def if_altered(self) -> str:
        """What a body that is altered on the way means."""
        if self.signs_body:
            return f"{self.name} signs what it sent; messages with blanks or accents are refused"
        return f"{self.name} does not sign the text of {self.sample}: damage goes unnoticed"

    @property
    def if_url_differs(self) -> str:
        """What a wrong scheme or host means while `server.public_url` is set."""
        if self.signs_url:
            return "signatures match only because server.public_url is set: keep it, or fix nginx"
        return f"its messages get in all the same, since {self.name} signs no URL"

    def warnings(self, channel: ChannelSettings, settings: Settings) -> Iterator[Finding]:
        """Yield findings about settings that work and will cause trouble."""
        key = self.secret.key(channel.name)
        if not getattr(channel, self.secret.setting):
            yield warning(
                key,
                f"not set, so {self.sample} is answered {channel.later_status}",
                f"{self.secret.line(channel)}, or channels.{channel.name}.enabled = false",
            )
        limits = settings.rate_limit
        lost = self.from_outside and not self.retries_by_itself
        if lost and limits.verified_requests == limits.requests:
            base = (
                settings.server.public_url[0] if settings.server.public_url else "https://your.host"
            )
            yield warning(
                "rate_limit.verified_requests",
                f"equals rate_limit.requests, and {self.retries}",
                "rate_limit.verified_requests = 6000",
                f"in {self.console}: {self.entered.format(url=base + channel.path)}",
                why="a burst of answers to a campaign is refused with 429 and lost",
            )
