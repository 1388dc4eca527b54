"""Accepted requests per second on one core, the peers taking turns, and what each request cost."""

from __future__ import annotations

import shutil
from contextlib import ExitStack, closing
from functools import partial

from bench import Bench, Result, medians, say
from daemon import Installation
from load import FIGURES, full_load, must_be_kept, warm_up
from nginx import Nginx
from peers import BARE, DAEMON, PEERS, Daemon, Peer, Receiver, peer
from processes import running

CONNECTIONS, CROWD = 32, 256


def measure(bench: Bench) -> Result:
    """By peer."""
    names = [one.name for one in PEERS if not one.long]
    return _side_by_side(bench, names, CONNECTIONS)


def measure_crowd(bench: Bench) -> Result:
    """By peer, also those that say what another build of a peer brings, with many callers."""
    return _side_by_side(bench, [one.name for one in PEERS], CROWD)


def measure_behind_nginx(bench: Bench) -> Result:
    """The bare handler and the daemon behind nginx and our locations, on the load's core."""
    taken = bench.take_turns((BARE, DAEMON), partial(_one_run, bench, CONNECTIONS, nginx=True))
    return {name: medians(results) for name, results in taken.items()}


def _side_by_side(bench: Bench, names: list[str], connections: int) -> Result:
    taken = bench.take_turns(names, partial(_one_run, bench, connections))
    return {name: medians(results) for name, results in taken.items()}


def _one_run(bench: Bench, connections: int, name: str, *, nginx: bool = False) -> Result:
    one, folder = peer(name), bench.new_folder(name)
    with ExitStack() as stack:
        receiver = stack.enter_context(closing(one.install(bench, folder)))
        server = port = stack.enter_context(running(receiver.start()))
        if nginx:
            proxy = Nginx(folder / "nginx", server.port, core=bench.cores.load)
            port = stack.enter_context(running(proxy))
        first = warm_up(server.port, bench.first_messages)
        settle = (
            _Dispatched(receiver.installation)
            if isinstance(receiver, Daemon) and receiver.dispatches
            else None
        )
        result = full_load(
            server,
            bench.messages,
            port=port.port,
            core=bench.cores.load,
            seconds=bench.seconds,
            connections=connections,
            store=receiver.store_cpu_seconds,
            settle=settle or (lambda: None),
        )
        server.stop()
        _check(one, receiver, result, first)
    shutil.rmtree(folder)
    say(
        f"  {name:28} {result['rate']:8.0f}/s  {result['cpu_us']:6.0f} µs CPU"
        f"  p50 {result['p50_ms']:7.2f} ms  p99 {result['p99_ms']:7.2f} ms"
    )
    figures = {key: result[key] for key in FIGURES}
    return figures if settle is None else figures | {"dispatched": settle.done / bench.seconds}


class _Dispatched:
    """Waits until the daemon has dispatched what it received; remembers how far it was before."""

    def __init__(self, daemon: Installation) -> None:
        self._daemon = daemon
        self.done = 0

    def __call__(self) -> None:
        self.done = self._daemon.entries("done")
        self._daemon.wait_until_dispatched(self._daemon.count("events"))


def _check(one: Peer, receiver: Receiver, result: Result, first: int) -> None:
    if one.keeps:
        kept = len(set(receiver.kept()))
        must_be_kept(first + result["accepted"], kept, repeated=result["repeated"])
    elif result["errors"]:
        said = (receiver.folder / "output").read_text(errors="replace")[-2000:]
        raise SystemExit(f"{one.name}: {result['errors']} errors: {said}")
