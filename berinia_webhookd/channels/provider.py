"""The facts about a provider, in one place: each class of channels has a `Provider`, from which the
texts of `send`, `doctor` and `check-config` and the input of `run` agents are made.
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
    """The setting that holds the secret of a channel."""

    setting: str  # of the channel: tokens
    found: str  # where an operator finds the value
    variable: str | None = None  # the environment variable of the built-in channel

    def key(self, channel: ChannelName) -> str:
        """Return the setting's whole name."""
        return f"channels.{channel}.{self.setting}"

    def line(self, channel: ChannelSettings) -> str:
        """Return the line to write, and where to find its value."""
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
    retries: str  # what happens to a request that was not answered 2xx: a main clause
    entered: str = "{url}"  # what is entered in the console
    retries_by_itself: bool = True  # False: unless configured, what is answered 429 or 503 is lost
    from_outside: bool = True  # False: a program on this machine, not behind nginx
    # What the proof covers: other damage on the way goes unnoticed.
    signs_url: bool = False
    signs_body: bool = True
    signs_time: bool = False
    run_input: RunInput | None = None  # what `run` agents get; None: the event

    @property
    def what_it_signs(self) -> str:
        """What its signature covers: a main clause."""
        covered = {
            "the URL that it calls": self.signs_url,
            "what it sends": self.signs_body,
            "the time": self.signs_time,
        }
        parts = [part for part, is_signed in covered.items() if is_signed]
        if not parts:
            return f"{self.name} signs nothing: only its secret proves who sent it"
        return f"{self.name} signs {' and '.join(parts)}"

    @property
    def if_redirected(self) -> str:
        """What a redirect does to its requests."""
        other_url = ", or its signature is over another URL" if self.signs_url else ""
        return f"a redirected POST loses its body{other_url}"

    @property
    def if_altered(self) -> str:
        """What happens if a body is altered on the way."""
        if self.signs_body:
            return f"{self.name} signs what it sent; messages with blanks or accents are refused"
        return f"{self.name} does not sign the text of {self.sample}: damage goes unnoticed"

    @property
    def if_url_differs(self) -> str:
        """What a wrong scheme or host does while `server.public_url` is set."""
        if self.signs_url:
            return "signatures match only because server.public_url is set: keep it, or fix nginx"
        return f"its messages are accepted all the same, because {self.name} signs no URL"

    def warnings(self, channel: ChannelSettings, settings: Settings) -> Iterator[Finding]:
        """Yield settings that will cause trouble."""
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
                f"{self.console}: {self.entered.format(url=base + channel.path)}",
                why="a burst of answers to a campaign is refused with 429 and lost",
            )
