"""How findings are printed."""

from __future__ import annotations

import click
import pytest

from berinia_webhookd.findings import Finding, note, ok, warning, wrong
from berinia_webhookd.tools.findings_view import lines

FINDINGS = [
    ok("service", "process 7 runs on 127.0.0.1:8001, as user 999"),
    note("channels.whatsapp.allowed_ips", "a name that is longer than the column of the names"),
    warning("disk", "/var: 800 MiB free", "df -h /var", why="the disk will be full before long"),
    wrong(
        "nginx",
        "https://app.example.com/webhook/sms-response: reaches the daemon at another path",
        "in nginx: `location = /webhook/sms-response { proxy_pass http://127.0.0.1:8001; … }`",
        why="Twilio gets 404; Twilio does not send again, unless the URL ends in #rc=5&rp=all",
    ),
]


@pytest.fixture(autouse=True)
def of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def shown(*findings: Finding) -> list[str]:
    return [click.unstyle(line) for line in lines(findings)]


def test_a_report() -> None:
    """Level, subject and what, then why, then what fixes it; at the end the sum."""
    assert shown(*FINDINGS) == [
        "ok       service  process 7 runs on 127.0.0.1:8001, as user 999",
        "note     channels.whatsapp.allowed_ips  a name that is longer than the column of",
        "         the names",
        "warning  disk     /var: 800 MiB free",
        "         why: the disk will be full before long",
        "         fix: df -h /var",
        "wrong    nginx    https://app.example.com/webhook/sms-response: reaches the",
        "         daemon at another path",
        "         why: Twilio gets 404; Twilio does not send again, unless the URL ends",
        "              in #rc=5&rp=all",
        "         fix: in nginx:",
        "              `location = /webhook/sms-response { proxy_pass http://127.0.0.1:8001; … }`",
        "",
        "1 thing wrong, 1 warning",
    ]


def test_a_wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """`COLUMNS` decides."""
    monkeypatch.setenv("COLUMNS", "400")
    assert len(shown(*FINDINGS)) == 4 + 2 + 3 + 1


def test_all_is_well() -> None:
    """Said, so that an empty report is not taken for a failure."""
    assert shown() == ["", "nothing is wrong"]
    assert shown(FINDINGS[0])[-1] == "nothing is wrong"


def test_lines_of_others_stay_in_their_place() -> None:
    """What a program answered may have several lines, and characters that terminals obey."""
    (first, second, *_) = shown(wrong("agents", "cannot be loaded: first\x1b[2J\nsecond"))
    assert first == "wrong    agents  cannot be loaded: first\\x1b[2J"
    assert second == "         second"


def test_problems_alone_are_summed_up_with_the_rest() -> None:
    """Who sees only what is wrong is told of the warnings."""
    shown = [click.unstyle(line) for line in lines(FINDINGS[3:], of=FINDINGS)]
    assert shown[0].startswith("wrong    nginx")
    assert shown[-1] == "1 thing wrong, 1 warning"
    assert list(map(click.unstyle, lines([], of=FINDINGS[:3]))) == [
        "",
        "nothing is wrong, 1 warning",
    ]
