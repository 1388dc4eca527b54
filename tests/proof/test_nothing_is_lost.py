"""Nothing lost: whatever befalls the daemon, what it answered 2xx reaches its agent, in order."""

from __future__ import annotations

from pathlib import Path

from .conftest import Say
from .storm import Storm

KILLS = 4


def test_no_acknowledged_message_is_lost(tmp_path: Path, say: Say) -> None:
    """Every fault once and a handful of kills, under traffic on all channels."""
    storm = Storm(tmp_path, senders=2, pause_seconds=0.02)
    with storm.raging():
        for name in [*storm.faults, *["kill"] * (KILLS - 1)]:
            storm.befall(name)
        storm.wait_for_traffic(3)
    verdict = storm.verdict()
    say("faults survived", **storm.counts, hosts_killed=storm.host_kills)
    say(
        "messages under faults",
        acknowledged=verdict.acknowledged,
        delivered=verdict.delivered,
        repeated=verdict.repeated,
        lost=len(verdict.lost),
        out_of_order=len(verdict.disordered),
    )
    assert not any(verdict.failures.values()), verdict.failures
    assert set(storm.traffic.answers) <= {"200", "202", "503", "refused", "cut off"}
    assert storm.left_over_wals > 0
