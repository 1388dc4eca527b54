"""What `prove` makes of what it saw."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from berinia_webhookd.tools.disk_times import Spread, file_system, in_words, measure
from berinia_webhookd.tools.prove import Proof, lost_and_doubled, report

QUICK = Spread(0.3, 2.0)
PROOF = Proof(
    folder="/var/lib/berinia-webhookd",
    file_system="ext4, /dev/vda1",
    seconds=60,
    kills=24,
    messages=5,
    sent_again=1,
    kept=5,
    lost=0,
    doubled=0,
    dispatched=5,
    start=QUICK,
    answer=QUICK,
    commit=QUICK,
    flush=QUICK,
    flushes=True,
)


@pytest.mark.parametrize(
    ("answered", "kept", "expected"),
    [
        pytest.param({1: {"a"}, 2: {"b"}}, {"a", "b"}, (0, 0), id="all is well"),
        pytest.param({1: {"a"}, 2: {"b"}}, {"a"}, (1, 0), id="answered, and not kept"),
        pytest.param({1: {"a", "x"}}, {"a", "x"}, (0, 1), id="two events for one message"),
        pytest.param({1: {"a"}}, {"a", "x"}, (0, 1), id="kept twice, answered once"),
        pytest.param({1: {"a", "x"}}, {"a"}, (1, 1), id="both"),
    ],
)
def test_events_are_held_against_messages(
    answered: dict[int, set[str]], kept: set[str], expected: tuple[int, int]
) -> None:
    """What was answered is there, and for each message once."""
    assert lost_and_doubled(answered, kept) == expected


def test_the_report_is_plain_and_narrow() -> None:
    """80 columns; it claims no more than `kill -9` shows, and shouts where something is wrong."""
    for proof in (PROOF, replace(PROOF, lost=1), replace(PROOF, doubled=1)):
        assert max(map(len, report(proof).splitlines())) < 80
        text = " ".join(report(proof).split())
        assert "nothing about a loss of power" in text
        assert ("Nothing was lost" in text) == proof.holds == ("DO NOT" not in text.upper())
        assert "seems to flush" in text
    fast = " ".join(report(replace(PROOF, flush=Spread(0.001, 0.002), flushes=False)).split())
    assert "0.001 ms" in fast
    assert "DOES NOT FLUSH" in fast


def test_a_spread_is_its_middle_and_its_end() -> None:
    """Of any number of durations."""
    assert Spread.of([0.001 * n for n in range(1, 101)]) == Spread(50.5, 100.0)
    assert Spread.of([]) == Spread(0.0, 0.0)
    assert [in_words(ms) for ms in (0.1234, 17.04, 2460)] == ["0.123 ms", "17 ms", "2.5 s"]


def test_a_disk_is_measured(tmp_path: Path) -> None:
    """With files that stay in the folder; and what it is, the kernel says."""
    flush, commit = measure(tmp_path)
    assert min(flush.median_ms, commit.median_ms) > 0
    assert flush.p99_ms >= flush.median_ms
    assert ", " in file_system(tmp_path)
    assert file_system(Path("/proc")).startswith("proc")
