"""The register of consents, through the whole daemon: what people say, and what agents are told."""

from __future__ import annotations

from typing import Any

from .daemon import Daemon

SENDER, CUSTOMER = "+33639980077", "+33639980078"


def told(daemon: Daemon, number: int) -> dict[str, Any]:
    """What the agent got at its attempt of this number, from 0."""
    data: dict[str, Any] = daemon.wait_until_seen(number + 1)[number]["data"]
    return data


def test_who_says_stop_is_out_until_start(daemon: Daemon) -> None:
    """A customer's "Yes" is an answer; that of who opted out is START. Agents are told so, and a
    daemon that was killed remembers.
    """
    daemon.sms(From=CUSTOMER, Body="Yes!")
    answer = told(daemon, 0)
    assert (answer["opt_out"], answer["consent"]) == (None, None)
    daemon.sms(From=SENDER, Body="Stop.")
    stopped = told(daemon, 1)
    assert (stopped["opt_out"], stopped["consent"]["state"]) == ("STOP", "opted_out")
    assert daemon.wait_for("consent.changed")["consent"] == "opted_out"
    daemon.kill()
    daemon.start()
    daemon.sms(From=SENDER, Body="Qui êtes-vous ?")
    assert told(daemon, 2)["consent"] == stopped["consent"]
    daemon.sms(From=SENDER, Body="yes")
    resumed = told(daemon, 3)
    assert (resumed["opt_out"], resumed["consent"]["state"]) == ("START", "opted_in")
    assert daemon.wait_for("consent.changed", consent="opted_in")["event_id"]
