"""What hosts print, up to their last words."""

from __future__ import annotations

import os

from structlog.testing import capture_logs

from berinia_webhookd.outbound.host_output import HostOutput, Speaker


async def test_last_words_of_both_streams_are_logged_once() -> None:
    """A host that ended in the middle of a line is heard to its end, and not twice."""
    stdout, their_stdout = os.pipe()
    stderr, their_stderr = os.pipe()
    output = HostOutput(stdout=stdout, stderr=stderr, silent=Speaker({"host": 1}))
    for end, words in ((their_stdout, b"half out"), (their_stderr, b"half err")):
        os.write(end, words)
        os.close(end)
    with capture_logs() as lines:
        output.close()
    assert [(line["stream"], line["output"]) for line in lines] == [
        ("stdout", "half out"),
        ("stderr", "half err"),
    ]
