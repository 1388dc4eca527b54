"""What the checks make of what they measured."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from berinia_webhookd.findings import Level
from berinia_webhookd.status.findings import machine
from berinia_webhookd.status.findings.journal import of_clock, of_server
from berinia_webhookd.status.findings.machine import MIB, Room, of_disks, of_synchronisation

GIB = 1024 * MIB


@pytest.mark.parametrize(
    ("room", "level"),
    [
        (Room(500 * GIB, 1000 * GIB, None), Level.OK),
        (Room(2 * GIB, 1000 * GIB, 10**6), Level.OK),
        (Room(800 * MIB, 1000 * GIB, 10**6), Level.WARNING),
        (Room(200 * MIB, 300 * MIB, 10**6), Level.OK),  # a small disk that is mostly free
        (Room(99 * MIB, 1000 * GIB, 10**6), Level.WRONG),
        (Room(500 * GIB, 1000 * GIB, 10), Level.WRONG),
    ],
)
def test_room_on_the_disk(tmp_path: Path, room: Room, level: Level) -> None:
    """Bytes, and files that can still be made; what is little depends on the disk."""
    (finding,) = of_disks([tmp_path], lambda _: room)
    assert finding.level is level


def test_the_real_disk(tmp_path: Path) -> None:
    """A folder that is not there yet is passed over."""
    assert machine.room(tmp_path).all_bytes > 0
    assert list(of_disks([tmp_path / "none"])) == []


def test_one_disk_is_one_finding(tmp_path: Path) -> None:
    """Whatever lies on it; a folder in another is not named beside that."""
    state, logs, other = tmp_path / "state", tmp_path / "logs", tmp_path / "other"
    folders = [other, logs, state, state / "unified_logs"]
    full = {folder: Room(0, GIB, None, 1 if folder is other else 2) for folder in folders}
    first, second = of_disks(folders, full.__getitem__)
    assert first.what == f"{other}: 0 MiB free"
    assert second.what == f"{logs} {state}: 0 MiB free"
    assert second.fix[0] == f"df -h {logs} {state}"


@pytest.mark.parametrize(
    ("state", "level"), [(True, Level.OK), (False, Level.WARNING), (None, Level.NOTE)]
)
def test_a_clock_that_nobody_keeps_right(state: bool | None, level: Level) -> None:
    """What the kernel says of it."""
    assert of_synchronisation(state, "retries depend on it").level is level
    assert machine.is_synchronised() in (True, False, None)


def test_a_clock_that_was_set_back() -> None:
    """The newest message came in the future."""
    now = datetime.now(UTC)
    (finding,) = of_clock(now + timedelta(hours=1), now)
    assert "set back" in finding.what
    assert not list(of_clock(now, now))


def test_a_postgresql_that_keeps_what_it_committed() -> None:
    """One that keeps what it was given is fine."""
    finding = of_server("there", {"fsync": "on", "full_page_writes": "on"})
    assert finding.level is Level.OK
