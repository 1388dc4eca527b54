"""What speaks against believing in loopback: the requests that the daemon sends to itself."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from berinia_webhookd.accept.loopback_guard import FORGED, said_against
from berinia_webhookd.addresses import peer_is_here
from berinia_webhookd.loopback_lock import LoopbackLock, Reason
from berinia_webhookd.testing import a_caller


@pytest.mark.parametrize(
    ("forwarded_for", "reason"),
    [
        ("", Reason.NOT_SENT),
        (FORGED, Reason.NOT_APPENDED),
        (f"203.0.113.9, {FORGED} ", Reason.NOT_APPENDED),
        ("203.0.113.9", None),
        (f"{FORGED}, 203.0.113.9", None),
        (f"{FORGED},127.0.0.1", None),
        ("unknown", None),
    ],
)
def test_what_an_arrival_says(forwarded_for: str, reason: Reason | None) -> None:
    """Only an entry that our proxy wrote is the proof that it writes one."""
    assert said_against(forwarded_for) is reason


def test_a_peer_elsewhere_has_no_address_of_this_machine() -> None:
    """Nor has one that was gone before it could be asked."""
    assert peer_is_here(a_caller(peer="127.0.0.1"))
    assert peer_is_here(a_caller(peer="::1"))
    assert peer_is_here(a_caller(peer=None, peer_trusted=True))
    assert not peer_is_here(a_caller(peer=None, peer_trusted=False))
    assert not peer_is_here(a_caller(peer=str(ip_address("203.0.113.9"))))


def test_the_lock_is_kept_and_says_since_when(tmp_path: Path) -> None:
    """A later look that finds the same does not begin anew."""
    lock = LoopbackLock(tmp_path)
    assert lock.read() is None
    lock.write("https://app.example.com/a", Reason.NOT_SENT)
    first = lock.read()
    lock.write("https://app.example.com/b", Reason.NOT_APPENDED)
    again = LoopbackLock(tmp_path).read()
    assert first is not None
    assert again is not None
    assert (again.since, again.reason) == (first.since, Reason.NOT_APPENDED)
    assert [file.name for file in tmp_path.iterdir()] == ["loopback.locked"]
    assert lock.remove()
    assert not lock.remove()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"reason": "x"}', b"\xff"])
def test_a_lock_that_cannot_be_read_is_a_lock(tmp_path: Path, content: bytes) -> None:
    """Fail closed."""
    (tmp_path / "loopback.locked").write_bytes(content)
    assert LoopbackLock(tmp_path).read() is not None
