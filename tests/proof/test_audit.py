"""The check for vulnerable dependencies says what it found, and what it could not ask."""

from __future__ import annotations

import sys

from .audit import asked, judged

SAFE = {"name": "click", "version": "8.2", "vulns": []}
HOLED = {"name": "holed", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"]}]}
UNKNOWN = {"name": "ours", "skip_reason": "Dependency not found"}


def test_a_known_vulnerability_fails() -> None:
    """By name, with the version that mends it."""
    status, lines = judged({"dependencies": [SAFE, HOLED, UNKNOWN]})
    assert status == 1
    assert lines == [
        "holed 1.0: PYSEC-1, mended in 1.1",
        "Vulnerabilities: 1 in 2 packages that were checked",
        "NOT CHECKED, unknown to the service: ours",
    ]


def test_nothing_found_passes() -> None:
    """And says how many were looked at."""
    assert judged({"dependencies": [SAFE]}) == (
        0,
        ["Vulnerabilities: 0 in 1 packages that were checked"],
    )


def test_a_service_that_knows_nothing_is_not_taken_for_a_clean_bill() -> None:
    """It passes, but never in silence."""
    status, lines = judged({"dependencies": [UNKNOWN]})
    assert status == 0
    assert "NOT CHECKED" in lines[0]


def test_a_service_that_is_away_is_said_to_be() -> None:
    """With the reason."""
    failing = "import sys; sys.exit('cannot resolve the service')"
    why = asked((sys.executable, "-c", failing))
    assert why == "cannot resolve the service"
    status, lines = judged(why)
    assert status == 0
    assert "NOT CHECKED" in lines[0]
    assert "cannot resolve" in lines[0]
