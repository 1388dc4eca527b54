"""The rules of contrib, read and tried by Prometheus' own tool."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..status import monitoring
from ..status.monitoring import PERIOD, Rule, texts

pytestmark = pytest.mark.system
AT_MINUTES = 20


def promtool(*words: str) -> str:
    """What it says; it must be content."""
    done = subprocess.run(
        ["promtool", *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_rules_are_read() -> None:
    """Without a word against one of them."""
    said = promtool("check", "rules", str(monitoring.RULES))
    assert f"{len(monitoring.RULES_OF)} rules found" in said


def shown(rule: Rule) -> dict[str, str]:
    """What the alert says with the values of its test."""
    values = {
        "{{ $value | humanizeDuration }}": "31m 0s",
        "{{ $value }}": "2",
        **{f"{{{{ $labels.{name} }}}}": value for name, value in rule.labels.items()},
    }
    said = texts(rule)
    for name, text in said.items():
        for template, value in values.items():
            said[name] = said[name].replace(template, value)
        assert "{{" not in said[name], text
    return said


def cases() -> Iterator[dict[str, object]]:
    for rule in monitoring.RULES_OF:
        fired = {
            "exp_labels": {"severity": rule.severity, **rule.labels},
            "exp_annotations": shown(rule),
        }
        for values, expected in ((rule.fires, [fired]), (rule.quiet, [])):
            yield {
                "interval": "1m",
                "input_series": [{"series": rule.series, "values": values}],
                "alert_rule_test": [
                    {
                        "eval_time": f"{AT_MINUTES}m",
                        "alertname": rule.name,
                        "exp_alerts": expected,
                    }
                ],
            }


def test_each_rule_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    """With the text that says what to do."""
    shutil.copy(monitoring.RULES, tmp_path)
    tests = {"rule_files": [monitoring.RULES.name], "tests": list(cases())}
    file = tmp_path / "tests.yml"
    file.write_text(json.dumps(tests))  # a JSON text is a YAML text as well
    assert "SUCCESS" in promtool("test", "rules", str(file))


def test_an_agent_that_works_again_is_no_longer_failing(tmp_path: Path) -> None:
    """One success among the failures is enough."""
    shutil.copy(monitoring.RULES, tmp_path)
    rule = next(one for one in monitoring.RULES_OF if one.name.endswith("AgentFailing"))
    works = rule.series.replace("exception", "success")
    series = [
        {"series": rule.series, "values": rule.fires},
        {"series": works, "values": "0x15 1x15"},
    ]
    asked = {"eval_time": f"{AT_MINUTES}m", "alertname": rule.name, "exp_alerts": []}
    case = {"interval": "1m", "input_series": series, "alert_rule_test": [asked]}
    file = tmp_path / "tests.yml"
    file.write_text(json.dumps({"rule_files": [monitoring.RULES.name], "tests": [case]}))
    assert "SUCCESS" in promtool("test", "rules", str(file))


def test_the_queries_of_the_dashboard_are_read(tmp_path: Path) -> None:
    """Grafana's variables stand for what it puts in their place."""
    expressions = [
        expression.replace(PERIOD, "5m").replace("$channel", ".*")
        for panel in monitoring.PANELS
        for expression, _ in panel.queries
    ]
    rules = [{"record": f"one:{n}", "expr": text} for n, text in enumerate(expressions)]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(file))
