"""The picture of a run: rate and CPU beside the peers, and how answers are distributed."""

from __future__ import annotations

from pathlib import Path

from bench import Result
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from peers import BARE, DAEMON

OURS, OTHERS, LIGHT = "#1f5fa8", "#8a8f98", 0.45
PERCENTS = range(1, 100)
MEASURED = {"receiving", "answering"}  # without which there is none


def draw(results: Result, file: Path) -> None:
    """Needs what was `MEASURED`."""
    figure = Figure(figsize=(13, 4.4), dpi=110, layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 0.75, 1])
    received = results["receiving"]
    names = [*received][::-1]
    _bars(left, received, names, "rate", "{:,.0f}")
    left.set_yticks(range(len(names)), names, fontsize=8)
    left.set_title("requests/s on one core", fontsize=9)
    _bars(middle, received, names, "cpu_us", "{:,.0f} µs")
    middle.set_yticks([])
    middle.set_title("CPU a request (light: of its database)", fontsize=9)
    _distribution(right, results["answering"]["half"])
    machine = results["machine"]
    figure.supxlabel(
        f"{machine['processor']}; {machine['kernel']}; {machine['python']}; a flush to disk takes"
        f" {machine['flush_hot_ms']:.2f} ms hot, {machine['flush_cold_ms']:.2f} ms cold",
        fontsize=8,
        color="#555555",
    )
    figure.savefig(file, metadata={"Software": None})


def _bars(axes: Axes, received: Result, names: list[str], figure: str, shown: str) -> None:
    for at, name in enumerate(names):
        found = received[name]
        colour = OURS if name.startswith(DAEMON) else OTHERS
        outside = found["store_cpu_us"] if figure == "cpu_us" else 0
        axes.barh(at, found[figure] - outside, 0.7, color=colour)
        axes.barh(at, outside, 0.7, left=found[figure] - outside, color=colour, alpha=LIGHT)
        axes.annotate(
            shown.format(found[figure]),
            (found[figure], at),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )
    _plain(axes)
    axes.margins(x=0.18)


def _distribution(axes: Axes, half: Result) -> None:
    for name, colour in ((BARE, OTHERS), (DAEMON, OURS)):
        curve = half[name]["curve_ms"]
        label = f"{name} at {half[name]['rate']:,.0f}/s, 99 % within {curve[-1]:.1f} ms"
        axes.plot(PERCENTS, curve, color=colour, linewidth=2, label=label)
    axes.legend(loc="upper left", frameon=False, fontsize=8)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g} ms")
    axes.xaxis.set_major_formatter("{x:g} %")
    axes.set_title("answered within, with the core half busy", fontsize=9)
    _plain(axes)
    axes.margins(y=0.2)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
