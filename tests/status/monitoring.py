"""What contrib has for Prometheus and Grafana, and the guide's table of alerts: made of the words
of the alerts and of the tables below.

`python -m tests.status.monitoring` writes them; tests compare them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from berinia_webhookd.metrics import PREFIX
from berinia_webhookd.outbound.alert_kinds import ADVICE, Advice, AlertKind

PROJECT = Path(__file__).parents[2]
RULES = PROJECT / "contrib" / "prometheus" / "berinia-webhookd.rules.yml"
DASHBOARD = PROJECT / "contrib" / "grafana" / "berinia-webhookd.json"
GUIDE = PROJECT / "docs" / "operating.md"
BEGIN, END = "<!-- made by tests/status/monitoring.py -->", "<!-- end of what is made -->"

# Alerts of the daemon that no rule repeats, and why.
NO_RULE = {
    AlertKind.DISK_LOW: "the daemon has no metric of disks; node_exporter has: "
    "node_filesystem_avail_bytes",
    AlertKind.EVENTS_MISSED: "`reconcile` alone knows, which no metric is of",
}


@dataclass(frozen=True)
class Rule:
    """One alert of Prometheus, with values, a minute each, that let it fire or not."""

    name: str
    expression: str
    summary: str
    advice: Advice
    minutes: int
    series: str  # that it is about, in promtool's notation
    fires: str
    quiet: str
    labels: Mapping[str, str] = field(default_factory=dict)  # that the alert has then
    severity: str = "warning"


DOWN = Advice(
    "look why it ended, fix that, and start it",
    "journalctl -u berinia-webhook -n 30 --no-pager",
    "Nobody answers: the service is not running",
)
WAITING = Advice(
    "see what it waits for with `events show ID`: its agent fails, is not loaded or is too slow",
    "berinia-webhookd events list --state ready",
    "One person's messages stand still",
)

RULES_OF = (
    Rule(
        "BeriniaWebhookdDown",
        'up{job="berinia-webhookd"} == 0',
        "{{ $labels.instance }} does not answer",
        DOWN,
        2,
        'up{job="berinia-webhookd", instance="web1:8001"}',
        "0x30",
        "1x30",
        {"job": "berinia-webhookd", "instance": "web1:8001"},
        "critical",
    ),
    Rule(
        "BeriniaWebhookdJournalDegraded",
        f"{PREFIX}_journal_up == 0",
        "the journal cannot be written, so providers are answered 503",
        ADVICE[AlertKind.JOURNAL_DEGRADED],
        1,
        f"{PREFIX}_journal_up",
        "0x30",
        "1x30",
        severity="critical",
    ),
    Rule(
        "BeriniaWebhookdSignaturesRefused",
        f"{PREFIX}_provider_refused > 0",
        "requests to {{ $labels.channel }} that resemble its provider's are refused for their "
        "signature, and none was accepted since the first of them",
        ADVICE[AlertKind.SIGNATURES_REFUSED],
        5,
        f'{PREFIX}_provider_refused{{channel="sms"}}',
        "3x30",
        "0x30",
        {"channel": "sms"},
        "critical",
    ),
    Rule(
        "BeriniaWebhookdAgentUnavailable",
        f"{PREFIX}_agent_available == 0",
        "{{ $labels.agent }} cannot be loaded, so its messages wait",
        ADVICE[AlertKind.AGENT_UNAVAILABLE],
        2,
        f'{PREFIX}_agent_available{{agent="MetaAgent"}}',
        "0x30",
        "1x30",
        {"agent": "MetaAgent"},
        "critical",
    ),
    Rule(
        "BeriniaWebhookdAgentFailing",
        f'sum by (agent) (increase({PREFIX}_attempts_total{{outcome!="success"}}[10m])) >= 3 '
        "unless on (agent) "
        f'sum by (agent) (increase({PREFIX}_attempts_total{{outcome="success"}}[10m])) > 0',
        "{{ $labels.agent }} failed on all its attempts of the last ten minutes",
        ADVICE[AlertKind.AGENT_FAILING],
        1,
        f'{PREFIX}_attempts_total{{agent="MetaAgent", outcome="exception"}}',
        "0+1x30",
        "0x30",
        {"agent": "MetaAgent"},
    ),
    Rule(
        "BeriniaWebhookdEntriesDead",
        f'delta({PREFIX}_entries{{state="dead"}}[10m]) > 0',
        "messages failed for good, and are not tried again",
        ADVICE[AlertKind.ENTRY_DEAD],
        0,
        f'{PREFIX}_entries{{state="dead"}}',
        "0x14 2x15",
        "2x30",
        {"state": "dead"},
    ),
    Rule(
        "BeriniaWebhookdDeliveryRejected",
        f"increase({PREFIX}_rejected_total[10m]) > 0",
        "verified deliveries to {{ $labels.channel }} could not be read, and are kept",
        ADVICE[AlertKind.DELIVERY_REJECTED],
        0,
        f'{PREFIX}_rejected_total{{channel="email"}}',
        "0x14 1x15",
        "1x30",
        {"channel": "email"},
    ),
    Rule(
        "BeriniaWebhookdConversationsHeld",
        f'{PREFIX}_held_conversations{{reason!="paused"}} > 0',
        "{{ $value }} conversations are held by a guard ({{ $labels.reason }})",
        ADVICE[AlertKind.CONVERSATION_HELD],
        15,
        f'{PREFIX}_held_conversations{{reason="loop"}}',
        "2x30",
        "0x30",
        {"reason": "loop"},
    ),
    Rule(
        "BeriniaWebhookdChannelSilent",
        f"{PREFIX}_channel_silent == 1",
        "{{ $labels.channel }} is silent far beyond its habit of this weekday and hour",
        ADVICE[AlertKind.CHANNEL_SILENT],
        5,
        f'{PREFIX}_channel_silent{{channel="sms"}}',
        "1x30",
        "0x30",
        {"channel": "sms"},
    ),
    Rule(
        "BeriniaWebhookdLoopbackLocked",
        f"{PREFIX}_loopback_locked == 1",
        "nginx does not say who calls, so no program on this machine is believed",
        ADVICE[AlertKind.LOOPBACK_LOCKED],
        1,
        f"{PREFIX}_loopback_locked",
        "1x30",
        "0x30",
        severity="critical",
    ),
    Rule(
        "BeriniaWebhookdMessagesWait",
        f"{PREFIX}_oldest_ready_seconds > 600",
        "the oldest message for {{ $labels.agent }} has waited {{ $value | humanizeDuration }}",
        WAITING,
        5,
        f'{PREFIX}_oldest_ready_seconds{{agent="MetaAgent"}}',
        "660+60x30",
        "0x30",
        {"agent": "MetaAgent"},
    ),
)


def rules() -> str:
    """The file of rules; a JSON text is a YAML text as well."""
    left_out = "".join(f"#   {kind}: {why}\n" for kind, why in NO_RULE.items())
    lines = [
        "# Alerts of Prometheus for berinia-webhookd, in the words of the daemon's own",
        "# (alerts.url) and of docs/operating.md. In prometheus.yml:",
        "#   rule_files: [berinia-webhookd.rules.yml]",
        "#   scrape_configs:",
        '#     - job_name: "berinia-webhookd"',
        '#       static_configs: [{targets: ["127.0.0.1:8001"]}]',
        "# Another machine reads /metrics once it is in server.metrics_allowed_ips.",
        "# Without a rule:",
        left_out.rstrip("\n"),
        "groups:",
        "  - name: berinia-webhookd",
        "    rules:",
    ]
    for rule in RULES_OF:
        lines += [
            f"      - alert: {rule.name}",
            f"        expr: {json.dumps(rule.expression)}",
            f"        for: {rule.minutes}m",
            f"        labels: {{severity: {rule.severity}}}",
            "        annotations:",
            *(f"          {name}: {json.dumps(text)}" for name, text in texts(rule).items()),
        ]
    return "\n".join(lines) + "\n"


def texts(rule: Rule) -> dict[str, str]:
    """What somebody reads who gets the alert."""
    advice = rule.advice
    return {
        "summary": rule.summary,
        "fix": advice.fix,
        "look": advice.look.replace("NAME", "{{ $labels.agent }}"),
        "guide": f"docs/operating.md: {advice.section}",
    }


# ---- Grafana

PERIOD = "$__rate_interval"
CHANNEL = 'channel=~"$channel"'
RATE = f"rate({PREFIX}_commit_batch_size"


def rate(metric: str, by: str, labels: str = "") -> str:
    return f"sum by ({by}) (rate({PREFIX}_{metric}{{{labels}}}[{PERIOD}]))"


def quantile(share: float, metric: str, by: str = "", labels: str = "") -> str:
    buckets = rate(f"{metric}_bucket", f"le, {by}" if by else "le", labels)
    return f"histogram_quantile({share}, {buckets})"


@dataclass(frozen=True)
class Panel:
    """One picture: what it shows, in which unit, and by which queries, each with its legend."""

    title: str
    unit: str
    queries: Sequence[tuple[str, str]]
    width: int = 8
    kind: str = "timeseries"


PANELS = (
    Panel("Journal can be written", "bool_yes_no", [(f"{PREFIX}_journal_up", "")], 4, "stat"),
    Panel("Version", "none", [(f"{PREFIX}_build_info", "{{version}}")], 4, "stat"),
    Panel("Loopback locked", "bool_yes_no", [(f"{PREFIX}_loopback_locked", "")], 4, "stat"),
    Panel("Failed for good", "short", [(f'{PREFIX}_entries{{state="dead"}}', "")], 4, "stat"),
    Panel("Agents loaded", "bool_yes_no", [(f"{PREFIX}_agent_available", "{{agent}}")], 8, "stat"),
    Panel(
        "Requests", "reqps", [(rate("requests_total", "channel, status"), "{{channel}} {{status}}")]
    ),
    Panel(
        "Answers, median and 99 %",
        "s",
        [
            (quantile(0.5, "answer_seconds", "channel", CHANNEL), "{{channel}} median"),
            (quantile(0.99, "answer_seconds", "channel", CHANNEL), "{{channel}} 99 %"),
        ],
    ),
    Panel(
        "Commits, median and 99 %",
        "s",
        [
            (quantile(0.5, "commit_seconds"), "median"),
            (quantile(0.99, "commit_seconds"), "99 %"),
        ],
    ),
    Panel(
        "Events of a commit",
        "short",
        [(f"{RATE}_sum[{PERIOD}]) / {RATE}_count[{PERIOD}])", "mean")],
    ),
    Panel(
        "Not taken",
        "reqps",
        [
            (rate("signature_failures_total", "channel", CHANNEL), "{{channel}} bad signature"),
            (rate("rate_limited_total", "channel"), "{{channel}} over the limit"),
            (rate("rejected_total", "channel", CHANNEL), "{{channel}} could not be read"),
        ],
    ),
    Panel(
        "Provider refused, none accepted since",
        "short",
        [(f"{PREFIX}_provider_refused{{{CHANNEL}}}", "{{channel}}")],
    ),
    Panel(
        "Since the last accepted delivery",
        "s",
        [(f"{PREFIX}_last_accepted_seconds{{{CHANNEL}}}", "{{channel}}")],
    ),
    Panel(
        "Silent far beyond its habit",
        "bool_yes_no",
        [(f"{PREFIX}_channel_silent{{{CHANNEL}}}", "{{channel}}")],
    ),
    Panel(
        "Seen before, skipped, ignored, handshakes",
        "reqps",
        [
            (rate("duplicates_total", "channel", CHANNEL), "{{channel}} seen before"),
            (rate("skipped_total", "channel, reason", CHANNEL), "{{channel}} {{reason}}"),
            (rate("ignored_total", "channel", CHANNEL), "{{channel}} ignored"),
            (rate("handshakes_total", "channel", CHANNEL), "{{channel}} handshakes"),
        ],
    ),
    Panel(
        "Receipts",
        "reqps",
        [(rate("receipts_total", "channel, status", CHANNEL), "{{channel}} {{status}}")],
    ),
    Panel("Entries by state", "short", [(f"{PREFIX}_entries", "{{state}}")]),
    Panel("Oldest that is ready", "s", [(f"{PREFIX}_oldest_ready_seconds", "{{agent}}")]),
    Panel("Conversations held", "short", [(f"{PREFIX}_held_conversations", "{{reason}}")]),
    Panel("Attempts", "ops", [(rate("attempts_total", "agent, outcome"), "{{agent}} {{outcome}}")]),
    Panel(
        "Attempts, median and 99 %",
        "s",
        [
            (quantile(0.5, "attempt_seconds", "agent"), "{{agent}} median"),
            (quantile(0.99, "attempt_seconds", "agent"), "{{agent}} 99 %"),
        ],
    ),
    Panel(
        "Agent hosts that ended early",
        "ops",
        [(rate("agent_host_restarts_total", "reason"), "{{reason}}")],
    ),
)
HEIGHTS = {"stat": 4, "timeseries": 8}
ACROSS = 24


def dashboard() -> str:
    """The dashboard, to be imported into Grafana 10 or newer, which asks for the data source."""
    return (
        json.dumps(
            {
                "__inputs": [
                    {
                        "name": "DS_PROMETHEUS",
                        "label": "Prometheus",
                        "type": "datasource",
                        "pluginId": "prometheus",
                        "pluginName": "Prometheus",
                    }
                ],
                "uid": "berinia-webhookd",
                "title": "berinia-webhookd",
                "tags": ["berinia-webhookd"],
                "schemaVersion": 38,
                "editable": True,
                "refresh": "30s",
                "time": {"from": "now-6h", "to": "now"},
                "templating": {"list": [_channels()]},
                "panels": list(_panels()),
            },
            indent=1,
        )
        + "\n"
    )


def _channels() -> dict[str, Any]:
    return {
        "name": "channel",
        "label": "channel",
        "type": "query",
        "datasource": SOURCE,
        "query": f"label_values({PREFIX}_requests_total, channel)",
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
        "refresh": 2,
    }


SOURCE = {"type": "prometheus", "uid": "${DS_PROMETHEUS}"}


def _panels() -> Iterator[dict[str, Any]]:
    across = down = 0
    for number, panel in enumerate(PANELS, 1):
        if across + panel.width > ACROSS:
            across, down = 0, down + HEIGHTS[PANELS[number - 2].kind]
        yield {
            "id": number,
            "title": panel.title,
            "type": panel.kind,
            "datasource": SOURCE,
            "gridPos": {"x": across, "y": down, "w": panel.width, "h": HEIGHTS[panel.kind]},
            "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
            "options": {"textMode": "value_and_name"} if panel.kind == "stat" else {},
            "targets": [
                {"refId": chr(ord("A") + index), "expr": expression, "legendFormat": legend}
                for index, (expression, legend) in enumerate(panel.queries)
            ],
        }
        across += panel.width


# ---- the guide


def guide() -> str:
    """The guide with its table of alerts."""
    above, _, rest = GUIDE.read_text().partition(BEGIN)
    _, _, below = rest.partition(END)
    rows = [
        f"| `{kind}` | {advice.fix[0].upper()}{advice.fix[1:]} | `{advice.look}` | "
        f"[{advice.section}](#{anchor(advice.section)}) |"
        for kind, advice in ADVICE.items()
    ]
    head = ["| alert | what to do | begin with | more |", "| --- | --- | --- | --- |"]
    return above + "\n".join([BEGIN, "", *head, *rows, "", END]) + below


def anchor(heading: str) -> str:
    kept = "".join(letter for letter in heading.lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")


if __name__ == "__main__":
    GUIDE.write_text(guide())
    RULES.write_text(rules())
    DASHBOARD.write_text(dashboard())
