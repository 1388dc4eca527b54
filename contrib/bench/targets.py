"""What the daemon must and should reach, and whether it did, from the figures of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench import Result
from channels import KINDS
from console import IDLE, USED
from nodes import ONE, TWO
from peers import BARE, CELERY_ALWAYS, CELERY_EVERYSEC, DAEMON, DISPATCHING, PROCRASTINATE

KEEPING = (PROCRASTINATE, CELERY_ALWAYS, CELERY_EVERYSEC)
SMS, DECLARED, MAIL, WHATSAPP = KINDS


@dataclass(frozen=True)
class Target:
    """One line of the table.

    Args:
        what: in words; `{…}` are figures of the part beside it.
        part: whose figures say it.
        value: the figure; raises KeyError where a peer was absent.
        unit: behind it.
        required: the worst that will do; None where it is only said.
        wanted: better than that.
        least: more is better.
    """

    what: str
    part: str
    value: Callable[[Result], float]
    unit: str
    required: float | None = None
    wanted: float | None = None
    least: bool = False

    def row(self, results: Result) -> list[str]:
        """What, required, wanted, measured, and how far it is met."""
        sign = "≥" if self.least else "≤"
        bounds = [
            "" if bound is None else f"{sign} {_figure(bound, self.unit)}"
            for bound in (self.required, self.wanted)
        ]
        found = results.get(self.part)
        try:
            value = None if found is None else self.value(found)
        except KeyError:  # one of those who are compared is absent
            value = None
        if value is None:
            return [self.what, *bounds, "not measured", ""]
        return [self.what, *bounds, _figure(value, self.unit), self._met(value)]

    def _met(self, value: float) -> str:
        if self.required is None and self.wanted is None:
            return ""
        met = "required" if self.wanted is not None else "yes"
        for bound, word in ((self.wanted, "wanted"), (self.required, met)):
            if bound is not None and (value >= bound if self.least else value <= bound):
                return word
        return "no"


def _figure(value: float, unit: str) -> str:
    digits = 0 if value >= 100 or value.is_integer() else 2
    return f"{value:,.{digits}f} {unit}".rstrip()


def _cpu(one: str, other: str) -> Callable[[Result], float]:
    return lambda found: found[one]["cpu_us"] / found[other]["cpu_us"]


def _best(found: Result, figure: str, best: Callable[..., float]) -> float:
    """Of the peers that keep what they accept."""
    figures = [found[name][figure] for name in KEEPING if name in found]
    if not figures:
        raise KeyError(KEEPING)
    return best(figures)


def _unkept(found: Result) -> float:
    return float(found["failed"] + found["unanswered"])


TARGETS = (
    Target(
        "receiving one SMS, CPU to the bare handler's",
        "receiving",
        _cpu(DAEMON, BARE),
        "×",
        3.0,
        2.5,
    ),
    Target(
        "receiving and dispatching to `log:`, CPU to the bare handler's",
        "receiving",
        _cpu(DISPATCHING, BARE),
        "×",
        4.2,
        3.4,
    ),
    Target(
        "receiving, rate to the best peer that keeps what it accepts",
        "receiving",
        lambda found: found[DAEMON]["rate"] / _best(found, "rate", max),
        "×",
        wanted=5.0,
        least=True,
    ),
    Target(
        "receiving, CPU to that of the best of them",
        "receiving",
        lambda found: found[DAEMON]["cpu_us"] / _best(found, "cpu_us", min),
        "×",
        wanted=round(1 / 6, 2),
    ),
    Target(
        "accepted, and gone after `kill -9`",
        "keeping",
        lambda found: float(found[DAEMON]["lost"]),
        "",
        0.0,
    ),
    Target(
        "dispatched to a Python agent that does nothing, while receiving",
        "dispatching",
        lambda found: found["rate"],
        "/s",
        3_000.0,
        4_000.0,
        least=True,
    ),
    Target(
        "p99 at 2,000/s", "answering", lambda found: found["rate"][DAEMON]["p99_ms"], "ms", 4.0, 2.5
    ),
    Target(
        "p99 at half of capacity", "answering", lambda found: found["half"][DAEMON]["p99_ms"], "ms"
    ),
    Target(
        "one durable answer, 25/s, median",
        "answering",
        lambda found: found["quiet"][DAEMON]["p50_ms"],
        "ms",
        2.0,
        1.6,
    ),
    Target("of which a cold flush takes", "answering", lambda found: found["flush_cold_ms"], "ms"),
    Target(
        "PostgreSQL, one node, accepted",
        "nodes",
        lambda found: found[ONE]["rate"],
        "/s",
        1_900.0,
        2_500.0,
        least=True,
    ),
    Target("CPU of that node", "nodes", lambda found: found[ONE]["cpu_us"], "µs"),
    Target("CPU of its PostgreSQL", "nodes", lambda found: found[ONE]["database_cpu_us"], "µs"),
    Target(
        "two nodes on one PostgreSQL, to one",
        "nodes",
        lambda found: found[TWO]["rate"] / found[ONE]["rate"],
        "×",
        1.6,
        1.8,
        least=True,
    ),
    Target("declared channel, CPU to an SMS", "channels", _cpu(DECLARED, SMS), "×", 1.3),
    Target(f"{MAIL}, CPU to an SMS", "channels", _cpu(MAIL, SMS), "×"),
    Target(f"{WHATSAPP}, CPU to an SMS", "channels", _cpu(WHATSAPP, SMS), "×"),
    Target(
        "receiving with the long journal, to an empty one",
        "scaling",
        lambda found: found["receiving"]["many"]["rate"] / found["receiving"]["empty"]["rate"],
        "×",
        0.85,
        least=True,
    ),
    Target(
        "`events list` there",
        "scaling",
        lambda found: found["events_list"]["many"]["query_ms"],
        "ms",
        50.0,
    ),
    Target(
        "logs endpoint on 5 GiB", "scaling", lambda found: found["logs"]["large_ms"], "ms", 50.0
    ),
    Target("ready", "footprint", lambda found: found["ready_seconds"], "s", 1.0),
    Target("idle CPU", "footprint", lambda found: found["idle_cpu_percent"], "% of a core", 0.5),
    Target("resident, idle", "footprint", lambda found: found["idle_resident_mib"], "MiB", 90.0),
    Target(
        "resident, after 100,000 events",
        "footprint",
        lambda found: found["loaded_resident_mib"],
        "MiB",
        90.0,
    ),
    Target(
        "resident, at the end of the long load of 500/s",
        "hour",
        lambda found: found["resident_mib"][-1],
        "MiB",
        90.0,
    ),
    Target("of that after its first quarter", "hour", lambda found: found["growth"], "×", 1.1),
    Target("lost or unanswered at twice the capacity", "overload", _unkept, "", 0.0),
    Target(
        "longest answer there, once sent",
        "overload",
        lambda found: found["longest_answer_ms"] / 1000,
        "s",
        3.0,
    ),
    Target(
        "p99 of answers beside hostile agents, to calm ones",
        "isolation",
        lambda found: found["hostile"]["p99_ms"] / found["calm"]["p99_ms"],
        "×",
        1.2,
    ),
    Target(
        "p99 of answers while people use the console, to an idle one's",
        "console",
        lambda found: found[USED]["p99_ms"] / found[IDLE]["p99_ms"],
        "×",
        1.2,
    ),
)
