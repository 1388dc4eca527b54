"""The figures of a run as tables: for a terminal, and for pages in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import console
import nodes
from bench import Result
from peers import BARE, PEERS
from targets import TARGETS

Cells = tuple[Sequence[str], Sequence[Sequence[str]]]  # head and rows


@dataclass(frozen=True)
class Table:
    """Named as the pages call it; the first column is text, the others are figures or also text."""

    name: str
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    figures: bool = True
    note: str = ""

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
        lines = ["| " + " | ".join(row) + " |" for row in (self.head, ruler, *self.rows)]
        return "\n".join([*lines, "", self.note] if self.note else lines)


def tables(results: Result) -> list[Table]:
    """All that can be made of what was measured, and what was not there."""
    made = [_machine(results["machine"]), PEERS_TABLE]
    for part, (title, make) in PARTS.items():
        if part in results:
            taken = results["taken"][part]
            note = (
                f"{taken['runs']} run{'s' * (taken['runs'] > 1)} of {taken['seconds']} s,"
                f" {taken['at']} (UTC), version {taken['version']}."
            )
            made.append(Table(part, title, *make(results[part]), note=note))
    made.append(_targets(results))
    missing = [
        [part, what, why]
        for part, found in results["absent"].items()
        for what, why in found.items()
    ]
    if missing:
        made.append(Table("absent", "Not there", ["part", "", "why"], missing, figures=False))
    return made


def _targets(results: Result) -> Table:
    rows = [target.row(results) for target in TARGETS]
    return Table("targets", "Targets", ["", "required", "wanted", "measured", "met"], rows)


def _machine(machine: Result) -> Table:
    rows = [
        ["processor", f"{machine['processor']}, {machine['cores']} cores"],
        ["memory", f"{machine['memory_gib']} GiB"],
        ["kernel, file system", f"{machine['kernel']}, {machine['file_system']}"],
        ["flush of 4 KiB to disk, one after the other: hot", f"{machine['flush_hot_ms']:.2f} ms"],
        ["flush of 4 KiB to disk, one every 40 ms: cold", f"{machine['flush_cold_ms']:.2f} ms"],
        ["Python", machine["python"]],
        ["compared", ", ".join(f"{name} {found}" for name, found in machine["libraries"].items())],
        ["load before", f"{machine['load_before']:.2f}"],
    ]
    return Table("machine", "Machine", ["machine", ""], rows, figures=False)


PEERS_TABLE = Table(
    "peers",
    "Who is compared",
    ["", "for each request"],
    [[one.name, one.what] for one in PEERS],
    figures=False,
)


def _side_by_side(found: Result) -> Cells:
    bare = found[BARE]
    rows = [
        [
            name,
            f"{one['rate']:,.0f}",
            f"{one['rate'] / bare['rate']:.2f} ×",
            _us(one["cpu_us"]),
            f"{one['cpu_us'] / bare['cpu_us']:.1f} ×",
            _us(one["store_cpu_us"]) if one["store_cpu_us"] else "",
            _ms(one["p50_ms"]),
            _ms(one["p99_ms"]),
            f"{one['dispatched']:,.0f}" if "dispatched" in one else "",
        ]
        for name, one in found.items()
    ]
    head = [
        *("", "requests/s", "to bare", "CPU a request", "to bare", "of which database"),
        *("p50", "p99", "dispatched/s"),
    ]
    return head, rows


def _keeping(found: Result) -> Cells:
    rows = [
        [
            name,
            f"{one['accepted']:,}",
            f"{one['lost']:,}",
            f"{one['unanswered']:,}",
            ", ".join(map(str, one["statuses_of_two"])),
            str(one["kept_of_two"]),
        ]
        for name, one in found.items()
    ]
    head = [
        *("", "accepted before `kill -9`", "of these gone", "kept without an answer"),
        *("answers to the same message twice", "kept of it"),
    ]
    return head, rows


def _stages(found: Result) -> Cells:
    total = found["total_us"]
    rows = [[stage, _us(cost), f"{cost / total:.0%}"] for stage, cost in found["stages_us"].items()]
    head = ["", "CPU a request", "share"]
    return head, [*rows, ["together", _us(total), ""]]


def _channels(found: Result) -> Cells:
    first = next(iter(found.values()))
    rows = [
        [
            name,
            f"{one['rate']:,.0f}",
            _us(one["cpu_us"]),
            f"{one['cpu_us'] / first['cpu_us']:.2f} ×",
            _ms(one["p50_ms"]),
        ]
        for name, one in found.items()
    ]
    return ["", "requests/s", "CPU a request", "to an SMS", "p50"], rows


def _answering(found: Result) -> Cells:
    rows = [
        [
            f"{name}, {load}",
            f"{one['rate']:,.0f}/s",
            f"{one['busy']:.0%}",
            _ms(one["p50_ms"]),
            _ms(one["p99_ms"]),
            _ms(one["longest_answer_ms"]),
        ]
        for load, key in (
            ("half of its capacity", "half"),
            ("the same rate", "rate"),
            ("one at a time", "quiet"),
        )
        for name, one in found[key].items()
    ]
    rows.append(["a cold flush in between", "25/s", "", _ms(found["flush_cold_ms"]), "", ""])
    head = ["", "offered", "core busy", "p50", "p99", "longest, once sent"]
    return head, rows


def _overload(found: Result) -> Cells:
    rows = [[f"status {status}", f"{many:,}"] for status, many in found["answers"].items()]
    rows += [
        ["lost or unanswered", f"{found['failed'] + found['unanswered']:,}"],
        ["longest answer, once sent", _ms(found["longest_answer_ms"])],
        ["resident memory", f"{found['resident_mib']:.0f} MiB"],
    ]
    return ["", f"at {found['rate']:,.0f}/s"], rows


def _dispatching(found: Result) -> Cells:
    rows = [
        [
            "an agent that does nothing",
            f"{found['rate']:,.0f}",
            _us(found["cpu_us"]),
            _ms(found["receiving_p99_ms"]),
        ]
    ]
    meanwhile = f"p99 of receiving {found['receiving_rate']}/s meanwhile"
    return ["", "events/s", "CPU an event, hosts included", meanwhile], rows


def _isolation(found: Result) -> Cells:
    rows = [
        [
            what,
            _ms(one["p50_ms"]),
            _ms(one["p99_ms"]),
            _ms(one["longest_answer_ms"]),
            f"{one['hosts_ended']:.0f}",
        ]
        for what, one in (
            ("agents that do nothing", found["calm"]),
            ("hostile agents", found["hostile"]),
        )
    ]
    return ["beside", "p50", "p99", "longest", "agent hosts ended"], rows


def _console(found: Result) -> Cells:
    rows = [
        [
            name,
            _ms(one["p50_ms"]),
            _ms(one["p99_ms"]),
            _ms(one["longest_answer_ms"]),
            f"{one['page_p50_ms']:.0f} ms, {one['page_p99_ms']:.0f} ms" if one["pages"] else "",
        ]
        for name, one in ((name, found[name]) for name in (console.IDLE, console.USED))
    ]
    return ["at the console", "p50", "p99", "longest", "p50 and p99 of a page"], rows


def _footprint(found: Result) -> Cells:
    rows = [
        ["ready, with a new journal", f"{found['first_ready_seconds']:.2f} s"],
        ["ready again (median)", f"{found['ready_seconds']:.2f} s"],
        ["idle CPU", f"{found['idle_cpu_percent']:.2f} % of a core"],
        ["resident, idle", f"{found['idle_resident_mib']:.1f} MiB"],
        [f"resident, after {found['events']:,} events", f"{found['loaded_resident_mib']:.1f} MiB"],
    ]
    return ["", "measured"], rows


def _hour(found: Result) -> Cells:
    sizes = found["resident_mib"]
    quarters = [(quarter, sizes[len(sizes) * quarter // 4 - 1]) for quarter in range(1, 5)]
    rows = [
        [f"after {found['minutes'] * quarter / 4:g} minutes", f"{size:.1f} MiB"]
        for quarter, size in quarters
    ]
    rows.append(["events", f"{found['accepted']:,} of {found['offered']:,}"])
    return ["", "the daemon"], rows


def _scaling(found: Result) -> Cells:
    received, listed, logs = found["receiving"], found["events_list"], found["logs"]
    dispatched = found["dispatching"]
    rows = [
        ["receiving", *(f"{received[name]['rate']:,.0f}/s" for name in ("empty", "many"))],
        ["CPU a request", *(_us(received[name]["cpu_us"]) for name in ("empty", "many"))],
        ["p99", *(_ms(received[name]["p99_ms"]) for name in ("empty", "many"))],
        [
            "dispatching to `log:`",
            *(f"{dispatched[name]['rate']:,.0f}/s" for name in ("empty", "many")),
        ],
        ["CPU an event", *(_us(dispatched[name]["cpu_us"]) for name in ("empty", "many"))],
        ["`events list`", *(_ms(listed[name]["query_ms"]) for name in ("few", "many"))],
        [
            "`events list`, starting Python included",
            *(_ms(listed[name]["command_ms"]) for name in ("few", "many")),
        ],
        ["1000 lines of the logs endpoint", _ms(logs["small_ms"]), _ms(logs["large_ms"])],
    ]
    large = (
        f"{found['events']:,} events ({found['journal_gib']} GiB),"
        f" a log of {logs['large_bytes'] >> 30} GiB"
    )
    return ["", "empty or small", large], rows


def _nodes(found: Result) -> Cells:
    rows = [
        [
            name,
            f"{found[name]['rate']:,.0f}",
            _us(found[name]["cpu_us"]),
            "" if name == nodes.SQLITE else _us(found[name]["database_cpu_us"]),
            _cores(found[name]),
            f"{found[name]['rate'] / found[nodes.compared_with(name)]['rate']:.2f} ×",
        ]
        for name in nodes.NODES
        if name in found
    ]
    head = ["", "events/s", "CPU of nodes", "of PostgreSQL", "cores in use", "to one node"]
    return head, rows


def _cores(found: Result) -> str:
    """How many were busy in all, with nodes, PostgreSQL and the load; empty if that is unknown."""
    if "load_cpu_us" not in found:
        return ""
    each = found["cpu_us"] + found["database_cpu_us"] + found["load_cpu_us"]
    return f"{found['rate'] * each / 1e6:.2f}"


def _us(value: float) -> str:
    return f"{value:,.0f} µs"


def _ms(value: float) -> str:
    return f"{value:.2f} ms" if value < 100 else f"{value:,.0f} ms"


# By part of the benchmark, in the order of the page: the title of its table, and who makes it.
PARTS: dict[str, tuple[str, Callable[[Result], Cells]]] = {
    "receiving": ("Receiving on one core, 32 connections", _side_by_side),
    "crowd": ("Receiving on one core, 256 connections", _side_by_side),
    "nginx": ("Receiving behind nginx, which has the other core", _side_by_side),
    "keeping": ("What is kept", _keeping),
    "stages": ("What a request costs the daemon, receiving only", _stages),
    "channels": ("Other channels, received only but for WhatsApp", _channels),
    "answering": ("Answers to callers that do not wait for each other", _answering),
    "overload": ("At twice the capacity", _overload),
    "dispatching": ("Dispatched to a Python agent that does nothing, on all cores", _dispatching),
    "http-agent": ("Dispatched to an HTTP agent that does nothing, on all cores", _dispatching),
    "isolation": ("Answers beside agents, on all cores", _isolation),
    "console": ("Answers while people use the console, on all cores", _console),
    "nodes": ("Accepted by nodes that share a PostgreSQL", _nodes),
    "nodes-dispatching": ("Dispatched by them to `log:`", _nodes),
    "footprint": ("Footprint", _footprint),
    "hour": ("Resident memory under an even load", _hour),
    "scaling": ("Small and large", _scaling),
}


def summary(results: Result) -> Table | None:
    """A few lines for the README, if receiving was measured."""
    if "receiving" not in results:
        return None
    head, rows = _side_by_side(results["receiving"])
    short = ["on one core, 32 connections", *head[1:5]]
    return Table("summary", "", short, [row[:5] for row in rows])
