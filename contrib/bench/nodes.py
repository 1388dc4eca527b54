"""One or two nodes with one journal in PostgreSQL: what they accept, and then dispatch. Nothing is
pinned: nodes, PostgreSQL and the load share the cores, so how much of them each takes is measured.
Each connection waits for its answer: so many of them are so many messages at once, whoever answers.
"""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

from bench import FIRST_MESSAGES, Bench, Result, medians, say
from daemon import Installation
from dispatching import watch
from load import as_much_as_possible, warm_up
from processes import Server, running
from stores import Node, Postgresql, asking

CONNECTIONS, MORE = 32, 64  # shared out among the nodes
MOST_PER_SECOND = 8_000  # of one node, which is more than it takes
SQLITE, ONE, TWO = "SQLite, 1 node", "PostgreSQL, 1 node", "PostgreSQL, 2 nodes"
ONE_OF_MORE, TWO_OF_MORE = (f"{name}, {MORE} connections" for name in (ONE, TWO))
NODES = {SQLITE: 1, ONE: 1, TWO: 2, ONE_OF_MORE: 1, TWO_OF_MORE: 2}


def measure(bench: Bench) -> Result:
    """What one and two nodes accept, which take turns."""
    return _measure(bench, (ONE, TWO, ONE_OF_MORE, TWO_OF_MORE), dispatch=False)


def measure_dispatching(bench: Bench) -> Result:
    """What they then dispatch of it, and one with a SQLite file."""
    return _measure(bench, (SQLITE, ONE, TWO), dispatch=True)


def compared_with(name: str) -> str:
    """The one node that answers as many connections."""
    return ONE_OF_MORE if name in {ONE_OF_MORE, TWO_OF_MORE} else ONE


def _measure(bench: Bench, names: Sequence[str], *, dispatch: bool) -> Result:
    many = bench.seconds * MOST_PER_SECOND
    messages = [
        (bench.other_messages(FIRST_MESSAGES), bench.other_messages(many))
        for _ in range(max(NODES.values()))
    ]
    with closing(Postgresql(bench.new_folder("postgresql"))) as server:

        def one_run(name: str) -> Result:
            folder = bench.new_folder(name)
            with _installed(folder, name, server) as nodes:
                connections = CONNECTIONS if compared_with(name) == ONE else MORE
                result = _accept(bench, nodes, server, messages, connections)
                if dispatch:
                    result = _dispatch(bench, nodes, server)
            shutil.rmtree(folder)
            say(
                f"  {name:36} {result['rate']:6.0f}/s, nodes {result['cpu_us']:4.0f} µs,"
                f" database {result['database_cpu_us']:4.0f} µs"
            )
            return result

        taken = bench.take_turns(names, one_run)
        return {
            "postgresql": server.version,
            **{name: medians(results) for name, results in taken.items()},
        }


@contextmanager
def _installed(folder: Path, name: str, server: Postgresql) -> Iterator[list[Installation]]:
    """The nodes' folders, with an empty journal."""
    if name == SQLITE:
        yield [Installation(folder)]
        return
    url = server.new_database()
    with asking(url) as ask:
        yield [Node(folder / f"node{number}", url, ask) for number in range(NODES[name])]


@contextmanager
def _started(nodes: Sequence[Installation], *, dispatch: bool) -> Iterator[list[Server]]:
    """All at once, as a backlog does not wait for the second one."""
    with ExitStack() as stack, ThreadPoolExecutor() as pool:
        start = partial(Installation.start, core=None, dispatch=dispatch)
        starting = [pool.submit(start, node) for node in nodes]
        yield [stack.enter_context(running(one.result())) for one in starting]


def _accept(
    bench: Bench,
    nodes: Sequence[Installation],
    server: Postgresql,
    messages: Sequence[tuple[Path, Path]],
    connections: int,
) -> Result:
    """As much as possible, each node from a wrk of its own; void unless all of it is kept."""
    with _started(nodes, dispatch=False) as servers, ThreadPoolExecutor() as pool:
        each = [*zip(servers, messages, strict=False)]
        first = sum(warm_up(one.port, few) for one, (few, _) in each)
        used, theirs = sum(one.cpu_seconds() for one in servers), server.cpu_seconds()
        load = _ended_children_seconds()
        loads = [
            pool.submit(
                as_much_as_possible,
                one.port,
                file,
                core=None,
                seconds=bench.seconds,
                connections=connections // len(servers),
            )
            for one, (_, file) in each
        ]
        results = [one.result() for one in loads]
        load = _ended_children_seconds() - load
        used = sum(one.cpu_seconds() for one in servers) - used
        theirs = server.cpu_seconds() - theirs
    accepted = sum(one["requests"] - one["refused"] for one in results)
    nodes[0].must_hold(first + accepted, repeated=sum(one["repeated"] for one in results))
    return {
        "rate": sum((one["requests"] - one["refused"]) / one["seconds"] for one in results),
        "p99_ms": max(one["p99_ms"] for one in results),
        "cpu_us": used / max(1, accepted) * 1e6,
        "database_cpu_us": theirs / max(1, accepted) * 1e6,
        "load_cpu_us": load / max(1, accepted) * 1e6,
    }


def _ended_children_seconds() -> float:
    """Those of ours that have ended, as wrk has after each run."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _dispatch(bench: Bench, nodes: Sequence[Installation], server: Postgresql) -> Result:
    """What was accepted, to `log:`."""
    backlog = nodes[0].count("events")
    with _started(nodes, dispatch=True) as servers:
        result = watch(
            nodes[0],
            backlog,
            bench.seconds,
            {
                "cpu_us": lambda: sum(one.own_cpu_seconds() for one in servers),
                "database_cpu_us": server.cpu_seconds,
            },
        )
    return result | {"load_cpu_us": 0.0}  # there is none
