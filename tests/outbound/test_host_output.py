"""What hosts print, up to their last words."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading

import pytest
from structlog.testing import capture_logs

from berinia_webhookd.logs.personal_data import scrub
from berinia_webhookd.outbound import host_output
from berinia_webhookd.outbound.host_output import (
    BURST_BYTES,
    LEAST_BYTES,
    PIPE_BYTES,
    TURN_BYTES,
    HostOutput,
    OutputOwner,
)


def _of_stdout(descriptor: int) -> HostOutput:
    stderr, their_stderr = os.pipe()
    os.close(their_stderr)
    return HostOutput(stdout=descriptor, stderr=stderr, silent=OutputOwner({"host": 1}))


async def test_last_words_of_both_streams_are_logged_once() -> None:
    """A host that ended in the middle of a line is heard to its end, and not twice."""
    stdout, their_stdout = os.pipe()
    stderr, their_stderr = os.pipe()
    output = HostOutput(stdout=stdout, stderr=stderr, silent=OutputOwner({"host": 1}))
    for end, words in ((their_stdout, b"half out"), (their_stderr, b"half err")):
        os.write(end, words)
        os.close(end)
    with capture_logs() as lines:
        await output.close()
    assert [(line["stream"], line["output"]) for line in lines] == [
        ("stdout", "half out"),
        ("stderr", "half err"),
    ]


async def test_colours_are_taken_out_before_people_are_hidden() -> None:
    """They are most of what some frameworks print, and would tear a number apart."""
    stdout, theirs = os.pipe()
    output = _of_stdout(stdout)
    await output.begin(OutputOwner({"agent": "A"}, scrub))
    os.write(
        theirs,
        b"\x1b[32m2026-11-30 05:34:51\x1b[0m \x1b[1;38;5;208mINFO\x1b[m "
        b"+336399\x1b[1m80001\x1b[0m\n"
        b"\x1b]0;title\x07done\x1b]unended \x1b(B\x1b[K\n" + b"\xc3\xa9" * 5000 + b"\n",
    )
    os.close(theirs)
    with capture_logs() as lines:
        await output.close()
    assert [line["output"] for line in lines] == [
        "2026-11-30 05:34:51 INFO •••",
        "done\x1b]unended",
        "é" * 2048,
    ]


async def test_a_burst_of_lines_leaves_others_their_turns() -> None:
    """It is logged a little at a time: whoever waits for an answer does not wait for all of it."""
    stdout, theirs = os.pipe()
    output = _of_stdout(stdout)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    line = b"a line of sixty-four bytes, which is what many agents say.....\n"
    size = 48 * 1024  # which fits into any pipe
    with capture_logs() as lines:
        os.write(theirs, line * (size // len(line)))
        waiting = asyncio.create_task(others())
        await output.end()
        waiting.cancel()
    assert len(lines) == size // len(line)
    assert turns >= size // TURN_BYTES // 2  # the other half is read by the reader of the pipe
    os.close(theirs)
    await output.close()


async def test_lines_that_take_long_to_hide_people_in_leave_others_their_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many of them came at once, and in their order up to the half one at the end."""
    monkeypatch.setattr(host_output, "TURN_SECONDS", 0.0)  # each line takes longer
    stdout, theirs = os.pipe()
    output = _of_stdout(stdout)
    others_came: list[int] = []
    lines_said = 0

    def mask(text: str) -> str:
        nonlocal lines_said
        lines_said += 1
        return text

    async def others() -> None:
        while True:
            others_came.append(lines_said)
            await asyncio.sleep(0)

    await output.begin(OutputOwner({"attempt": 1}, mask))
    waiting = asyncio.create_task(others())
    with capture_logs() as lines:
        os.write(theirs, b"".join(b"%d\n" % number for number in range(500)) + b"half")
        await output.end()
    waiting.cancel()
    assert [line["output"] for line in lines] == [*map(str, range(500)), "half"]
    assert all(line["attempt"] == 1 for line in lines)
    between = [later - now for now, later in itertools.pairwise(others_came)]
    assert max(between) <= 2  # where a drain ends and another begins
    os.close(theirs)
    await output.close()


async def test_what_is_printed_during_an_attempt_is_read_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An agent never waits for room: its lines are read though hiding people takes long."""
    monkeypatch.setattr(host_output, "TURN_SECONDS", 0.0)
    stdout, theirs = os.pipe()
    output = _of_stdout(stdout)
    said = asyncio.Queue[str]()

    def mask(text: str) -> str:
        said.put_nowait(text)
        return text

    await output.begin(OutputOwner({"attempt": 1}, mask))
    with capture_logs():
        for _ in range(3):  # each time, the pipe was empty before
            os.write(theirs, b"some line\n" * 100)
            async with asyncio.timeout(90):
                assert [await said.get() for _ in range(100)] == ["some line"] * 100
    os.close(theirs)
    await output.close()


async def test_logging_what_was_said_ends_though_somebody_goes_on_talking(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thread that an agent left behind, and people who take long to hide."""
    monkeypatch.setattr(host_output, "TURN_SECONDS", 0.0)
    monkeypatch.setattr(host_output, "PIPE_BYTES", 8 * TURN_BYTES)
    stdout, theirs = os.pipe()
    output = _of_stdout(stdout)

    def mask(text: str) -> str:
        os.write(theirs, b"and on\n")  # as many come as are taken
        output._allowance = float(BURST_BYTES)
        return text

    os.write(theirs, b"on\n" * 1000)
    output._owner = OutputOwner({"attempt": 1}, mask)
    with capture_logs():
        async with asyncio.timeout(60):
            await output.end()
    output._owner = OutputOwner({})
    os.close(theirs)
    await output.close()


@pytest.mark.parametrize("line", [b"\n", b"a\n"])
async def test_a_flood_of_short_lines_is_left_out_like_any_other(line: bytes) -> None:
    """They are counted as what they cost, not as what they weigh."""
    stdout, theirs = os.pipe()
    output = _of_stdout(stdout)
    looked_at = 0

    def mask(text: str) -> str:
        nonlocal looked_at
        looked_at += 1
        return text

    await output.begin(OutputOwner({"attempt": 1}, mask))
    with capture_logs() as lines:
        for _ in range(10):
            os.write(theirs, line * (8192 // len(line)))
            await output.drain()
    assert looked_at < 2 * BURST_BYTES // LEAST_BYTES
    assert any(said.get("left_out_bytes") for said in lines)
    os.close(theirs)
    await output.close()


async def test_after_a_flood_every_byte_is_logged_or_counted() -> None:
    """Also where lines are longer than any that is logged, and end with the flood."""
    stdout, theirs = os.pipe()
    output = _of_stdout(stdout)
    flood = (b"y" * 99 + b"\n") * 30_000 + b"x" * PIPE_BYTES + b"\n"

    def write() -> None:
        view = memoryview(flood)
        while view:
            view = view[os.write(theirs, view) :]
        os.close(theirs)

    writing = threading.Thread(target=write)
    with capture_logs() as lines:
        writing.start()
        await asyncio.to_thread(writing.join)
        await output.close()
    logged = sum(len(line.get("output", "")) + 1 for line in lines if "output" in line)
    left_out = sum(line.get("left_out_bytes", 0) for line in lines)
    assert BURST_BYTES - 2 * TURN_BYTES <= logged <= 2 * BURST_BYTES
    assert len(flood) - flood.count(b"\n") <= logged + left_out <= len(flood)


async def test_a_flood_that_ends_with_its_line_takes_nothing_of_what_follows() -> None:
    """The next attempt's first line is whole."""
    stdout, theirs = os.pipe()
    output = _of_stdout(stdout)
    flood = b"x" * 99 + b"\n"
    with capture_logs() as lines:
        while not lines or len(lines) * 100 < BURST_BYTES:
            os.write(theirs, flood * 500)
            await output.drain()
        os.write(theirs, flood * 500)
        await output.end()
    assert lines[-1]["left_out_bytes"] > 0
    output._allowance = float(BURST_BYTES)  # as it is some seconds later
    with capture_logs() as later:
        os.write(theirs, b"whole\n")
        await output.begin(OutputOwner({"attempt": 2}))
    assert [line["output"] for line in later] == ["whole"]
    os.close(theirs)
    await output.close()
