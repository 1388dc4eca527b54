"""Whether the journal is writable, undamaged and flushed to disk, and whether messages in it wait
for long or failed for good.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from berinia_webhookd.clock import now
from berinia_webhookd.config.agent_settings import AgentsSettings
from berinia_webhookd.errors import WebhookdError
from berinia_webhookd.findings import Finding, note, ok, warning, wrong
from berinia_webhookd.journal.contract import (
    PAUSED,
    FileState,
    Guard,
    HeldBack,
    Inspection,
    Statistics,
)
from berinia_webhookd.model import AgentName, EntryKind, EntryState
from berinia_webhookd.status.durations import counted, duration
from berinia_webhookd.status.findings.folders import file_refusal
from berinia_webhookd.status.findings.installation import AS_DAEMON, Installation

JOURNAL: Final = "journal"
MIB: Final = 1024 * 1024
CHECK_SECONDS: Final = 10.0
LARGE_WAL_BYTES: Final = 256 * MIB
TIMED_OUT: Final = "no answer within"  # as attempts say it
TELLING: Final = 20  # messages that an agent has dealt with
LONG_WAITING: Final = timedelta(minutes=10)
CLOCK_SLACK: Final = timedelta(minutes=5)
_OTHERS: Final = 0o077
# Not `.recover`, which does not work in Debian 12's sqlite3.
_SAVE: Final = (
    "stop the daemon and its socket, and keep a copy of the file; then: "
    "`sqlite3 {path} .dump | sed 's/^ROLLBACK;.*/COMMIT;/' | sqlite3 {path}.rescued`, and "
    "`berinia-webhookd journal restore {path}.rescued`, which refuses what is no whole journal"
)


_RELEASES: Final[Mapping[str, str]] = {
    Guard.BUDGET: "they go on by themselves, or with more: agents.<Name>.per_sender, .daily_cost",
    Guard.LOOP: "if it is none: `berinia-webhookd conversations resume --sender NUMBER`",
}


async def journal(installation: Installation) -> AsyncIterator[Finding]:
    """Check the SQLite file, if it is one, and what is in the journal."""
    path = installation.journal.file
    if path is not None:
        if copies := await asyncio.to_thread(installation.journal.saved_copies, path):
            for copy in copies:
                yield _undecided(installation, copy)
            return  # what lies in the journal's place is taken in, or set aside, by the restore
        if not path.exists():
            yield _absent(installation, path)
            return
        if (refusal := file_refusal(path)) is not None:
            yield note(JOURNAL, f"not checked: {path} {refusal}", AS_DAEMON)
            return
        state = await asyncio.to_thread(installation.journal.inspect_file, path, CHECK_SECONDS)
        for finding in of_file(installation, path, state):
            yield finding
        if state.damage is not None:
            return
    try:
        async with installation.journal.inspect() as inspection:
            findings = await _contents(installation, inspection)
    except WebhookdError as error:
        yield _unusable(installation, error)
        return
    for finding in findings:
        yield finding


def _undecided(installation: Installation, copy: Path) -> Finding:
    stop = installation.commands.stop
    return wrong(
        JOURNAL,
        f"{copy} was saved of a journal that was lost, and nobody has decided about it",
        *([f"stop the daemon: `{stop}`"] if stop else []),
        f"put it in the journal's place: `berinia-webhookd journal restore {copy}`",
        f"or give it up: `berinia-webhookd journal discard {copy}`",
        f"then: `{installation.commands.start}`",
        why="its messages are in no journal, and `serve` does not start while it lies there",
    )


def _unusable(installation: Installation, error: WebhookdError) -> Finding:
    """Return the finding on a journal that cannot be opened, with the database's own reason."""
    hint = (error.hint,) if error.hint else ()
    if installation.journal.file is not None:
        why = "whether messages wait or failed is not known"
        return wrong(JOURNAL, f"the contents could not be checked: {error}", *hint, why=why)
    place = installation.journal.shown_url
    look = ["`systemctl status postgresql`, where it runs"]
    if urlsplit(place).netloc:  # on a Unix socket its folder is among the options, which are hidden
        look.append(f"see whether it can be reached: `pg_isready -d '{place}'`")
    return wrong(
        JOURNAL,
        f"{place}: {error}",
        *hint,
        *look,
        why="nothing can be accepted: providers get 503",
    )


def _absent(installation: Installation, path: Path) -> Finding:
    if installation.process is None:
        return note(JOURNAL, f"{path} does not exist yet; `serve` makes it")
    return wrong(
        JOURNAL,
        f"{path} does not exist, although the daemon runs",
        f"put the file back, or `{installation.commands.restart}`",
        why="what is written into a deleted file is lost when the daemon ends",
    )


def of_file(installation: Installation, path: Path, state: FileState) -> Iterator[Finding]:
    """Yield what is wrong with the file, its WAL and its index, else that nothing is."""
    findings = [*_of_state(path, state), *of_companions(installation, path)]
    if not findings:
        checked = "" if state.complete else f" as far as {CHECK_SECONDS:g} s allowed to check"
        findings = [ok(JOURNAL, f"{path}: writable, integrity ok{checked}; {_size(path)}")]
    yield from findings


def _of_state(path: Path, state: FileState) -> Iterator[Finding]:
    if state.damage is not None:
        yield wrong(
            JOURNAL,
            f"{path} is damaged: {state.damage}",
            _SAVE.format(path=path),
            "check the disk: `dmesg`, `smartctl`",
            why="accepted messages may be unreadable",
        )
    elif state.refusal is not None:
        yield wrong(
            JOURNAL,
            f"{path} cannot be written: {state.refusal}",
            f"see which process has it open: `fuser -v {path}`",
            why="nothing can be accepted: providers get 503",
        )


def of_companions(installation: Installation, path: Path) -> Iterator[Finding]:
    """Yield what is wrong with owners, modes and sizes of the file, its WAL and its index."""
    wal = path.with_name(path.name + "-wal")
    files = [one for one in (path, wal, path.with_name(path.name + "-shm")) if one.exists()]
    user = installation.user
    foreign = [one for one in files if installation.process and one.stat().st_uid != user]
    if foreign and user != 0:
        yield wrong(
            JOURNAL,
            f"{foreign[0]} belongs to another user than the daemon's",
            f"`chown {user} {' '.join(map(str, foreign))}`",
            why="the daemon cannot write it",
        )
    open_ones = [one for one in files if one.stat().st_mode & _OTHERS]
    if open_ones:
        yield warning(
            JOURNAL,
            f"{open_ones[0]} can be read by other users",
            f"`chmod 600 {' '.join(map(str, open_ones))}`",
            why="it holds phone numbers, addresses and messages",
        )
    if wal.exists() and wal.stat().st_size > LARGE_WAL_BYTES:
        yield warning(
            JOURNAL,
            f"{wal} has grown to {wal.stat().st_size // MIB} MiB",
            f"end the process that has been reading the journal for long: `fuser -v {path}`",
            why="as long as a process reads an older state, this file only grows",
        )


def _size(path: Path) -> str:
    wal = path.with_name(path.name + "-wal")
    beside = f", its WAL {wal.stat().st_size / MIB:.1f} MiB" if wal.exists() else ""
    return f"{path.stat().st_size / MIB:.1f} MiB{beside}"


async def _contents(installation: Installation, inspection: Inspection) -> list[Finding]:
    statistics = await inspection.stats()
    newest = await inspection.last_received_at()
    durable = await inspection.server_settings("fsync", "full_page_writes")
    failing = statistics.failing_agents
    errors = {agent: await inspection.last_error_of(agent) or "" for agent in failing}
    findings = [
        *of_guards(statistics, errors),
        *of_costs(installation.settings.agents, statistics),
        *of_counts(installation, statistics, now()),
        *of_clock(newest, now()),
    ]
    if not findings:
        minutes = LONG_WAITING.total_seconds() / 60
        quiet = f"no message has waited over {minutes:g} min; none failed for good"
        received = f"{statistics.received_last_day} received in the last 24 h"
        findings = [ok(JOURNAL, f"{quiet}; {received}")]
    if installation.journal.file is None:
        findings.insert(0, of_server(installation.journal.shown_url, durable))
    return findings


def of_server(place: str, durable: dict[str, str]) -> Finding:
    """Return the finding on a PostgreSQL server's settings for durability."""
    off = [name for name, value in durable.items() if value != "on"]
    if off:
        return wrong(
            JOURNAL,
            f"{place}: the server has {' and '.join(f'{name} = off' for name in off)}",
            *(f"ALTER SYSTEM SET {name} = on;" for name in off),
            "SELECT pg_reload_conf();",
            why="after a crash of that machine, accepted messages are lost or damaged",
        )
    return ok(JOURNAL, f"{place}: reachable, and keeps what it committed (fsync = on)")


def of_counts(
    installation: Installation, statistics: Statistics, at: datetime
) -> Iterator[Finding]:
    """Yield what failed for good, has waited long, or could not be understood."""
    totals = Counter[str]()
    for count in statistics.counts:
        if count.kind == EntryKind.AGENT:
            totals[count.state] += count.count
    acted = statistics.may_have_acted
    if doubts := sum(acted.values()):
        yield wrong(
            JOURNAL,
            f"{doubts} failed, and may have acted all the same ({', '.join(sorted(acted))})",
            "see why: `berinia-webhookd events list --state dead`",
            "find out what was done; then `berinia-webhookd events discard ID…`",
            why="their agent must not act twice, so nothing repeats them by itself",
        )
    dead_by_agent = Counter[str]()
    for count in statistics.counts:
        if count.kind == EntryKind.AGENT and count.state == EntryState.DEAD:
            dead_by_agent[count.agent] += count.count
    dead_by_agent.subtract(acted)
    if dead := sum((+dead_by_agent).values()):
        agents = sorted(+dead_by_agent)
        yield wrong(
            JOURNAL,
            f"{dead} failed for good ({', '.join(agents)})",
            "see why: `berinia-webhookd events list --state dead`",
            "once the cause is fixed: `berinia-webhookd events replay --state dead --dry-run`, "
            "then without `--dry-run`; or `berinia-webhookd events discard ID…`",
            why="these messages were accepted, and their agent has not dealt with them",
        )
    open_entries = totals[EntryState.READY] + totals[EntryState.WAITING]
    for agent, since in sorted(statistics.oldest_open_at.items()):
        if (waited := at - since) > LONG_WAITING:
            yield warning(
                JOURNAL,
                f"the oldest message for {agent} has waited {duration(waited.total_seconds())}; "
                f"{open_entries} are waiting in all",
                f"berinia-webhookd events list --agent {agent}",
                installation.commands.show_log,
                why="the agent fails, or is too slow for what arrives, or nothing dispatches",
            )
    if statistics.rejected:
        yield note(
            JOURNAL,
            f"{counted(statistics.rejected, 'verified request')} could not be understood",
            "berinia-webhookd events list --state rejected",
        )


def of_guards(statistics: Statistics, errors: Mapping[str, str]) -> Iterator[Finding]:
    """Yield agents that keep failing, with their last error, and what guards hold."""
    for agent, failures in statistics.failing_agents.items():
        said = errors.get(agent, "").strip().rpartition("\n")[2]
        yield wrong(
            JOURNAL,
            f"{agent} failed on its last {failures} attempts, and none succeeded since"
            + (f": {said}" if said else ""),
            *_what_to_do(agent, said),
            why="after five it is tried with one message at a time; the others wait, and go on by "
            "themselves once it works",
        )
    for reason, held in statistics.held.items():
        if reason in _RELEASES:
            yield warning(
                JOURNAL,
                f"{_conversations_are(held)} held by a guard ({reason}), the oldest for "
                f"{duration(held.oldest_seconds)}",
                "see which: `berinia-webhookd conversations list`",
                _RELEASES[reason],
                why="nothing of them but opt-outs is handed to an agent meanwhile; nothing is lost",
            )
    if paused := statistics.held.get(PAUSED):
        yield note(
            JOURNAL,
            f"{_conversations_are(paused)} paused",
            "berinia-webhookd conversations list --paused",
            "`berinia-webhookd conversations resume --sender …` lets one go on",
        )


def of_costs(agents: AgentsSettings, statistics: Statistics) -> Iterator[Finding]:
    """Yield agents whose budget can hold nothing, since none of their results says a cost."""
    done = Counter[str]()
    for count in statistics.counts:
        if count.kind == EntryKind.AGENT and count.state == EntryState.DONE:
            done[count.agent] += count.count
    for agent, total in sorted(done.items()):
        budget = agents.of(AgentName(agent)).daily_cost
        if budget is None or total < TELLING or agent in statistics.agents_with_costs:
            continue
        yield warning(
            f"agents.{agent}.daily_cost",
            f"is {budget:g}, but {agent} has said no cost lately, in {total} messages or fewer",
            'let what it returns have "cost", a number; or take the budget away',
            why="without costs it is never spent, and holds nothing",
        )


def _what_to_do(agent: str, said: str) -> Iterator[str]:
    if said.startswith(TIMED_OUT):
        setting = f"agents.{agent}.timeout_seconds"
        yield f"find what it waits for; if it needs longer: `{setting}`, then reload"
    else:
        yield "correct that; a Python agent is loaded anew by `berinia-webhookd reload`"
    yield f"see each: `berinia-webhookd events list --agent {agent}`, then `events show ID`"


def _conversations_are(held: HeldBack) -> str:
    return counted(held.conversations, "conversation is", "conversations are")


def of_clock(newest: datetime | None, at: datetime) -> Iterator[Finding]:
    """Yield a warning where the newest message is dated in the future."""
    if newest is not None and newest - at > CLOCK_SLACK:
        ahead = duration((newest - at).total_seconds())
        yield warning(
            JOURNAL,
            f"the newest message is dated {ahead} in the future: the clock was set back",
            "timedatectl",
            why="retries and retention depend on the clock",
        )
