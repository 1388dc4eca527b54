"""One owner for each SQLite journal, whatever the state of the disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from berinia_webhookd.errors import CannotStartNow
from berinia_webhookd.journal.lock import OwnerLock

from ..full_disk import full_disk, overlay


def test_a_full_disk_keeps_no_owner_out(tmp_path: Path) -> None:
    """Nothing has to be written for the lock, and the kernel knows who has it."""
    first, second = OwnerLock(tmp_path / "journal.db"), OwnerLock(tmp_path / "journal.db")
    with full_disk():
        first.take()
    with pytest.raises(CannotStartNow, match=f"held by process {os.getpid()}"):
        second.take()
    first.release()
    second.take()
    second.release()


def test_an_overlay_of_two_file_systems_is_no_second_name(tmp_path: Path) -> None:
    """Devices differ there within one folder; only the mounts say that a file has two names."""
    with overlay(tmp_path / "overlay") as place:
        lock = OwnerLock(place / "state" / "journal.db")
        lock.take()
        lock.release()
        assert (place / "state" / "journal.db").stat().st_dev != (place / "state").stat().st_dev
