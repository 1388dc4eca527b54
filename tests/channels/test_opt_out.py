"""Words by which people stop, resume or ask."""

from __future__ import annotations

import pytest

from berinia_webhookd.channels.opt_out import opt_out_of
from berinia_webhookd.model import OptOut

STOP = "stop Stopall UNSUBSCRIBE end quit cancel revoke optout"


@pytest.mark.parametrize("word", STOP.split())
def test_stop(word: str) -> None:
    """Each of Twilio's words, alone, in any letter case."""
    assert opt_out_of(f" {word}\r\n") is OptOut.STOP
    assert opt_out_of(f"{word} please") is None
    assert opt_out_of(f"{word}{word}") is None
