"""A place to configure: a working folder, an environment, credentials and a TOML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from berinia_webhookd.channels.catalogue import KINDS
from berinia_webhookd.channels.settings import TwilioSettings, WhatsAppSettings
from berinia_webhookd.config.channel_settings import Kinds
from berinia_webhookd.config.load import Loaded, Origin, load
from berinia_webhookd.config.settings import Settings
from berinia_webhookd.config.tables import Tables
from berinia_webhookd.errors import ConfigurationError
from berinia_webhookd.findings import Finding
from berinia_webhookd.model import ChannelName

KEYS = Tables.of({}, KINDS).keys()


def sms(settings: Settings) -> TwilioSettings:
    channel = settings.channels[ChannelName("sms")]
    assert isinstance(channel, TwilioSettings)
    return channel


def whatsapp(settings: Settings) -> WhatsAppSettings:
    channel = settings.channels[ChannelName("whatsapp")]
    assert isinstance(channel, WhatsAppSettings)
    return channel


@dataclass
class Place:
    folder: Path
    environ: dict[str, str] = field(default_factory=dict)
    config_file: Path | None = None
    kinds: Kinds = field(default_factory=lambda: KINDS)

    def toml(self, text: str) -> Path:
        """Write the file of the working folder, readable and writable by us alone."""
        return self._write(self.folder / "berinia-webhookd.toml", text)

    def dotenv(self, text: str) -> Path:
        return self._write(self.folder / ".env", text)

    def credential(self, name: str, text: str) -> Path:
        directory = self.folder / "credentials"
        directory.mkdir(exist_ok=True)
        self.environ["CREDENTIALS_DIRECTORY"] = str(directory)
        return self._write(directory / name, text)

    def _write(self, path: Path, text: str) -> Path:
        path.write_text(text)
        path.chmod(0o600)
        return path

    def load(
        self, flags: Mapping[str, Any] | None = None, *, before: Loaded | None = None
    ) -> Loaded:
        return load(
            flags,
            kinds=self.kinds,
            environ=self.environ,
            working_folder=self.folder,
            config_file=self.config_file,
            before=before,
        )

    def origin(self, key: str, flags: Mapping[str, Any] | None = None) -> Origin:
        return self.load(flags).origins[key]

    def problems(self) -> tuple[Finding, ...]:
        """What is wrong; there must be something."""
        try:
            self.load()
        except ConfigurationError as error:
            return error.findings
        raise AssertionError("the configuration was accepted")

    def problem(self) -> Finding:
        """The only thing that is wrong."""
        problems = self.problems()
        assert len(problems) == 1, problems
        return problems[0]
