"""What the daemon should reach, and whether it did, from the figures of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench import Result
from peers import BARE, DAEMON, DISPATCHING, OLD_DESIGN


@dataclass(frozen=True)
class Target:
    """One line of the table: what was wanted, what was measured, and whether it is met."""

    what: str
    wanted: str
    measured: str
    met: bool


def judge(results: Result) -> list[Target]:
    """The targets of all parts that were measured."""
    return [
        target
        for part, judged in _PARTS.items()
        if part in results
        for target in judged(results[part])
    ]


def _receiving(found: Result) -> list[Target]:
    peers = found["32"]
    daemon, dispatching = peers[DAEMON], peers[DISPATCHING]
    to_old = daemon["rate"] / peers[OLD_DESIGN]["rate"]
    shared = dispatching["dispatched"] / dispatching["rate"]
    return [
        _at_least("receiving, to the bare handler", daemon["ratio"], 0.45, "×"),
        _at_least("receiving, to the old design", to_old, 6, "×"),
        _at_least(
            "receiving while dispatching, to the bare handler", dispatching["ratio"], 0.32, "×"
        ),
        _at_least(
            "dispatched meanwhile, to what was received over 32 connections", shared, 0.95, "×"
        ),
    ]


def _declaring(found: Result) -> list[Target]:
    what = "CPU of a message on a declared channel, to an SMS as Twilio sends it"
    return [_at_most(what, found["ratio"], 1.3, "×")]


def _answering(found: Result) -> list[Target]:
    overload = found["overload"]
    other = set(overload["answers"]) - {"200", "429", "503"}
    said_no = overload["answers"].get("503", 0) + overload["answers"].get("429", 0)
    lost = overload["failed"] + overload["unanswered"]
    return [
        _at_most(
            "p99 at half of capacity, to the bare handler's",
            found["half"][DAEMON]["p99_ms"] / found["half"][BARE]["p99_ms"],
            3,
            "×",
        ),
        Target(
            "at twice the capacity",
            "200, 429 or 503, nothing lost",
            f"{overload['accepted']} accepted, {said_no} refused, {lost} lost",
            not other and not lost,
        ),
        _at_most(
            "longest answer at twice the capacity, once sent",
            overload["longest_answer_ms"] / 1000,
            overload["ack_timeout_seconds"],
            "s",
        ),
        _at_most("single request, median", found["quiet"][DAEMON]["p50_ms"], 3, "ms"),
    ]


def _dispatching(found: Result) -> list[Target]:
    return [
        _at_least(
            "dispatched to a Python agent that does nothing", found["python"]["rate"], 1000, "/s"
        )
    ]


def _isolation(found: Result) -> list[Target]:
    return [
        _at_most(
            "p99 of answers beside hostile agents, to calm ones",
            found["hostile"]["p99_ms"] / found["calm"]["p99_ms"],
            1.2,
            "×",
        )
    ]


def _console(found: Result) -> list[Target]:
    return [
        _at_most(
            "p99 of answers while people use the console, to an idle one's",
            found["used"]["p99_ms"] / found["idle"]["p99_ms"],
            1.2,
            "×",
        )
    ]


def _footprint(found: Result) -> list[Target]:
    return [
        _at_most("ready", found["ready_seconds"], 1, "s"),
        _at_most("resident, idle", found["idle_resident_mib"], 90, "MiB"),
        _at_most("idle CPU", found["idle_cpu_percent"], 0.5, "%"),
    ]


def _scaling(found: Result) -> list[Target]:
    return [
        _at_least("long journal, to an empty one", found["receiving"]["ratio"], 0.85, "×"),
        _at_most(
            "`events list` on the long journal", found["events_list"]["many"]["query_ms"], 50, "ms"
        ),
        _at_most("logs endpoint on 5 GiB", found["logs"]["large_ms"], 50, "ms"),
    ]


_PARTS: dict[str, Callable[[Result], list[Target]]] = {
    "receiving": _receiving,
    "declaring": _declaring,
    "answering": _answering,
    "dispatching": _dispatching,
    "isolation": _isolation,
    "console": _console,
    "footprint": _footprint,
    "scaling": _scaling,
}


def _at_least(what: str, value: float, bound: float, unit: str) -> Target:
    return Target(what, f"≥ {bound:g} {unit}", f"{_figure(value)} {unit}", value >= bound)


def _at_most(what: str, value: float, bound: float, unit: str) -> Target:
    return Target(what, f"≤ {bound:g} {unit}", f"{_figure(value)} {unit}", value <= bound)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
