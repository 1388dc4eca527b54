"""A daemon under traffic, and every kind of trouble that can befall it from outside, with its
journal in a file or in PostgreSQL.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.channels.deliveries import MAILGUN_KEY
from tests.end_to_end.daemon import Daemon
from tests.postgresql import Postgresql

from .forged_chat import SECRET
from .traffic import Traffic, conversations
from .verdict import Verdict, judge

RECORDER = """
import json, os, pathlib

SEEN = pathlib.Path(__file__).with_name("seen.jsonl")


class Recorder:
    def handle(self, event):
        line = {"text": event["data"]["body"], "id": event["id"], "pid": os.getpid()}
        with SEEN.open("a") as seen:
            seen.write(json.dumps(line) + "\\n")
        return {"response": "noted"}
"""
RETRIES = ", ".join(["0.05"] * 200)
# Every message is to be delivered whatever is killed, those of the bot too. That nothing which
# began runs twice, where that is wanted, is shown in end_to_end/test_at_most_once.py.
SETTINGS = f"""
    server.shutdown_grace_seconds = 3
    server.ack_timeout_seconds = 4
    channels.email.signing_keys = ["{MAILGUN_KEY}"]
    channels.whatsapp.secret = "{SECRET.decode()}"
    channels.whatsapp.reply_wait_seconds = 0.5
    channels.whatsapp.retry_schedule_seconds = [{RETRIES}]
    agents.defaults.delivery = "at-least-once"
    agents.defaults.retry_schedule_seconds = [{RETRIES}]
    agents.MetaAgent.target = "python:recorder:Recorder"
    agents.AdminInterpreterAgent.target = "python:recorder:Recorder"
"""
RELOADS, RELOADS_SECONDS = 300, 6.0
STEPS_SECONDS = (-120, 600, -240, 3600, 7200)  # Mailgun's time stamps may be 5 minutes ahead
PATIENCE_SECONDS = 180
OPEN_STATES = frozenset({"ready", "running", "waiting"})


class StormyDaemon(Daemon):
    """A daemon whose clock and commits can be interfered with."""

    def __init__(self, folder: Path, journal_url: str | None = None) -> None:
        shared = f'journal.url = "{journal_url}"\njournal.lease_seconds = 2'
        settings = SETTINGS if journal_url is None else f"{SETTINGS}\n{shared}"
        super().__init__(folder, settings, agent=RECORDER)
        text = self.config.read_text()
        own = "agents.ResponseListenerAgent.retry_schedule_seconds = [0.05, 0.05, 0.05]"
        self.config.write_text(text.replace(own, ""))
        self.faults = folder / "faults"
        self.faults.mkdir()

    @property
    def environment(self) -> dict[str, str]:
        root = str(Path(__file__).parents[2])
        return {**super().environment, "PROOF_FAULTS": str(self.faults), "PYTHONPATH": root}

    def command(self, *words: str) -> list[str]:
        command = super().command(*words)
        if "serve" in words:
            command[command.index("berinia_webhookd")] = "tests.proof.faulty"
        return command

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid


class Storm:
    """Traffic, and faults by name; each leaves the daemon as it found it, but for the scars."""

    def __init__(
        self,
        folder: Path,
        *,
        senders: int,
        pause_seconds: float,
        disk_mib: int = 16,
        server: Postgresql | None = None,
    ) -> None:
        url = None if server is None else server.url(asyncio.run(server.new_database()))
        self.daemon = StormyDaemon(folder, url)
        self.traffic = Traffic(conversations(senders), lambda: self.daemon.port, pause_seconds)
        self.disk_mib = disk_mib
        self.counts: dict[str, int] = {}
        self.host_kills = 0
        self.left_over_wals = 0
        self.exported: list[dict[str, Any]] = []
        self.faults: dict[str, Callable[[], None]] = {
            "kill": self.kill,
            "terminate": self.terminate,
            "freeze": self.freeze,
            "kill hosts": self.kill_hosts,
            "no descriptors": self.take_descriptors,
            "clock steps": self.step_clock,
            "commits fail": lambda: self.spoil_commits("fail"),
            "commits fail afterwards": lambda: self.spoil_commits("fail afterwards"),
            "commits crawl": lambda: self.spoil_commits("crawl"),
            "commits hang": lambda: self.spoil_commits("hang"),
            "logs read-only": self.forbid_logs,
            "reloads": self.reload,
        }
        if server is None:
            self.faults["file size limit"] = self.limit_file_size
            self.faults["locked file"] = self.lock_file
            if can_mount():
                self.faults["disk full"] = self.fill_disk
                self.faults["disk removed"] = self.remove_disk
                self.faults["disk read-only"] = self.forbid_disk
        else:
            self.faults["database crashes"] = lambda: self.crash(server)
            self.faults["database full"] = lambda: self.fill(server)

    def befall(self, name: str) -> None:
        """One fault, with traffic before and after it. Every other one comes when the daemon has
        got somewhere: five deaths in a row while it is running make an entry dead, by design.
        """
        self.wait_for_traffic(3)
        if sum(self.counts.values()) % 2:
            self.daemon.wait_for("attempt.succeeded")
        self.faults[name]()
        self.counts[name] = self.counts.get(name, 0) + 1

    def wait_for_traffic(self, more: int) -> None:
        """Until so many more messages were acknowledged."""
        wanted = self.traffic.acknowledged + more
        try:
            wait_until(lambda: self.traffic.acknowledged >= wanted, "traffic flows")
        except AssertionError as error:
            last = "\n".join(json.dumps(line) for line in self.daemon.lines[-20:])
            answers = f"faults {self.counts}, answers {self.traffic.answers}"
            raise AssertionError(f"{error}: {answers}\n{last}") from None

    def refused(self) -> int:
        """How many answers were 503, or none."""
        answers = self.traffic.answers
        return sum(answers.get(kind, 0) for kind in ("503", "cut off", "refused"))

    def until_refused(self) -> None:
        before = self.refused()
        wait_until(lambda: self.refused() > before, "the daemon refuses")

    def kill(self) -> None:
        self.daemon.kill()
        wal = self.daemon.state / "journal.db-wal"
        self.left_over_wals += wal.exists() and wal.stat().st_size > 0
        self.daemon.start()

    def terminate(self) -> None:
        status = self.daemon.stop()
        assert status == 0, f"exit status {status} after SIGTERM"
        self.daemon.start()

    def freeze(self) -> None:
        self.daemon.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        self.daemon.send_signal(signal.SIGCONT)

    def kill_hosts(self) -> None:
        for pid in descendants(self.daemon.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.host_kills += 1

    def limit_file_size(self) -> None:
        with limited(self.daemon.pid, resource.RLIMIT_FSIZE, 4096):
            self.until_refused()
        self.daemon.wait_for("journal.recovered")

    def take_descriptors(self) -> None:
        used = len([*Path(f"/proc/{self.daemon.pid}/fd").iterdir()])
        with limited(self.daemon.pid, resource.RLIMIT_NOFILE, used + 1):
            time.sleep(1)

    def lock_file(self) -> None:
        with contextlib.closing(sqlite3.connect(self.daemon.state / "journal.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            self.until_refused()
            other.rollback()

    def step_clock(self) -> None:
        for offset in STEPS_SECONDS:
            put(self.daemon.faults / "clock", str(offset))
            self.wait_for_traffic(2)

    def spoil_commits(self, how: str) -> None:
        put(self.daemon.faults / "commits", how)
        if how == "crawl":
            self.wait_for_traffic(6)
        else:
            self.until_refused()
        (self.daemon.faults / "commits").unlink()

    def forbid_logs(self) -> None:
        with read_only(self.daemon.state / "unified_logs"):
            self.wait_for_traffic(3)
            self.terminate()  # what it has open it may go on writing: let it open them anew
            self.wait_for_traffic(3)

    def fill_disk(self) -> None:
        ballast = self.daemon.state / "ballast"
        with ballast.open("wb", buffering=0) as file:
            for piece in (bytes(1 << 20), bytes(4096)):
                with contextlib.suppress(OSError):
                    while file.write(piece):
                        continue
        self.until_refused()
        ballast.unlink()

    def remove_disk(self) -> None:
        state, aside = self.daemon.state, self.daemon.folder / "disk"
        aside.mkdir(exist_ok=True)
        with mounted("--bind", state, aside):
            subprocess.run(["umount", "--lazy", str(state)], check=True)
            self.until_refused()
            subprocess.run(["mount", "--bind", str(aside), str(state)], check=True)
        self.daemon.wait_for("journal.recovered")

    def forbid_disk(self) -> None:
        with read_only(self.daemon.state):
            self.wait_for_traffic(3)  # what it has open it may go on writing
            self.daemon.kill()
            self.daemon.launch()
            status = self.daemon.wait_until_ended()
            assert status in {3, 4}, f"exit status {status} on a read-only disk"
        self.daemon.start()

    def reload(self) -> None:
        pause = threading.Event()
        for _ in range(RELOADS):
            self.daemon.send_signal(signal.SIGHUP)
            pause.wait(RELOADS_SECONDS / RELOADS)
        self.wait_for_traffic(3)

    def crash(self, server: Postgresql) -> None:
        server.crash()
        self.until_refused()
        server.start()
        self.daemon.wait_for("journal.recovered")

    def fill(self, server: Postgresql) -> None:
        server.limit_files(8192)
        self.until_refused()
        server.limit_files(None)
        server.ensure_running()
        self.daemon.wait_for("journal.recovered")

    @contextlib.contextmanager
    def raging(self) -> Iterator[None]:
        """With the daemon and the traffic running; afterwards all that was taken in has flowed."""
        with small_disk(self.daemon.state, self.disk_mib):
            self.daemon.start()
            try:
                self.traffic.start()
                try:
                    yield
                finally:
                    self.traffic.stop()
                self.until_delivered()
                exported = self.daemon.run("events", "export").stdout.splitlines()
                self.exported = [json.loads(line) for line in exported]
            finally:
                self.daemon.close()

    def verdict(self) -> Verdict:
        """What became of every message."""
        seen = self.daemon.agents / "seen.jsonl"
        return judge(self.traffic.conversations, seen, self.exported)

    def until_delivered(self) -> None:
        """Wait until nothing waits any more, for as long as it becomes less."""
        while waiting := self.undelivered():
            wait_until(
                partial(lambda before: self.undelivered() < before, waiting),
                f"fewer than {waiting} messages are still to be delivered",
            )

    def undelivered(self) -> float:
        """How many messages still wait or run; infinitely many while the journal cannot say."""
        page = self.daemon.request("GET", "/metrics").body.decode()
        counted = re.findall(r'^berinia_webhookd_entries{state="(\w+)"} (\S+)$', page, re.MULTILINE)
        if not counted:
            return math.inf
        return sum(float(number) for state, number in counted if state in OPEN_STATES)


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Look every now and then until it is so."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    pause = threading.Event()
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {PATIENCE_SECONDS} s: {what}")
        pause.wait(0.05)


def put(path: Path, text: str) -> None:
    """Write a file in one step."""
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.rename(path)


def descendants(pid: int) -> list[int]:
    """Children, grandchildren and so on."""
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, children.read_text().split()):
                found += [child, *descendants(child)]
    return found


@contextlib.contextmanager
def limited(pid: int, what: int, limit: int) -> Iterator[None]:
    """A running process with a lower soft limit."""
    before = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, what, before)


def can_mount() -> bool:
    """Whether this is root of a machine of its own."""
    return os.geteuid() == 0 and sys.platform == "linux" and _mounts()


def _mounts() -> bool:
    done = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "proof", "/mnt"],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


@contextlib.contextmanager
def small_disk(folder: Path, size_mib: int) -> Iterator[None]:
    """The folder on a small disk of its own, where that is possible."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if not can_mount():
        yield
        return
    options = f"size={size_mib}m,mode=0700"
    with mounted("-t", "tmpfs", "-o", options, "proof", folder):
        yield


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing can be written in the folder; root is not stopped by modes, but by a mount."""
    if not can_mount():
        folder.chmod(0o500)
        try:
            yield
        finally:
            folder.chmod(0o700)
        return
    # Made read-only elsewhere first: here the daemon could open a file in between.
    aside = folder.with_name("read-only")
    aside.mkdir(exist_ok=True)
    with mounted("--bind", folder, aside):
        subprocess.run(["mount", "-o", "remount,bind,ro", str(aside)], check=True)
        with mounted("--bind", aside, folder):
            yield


@contextlib.contextmanager
def mounted(*words: object) -> Iterator[None]:
    """A mount; the last word is where."""
    command = [str(word) for word in words]
    subprocess.run(["mount", *command], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", command[-1]], check=True)
