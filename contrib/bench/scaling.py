"""Whether a journal of millions of events and a log of 5 GiB are as fast as empty ones."""

from __future__ import annotations

import base64
import http.client
import json
import shutil
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import long_journal
from bench import MOST_PER_SECOND, Bench, Result, median, medians, say
from daemon import COMMAND, LOGS_PASSWORD, Installation
from dispatching import watch
from load import HERE, OpenLoop, full_load
from processes import running

FEW = 1000  # events that are received in earnest, and copied from then on
LOG_BYTES = 5 << 30
QUESTIONS = 50


def measure(bench: Bench) -> Result:
    """Rates and the reading side, on an empty journal and on a long one."""
    empty = Installation(bench.new_folder("few-events"))
    _receive_few(bench, empty)
    long = Installation(bench.new_folder("many-events"))
    empty.copy_journal(long)
    started = time.monotonic()
    events = long_journal.lengthen(long.journal, bench.events)
    size = round(long.journal.stat().st_size / 2**30, 2)
    say(f"  a journal of {events} events, {size} GiB, made in {time.monotonic() - started:.0f} s")
    result = {
        "events": events,
        "journal_gib": size,
        **_rates(bench, long),
        "events_list": {"few": _events_list(empty), "many": _events_list(long)},
        "logs": _logs(bench, long),
    }
    shutil.rmtree(long.folder)
    shutil.rmtree(empty.folder)
    return result


def _receive_few(bench: Bench, daemon: Installation) -> None:
    """A real journal of events that are all done."""
    with running(daemon.start(core=bench.cores.server, dispatch=True)) as server:
        messages = bench.other_messages(FEW)
        OpenLoop(server.port, messages, rate=500, seconds=FEW / 500, core=bench.cores.load).result()
        daemon.wait_until_dispatched(FEW)


def _rates(bench: Bench, long: Installation) -> Result:
    """What is received, and then dispatched of it to `log:`, in turns: with a new journal, and with
    the long one, which grows on.
    """

    def one_run(name: str) -> Result:
        daemon = long if name == "many" else Installation(bench.new_folder("empty"))
        messages = bench.other_messages(bench.seconds * MOST_PER_SECOND)
        before = daemon.count("events") if daemon.journal.exists() else 0
        with running(daemon.start(core=bench.cores.server, dispatch=False)) as server:
            result = full_load(server, messages, core=bench.cores.load, seconds=bench.seconds)
        messages.unlink()
        daemon.must_hold(result["accepted"], before=before, repeated=result["repeated"])
        dispatched = _dispatched(bench, daemon)
        if daemon is not long:
            shutil.rmtree(daemon.folder)
        say(
            f"  {name:5} journal  {result['rate']:7.0f}/s  {result['cpu_us']:5.0f} µs CPU,"
            f" dispatched {dispatched['rate']:7.0f}/s  {dispatched['cpu_us']:5.0f} µs CPU"
        )
        received = {key: result[key] for key in ("rate", "cpu_us", "p99_ms")}
        return {"receiving": received, "dispatching": dispatched}

    taken = bench.take_turns(("empty", "many"), one_run)
    return {
        part: {name: medians([run[part] for run in runs]) for name, runs in taken.items()}
        for part in ("receiving", "dispatching")
    }


def _dispatched(bench: Bench, daemon: Installation) -> Result:
    waiting, done = daemon.entries("ready"), daemon.entries("done")
    with running(daemon.start(core=bench.cores.server, dispatch=True)) as server:
        clocks = {"cpu_us": server.cpu_seconds}
        return watch(daemon, waiting, bench.seconds, clocks, before=done)


def _events_list(daemon: Installation) -> Result:
    """Milliseconds of `events list`: the whole command, and what it does once it is loaded."""
    arguments = ["--config", str(daemon.config), "events", "list", "--json"]
    whole = []
    for _ in range(5):
        started = time.perf_counter()
        _run([*COMMAND, *arguments], daemon)
        whole.append((time.perf_counter() - started) * 1000)
    inside = _run([sys.executable, str(HERE / "repeated_command.py"), *arguments], daemon)
    result = {"command_ms": median(whole), "query_ms": float(json.loads(inside)["median_ms"])}
    say(f"  events list: {result['query_ms']:.1f} ms, as a command {result['command_ms']:.0f} ms")
    return result


def _run(command: list[str], daemon: Installation) -> str:
    done = subprocess.run(
        command, env=daemon.environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{command} failed: {done.stderr}")
    return done.stdout


def _logs(bench: Bench, daemon: Installation) -> Result:
    """Milliseconds of the logs endpoint, on the log as it is and on one of 5 GiB."""
    with running(daemon.start(core=bench.cores.server, dispatch=False)) as server:
        small = _ask_for_logs(server.port)
    _enlarge(daemon.logs / "webhook.log")
    with running(daemon.start(core=bench.cores.server, dispatch=False)) as server:
        large = _ask_for_logs(server.port)
    say(f"  logs endpoint: {small:.2f} ms, on a log of 5 GiB {large:.2f} ms")
    return {"small_ms": small, "large_ms": large, "large_bytes": LOG_BYTES}


def _enlarge(log: Path) -> None:
    """A hole before the last lines, of which the disk holds nothing."""
    content = log.read_bytes()
    with log.open("r+b") as file:
        file.truncate(LOG_BYTES)
        file.seek(0, 2)
        file.write(b"\n" + content[-1_000_000:])


def _ask_for_logs(port: int) -> float:
    """Median milliseconds of 1000 lines."""
    password = base64.b64encode(f"berinia:{LOGS_PASSWORD}".encode()).decode()
    taken = []
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        for _ in range(QUESTIONS):
            started = time.perf_counter()
            connection.request(
                "GET", "/webhook/logs?lines=1000", headers={"Authorization": f"Basic {password}"}
            )
            answer = connection.getresponse()
            lines = json.loads(answer.read()).get("lines", [])
            taken.append((time.perf_counter() - started) * 1000)
            if answer.status != 200 or not lines:
                raise SystemExit(f"the logs endpoint answered {answer.status}")
    return median(taken)
