"""The figures of a run as tables: for a terminal, and for pages in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import console
import nodes
import targets
from bench import Result
from peers import DAEMON, OLD_DESIGN, PEERS


@dataclass(frozen=True)
class Table:
    """Named as the pages call it; the first column is text, the others are figures or also text."""

    name: str
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    figures: bool = True

    def plain(self) -> str:
        """For a terminal."""
        cells = [[cell.replace("`", "") for cell in row] for row in (self.head, *self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if at and self.figures else cell.ljust(width)
                for at, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in cells
        ]
        return "\n".join(
            (f"\n{self.title}", lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:])
        )

    def markdown(self) -> str:
        """For a page."""
        ruler = ["---", *["---:" if self.figures else "---"] * (len(self.head) - 1)]
        lines = ("| " + " | ".join(row) + " |" for row in (self.head, ruler, *self.rows))
        return "\n".join(lines)


def tables(results: Result) -> list[Table]:
    """All that can be made of what was measured."""
    made = [_machine(results["machine"], results["options"])]
    for part, make in _PARTS.items():
        if part in results:
            made += make(results[part])
    judged = targets.judge(results)
    rows = [[one.what, one.wanted, one.measured, "yes" if one.met else "no"] for one in judged]
    made.append(Table("targets", "Targets", ["", "wanted", "measured", "met"], rows))
    return made


def _machine(machine: Result, options: Result) -> Table:
    rows = [
        ["processor", f"{machine['processor']}, {machine['cores']} cores"],
        ["memory", f"{machine['memory_gib']} GiB"],
        ["kernel, file system", f"{machine['kernel']}, {machine['file_system']}"],
        ["flush of 4 KiB to disk", f"{machine['flush_ms']:.2f} ms (median)"],
        ["Python", machine["python"]],
        ["compared", ", ".join(f"{name} {found}" for name, found in machine["libraries"].items())],
        ["runs", f"{options['runs']} of {options['seconds']} s each"],
        ["taken", f"{options['taken_at']} (UTC), version {machine['berinia-webhookd']}"],
    ]
    return Table("machine", "Machine", ["machine", ""], rows, figures=False)


def _receiving(found: Result) -> list[Table]:
    made = []
    for connections in (key for key in found if key != "nginx"):
        peers = found[connections]
        made.append(
            Table(
                f"receiving-{connections}",
                f"Receiving on one core, {connections} connections",
                [
                    *("", "requests/s", "dispatched/s", "to bare", "to old"),
                    *("CPU a request", "p50", "p99", "errors"),
                ],
                [_peer_row(name, peers) for name in peers],
            )
        )
    behind = found["nginx"]
    made.append(
        Table(
            "receiving-nginx",
            "Receiving through nginx, which has the other core, 32 connections",
            ["", "requests/s", "to bare", "CPU a request", "p50", "p99", "errors"],
            [[*row[:2], row[3], *row[5:]] for row in (_peer_row(name, behind) for name in behind)],
        )
    )
    whats = [[one.name, one.what] for one in PEERS]
    return [
        *made,
        Table("peers", "Who is compared", ["", "for each request"], whats, figures=False),
    ]


def _peer_row(name: str, peers: Result) -> list[str]:
    one = peers[name]
    old = peers.get(OLD_DESIGN)
    return [
        name,
        f"{one['rate']:,.0f}",
        f"{one['dispatched']:,.0f}" if "dispatched" in one else "",
        f"{one['ratio']:.2f} ×",
        f"{one['rate'] / old['rate']:.2f} ×" if old else "",
        f"{one['cpu_us']:.0f} µs",
        f"{one['p50_ms']:.1f} ms",
        f"{one['p99_ms']:.1f} ms",
        str(one["errors"]),
    ]


def _stages(found: Result) -> list[Table]:
    if not found:
        return []
    total = found["total_us"]
    rows = [
        [stage, f"{cost:.0f} µs", f"{cost / total:.0%}"]
        for stage, cost in found["stages_us"].items()
    ]
    rows.append(["together", f"{total:.0f} µs", ""])
    head = ["", "CPU a request", "share"]
    return [Table("stages", "What a request costs the daemon, receiving only", head, rows)]


def _answering(found: Result) -> list[Table]:
    rows = [
        [
            f"{name}, {load}",
            f"{one['offered_rate']:,.0f}/s",
            f"{one['p50_ms']:.2f} ms",
            f"{one['p99_ms']:.2f} ms",
            f"{one['longest_answer_ms']:.1f} ms",
        ]
        for load, key in (("half of its capacity", "half"), ("one at a time", "quiet"))
        for name, one in found[key].items()
    ]
    over = found["overload"]
    rows.append(
        [
            f"{DAEMON}, twice its capacity",
            f"{over['offered_rate']:,.0f}/s",
            f"{over['p50_ms']:.0f} ms",
            f"{over['p99_ms']:.0f} ms",
            f"{over['longest_answer_ms']:.0f} ms",
        ]
    )
    head = ["", "offered", "p50", "p99", "longest, once sent"]
    answers = [[f"status {status}", f"{many:,}"] for status, many in over["answers"].items()]
    lost = over["failed"] + over["unanswered"]
    return [
        Table("answering", "Answers to callers that do not wait for each other", head, rows),
        Table(
            "overload",
            f"Answers at twice the capacity, ack_timeout_seconds = {over['ack_timeout_seconds']}",
            ["", "requests"],
            [*answers, ["lost or unanswered", f"{lost:,}"]],
        ),
    ]


def _dispatching(found: Result) -> list[Table]:
    rows = [
        [
            f"{kind} agent that does nothing",
            f"{one['rate']:,.0f}",
            f"{one['cpu_us']:.0f} µs",
            f"{one['receiving_p99_ms']:.1f} ms",
        ]
        for kind, one in (("Python", found["python"]), ("HTTP", found["http"]))
    ]
    rate = found["python"]["receiving_rate"]
    head = ["", "events/s", "the daemon's CPU an event", f"p99 of receiving {rate}/s meanwhile"]
    return [Table("dispatching", "Dispatching, on all cores", head, rows)]


def _isolation(found: Result) -> list[Table]:
    rows = [
        [
            what,
            f"{one['p50_ms']:.2f} ms",
            f"{one['p99_ms']:.2f} ms",
            f"{one['longest_answer_ms']:.1f} ms",
            f"{one['hosts_ended']:.0f}",
        ]
        for what, one in (
            ("agents that do nothing", found["calm"]),
            ("hostile agents", found["hostile"]),
        )
    ]
    title = f"Answers at {found['rate']} events/s, on all cores"
    head = ["beside", "p50", "p99", "longest", "agent hosts ended"]
    return [Table("isolation", title, head, rows)]


def _console(found: Result) -> list[Table]:
    rows = [
        [
            what,
            f"{one['p50_ms']:.2f} ms",
            f"{one['p99_ms']:.2f} ms",
            f"{one['longest_answer_ms']:.1f} ms",
            f"{one['page_p50_ms']:.0f} ms, {one['page_p99_ms']:.0f} ms" if one["pages"] else "",
        ]
        for what, one in ((console.IDLE, found["idle"]), (console.USED, found["used"]))
    ]
    title = f"Answers at {found['rate']} events/s while people use the console, on all cores"
    head = ["at the console", "p50", "p99", "longest", "p50 and p99 of a page"]
    return [Table("console", title, head, rows)]


def _footprint(found: Result) -> list[Table]:
    rows = [
        ["ready, with a new journal", f"{found['first_ready_seconds']:.2f} s"],
        ["ready again (median)", f"{found['ready_seconds']:.2f} s"],
        ["resident, idle", f"{found['idle_resident_mib']:.0f} MiB"],
        ["resident, after load", f"{found['loaded_resident_mib']:.0f} MiB"],
        ["idle CPU", f"{found['idle_cpu_percent']:.2f} % of a core"],
    ]
    return [Table("footprint", "Footprint, without agents", ["", "measured"], rows)]


def _scaling(found: Result) -> list[Table]:
    received, listed, logs = found["receiving"], found["events_list"], found["logs"]
    rows = [
        ["receiving", *(f"{received[name]['rate']:,.0f}/s" for name in ("empty", "many"))],
        ["CPU a request", *(f"{received[name]['cpu_us']:.0f} µs" for name in ("empty", "many"))],
        ["`events list`", *(f"{listed[name]['query_ms']:.1f} ms" for name in ("few", "many"))],
        [
            "`events list`, starting Python included",
            *(f"{listed[name]['command_ms']:.0f} ms" for name in ("few", "many")),
        ],
        [
            "1000 lines of the logs endpoint",
            f"{logs['small_ms']:.1f} ms",
            f"{logs['large_ms']:.1f} ms",
        ],
    ]
    head = [
        "",
        "empty or small",
        f"{found['events']:,} events, a log of {logs['large_bytes'] >> 30} GiB",
    ]
    return [Table("scaling", "Small and large", head, rows)]


def _nodes(found: Result) -> list[Table]:
    rows = []
    for name in nodes.NODES:
        accepting, dispatching = found[name]["accepting"], found[name]["dispatching"]
        shared = name != nodes.SQLITE
        rows.append(
            [
                name,
                f"{accepting['rate']:,.0f}",
                f"{accepting['p99_ms']:.1f} ms",
                *_costs(accepting, shared=shared),
                f"{dispatching['rate']:,.0f}",
                *_costs(dispatching, shared=shared),
            ]
        )
    costs = ["CPU of nodes", "of PostgreSQL"]
    head = ["", "accepted/s", "p99", *costs, "dispatched/s", *costs]
    title = (
        f"One and two nodes, PostgreSQL {found['postgresql']}, {found['connections']} connections"
    )
    return [Table("nodes", title, head, rows)]


def _costs(found: Result, *, shared: bool) -> list[str]:
    database = f"{found['database_cpu_us']:.0f} µs" if shared else ""
    return [f"{found['cpu_us']:.0f} µs", database]


_PARTS: dict[str, Callable[[Result], list[Table]]] = {
    "receiving": _receiving,
    "stages": _stages,
    "answering": _answering,
    "dispatching": _dispatching,
    "isolation": _isolation,
    "console": _console,
    "footprint": _footprint,
    "scaling": _scaling,
    "nodes": _nodes,
}


def summary(results: Result) -> Table | None:
    """A few lines for the README, if receiving was measured."""
    if "receiving" not in results:
        return None
    peers = results["receiving"]["32"]
    rows = [
        [name, f"{peers[name]['rate']:,.0f}", f"{peers[name]['ratio']:.2f} ×"] for name in peers
    ]
    return Table("summary", "", ["on one core, 32 connections", "requests/s", "to bare"], rows)
