"""The queue of one transport: entries that run, entries claimed but not yet started, and ended ones
that are being recorded while the transport makes the next attempts.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from berinia_webhookd.model import AgentName, Entry, EntryKind
from berinia_webhookd.outbound.attempt import Run
from berinia_webhookd.outbound.contract import Transport
from berinia_webhookd.outbound.retry_policy import RetryPolicy

# Entries claimed ahead of free hosts are bounded to what they finish in this time, so that fast
# agents never wait for a commit and slow ones withhold no entries from other nodes.
CLAIM_AHEAD_SECONDS: Final = 0.05
CLAIM_AHEAD_MOST: Final = 64
HELD_MOST_BYTES: Final = 32 * 1024 * 1024  # of stored events; above it no more is claimed


@dataclass(eq=False)
class TransportQueue:
    """One transport, and every entry that is leased for it."""

    transport: Transport
    # How many entries of each agent wait or run, for any transport: a reload may change an agent's.
    busy: Counter[AgentName] = field(default_factory=Counter)
    running: set[Run] = field(default_factory=set)
    settling: set[Run] = field(default_factory=set)
    waiting: deque[Entry] = field(default_factory=deque)
    mean_seconds: float = 1.0

    @property
    def leased(self) -> Iterator[Entry]:
        """Every entry whose lease is ours."""
        for run in self.unfinished:
            yield run.entry
        yield from self.waiting

    @property
    def unfinished(self) -> Iterator[Run]:
        """Runs that have begun and are not recorded."""
        return chain(self.settling, self.running)

    @property
    def has_next(self) -> bool:
        """Whether an entry waits and a place is free."""
        return bool(self.waiting) and len(self.running) < self.transport.capacity

    @property
    def room(self) -> int:
        """How many entries to claim now; 0 while the queue or its memory limit is full."""
        if not self.free or sum(entry.size_bytes for entry in self.leased) >= HELD_MOST_BYTES:
            return 0
        return self.free

    @property
    def free(self) -> int:
        """The same without the memory limit."""
        ahead = min(CLAIM_AHEAD_MOST, self.ends_within(CLAIM_AHEAD_SECONDS))
        free = self.transport.capacity + ahead - len(self.running) - len(self.waiting)
        return free if 2 * free > ahead else 0

    def ends_within(self, seconds: float) -> int:
        """An estimate of the attempts that end in this time with all places taken."""
        return int(self.transport.capacity * seconds / self.mean_seconds)

    def observe(self, seconds: float) -> None:
        """Update the average duration of an attempt."""
        self.mean_seconds += 0.1 * (max(seconds, 1e-4) - self.mean_seconds)

    def put(self, entry: Entry) -> None:
        """Append a claimed entry."""
        self.waiting.append(entry)
        self.busy[entry.agent] += entry.kind is EntryKind.AGENT

    def begin_next(self, policy: RetryPolicy, task: asyncio.Task[None] | None = None) -> Run:
        """Take the next waiting entry."""
        run = Run(self.waiting.popleft(), policy, task)
        self.running.add(run)
        return run

    def leave(self, run: Run) -> None:
        """Free the place of a run."""
        self.running.remove(run)
        self.busy[run.entry.agent] -= run.entry.kind is EntryKind.AGENT

    def take_out(self, entries: Collection[Entry]) -> None:
        """Remove waiting entries among these, so that they do not start."""
        for entry in entries:
            if entry in self.waiting:
                self.waiting.remove(entry)
                self.busy[entry.agent] -= entry.kind is EntryKind.AGENT
