"""Fixtures: a place to configure that knows nothing of this machine's own configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from berinia_webhookd.config import files

from .place import Place


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """An empty working folder, and no settings at all."""
    monkeypatch.setattr(files, "SYSTEM_FILE", tmp_path / "etc" / "config.toml")
    return Place(tmp_path, {"HOME": str(tmp_path)})
