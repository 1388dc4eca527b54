"""Fixtures: this process's logs, set up as the daemon sets them up, and taken down again."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import structlog

from berinia_webhookd.logs.pipeline import LogFiles, LogOptions, configure


class Logs:
    """The logs of this process in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: LogFiles | None = None

    def start(
        self,
        *,
        level: str = "info",
        personal_data: Literal["mask", "full"] = "mask",
        stderr_json: bool | None = None,
    ) -> LogFiles:
        self._files = configure(
            self.folder,
            LogOptions(level, personal_data, frozenset({"sms", "email", "whatsapp"})),
            stderr_json=stderr_json,
        )
        return self._files

    def stop(self) -> None:
        if self._files is not None:
            self._files.close()
            self._files = None

    def raw(self, name: str = "webhook") -> bytes:
        """All that was written to one of the files so far."""
        assert self._files is not None
        assert self._files.writer.flush()
        path = self.folder / f"{name}.log"
        return path.read_bytes() if path.exists() else b""

    def lines(self, name: str = "webhook") -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.raw(name).splitlines()]


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[Logs]:
    """Logs that a test starts as it needs them."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logs = Logs(tmp_path / "unified_logs")
    try:
        yield logs
    finally:
        logs.stop()
        structlog.reset_defaults()
        logging.captureWarnings(capture=False)
        root.handlers[:] = handlers
        root.setLevel(level)
