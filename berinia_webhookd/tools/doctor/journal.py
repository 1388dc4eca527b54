"""Whether the journal takes what comes, keeps it, and gets rid of it: writable, sound, flushed to
disk, and with nothing in it that waits for ever.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from berinia_webhookd.findings import Finding, note, ok, warning, wrong
from berinia_webhookd.journal.contract import FileState, Statistics
from berinia_webhookd.journal.engine import sqlite_path
from berinia_webhookd.journal.inspecting import inspect_file
from berinia_webhookd.journal.operations import Operations
from berinia_webhookd.model import EntryKind, EntryState
from berinia_webhookd.tools.doctor.subject import Subject
from berinia_webhookd.tools.folder_check import file_problem
from berinia_webhookd.tools.installation import shown_url
from berinia_webhookd.tools.terminal import duration

_SAY: Final = "journal"
MIB: Final = 1024 * 1024
CHECK_SECONDS: Final = 10.0
LARGE_WAL_BYTES: Final = 256 * MIB
LONG_WAITING: Final = timedelta(minutes=10)
CLOCK_SLACK: Final = timedelta(minutes=5)
_OTHERS: Final = 0o077
# Not `.recover`, which Debian 12's sqlite3 has and cannot do.
_SAVE: Final = "sqlite3 {path} .dump | sed 's/^ROLLBACK;.*/COMMIT;/' | sqlite3 {path}.saved"
_RESTORE: Final = (
    "stop the daemon and keep a copy of the file; then: "
    + _SAVE
    + ", and put the new file in its place"
)


async def file(subject: Subject) -> AsyncIterator[Finding]:
    """The SQLite file itself."""
    path = sqlite_path(subject.journal_url)
    if path is None:
        return
    if not path.exists():
        yield _absent(subject, path)
        return
    if (refusal := file_problem(path)) is not None:
        yield note(
            _SAY,
            f"{path}: {refusal}; it was not looked at",
            "ask as root or as the user of the service: sudo berinia-webhookd doctor",
        )
        return
    state = await asyncio.to_thread(inspect_file, path, CHECK_SECONDS)
    findings = [*_of_state(path, state), *_of_files(subject, path)]
    for finding in findings:
        yield finding
    if not findings:
        looked = "sound" if state.complete else "sound as far as it was looked at in the time"
        yield ok(_SAY, f"{path}: takes writes, {looked}; {_size(path)}")


def _absent(subject: Subject, path: Path) -> Finding:
    if subject.running is None:
        return note(_SAY, f"there is no journal at {path} yet; `serve` makes it")
    return wrong(
        _SAY,
        f"there is no journal at {path}, although the daemon runs",
        "put the file back, or " + subject.command("restart"),
        why="what is written into a deleted file is lost when the daemon ends",
    )


def _of_state(path: Path, state: FileState) -> Iterator[Finding]:
    if state.damage is not None:
        yield wrong(
            _SAY,
            f"{path} is damaged: {state.damage}",
            _RESTORE.format(path=path),
            "look at the disk: dmesg, smartctl",
            why="accepted messages may be unreadable",
        )
    elif state.refusal is not None:
        yield wrong(
            _SAY,
            f"{path} takes no writes: {state.refusal}",
            f"see who has it open: fuser -v {path}",
            why="nothing can be accepted: providers get 503",
        )


def _of_files(subject: Subject, path: Path) -> Iterator[Finding]:
    wal = path.with_name(path.name + "-wal")
    files = [one for one in (path, wal, path.with_name(path.name + "-shm")) if one.exists()]
    foreign = [one for one in files if subject.running and one.stat().st_uid != subject.user]
    if foreign and subject.user != 0:
        yield wrong(
            _SAY,
            f"{foreign[0]} belongs to another user than the daemon's",
            f"chown {subject.user} {' '.join(map(str, foreign))}",
            why="the daemon cannot write it",
        )
    open_ones = [one for one in files if one.stat().st_mode & _OTHERS]
    if open_ones:
        yield warning(
            _SAY,
            f"{open_ones[0]} can be read by others",
            f"chmod 600 {' '.join(map(str, open_ones))}",
            why="it holds numbers, addresses and messages of people",
        )
    if wal.exists() and wal.stat().st_size > LARGE_WAL_BYTES:
        yield warning(
            _SAY,
            f"{wal} has grown to {wal.stat().st_size // MIB} MiB",
            f"end what reads the journal for long: fuser -v {path}",
            why="while somebody reads an older state, the file beside the journal only grows",
        )


def _size(path: Path) -> str:
    wal = path.with_name(path.name + "-wal")
    beside = f", its WAL {wal.stat().st_size / MIB:.1f} MiB" if wal.exists() else ""
    return f"{path.stat().st_size / MIB:.1f} MiB{beside}"


async def contents(subject: Subject) -> AsyncIterator[Finding]:
    """What is in it, and how long it has been waiting."""
    path = sqlite_path(subject.journal_url)
    if path is not None and (not path.exists() or file_problem(path) is not None):
        return  # the check of the file says so
    async with Operations(subject.journal_url) as journal:
        statistics = await journal.stats()
        newest = await journal.last_received_at()
        durable = await journal.server_settings("fsync", "full_page_writes")
    if path is None:
        yield _of_server(subject, durable)
    now = datetime.now(UTC)
    findings = [*_of_counts(subject, statistics, now), *_of_clock(newest, now)]
    for finding in findings:
        yield finding
    if not findings:
        received = statistics.received_last_day
        yield ok(_SAY, f"nothing waits for long and nothing is dead; {received} received in 24 h")


def _of_server(subject: Subject, durable: dict[str, str]) -> Finding:
    place = shown_url(subject.journal_url)
    off = [name for name, value in durable.items() if value != "on"]
    if off:
        return wrong(
            _SAY,
            f"{place}: the server has {' and '.join(f'{name} = off' for name in off)}",
            *(f"ALTER SYSTEM SET {name} = on;" for name in off),
            "SELECT pg_reload_conf();",
            why="after a crash of that machine, accepted messages are lost or damaged",
        )
    return ok(_SAY, f"{place}: reached, and set up to keep what it was given (fsync)")


def _of_counts(subject: Subject, statistics: Statistics, now: datetime) -> Iterator[Finding]:
    totals = Counter[str]()
    for count in statistics.counts:
        if count.kind == EntryKind.AGENT:
            totals[count.state] += count.count
    if dead := totals[EntryState.DEAD]:
        agents = sorted({c.agent for c in statistics.counts if c.state == EntryState.DEAD})
        yield wrong(
            _SAY,
            f"{dead} dead: given up after all attempts ({', '.join(agents)})",
            "see why: berinia-webhookd events list --state dead",
            "once mended: berinia-webhookd events replay --state dead --dry-run, then without "
            "--dry-run; or berinia-webhookd events discard ID…",
            why="these messages were accepted, and their agent has not dealt with them",
        )
    old = {
        agent: now - since
        for agent, since in statistics.oldest_open_at.items()
        if now - since > LONG_WAITING
    }
    for agent, waited in sorted(old.items()):
        yield warning(
            _SAY,
            f"the oldest message for {agent} has been waiting for "
            f"{duration(waited.total_seconds())}; {_open(totals)} wait in all",
            f"berinia-webhookd events list --agent {agent}",
            subject.look_at_log,
            why="the agent fails or is too slow for what comes, or nobody dispatches",
        )
    if statistics.rejected:
        yield note(
            _SAY,
            f"{statistics.rejected} deliveries were proved and yet not understood",
            "berinia-webhookd events list --state rejected",
        )


def _open(totals: Counter[str]) -> int:
    return totals[EntryState.READY] + totals[EntryState.WAITING]


def _of_clock(newest: datetime | None, now: datetime) -> Iterator[Finding]:
    if newest is not None and newest - now > CLOCK_SLACK:
        ahead = duration((newest - now).total_seconds())
        yield warning(
            _SAY,
            f"the newest message came {ahead} in the future: the clock was set back",
            "timedatectl",
            why="retries and retention go by the clock",
        )
