"""`prove`: kills a throw-away daemon under load again and again, counts what it answered and kept,
and measures how long the disk takes to flush. It works in a temporary folder on the journal's disk.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import shutil
import signal
import tempfile
import textwrap
from collections.abc import Coroutine, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import aiohttp
import click
import orjson

from berinia_webhookd.channels.contract import Channel, SignedRequest
from berinia_webhookd.clock import now, wait_for_event
from berinia_webhookd.errors import CannotStartNow, WebhookdError
from berinia_webhookd.http_client import HttpClient
from berinia_webhookd.journal.operations import Operations
from berinia_webhookd.journal.queries import ALL, Filters
from berinia_webhookd.status.durations import counted
from berinia_webhookd.tools.command_context import CommandContext, working_folder
from berinia_webhookd.tools.disk_times import (
    LEAST_FLUSH_SECONDS,
    Spread,
    file_system,
    in_words,
    measure,
)
from berinia_webhookd.tools.posting import Posted, Target, post
from berinia_webhookd.tools.terminal import json_text, printable
from berinia_webhookd.tools.throwaway import ThrowawayDaemon

SENDERS: Final = 8
PEOPLE: Final = 200
REPEATED: Final = 20  # every 20th message is sent twice, as providers do at times
ANSWER_SECONDS: Final = 30.0
PAUSE_SECONDS: Final = 0.05  # before a refused message is sent again
LIFE_SECONDS: Final = (0.2, 2.0)  # from a daemon's first answer to its end
DRAIN_SECONDS: Final = 30.0
MOST_BYTES: Final = 512 * 1024 * 1024  # written in all
ROOM_BYTES: Final = 2 * MOST_BYTES
WIDTH: Final = 79
NOT_PROVEN: Final = (
    "kill -9 ends a process and not the machine: what was written and not flushed yet gets to the "
    "disk all the same, so it proves nothing about a loss of power."
)
NO_FLUSH: Final = (
    "THIS DISK DOES NOT FLUSH, and a loss of power loses messages that were answered 2xx."
)


@dataclass(frozen=True, slots=True)
class Proof:
    """The results."""

    folder: str  # in which it worked
    file_system: str
    seconds: float
    kills: int
    messages: int  # each was answered 2xx, at last
    sent_again: int  # without an answer, or with another one
    kept: int  # events in the journal
    lost: int  # answered, and not in it
    doubled: int  # events beyond one for each message
    dispatched: int
    start: Spread
    answer: Spread
    commit: Spread
    flush: Spread
    flushes: bool  # False: faster than any device

    @property
    def holds(self) -> bool:
        """Whether nothing was lost or doubled."""
        return not self.lost and not self.doubled


@click.command("prove")
@click.option(
    "--seconds",
    type=click.FloatRange(1, 3600),
    default=60,
    show_default=True,
    help="How long to go on.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.pass_obj
def prove(context: CommandContext, *, seconds: float, as_json: bool) -> int:
    """Test on this machine's disk what a 2xx is worth: nothing lost, nothing twice.

    A throw-away daemon gets correctly signed messages, and `kill -9` again and again; then its
    journal is searched for what was answered 2xx. It works in a temporary folder on the disk of the
    configured journal. A running daemon is left alone, but CPU and disk are busy meanwhile; half a
    gigabyte is written at most. Exit code 1: something was lost or doubled.
    """
    where = _where(context)
    with _own_folder(where) as folder:
        if not as_json:
            click.echo(f"in {printable(str(where))}, for {seconds:g} s …", err=True)
        proof = asyncio.run(_interruptible(_prove(folder, seconds)))
    click.echo(json_text({**asdict(proof), "holds": proof.holds}) if as_json else report(proof))
    return 0 if proof.holds else 1


def _where(context: CommandContext) -> Path:
    """Return the journal's folder if this user can write there, else the working folder."""
    file = context.examine().settings.journal.file
    if file is not None and os.access(file.parent, os.W_OK | os.X_OK):
        return file.parent
    return working_folder()


@contextmanager
def _own_folder(where: Path) -> Iterator[Path]:
    free = shutil.disk_usage(where).free
    if free < ROOM_BYTES:
        hint = "make room, or set journal.url to a disk with more"
        raise CannotStartNow(f"only {free // 2**20} MiB are free in {where}", hint=hint)
    try:
        folder = Path(tempfile.mkdtemp(prefix=".prove-", dir=where))
    except OSError as error:
        raise WebhookdError(f"{where} cannot be written: {error.strerror}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


class Interrupted(WebhookdError):
    """A signal ended it; the exit code is that of a shell."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__("interrupted; the temporary folder is removed")
        self.exit_code = 128 + number


async def _interruptible(work: Coroutine[Any, Any, Proof]) -> Proof:
    """Run it until it ends, or SIGTERM or SIGINT cancels it, so that it cleans up."""
    task = asyncio.ensure_future(work)
    came: list[signal.Signals] = []

    def end(number: signal.Signals) -> None:
        came.append(number)
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end, number)
    try:
        return await task
    except asyncio.CancelledError:
        raise Interrupted(came[0]) from None


async def _prove(folder: Path, seconds: float) -> Proof:
    flush, commit = await asyncio.to_thread(measure, folder)
    async with ThrowawayDaemon(folder) as daemon, HttpClient() as client:
        load = Load(daemon.channel(), client)
        starts = await _kill_under_load(daemon, load, folder, seconds)
        url = f"sqlite:///{daemon.journal}"
        await _drain(url)
        await daemon.stop()
        async with Operations(url) as journal:
            listed = await journal.list_events(Filters(), ALL)
    kept = {one.id for one in listed}
    lost, doubled = lost_and_doubled(load.answered, kept)
    return Proof(
        folder=str(folder.parent),
        file_system=file_system(folder.parent),
        seconds=round(load.seconds, 1),
        kills=len(starts) - 1,
        messages=len(load.answered),
        sent_again=load.sent_again,
        kept=len(kept),
        lost=lost,
        doubled=doubled,
        dispatched=sum(one.state == "done" for one in listed),
        start=Spread.of(starts),
        answer=Spread.of(load.latencies),
        commit=commit,
        flush=flush,
        flushes=flush.median_ms >= LEAST_FLUSH_SECONDS * 1000,
    )


def lost_and_doubled(answered: Mapping[int, Set[str]], kept: Set[str]) -> tuple[int, int]:
    """Return how many answered events are not kept, and how many events there are beyond one for
    each message.
    """
    events = frozenset[str]().union(*answered.values())
    return len(events - kept), len(events | kept) - len(answered)


async def _kill_under_load(
    daemon: ThrowawayDaemon, load: Load, folder: Path, seconds: float
) -> list[float]:
    """Send messages and kill the daemon again and again until the time is over; at the end it runs.
    Return how long each start took.
    """
    starts: list[float] = []

    async def start() -> None:
        began = perf_counter()
        load.goes_to(await daemon.start())
        starts.append(perf_counter() - began)

    async with asyncio.TaskGroup() as group:
        await start()
        began = perf_counter()
        for _ in range(SENDERS):
            group.create_task(load.send())
        full = False
        while not full and (len(starts) == 1 or perf_counter() - began < seconds):
            await load.wait_for_answer()
            await asyncio.sleep(random.uniform(*LIFE_SECONDS))  # noqa: S311 - any instant will do
            load.goes_nowhere()
            await daemon.kill()
            full = _bytes_in(folder) > MOST_BYTES
            await start()
        load.over = True
    load.seconds = perf_counter() - began
    return starts


@dataclass(eq=False)
class Load:
    """Senders, each of which repeats a message until it is answered 2xx."""

    channel: Channel
    client: HttpClient
    over: bool = False
    seconds: float = 0.0
    sent_again: int = 0
    answered: dict[int, set[str]] = field(default_factory=dict)  # events, by message
    latencies: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._numbers = itertools.count(1)
        self._target = Target("")  # until `goes_to`
        self._up = asyncio.Event()
        self._answered = asyncio.Event()

    def goes_to(self, target: Target) -> None:
        """Send there from now on."""
        self._target = target
        self._answered.clear()
        self._up.set()

    def goes_nowhere(self) -> None:
        """Pause until `goes_to`."""
        self._up.clear()

    async def wait_for_answer(self) -> None:
        """Wait until the daemon has accepted a message.

        Raises:
            WebhookdError: it accepted none in time.
        """
        if not await wait_for_event(self._answered, ANSWER_SECONDS):
            raise WebhookdError("the daemon answered nothing, or only refused")

    async def send(self) -> None:
        """Send one message after another until it is over."""
        while not self.over:
            number = next(self._numbers)
            request = self._sample(number)
            for _ in range(2 if number % REPEATED == 0 else 1):
                while (posted := await self._post(request, number)) is None:
                    self.sent_again += 1
                self.answered.setdefault(number, set()).add(_event_of(posted))
                self.latencies.append(posted.latency_seconds)
                self._answered.set()

    def _sample(self, number: int) -> SignedRequest:
        fields = {
            "sender": f"lead{number % PEOPLE}@example.com",
            "Message-Id": f"<prove-{number}@example.com>",
        }
        return self.channel.sign(fields, base_url="http://localhost", now=now())

    async def _post(self, request: SignedRequest, number: int) -> Posted | None:
        """Post a message; return its answer if that is 2xx."""
        await self._up.wait()
        how = {"timeout_seconds": ANSWER_SECONDS}
        try:
            posted = await post(self.client, self._target, request, number, **how)
        except (aiohttp.ClientError, OSError, TimeoutError):
            pass  # killed: the message may be kept or not
        else:
            if posted.status // 100 == 2:  # noqa: PLR2004 - the class of success
                return posted
        await asyncio.sleep(PAUSE_SECONDS)
        return None


def _event_of(posted: Posted) -> str:
    return str(orjson.loads(posted.answer)["event_id"])


async def _drain(url: str) -> None:
    """Wait until the agent has got everything, within a limit."""
    async with Operations(url) as journal:
        for _ in range(round(DRAIN_SECONDS / PAUSE_SECONDS)):
            if not (await journal.stats()).oldest_open_at:
                return
            await asyncio.sleep(PAUSE_SECONDS)


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def report(proof: Proof) -> str:
    """Return the results as text of 80 columns."""
    rows = {
        "killed by kill -9": f"{counted(proof.kills, 'time')}; up again: {proof.start}",
        "messages answered 2xx": f"{proof.messages}",
        "sent again for that": f"{proof.sent_again}",
        "kept in the journal": f"{proof.kept}",
        "lost": f"{proof.lost}",
        "doubled": f"{proof.doubled}",
        "handed to the agent": f"{proof.dispatched}",
        "answer, under load": str(proof.answer),
        "commit": str(proof.commit),
        "flush": str(proof.flush),
    }
    table = "\n".join(f"{name:<23}{value}" for name, value in rows.items())
    where = f"{printable(proof.folder)} ({printable(proof.file_system)}), {proof.seconds:g} s"
    where = textwrap.fill(where, WIDTH, break_long_words=False)
    return f"{where}\n\n{table}\n\n{_verdict(proof)}"


def _verdict(proof: Proof) -> str:
    flush, least = in_words(proof.flush.median_ms), in_words(LEAST_FLUSH_SECONDS * 1000)
    said = (
        "Nothing was lost, nothing doubled."
        if proof.holds
        else "SOMETHING WAS LOST OR DOUBLED: do not trust this installation.",
        f"{NOT_PROVEN} A flush took {flush}, and no device needs less than {least}: "
        + ("this disk seems to flush." if proof.flushes else NO_FLUSH),
    )
    return "\n".join(textwrap.fill(line, WIDTH) for line in said)
