"""Accepted requests per second on one core, the peers taking turns, and what each request cost."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from bench import Bench, Result, median, say
from daemon import Installation
from load import as_much_as_possible
from nginx import Nginx
from peers import BARE, DAEMON, PEERS, Peer, peer
from processes import Server, running

CONNECTIONS = (32, 256)


def measure(bench: Bench) -> Result:
    """By number of connections, then by peer; and once through nginx."""
    return {
        **{str(connections): _side_by_side(bench, connections) for connections in CONNECTIONS},
        "nginx": _through_nginx(bench),
    }


def capacity(bench: Bench, name: str) -> float:
    """Accepted requests per second of one peer, from one run, where the peers were not measured."""
    return float(_one_run(bench, peer(name), CONNECTIONS[0])["rate"])


def _side_by_side(bench: Bench, connections: int) -> Result:
    peers = [one for one in PEERS if connections == CONNECTIONS[0] or not one.in_short]
    runs: dict[str, list[Result]] = {one.name: [] for one in peers}
    for run in range(bench.runs):
        # Each begins as often as the others: what the one before leaves behind hits all alike.
        first = run % len(peers)
        for one in (*peers[first:], *peers[:first]):
            result = _one_run(bench, one, connections)
            runs[one.name].append(result)
            say(_line(one.name, connections, result))
    yardstick = median(result["rate"] for result in runs[BARE])
    return {name: _summary(results, yardstick) for name, results in runs.items()}


def _line(name: str, where: int | str, result: Result) -> str:
    return (
        f"  {name:28} {where:>5}  {result['rate']:8.0f}/s  {result['cpu_us']:6.0f} µs CPU"
        f"  p50 {result['p50_ms']:7.2f} ms  p99 {result['p99_ms']:7.2f} ms"
        f"  errors {result['errors']}"
    )


def _summary(results: list[Result], yardstick: float) -> Result:
    """Medians of the runs; `ratio` to the bare handler."""
    rate = median((result["rate"] for result in results), 1)
    summary = {
        "rates": [round(result["rate"], 1) for result in results],
        "rate": rate,
        "ratio": round(rate / yardstick, 3),
        **{
            key: median(result[key] for result in results)
            for key in ("cpu_us", "p50_ms", "p99_ms", "longest_ms")
        },
        "errors": sum(result["errors"] for result in results),
        "curve_ms": [median(points) for points in zip(*_curves(results), strict=True)],
    }
    if "dispatched" in results[0]:
        summary["dispatched"] = median((result["dispatched"] for result in results), 1)
    return summary


def _curves(results: list[Result]) -> list[list[float]]:
    return [result["curve_ms"] for result in results]


def _one_run(bench: Bench, one: Peer, connections: int) -> Result:
    folder = bench.new_folder(one.name)
    with running(one.start(folder, bench.cores.server)) as server:
        result = _loaded(bench, server, server.port, connections)
        if one.dispatches:
            done = Installation(folder).entries("done")
            result["dispatched"] = done / (time.monotonic() - result["started"])
    if one.dispatches is not None:
        Installation(folder).must_hold(result["accepted"], repeated=result["repeated"])
    elif result["errors"]:
        raise SystemExit(f"{one.name}: {result['errors']} errors: {_said(folder)}")
    shutil.rmtree(folder)
    return result


def _said(folder: Path) -> str:
    return (folder / "output").read_text(errors="replace")[-2000:]


def _loaded(bench: Bench, server: Server, port: int, connections: int) -> Result:
    """One run of wrk, with the CPU time of the server for each request it answered."""
    messages = bench.messages
    before, started = server.cpu_seconds(), time.monotonic()
    result = as_much_as_possible(
        port,
        messages,
        core=bench.cores.load,
        seconds=bench.seconds,
        connections=connections,
    )
    used = server.cpu_seconds() - before
    accepted = result["requests"] - result["refused"]
    return result | {
        "started": started,
        "accepted": accepted,
        "rate": accepted / result["seconds"],
        "cpu_us": used / max(1, result["requests"]) * 1e6,
    }


def _through_nginx(bench: Bench) -> Result:
    """One run each of the bare handler and the daemon behind nginx and our locations."""
    runs = {}
    for one in (peer(BARE), peer(DAEMON)):
        folder = bench.new_folder(one.name)
        with (
            running(one.start(folder, bench.cores.server)) as server,
            running(Nginx(folder / "nginx", server.port, core=bench.cores.load)) as nginx,
        ):
            result = _loaded(bench, server, nginx.port, CONNECTIONS[0])
        if one.dispatches is not None:
            Installation(folder).must_hold(result["accepted"], repeated=result["repeated"])
        runs[one.name] = [result]
        say(_line(one.name, "nginx", result))
        shutil.rmtree(folder)
    yardstick = runs[BARE][0]["rate"]
    return {name: _summary(results, yardstick) for name, results in runs.items()}
