"""The mark of this installation's own requests: only its key makes it, and only for a minute."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from berinia_webhookd.own_requests import InstallationKey, Purpose

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_the_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    """0600, in a folder that is made, and the same one ever after."""
    state = tmp_path / "a" / "state"
    mark = InstallationKey.made(state).mark(Purpose.PROBE, NOW)
    (file,) = state.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert InstallationKey.made(state).proven(mark, NOW)
    assert InstallationKey.read(state).proven(mark, NOW)


def test_a_key_that_is_none_is_refused(tmp_path: Path) -> None:
    """One that others may read, a short one, a link, a pipe."""
    file = tmp_path / "installation.key"
    file.write_text("ab" * 32)
    file.chmod(0o640)
    with pytest.raises(ValueError, match="owner alone"):
        InstallationKey.made(tmp_path)
    file.chmod(0o600)
    file.write_text("ab")
    with pytest.raises(ValueError, match="no key"):
        InstallationKey.made(tmp_path)
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        InstallationKey.made(tmp_path)
    file.unlink()
    os.mkfifo(file, 0o600)
    with pytest.raises(ValueError, match="owner alone"):
        InstallationKey.made(tmp_path)


def test_a_mark_is_good_for_its_body_and_for_a_minute() -> None:
    """What it says is what was signed."""
    key = InstallationKey(b"k" * 32)
    mark = key.mark(Purpose.SAMPLE, NOW, b"body")
    found = key.proven(mark, NOW + timedelta(seconds=59))
    assert found is not None
    assert found.purpose is Purpose.SAMPLE
    assert found.is_of(b"body")
    assert not found.is_of(b"another")
    assert key.proven(mark, NOW + timedelta(seconds=62)) is None
    assert key.proven(mark, NOW - timedelta(seconds=62)) is None


def test_nobody_else_makes_a_mark() -> None:
    """Each character counts, and the key."""
    key = InstallationKey(b"k" * 32)
    mark = key.mark(Purpose.PROBE, NOW, b"body")
    assert InstallationKey(b"x" * 32).proven(mark, NOW) is None
    for place in range(len(mark)):
        changed = "0" if mark[place] != "0" else "1"
        assert key.proven(mark[:place] + changed + mark[place + 1 :], NOW) is None
    for other in ("", "1", mark + "\n", mark.replace("probe", "sample"), mark.upper()):
        assert key.proven(other, NOW) is None
