"""HTTP as it should not be, through a real nginx: what it passes on as one request is one to the
daemon, and none that nobody signed is taken in.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ..end_to_end.daemon import Daemon
from ..proof import forged_http
from ..proof.conftest import Say, say  # noqa: F401 - a fixture
from ..proof.wire import statuses
from .nginx import OLD_BLOCK, OUR_FILE, Nginx
from .test_loopback import each_program

pytestmark = pytest.mark.system

PAYLOADS = [
    *forged_http.framings(),
    *forged_http.trailers(),
    *forged_http.encodings(),
    *forged_http.smuggled(),
]


@each_program
@pytest.mark.parametrize("locations", [OUR_FILE.read_text(), OLD_BLOCK], ids=["ours", "old"])
def test_both_servers_count_the_same_requests(
    behind_nginx: Callable[..., tuple[Nginx, Daemon]],
    locations: str,
    program: Path | None,
    say: Say,  # noqa: F811
) -> None:
    """Every payload ends in answers, or a closed connection, and nothing is smuggled behind it."""
    nginx, daemon = behind_nginx(locations, program=program)
    answered = sum(bool(statuses(nginx.raw(one.request.wire))) for one in PAYLOADS)
    nginx.close()
    assert daemon.stop() == 0
    got = [line for line in daemon.lines if line.get("event") == "request.finished"]
    say("raw HTTP through nginx", tried=len(PAYLOADS), answered=answered, passed_on=len(got))
    assert len(got) == nginx.passed_on()
    assert len(got) > 20
    assert not [line for line in daemon.lines if line.get("event") == "not json"]
    accepted = [line for line in got if line["status"] == 200 and line["channel"] == "sms"]
    events = json.loads(daemon.run("events", "list", "--json").stdout)
    assert len(events) == len({line["request_id"] for line in accepted})
