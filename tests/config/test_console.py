"""Where the console may listen, and what browsers must be told."""

from __future__ import annotations

import pytest

from .place import Place


@pytest.mark.parametrize(
    ("text", "subject", "what"),
    [
        ('listen = "/run/console.sock"', "console.url", "Unix socket"),
        ('listen = "127.0.0.1:8001"', "console.listen", "where the daemon itself listens"),
        (
            'listen = "127.0.0.1:8003"\n[channels.whatsapp]\nlisten = "127.0.0.1:8003"',
            "console.listen",
            "where a channel listens",
        ),
    ],
)
def test_what_does_not_go_together(place: Place, text: str, subject: str, what: str) -> None:
    place.toml(f"[console]\nenabled = true\n{text}\n")
    problem = place.problem()
    assert problem.subject == subject
    assert what in problem.what


def test_one_that_is_off_is_in_nobodys_way(place: Place) -> None:
    place.toml('[console]\nlisten = "127.0.0.1:8001"')
    assert not place.load().settings.console.enabled
