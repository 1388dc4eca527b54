"""The picture of a run: throughput beside the peers, and how answers are distributed."""

from __future__ import annotations

from pathlib import Path

from bench import Result
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from peers import BARE, DAEMON

OURS, OTHERS, LIGHT = "#1f5fa8", "#8a8f98", 0.45
PERCENTS = range(1, 100)


def draw(results: Result, file: Path) -> None:
    """Needs the parts `receiving` and `answering`."""
    figure = Figure(figsize=(11, 4.4), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
    _throughput(left, results["receiving"])
    _distribution(right, results["answering"]["half"])
    machine = results["machine"]
    figure.supxlabel(
        f"{machine['processor']}, one core; {machine['kernel']}; {machine['python']}; "
        f"a flush to disk takes {machine['flush_ms']:.2f} ms",
        fontsize=8,
        color="#555555",
    )
    figure.savefig(file, metadata={"Software": None})


def _throughput(axes: Axes, received: Result) -> None:
    names = list(received["32"])[::-1]
    height = 0.38
    for offset, connections, alpha in ((height / 2, "32", 1.0), (-height / 2, "256", LIGHT)):
        for at, name in enumerate(names):
            found = received[connections].get(name)
            if found is None:
                continue
            colour = OURS if name.startswith(DAEMON) else OTHERS
            axes.barh(at + offset, found["rate"], height, color=colour, alpha=alpha)
            axes.annotate(
                f"{found['rate']:,.0f}",
                (found["rate"], at + offset),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
            )
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_title("requests/s on one core (dark: 32 connections, light: 256)", fontsize=9)
    _plain(axes)
    axes.margins(x=0.12)


def _distribution(axes: Axes, half: Result) -> None:
    for name, colour in ((BARE, OTHERS), (DAEMON, OURS)):
        curve = half[name]["curve_ms"]
        label = f"{name}, 99 % within {curve[-1]:.1f} ms"
        axes.plot(PERCENTS, curve, color=colour, linewidth=2, label=label)
    axes.legend(loc="upper left", frameon=False, fontsize=8)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g} ms")
    axes.xaxis.set_major_formatter("{x:g} %")
    axes.set_title("answered within, at half of capacity", fontsize=9)
    _plain(axes)
    axes.margins(y=0.2)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
