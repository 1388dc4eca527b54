"""Alerts say what to do, in the words of the guide; the rules and the dashboard in contrib are made
of the same, and of metrics that exist.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

import click
import pytest
from prometheus_client.metrics import MetricWrapperBase

from berinia_webhookd.cli import root
from berinia_webhookd.metrics import PREFIX, Metrics
from berinia_webhookd.outbound.alert_kinds import ADVICE, AlertKind

from . import monitoring

FRENCH = monitoring.GUIDE.with_name("exploitation.md")
WRITE = "python -m tests.status.monitoring"
NAME = re.compile(rf"{PREFIX}_(\w+)")
SELECTED = re.compile(rf"{PREFIX}_(\w+)\{{([^}}]*)\}}")
# The legends and templates of a query name labels, too.
SHOWN = re.compile(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}")
HISTOGRAMS = ("_bucket", "_sum", "_count")


def labels_of() -> Mapping[str, frozenset[str]]:
    """The labels of each metric that the daemon has, by its name in a query."""
    found = {}
    metrics = Metrics()
    for timed in (metrics.requests, metrics.attempts):
        timed.ended("x", "y", 1)
        for family in timed.collect():
            for sample in family.samples:
                found[sample.name.removeprefix(f"{PREFIX}_")] = frozenset(sample.labels) - {"le"}
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            labels = labels_of_one(metric)
            (family,) = metric.describe()
            suffixes = {"counter": ["_total"], "histogram": HISTOGRAMS}.get(family.type, [""])
            for suffix in suffixes:
                found[family.name.removeprefix(f"{PREFIX}_") + suffix] = labels
    found["build_info"] = frozenset({"version"})
    return found


def labels_of_one(metric: MetricWrapperBase) -> frozenset[str]:
    """Which labels it has, by giving it as many as it takes."""
    for count in range(4):
        try:
            one = metric.labels(*["x"] * count) if count else metric
            one.collect()
        except ValueError:
            continue
        samples = [sample for family in metric.collect() for sample in family.samples]
        if samples:
            return frozenset(samples[0].labels) - {"le"}
    raise AssertionError(metric)


LABELS = labels_of()


def queries() -> list[tuple[str, str]]:
    """Each query of rules and dashboard, with the text that shows its labels."""
    panels = json.loads(monitoring.DASHBOARD.read_text())["panels"]
    of_panels = [
        (target["expr"], target["legendFormat"]) for panel in panels for target in panel["targets"]
    ]
    rules = [(rule.expression, rule.summary) for rule in monitoring.RULES_OF]
    return [*of_panels, *rules]


@pytest.mark.parametrize("kind", AlertKind)
def test_each_alert_says_what_to_do(kind: AlertKind) -> None:
    """The command to begin with is one of ours, and the guide has that section in its words."""
    advice = ADVICE[kind]
    program, *words = shlex.split(advice.look)
    assert program == "berinia-webhookd"
    with click.Context(root) as context:
        name, command, rest = root.resolve_command(context, words)
        assert command is not None
        command.make_context(name, rest, parent=context, resilient_parsing=False)
    text = monitoring.GUIDE.read_text()
    assert f"### {advice.section}\n" in text
    assert f"{advice.fix[1:]} | `{advice.look}`" in text
    assert f"| `{kind}` |" in FRENCH.read_text()
    assert f"| `{advice.look}` |" in FRENCH.read_text()
    for quoted in re.findall(r"`([^`]+)`", advice.fix):
        assert f"`{quoted}`" in FRENCH.read_text()


def test_what_contrib_has_is_current() -> None:
    """The rules, the dashboard and the guide's table are what the tables make of them."""
    assert monitoring.RULES.read_text() == monitoring.rules(), WRITE
    assert monitoring.DASHBOARD.read_text() == monitoring.dashboard(), WRITE
    assert monitoring.GUIDE.read_text() == monitoring.guide(), WRITE


@pytest.mark.parametrize(("query", "shown"), queries())
def test_a_query_asks_for_what_there_is(query: str, shown: str) -> None:
    """Each metric exists, with the labels that are asked for, grouped by and shown."""
    names = NAME.findall(query)
    assert names or query.startswith("up{")
    assert not [name for name in names if name not in LABELS]
    known = frozenset[str]().union(*(LABELS[name] for name in names)) | {"instance", "job"}
    asked = {
        label
        for name, selected in SELECTED.findall(query)
        for label in re.findall(r"(\w+)(?:=~|!=|=)", selected)
    }
    grouped = {label for by in re.findall(r"by \(([^)]*)\)", query) for label in by.split(", ")}
    assert asked | (grouped - {"le"}) | set(SHOWN.findall(shown)) <= known
    if grouped and "$labels" not in shown:
        assert set(SHOWN.findall(shown)) == grouped - {"le"}


def test_the_dashboard_shows_every_metric() -> None:
    """And says so where one is left out; a histogram by one of its parts."""
    asked = " ".join(query for query, _ in queries())
    stems = {re.sub(r"_(bucket|sum|count)$", "", name) for name in LABELS}
    assert "answer_seconds" in stems
    assert not [stem for stem in sorted(stems) if f"{PREFIX}_{stem}" not in asked]


def test_each_alert_of_the_daemon_has_a_rule() -> None:
    """In its words; or it is said why there is none."""
    advised = {rule.advice.fix for rule in monitoring.RULES_OF}
    without = {kind for kind, advice in ADVICE.items() if advice.fix not in advised}
    assert without == set(monitoring.NO_RULE)


def test_no_panel_lies_on_another() -> None:
    """Within the 24 columns that Grafana has."""
    taken: set[tuple[int, int]] = set()
    panels: list[dict[str, Any]] = json.loads(monitoring.DASHBOARD.read_text())["panels"]
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= monitoring.ACROSS
        taken |= cells
