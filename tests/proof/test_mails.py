"""Made mails are read as they were meant; `make soak` reads ten thousand."""

from __future__ import annotations

from ..channels.deliveries import email_channel
from .mails import charsets, mails, misread


def test_mails_are_read_as_they_were_meant() -> None:
    """In every charset of the web, as Mailgun's form and raw."""
    channel = email_channel()
    assert len(charsets()) == 38
    wrong = [
        f"{number}: {what}"
        for number, made in enumerate(mails(seed=1, count=400))
        if (what := misread(channel, made)) is not None
    ]
    assert wrong == []
